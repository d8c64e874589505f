// SPDX-License-Identifier: Apache-2.0
import { createHash } from 'node:crypto'
import { mkdir, readdir, rename, rm, stat } from 'node:fs/promises'
import { homedir } from 'node:os'
import { dirname, join } from 'node:path'

const { XDG_CACHE_HOME } = process.env

/** Everything that set-up makes lives here; removing it costs time and nothing else. */
export const cacheDir = join(XDG_CACHE_HOME?.startsWith('/') ? XDG_CACHE_HOME : join(homedir(), '.cache'), 'smmu-cosim')

/** A path in the cache. */
export function cachePath(...parts: string[]): string {
  return join(cacheDir, ...parts)
}

/** Where the output of a set-up step goes. */
export function logPath(step: string): string {
  return cachePath('log', `${step}.log`)
}

export async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  )
}

/** The names in a folder, oldest version first; none if the folder is missing. */
export async function entries(dir: string): Promise<string[]> {
  const names = await readdir(dir).catch(() => [])
  return names.sort((a, b) => a.localeCompare(b, 'en', { numeric: true }))
}

/** A content key: equal for equal parts, in equal order. */
export function contentKey(parts: readonly (string | Uint8Array)[]): string {
  const hash = createHash('sha256')
  for (const part of parts) hash.update(`${part.length}:`).update(part)
  return hash.digest('hex').slice(0, 20)
}

/** Moves a finished file or folder to its place in the cache in one step, so that nobody sees half of it. */
export async function publish(from: string, to: string): Promise<void> {
  await mkdir(dirname(to), { recursive: true })
  await rm(to, { recursive: true, force: true })
  await rename(from, to)
}
