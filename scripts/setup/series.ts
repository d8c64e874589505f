// SPDX-License-Identifier: Apache-2.0

/**
 * What a reviewer of qemu-patches/ would try first: each patch passes checkpatch, QEMU builds after each, with and
 * without msgpack-c and without a warning, and the test that the series brings for QEMU's own suite passes.
 */

import { mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { cachePath, contentKey, exists, logPath } from './cache.ts'
import { type Context, exclusively } from './lock.ts'
import { isQemuVersion, QEMU_VERSIONS, type QemuVersion, type SetupOptions } from './options.ts'
import type { Patch } from './patches.ts'
import { ensureQemu, sourceVersion } from './qemu.ts'
import {
  type BuildTree,
  build,
  buildTree,
  CONFIGURE_FLAGS,
  compile,
  configure,
  PATCH_DIR,
  PRODUCT,
  patchTree,
  QEMU,
  qemuKey,
  type Recipe,
  readRecipe,
  sourceDir,
} from './qemuBuild.ts'
import { run, SetupError } from './run.ts'

const QTEST = 'smmu-cosim-test'

/** msgpack-c is optional in QEMU. */
const MSGPACK = ['enabled', 'disabled'] as const
type Msgpack = (typeof MSGPACK)[number]

/** Without the option that only a part of the series knows. */
const FLAGS = [...CONFIGURE_FLAGS.filter(flag => !/-(msgpack|werror)$/.test(flag)), '--enable-werror']

/** How much is built: a tree after each patch, with and without msgpack-c, or nothing but the product, with all patches. */
export type Thoroughness = 'each' | 'whole'

/** Fails with the name of the patch and what was wrong with it. What passed once is not tried again. */
export async function checkSeries(
  qemu: QemuVersion,
  thoroughness: Thoroughness,
  options: SetupOptions = {},
): Promise<void> {
  await ensureQemu({ ...options, qemu })
  const recipe = await readRecipe(await sourceVersion(qemu))
  const passed = await Passed.open()
  const builds = thoroughness === 'each' ? eachKey(recipe) : [testKey(recipe)]
  const keys = [...recipe.patches.map(patch => styleKey(recipe, patch)), ...builds]
  if (keys.every(key => passed.has(key))) return
  await exclusively(options, async context => {
    await context.progress.step('qemu-series', `checking qemu-patches for QEMU ${qemu}`, async () => {
      await checkStyle(recipe, passed, context)
      if (thoroughness === 'whole') return checkProduct(recipe, passed, context)
      for (const msgpack of MSGPACK) await checkBuilds(recipe, msgpack, passed, context)
    })
  })
}

/** The keys of all builds that have to pass. */
const eachKey = (recipe: Recipe): string[] =>
  recipe.patches.flatMap((_, index) => MSGPACK.map(msgpack => buildKey(recipe, index + 1, msgpack)))

const styleKey = ({ version }: Recipe, { text }: Patch): string => contentKey(['style', version, text])

/** For the first `count` patches. */
const buildKey = ({ version, host, devices, patches }: Recipe, count: number, msgpack: Msgpack): string =>
  contentKey(['build', version, host, devices, msgpack, ...patches.slice(0, count).map(({ text }) => text)])

/** For QEMU's own test on the product. */
const testKey = (recipe: Recipe): string => contentKey(['test', qemuKey(recipe)])

/** The keys of what has passed, in a file. */
class Passed {
  static readonly #file = cachePath('qemu-series', 'passed')
  readonly #keys: Set<string>

  private constructor(keys: readonly string[]) {
    this.#keys = new Set(keys)
  }

  static async open(): Promise<Passed> {
    return new Passed((await readFile(Passed.#file, 'utf8').catch(() => '')).split('\n'))
  }

  has(key: string): boolean {
    return this.#keys.has(key)
  }

  async add(key: string): Promise<void> {
    this.#keys.add(key)
    await mkdir(dirname(Passed.#file), { recursive: true })
    await writeFile(Passed.#file, `${key}\n`, { flag: 'a' })
  }
}

async function checkStyle(recipe: Recipe, passed: Passed, { signal, scratch }: Context): Promise<void> {
  const { version, patches } = recipe
  for (const patch of patches) {
    const key = styleKey(recipe, patch)
    if (passed.has(key)) continue
    const script = join(sourceDir(version), 'scripts/checkpatch.pl')
    const options = { step: `checkpatch of qemu-patches/${patch.name}`, log: logPath('qemu-series'), signal }
    // It fails for warnings, too.
    await run('perl', [script, '--no-color', join(PATCH_DIR, patch.name)], { ...options, cwd: scratch })
    await passed.add(key)
  }
}

async function checkProduct(recipe: Recipe, passed: Passed, context: Context): Promise<void> {
  const at = await buildTree(...PRODUCT, recipe.version, context)
  await build(at, recipe, context)
  await ownTest(at, context)
  await passed.add(testKey(recipe))
}

async function checkBuilds(recipe: Recipe, msgpack: Msgpack, passed: Passed, context: Context): Promise<void> {
  const { patches, version } = recipe
  const first = patches.findIndex((_, index) => !passed.has(buildKey(recipe, index + 1, msgpack)))
  if (first < 0) return
  const at = await buildTree('qemu-series', `build-msgpack-${msgpack}`, version, context)
  for (let count = first + 1; count <= patches.length; count++) {
    const name = patches[count - 1]?.name
    at.options.step = `building QEMU with qemu-patches up to ${name}, msgpack ${msgpack},`
    await patchTree(at, patches.slice(0, count), context.scratch)
    // Before the patch that brings the option, this build is the other one.
    if (msgpack === 'enabled' || (await knowsMsgpack(at))) {
      await configure(at, recipe, FLAGS)
      await choose(at, msgpack)
      await compile(at, context.progress, QEMU)
      if (count === patches.length && msgpack === 'enabled') await ownTest(at, context)
    }
    await passed.add(buildKey(recipe, count, msgpack))
  }
}

/** Sets the option from the patch on that brings it; before, and where it comes again, Meson does not know it. */
async function choose(at: BuildTree, msgpack: Msgpack): Promise<void> {
  const { tree, output, options } = at
  const stamp = join(output, 'msgpack-chosen')
  if (!(await knowsMsgpack(at))) return rm(stamp, { force: true })
  if (await exists(stamp)) return
  const meson = join(output, 'pyvenv/bin/meson')
  await run(meson, ['setup', '--reconfigure', `-Dmsgpack=${msgpack}`, tree, output], { ...options, cwd: output })
  await writeFile(stamp, msgpack)
}

async function knowsMsgpack({ tree }: BuildTree): Promise<boolean> {
  return /^option\('msgpack'/m.test(await readFile(join(tree, 'meson_options.txt'), 'utf8'))
}

/** The test that the series brings for QEMU's own suite. */
async function ownTest(at: BuildTree, { progress }: Context): Promise<void> {
  const { output, options } = at
  await compile(at, progress, `tests/qtest/${QTEST}`)
  const env = { ...options.env, QTEST_QEMU_BINARY: join(output, QEMU) }
  const log = await run(join(output, 'tests/qtest', QTEST), ['--tap'], { ...options, step: QTEST, env, cwd: output })
  // One that runs no test, or skips them, has not passed.
  if (!/^ok 1 /m.test(log) || /^ok .*# SKIP/m.test(log)) throw new SetupError(`${QTEST} has run no test:\n${log}`)
}

if (import.meta.main) {
  const given = process.argv.slice(2)
  try {
    for (const qemu of given.length > 0 ? given : QEMU_VERSIONS) {
      if (!isQemuVersion(qemu)) throw new SetupError(`${qemu}: expected ${QEMU_VERSIONS.join(' or ')}`)
      await checkSeries(qemu, 'each')
    }
  } catch (error) {
    if (!(error instanceof SetupError)) throw error
    console.error(`smmu-cosim: ${error.message}`)
    process.exitCode = 1
  }
}
