// SPDX-License-Identifier: Apache-2.0
import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { mkdir, mkdtemp, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { homedir } from 'node:os'
import { basename, dirname, join, relative } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { promisify } from 'node:util'

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

/** The names in a folder but for hidden ones, oldest version first; none if the folder is missing. */
export async function entries(dir: string): Promise<string[]> {
  const names = (await readdir(dir).catch(() => [])).filter(name => !name.startsWith('.'))
  return names.sort((a, b) => a.localeCompare(b, 'en', { numeric: true }))
}

/** A content key: equal for equal parts, in equal order. */
export function contentKey(parts: readonly (string | Uint8Array)[]): string {
  const hash = createHash('sha256')
  for (const part of parts) hash.update(`${part.length}:`).update(part)
  return hash.digest('hex').slice(0, 20)
}

/** In a published folder, or behind the name of a published file: what sha256sum prints of each file. */
const MANIFEST = '.sha256'
const manifestOf = (path: string, isFolder: boolean): string => (isFolder ? join(path, MANIFEST) : `${path}${MANIFEST}`)

/**
 * Moves a finished file or folder to its place in one step, so that nobody sees half of it, not even after the power went;
 * what stood there is removed.
 */
export async function move(from: string, to: string): Promise<void> {
  // All of the file system, because a folder may have tens of thousands of files.
  await promisify(execFile)('sync', ['--file-system', from])
  const parent = dirname(to)
  await mkdir(parent, { recursive: true })
  // A folder cannot be renamed to one that is not empty.
  const old = (await exists(to)) ? await mkdtemp(join(parent, '.old-')) : undefined
  if (old !== undefined) await rename(to, join(old, basename(to)))
  await rename(from, to)
  if (old !== undefined) await rm(old, { recursive: true, force: true })
  await promisify(execFile)('sync', ['--', parent])
}

/** The same for what is looked at before it is used: what it is made of is written down beside it, for `intact`. */
export async function publish(from: string, to: string): Promise<void> {
  const isFolder = (await stat(from)).isDirectory()
  const manifest = manifestOf(from, isFolder)
  const lines: string[] = []
  for (const { name, path } of isFolder ? await filesOf(from) : [{ name: basename(to), path: from }]) {
    lines.push(`${await digest(path)}  ${name}\n`)
  }
  await writeFile(manifest, lines.join(''))
  // Somebody else may have made the same: those who use it see no moment without it.
  if ((await readFile(manifestOf(to, isFolder), 'utf8').catch(() => '')) === lines.join('') && (await intact(to))) {
    await rm(from, { recursive: true, force: true })
    return
  }
  // Of a file, the one without the other is not intact.
  if (!isFolder) await move(manifest, manifestOf(to, isFolder))
  await move(from, to)
}

async function filesOf(folder: string): Promise<{ name: string; path: string }[]> {
  const list = await readdir(folder, { recursive: true, withFileTypes: true })
  return list
    .filter(entry => entry.isFile())
    .map(entry => join(entry.parentPath, entry.name))
    .filter(path => path !== join(folder, MANIFEST))
    .sort()
    .map(path => ({ name: relative(folder, path), path }))
}

/** Files that were read in this process, as they were then: by path, with all that changes when the content does. */
const digests = new Map<string, { readonly state: string; readonly digest: Promise<string> }>()

/** SHA-256 of a file, hexadecimal. */
export async function digest(path: string): Promise<string> {
  const { size, mtimeNs, ctimeNs, ino, dev } = await stat(path, { bigint: true })
  const state = `${size} ${mtimeNs} ${ctimeNs} ${ino} ${dev}`
  const known = digests.get(path)
  if (known?.state === state) return known.digest
  const made = (async () => {
    const hash = createHash('sha256')
    await pipeline(createReadStream(path, { highWaterMark: 1 << 20 }), hash)
    return hash.digest('hex')
  })()
  digests.set(path, { state, digest: made })
  // Too many open files, or the like: not so the next time.
  made.catch(() => digests.delete(path))
  return made
}

/**
 * Whether something that was published is still what it was, byte by byte.
 * @param files of a folder, the only ones that matter; default: all
 */
export async function intact(path: string, ...files: readonly string[]): Promise<boolean> {
  try {
    const isFolder = (await stat(path)).isDirectory()
    const text = await readFile(manifestOf(path, isFolder), 'utf8')
    const sums = new Map(text.split('\n').flatMap(line => (line === '' ? [] : [[line.slice(66), line.slice(0, 64)]])))
    const wanted = files.length > 0 ? files : [...sums.keys()]
    const all = await Promise.all(
      wanted.map(async name => (await digest(isFolder ? join(path, name) : path)) === sums.get(name)),
    )
    return sums.size > 0 && all.every(Boolean)
  } catch {
    return false // something is not there
  }
}
