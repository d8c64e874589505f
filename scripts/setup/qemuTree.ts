// SPDX-License-Identifier: Apache-2.0
/**
 * QEMU from a source tree of the user's own. The tree is read only: a copy in the cache is kept in step with it, patched with
 * the series for its version, and built, so that a changed file costs no more than to compile what it touches.
 */
import { existsSync, lstatSync, readdirSync, readFileSync } from 'node:fs'
import { copyFile, mkdir, readFile, readlink, rm, symlink, writeFile } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { cachePath, contentKey, digest } from './cache.ts'
import type { Context } from './lock.ts'
import { QEMU_VERSIONS } from './options.ts'
import { build, filesPatched, finish, matchingSeries, readRecipe, treeAt } from './qemuBuild.ts'
import { SetupError } from './run.ts'

const FOLDER = 'qemu-own'
/** What a folder that something is built in has, and one with source has not. */
const BUILD_FILES = ['build.ninja', 'meson-private', 'pyvenv']

/** The version that a source tree of QEMU says it has. @throws SetupError when it is none, or older than all series */
export function treeVersion(tree: string): string {
  const file = join(tree, 'VERSION')
  const version = existsSync(file) && existsSync(join(tree, 'configure')) ? readFileSync(file, 'utf8').trim() : ''
  if (!/^\d+\.\d+\.\d+$/.test(version))
    throw new SetupError(`${tree}: no source tree of QEMU, which has a configure and a VERSION like 10.0.13`)
  if (matchingSeries(version) === undefined)
    throw new SetupError(`${tree}: QEMU ${version}; there are patches for ${QEMU_VERSIONS.join(' and ')}`)
  return version
}

/** Builds the tree with the patches on top; returns the path of the binary. @throws SetupError */
export async function buildOwnTree(path: string, context: Context): Promise<string> {
  const pristine = resolve(path)
  const version = treeVersion(pristine)
  const wanted = await readRecipe(version)
  const key = contentKey([pristine])
  const at = treeAt([FOLDER, key], 'build', pristine, context.signal)
  return context.progress.step(FOLDER, `building QEMU ${version} of ${pristine}`, async () => {
    await rm(at.options.log, { force: true })
    await mkdir(at.tree, { recursive: true })
    try {
      await follow(pristine, at.tree, await filesPatched(at), cachePath(FOLDER, key, 'copied-files.json'))
      const built = await build(at, wanted, context)
      return await finish(built, contentKey([pristine, await digest(built)]), context.scratch, pristine)
    } catch (error) {
      if (!(error instanceof SetupError)) throw error
      throw new SetupError(`QEMU ${version} of ${pristine}: ${error.message}`)
    }
  })
}

/**
 * Makes the copy what the tree is. What has not changed is not touched, and what changed is new for Ninja, whatever its time was.
 * @param patched files that are not to be copied: those differ by our patches
 * @param record file that says what was copied, and as of when
 */
export async function follow(tree: string, copy: string, patched: readonly string[], record: string): Promise<void> {
  const before = new Map<string, string>(JSON.parse(await readFile(record, 'utf8').catch(() => '[]')))
  const now = new Map(sourceFiles(tree))
  for (const path of patched) now.delete(path)
  const changed = [...now].filter(([path, state]) => before.get(path) !== state)
  const gone = [...before.keys()].filter(path => !now.has(path) && !patched.includes(path))
  if (changed.length === 0 && gone.length === 0) return
  // An interruption must not make us forget a file that we copied.
  await writeFile(record, JSON.stringify([...before, ...changed.map(([path]) => [path, ''])]))
  for (const path of gone) await rm(join(copy, path), { force: true })
  for (const [path] of changed) {
    const [from, to] = [join(tree, path), join(copy, path)]
    await mkdir(dirname(to), { recursive: true })
    await rm(to, { force: true })
    if (lstatSync(from).isSymbolicLink()) await symlink(await readlink(from), to)
    else await copyFile(from, to)
  }
  await writeFile(record, JSON.stringify([...now]))
}

/** The files below a folder, each with all that changes when its content does; neither Git's own nor what was built there. */
function* sourceFiles(root: string, below = ''): Generator<[string, string]> {
  for (const entry of readdirSync(join(root, below), { withFileTypes: true })) {
    const path = join(below, entry.name)
    if (entry.name === '.git') continue
    if (entry.isDirectory()) {
      const names = readdirSync(join(root, path))
      if (!BUILD_FILES.some(name => names.includes(name))) yield* sourceFiles(root, path)
    } else if (entry.isFile() || entry.isSymbolicLink()) {
      const { size, mtimeNs, ctimeNs, ino } = lstatSync(join(root, path), { bigint: true })
      yield [path, `${size} ${mtimeNs} ${ctimeNs} ${ino}`]
    }
  }
}
