// SPDX-License-Identifier: Apache-2.0
/** The patched QEMU with AddressSanitizer and UndefinedBehaviorSanitizer, for the fuzzer. */
import { copyFile, mkdir, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { cachePath, contentKey, intact, publish } from './cache.ts'
import { exclusively } from './lock.ts'
import { DEFAULT_QEMU, type SetupOptions } from './options.ts'
import { ensureQemu, sourceVersion } from './qemu.ts'
import { buildTree, CONFIGURE_FLAGS, compile, configure, patchTree, QEMU, qemuKey, readRecipe } from './qemuBuild.ts'

const FOLDER = 'qemu-sanitized'
/** Nobody confines it: sanitizers make system calls of their own. */
const FLAGS = [...CONFIGURE_FLAGS.filter(flag => flag !== '--enable-seccomp'), '--enable-asan', '--enable-ubsan']

/** Returns its path; builds it if it is not in the cache. The last one that was built is kept. */
export async function ensureSanitizedQemu(options: SetupOptions = {}): Promise<string> {
  await ensureQemu({ ...options, qemu: DEFAULT_QEMU })
  const recipe = await readRecipe(await sourceVersion(DEFAULT_QEMU))
  const published = cachePath(FOLDER, 'published')
  const binary = join(published, contentKey([qemuKey(recipe), ...FLAGS]), QEMU)
  if (await intact(dirname(binary), QEMU)) return binary
  return exclusively(options, context => {
    const { progress, scratch } = context
    return progress.step(FOLDER, 'building QEMU with sanitizers', async () => {
      const at = await buildTree(FOLDER, 'build', recipe.version, context)
      await patchTree(at, recipe.patches, scratch)
      await configure(at, recipe, FLAGS)
      await compile(at, progress, QEMU)
      const staging = join(scratch, 'publish')
      await mkdir(staging)
      await copyFile(join(at.output, QEMU), join(staging, QEMU))
      await rm(published, { recursive: true, force: true })
      await publish(staging, dirname(binary))
      return binary
    })
  })
}
