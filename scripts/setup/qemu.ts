// SPDX-License-Identifier: Apache-2.0
import { execFile } from 'node:child_process'
import { copyFile, mkdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { arch, availableParallelism } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { PrivateApt } from './apt.ts'
import { cacheDir, cachePath, contentKey, digest, entries, exists, intact, logPath, move, publish } from './cache.ts'
import { type Context, exclusively } from './lock.ts'
import type { SetupOptions } from './options.ts'
import { installHostPackages } from './packages.ts'
import { applyPatches, type Patch, readSeries, touchedFiles } from './patches.ts'
import type { Progress } from './progress.ts'
import { type RunOptions, run, SetupError } from './run.ts'

/** The binary, and ninja's target. */
export const QEMU = 'qemu-system-aarch64'
export const PATCH_DIR = fileURLToPath(new URL('../../qemu-patches', import.meta.url))
const DEVICES_FILE = fileURLToPath(new URL('cosim.mak', import.meta.url))
const KEPT_BUILDS = 8

export const CONFIGURE_FLAGS = [
  '--python=/usr/bin/python3',
  '--target-list=aarch64-softmmu',
  '--with-devices-aarch64=cosim',
  '--without-default-devices',
  '--without-default-features',
  '--enable-tcg',
  '--enable-slirp',
  '--enable-virtfs',
  '--enable-attr',
  '--enable-seccomp',
  '--enable-msgpack',
  '--enable-fdt=system',
  '--enable-pixman',
  '--enable-trace-backends=log',
  '--disable-docs',
  '--disable-tools',
  '--disable-guest-agent',
  '--disable-install-blobs',
  '--disable-download',
  '--disable-werror',
  // Line numbers for backtraces are worth their build time; the rest of -g is not.
  '--disable-debug-info',
  '--extra-cflags=-g1',
]

/** All that decides what the built binary is. */
export interface Recipe {
  version: string
  patches: Patch[]
  devices: string
  host: string
}

/** Returns the path of the patched QEMU; fetches and builds what is not in the cache. */
export async function ensureQemu(options: SetupOptions = {}): Promise<string> {
  const { SMMU_COSIM_QEMU: given } = process.env
  if (given !== undefined) return given
  const cached = await cachedQemu()
  if (cached !== undefined) return cached
  return exclusively(options, async context => {
    await installHostPackages(context)
    return (await cachedQemu()) ?? buildQemu(context)
  })
}

async function cachedQemu(): Promise<string | undefined> {
  const version = await cachedSource()
  if (version === undefined) return undefined
  const binary = publishedBinary(await readRecipe(version))
  return (await intact(dirname(binary), QEMU)) && (await runs(binary)) ? binary : undefined
}

/** Running it proves that its libraries are there, too. */
const runs = (binary: string): Promise<boolean> =>
  promisify(execFile)(binary, ['--version']).then(
    () => true,
    () => false,
  )

async function buildQemu(context: Context): Promise<string> {
  const { progress, scratch } = context
  if (/[\s:]/.test(cacheDir)) {
    throw new SetupError(`QEMU cannot be built in ${cacheDir}: set XDG_CACHE_HOME to a path without spaces and colons`)
  }
  const version =
    (await cachedSource()) ?? (await progress.step('qemu-source', 'QEMU source', () => fetchSource(context)))
  const wanted = await readRecipe(version)
  return progress.step('qemu-build', `building QEMU ${version.replace(/\+.*/, '')}`, async () => {
    const built = await build(wanted, context)
    const binary = publishedBinary(wanted)
    const staging = join(scratch, 'publish')
    await mkdir(staging)
    await copyFile(built, join(staging, QEMU))
    // One that is intact and does not run is of no use either.
    await rm(dirname(binary), { recursive: true, force: true })
    await publish(staging, dirname(binary))
    await removeOldBuilds()
    return binary
  })
}

/** The version of the source that is there once QEMU is. */
export async function sourceVersion(): Promise<string> {
  const version = await cachedSource()
  if (version === undefined) throw new SetupError('there is no source of QEMU')
  return version
}

async function cachedSource(): Promise<string | undefined> {
  return (await entries(cachePath('qemu-source'))).at(-1)
}

/** Fetches Debian's QEMU with Debian's patches applied, and the Meson that it wants; returns the version. */
async function fetchSource({ scratch, signal }: Context): Promise<string> {
  const options = { step: 'unpacking', log: logPath('qemu-source'), signal }
  const apt = await PrivateApt.open('trixie', signal)

  const meson = await apt.download('meson', join(scratch, 'meson-deb'))
  await run('dpkg-deb', ['-x', meson, join(scratch, 'meson')], options)
  await move(join(scratch, 'meson'), mesonDir())

  const dsc = await apt.source('qemu', join(scratch, 'qemu-dsc'))
  await run('dpkg-source', ['--no-copy', '-x', dsc, join(scratch, 'qemu')], options)
  const version = basename(dsc, '.dsc').replace(/^qemu_/, '')
  await move(join(scratch, 'qemu'), sourceDir(version))
  return version
}

/** A source tree with patches, a folder that it is built in, and the commands' common settings. */
export interface BuildTree {
  pristine: string
  tree: string
  output: string
  /** Names the files of `tree` that may differ from the pristine source. */
  patchedFiles: string
  options: RunOptions
}

/** Brings the one build tree of a version to the wanted patches and flags and builds it; returns the binary in it. */
async function build(wanted: Recipe, context: Context): Promise<string> {
  const at = await buildTree('qemu-build', 'build', wanted.version, context)
  await patchTree(at, wanted.patches, context.scratch)
  await configure(at, wanted, CONFIGURE_FLAGS)
  const binary = join(at.output, QEMU)
  await compile(at, context.progress, QEMU)
  if (await runs(binary)) return binary
  // Ninja goes by the time of a file, and not by what is in it: a disk that was full leaves one that is new and cut short.
  await rm(binary, { force: true })
  await compile(at, context.progress, QEMU)
  if (await runs(binary)) return binary
  throw new SetupError(`${binary} was built, and does not run`)
}

/** The build tree of a version in a folder of the cache, which is made if there is none. */
export async function buildTree(
  folder: string,
  output: string,
  version: string,
  { scratch, signal }: Context,
): Promise<BuildTree> {
  const home = cachePath(folder, version)
  const at: BuildTree = {
    pristine: sourceDir(version),
    tree: join(home, 'tree'),
    output: join(home, output),
    patchedFiles: join(home, 'patched-files.json'),
    options: { step: 'building QEMU', log: logPath(folder), env: mesonEnvironment(), signal },
  }
  await rm(at.options.log, { force: true })
  if (!(await exists(at.tree))) {
    await run('cp', ['-a', at.pristine, join(scratch, 'tree')], at.options)
    await move(join(scratch, 'tree'), at.tree)
  }
  return at
}

/** Makes the tree what the patches want; files that stay the same are not touched. */
export async function patchTree(
  { pristine, tree, patchedFiles, options }: BuildTree,
  patches: Patch[],
  scratch: string,
): Promise<void> {
  const before: string[] = JSON.parse(await readFile(patchedFiles, 'utf8').catch(() => '[]'))
  const now = touchedFiles(patches)
  const files = [...new Set([...before, ...now])]
  // An interruption must not make us forget a file that we changed.
  await writeFile(patchedFiles, JSON.stringify(files))
  const paths = { pristine, tree, scratch: join(scratch, 'patched'), patchDir: PATCH_DIR }
  await rm(paths.scratch, { recursive: true, force: true })
  await applyPatches(paths, patches, files, options.signal)
  await writeFile(patchedFiles, JSON.stringify(now))
}

/** Configures the build folder, anew if it was for something else. */
export async function configure({ tree, output, options }: BuildTree, recipe: Recipe, flags: string[]): Promise<void> {
  const stamp = join(output, 'configured-for')
  const wanted = configurationKey(recipe, output, flags)
  if ((await readFile(stamp, 'utf8').catch(() => '')) === wanted) return
  await rm(output, { recursive: true, force: true })
  await mkdir(output)
  await writeFile(join(tree, 'configs/devices/aarch64-softmmu/cosim.mak'), recipe.devices)
  await run(join(tree, 'configure'), flags, { ...options, cwd: output })
  await writeFile(stamp, wanted)
}

export async function compile({ output, options }: BuildTree, progress: Progress, target: string): Promise<void> {
  const jobs = String(availableParallelism())
  await run('nice', ['-n', '5', 'ninja', '-j', jobs, target], {
    ...options,
    cwd: output,
    onLine: line => {
      const [, done, total] = /^\[(\d+)\/(\d+)\]/.exec(line) ?? []
      if (total) progress.fraction(Number(done) / Number(total))
    },
  })
}

export async function readRecipe(version: string): Promise<Recipe> {
  const osRelease = await readFile('/etc/os-release', 'utf8')
  return {
    version,
    patches: await readSeries(PATCH_DIR),
    devices: await readFile(DEVICES_FILE, 'utf8'),
    host: [arch(), ...(osRelease.match(/^(ID|VERSION_ID)=.*$/gm) ?? [])].join(' '),
  }
}

/** The content key of a binary: a home folder shared between machines must not mix up their builds. */
export function qemuKey({ version, patches, devices, host }: Recipe): string {
  return contentKey([version, host, devices, ...CONFIGURE_FLAGS, ...patches.map(patch => patch.text)])
}

/**
 * What a QEMU was built from: equal for builds of the same source, patches and configuration, whatever machine made them. Of a binary from
 * elsewhere, what stands in the file `NAME.build` beside it, or else the hash of the binary.
 */
export async function qemuBuild(binary: string): Promise<string> {
  const stated = await readFile(`${binary}.build`, 'utf8').catch(() => '')
  if (/^[0-9a-f]{20}\n?$/.test(stated)) return stated.trim()
  const version = await cachedSource()
  if (version !== undefined) {
    const recipe = await readRecipe(version)
    if (binary === publishedBinary(recipe)) return buildKey(recipe)
  }
  return digest(binary)
}

const buildKey = ({ version, patches, devices }: Recipe): string =>
  contentKey([version, devices, ...CONFIGURE_FLAGS, ...patches.map(patch => patch.text)])

/** The key of a configured build folder, which holds absolute paths and Python's version: one that moved starts anew. */
export function configurationKey({ devices, host }: Recipe, output: string, flags: readonly string[]): string {
  return contentKey([output, host, devices, ...flags])
}

function publishedBinary(wanted: Recipe): string {
  return cachePath('qemu', qemuKey(wanted), QEMU)
}

function sourceDir(version: string): string {
  return cachePath('qemu-source', version)
}

function mesonDir(): string {
  return cachePath('meson')
}

function mesonEnvironment(): NodeJS.ProcessEnv {
  const { PATH } = process.env
  return {
    PATH: `${mesonDir()}/usr/bin:${PATH}`,
    PYTHONPATH: `${mesonDir()}/usr/lib/python3/dist-packages`,
    NINJA_STATUS: '[%f/%t] ',
  }
}

/** Keeps what switching between a few branches needs; older builds come back in seconds from the build tree. */
async function removeOldBuilds(): Promise<void> {
  const dirs = (await entries(cachePath('qemu'))).map(name => cachePath('qemu', name))
  const dated = await Promise.all(dirs.map(async dir => ({ dir, time: (await stat(dir)).mtimeMs })))
  dated.sort((a, b) => b.time - a.time)
  for (const { dir } of dated.slice(KEPT_BUILDS)) await rm(dir, { recursive: true })
}
