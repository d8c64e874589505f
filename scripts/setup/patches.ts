// SPDX-License-Identifier: Apache-2.0
import { copyFile, mkdir, readFile, rename, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { exists, logPath } from './cache.ts'
import { run, SetupError } from './run.ts'

export interface Patch {
  name: string
  text: string
}

/**
 * The patches of a series file in their order.
 * @param series the file, in `dir`; it names patches from its own folder on, and their names here are from `dir` on
 */
export async function readSeries(dir: string, series: string): Promise<Patch[]> {
  const names = parseSeries(await readFile(join(dir, series), 'utf8')).map(name => join(dirname(series), name))
  return Promise.all(names.map(async name => ({ name, text: await readFile(join(dir, name), 'utf8') })))
}

/** The patch names in a series file: one a line, `#` starts a comment. */
export function parseSeries(text: string): string[] {
  return text
    .split('\n')
    .map(line => line.replace(/#.*/, '').trim())
    .filter(line => line !== '')
}

/** The files that patches in git's format create, change, rename or delete. */
export function touchedFiles(patches: readonly Patch[]): string[] {
  const files = new Set<string>()
  for (const { name, text } of patches) {
    const headers = [...text.matchAll(/^diff --git a\/(\S+) b\/(\S+)$/gm)]
    if (headers.length === 0) throw new SetupError(`qemu-patches/${name} is not a patch in git's format`)
    for (const [, from = '', to = ''] of headers) files.add(from).add(to)
  }
  return [...files].sort()
}

/** The file and hunk that `patch` printed as failed, for the error message. */
export function firstRejection(output: string): string | undefined {
  let file = ''
  for (const line of output.split('\n')) {
    file = /^(?:checking|patching) file '?(.+?)'?(?: \(.*\))?$/.exec(line)?.[1] ?? file
    const hunk = /^Hunk #(\d+) FAILED at (\d+)/.exec(line)
    if (hunk) return `${file}, hunk ${hunk[1]} at line ${hunk[2]}`
    if (/^can't find file to patch|^The next patch would|^\d+ out of \d+ hunks ignored/.test(line)) return file || line
  }
  return undefined
}

/**
 * Makes the given files of `tree` what the pristine source with the patches on top has, and writes only those that
 * differ, so that the next build compiles no more than it must. Works in `scratch`, so that a patch that does not
 * apply leaves the tree as it was.
 */
export async function applyPatches(
  paths: { pristine: string; tree: string; scratch: string; patchDir: string },
  patches: readonly Patch[],
  files: readonly string[],
  signal: AbortSignal | undefined,
): Promise<void> {
  const { pristine, tree, scratch, patchDir } = paths
  for (const file of files)
    if (await exists(join(pristine, file))) await copy(join(pristine, file), join(scratch, file))
  for (const { name } of patches) await applyPatch(name, join(patchDir, name), scratch, signal)
  for (const file of files) await update(join(scratch, file), join(tree, file))
}

async function applyPatch(name: string, path: string, dir: string, signal: AbortSignal | undefined): Promise<void> {
  const output: string[] = []
  const args = ['-p1', '--fuzz=0', '--force', '--no-backup-if-mismatch', '--reject-file=-', '-d', dir, '-i', path]
  try {
    await run('patch', args, {
      step: `applying qemu-patches/${name}`,
      log: logPath('qemu-patches'),
      signal,
      onLine: line => output.push(line),
    })
  } catch (error) {
    const where = firstRejection(output.join('\n'))
    if (where === undefined || !(error instanceof SetupError)) throw error
    throw new SetupError(`qemu-patches/${name} does not apply: ${where}\n${error.message}`)
  }
}

async function update(wanted: string, actual: string): Promise<void> {
  if (!(await exists(wanted))) return rm(actual, { force: true })
  const same = (await exists(actual)) && (await readFile(wanted)).equals(await readFile(actual))
  if (same) return
  await copy(wanted, `${actual}.new`)
  await rename(`${actual}.new`, actual)
}

async function copy(from: string, to: string): Promise<void> {
  await mkdir(dirname(to), { recursive: true })
  await copyFile(from, to)
}
