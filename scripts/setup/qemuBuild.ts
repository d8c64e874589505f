// SPDX-License-Identifier: Apache-2.0
/** How QEMU is patched, configured and compiled, whatever the source and what for. */
import { execFile } from 'node:child_process'
import { copyFile, mkdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { arch, availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { PrivateApt } from './apt.ts'
import { cachePath, contentKey, entries, exists, logPath, move, publish } from './cache.ts'
import type { Context } from './lock.ts'
import { DEFAULT_QEMU, QEMU_VERSIONS, type QemuVersion } from './options.ts'
import { applyPatches, type Patch, readSeries, touchedFiles } from './patches.ts'
import type { Progress } from './progress.ts'
import { type RunOptions, run, SetupError } from './run.ts'

/** The binary, and ninja's target. */
export const QEMU = 'qemu-system-aarch64'
export const PATCH_DIR = fileURLToPath(new URL('../../qemu-patches', import.meta.url))
const DEVICES_FILE = fileURLToPath(new URL('cosim.mak', import.meta.url))
/** Folder of the cache that the product is built in, and what is in it for the output. */
export const PRODUCT = ['qemu-build', 'build'] as const
const KEPT_BUILDS = 8

/** The series for each version, as files in `PATCH_DIR`. */
const SERIES = { '10.0': 'series', '10.2': '10.2/series' } as const satisfies Record<QemuVersion, string>
/** Devices that a version needs besides; in 10.2, nvme does not link without this one, and does not ask for it. */
const MORE_DEVICES = { '10.0': '', '10.2': 'CONFIG_SPDM_SOCKET=y\n' } as const satisfies Record<QemuVersion, string>

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

const byNumber = (a: string, b: string): number => a.localeCompare(b, 'en', { numeric: true })

/** The series for a version of QEMU, which may have an epoch in front: the newest that is not newer; undefined: it is too old. */
export function matchingSeries(version: string): QemuVersion | undefined {
  const minor = /^(?:\d+:)?(\d+\.\d+)/.exec(version)?.[1]
  return minor === undefined ? undefined : QEMU_VERSIONS.findLast(series => byNumber(series, minor) <= 0)
}

/** @throws SetupError when there is no series for that version */
export async function readRecipe(version: string): Promise<Recipe> {
  const series = matchingSeries(version)
  if (series === undefined)
    throw new SetupError(`QEMU ${version}: qemu-patches has series for ${QEMU_VERSIONS.join(' and ')}, and later`)
  const osRelease = await readFile('/etc/os-release', 'utf8')
  return {
    version,
    patches: await readSeries(PATCH_DIR, SERIES[series]),
    devices: `${await readFile(DEVICES_FILE, 'utf8')}${MORE_DEVICES[series]}`,
    host: [arch(), ...(osRelease.match(/^(ID|VERSION_ID)=.*$/gm) ?? [])].join(' '),
  }
}

/** The content key of a binary: a home folder shared between machines must not mix up their builds. */
export function qemuKey({ version, patches, devices, host }: Recipe): string {
  return contentKey([version, host, devices, ...CONFIGURE_FLAGS, ...patches.map(patch => patch.text)])
}

/** The same without the machine: equal wherever the same is built. */
export const buildKey = ({ version, patches, devices }: Recipe): string =>
  contentKey([version, devices, ...CONFIGURE_FLAGS, ...patches.map(patch => patch.text)])

/** The key of a configured build folder, which holds absolute paths and Python's version: one that moved starts anew. */
export function configurationKey({ devices, host }: Recipe, output: string, flags: readonly string[]): string {
  return contentKey([output, host, devices, ...flags])
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

/**
 * A tree in a folder of the cache and what is built from it, which need not be there yet.
 * @param place folder of the cache, and what is in it for this tree
 */
export function treeAt(place: readonly [string, string], output: string, pristine: string, signal?: AbortSignal) {
  const [folder] = place
  const home = cachePath(...place)
  return {
    pristine,
    tree: join(home, 'tree'),
    output: join(home, output),
    patchedFiles: join(home, 'patched-files.json'),
    options: { step: 'building QEMU', log: logPath(folder), env: mesonEnvironment(), signal },
  } satisfies BuildTree
}

/** The build tree of a version in a folder of the cache, which is made if there is none. */
export async function buildTree(
  folder: string,
  output: string,
  version: string,
  { scratch, signal }: Context,
): Promise<BuildTree> {
  const at = treeAt([folder, version], output, sourceDir(version), signal)
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
  const before = await filesPatched({ patchedFiles })
  const now = touchedFiles(patches)
  const files = [...new Set([...before, ...now])]
  // An interruption must not make us forget a file that we changed.
  await writeFile(patchedFiles, JSON.stringify(files))
  const paths = { pristine, tree, scratch: join(scratch, 'patched'), patchDir: PATCH_DIR }
  await rm(paths.scratch, { recursive: true, force: true })
  await applyPatches(paths, patches, files, options.signal)
  await writeFile(patchedFiles, JSON.stringify(now))
}

/** The files of a tree that may differ from the pristine source. */
export async function filesPatched({ patchedFiles }: Pick<BuildTree, 'patchedFiles'>): Promise<string[]> {
  return JSON.parse(await readFile(patchedFiles, 'utf8').catch(() => '[]'))
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

/** Patches, configures and builds the product; returns the binary in the build folder. */
export async function build(at: BuildTree, wanted: Recipe, { progress, scratch }: Context): Promise<string> {
  await patchTree(at, wanted.patches, scratch)
  await configure(at, wanted, CONFIGURE_FLAGS)
  const binary = join(at.output, QEMU)
  await compile(at, progress, QEMU)
  if (await runs(binary)) return binary
  // Ninja goes by the time of a file, and not by what is in it: a disk that was full leaves one that is new and cut short.
  await rm(binary, { force: true })
  await compile(at, progress, QEMU)
  if (await runs(binary)) return binary
  throw new SetupError(`${binary} was built, and does not run`)
}

/** Running it proves that its libraries are there, too. */
export const runs = (binary: string): Promise<boolean> =>
  promisify(execFile)(binary, ['--version']).then(
    () => true,
    () => false,
  )

/** Where a finished binary is. */
export const finishedBinary = (key: string): string => cachePath('qemu', key, QEMU)

/** Beside a finished binary: the source tree of the user's own that it was built from. */
const SOURCE_FILE = `${QEMU}.source`

/**
 * Puts a copy of a binary where finished ones are, in place of what is there; returns its path.
 * @param source the tree of the user's own that it was built from
 */
export async function finish(built: string, key: string, scratch: string, source?: string): Promise<string> {
  const binary = finishedBinary(key)
  const staging = join(scratch, 'publish')
  await mkdir(staging)
  await copyFile(built, join(staging, QEMU))
  if (source !== undefined) await writeFile(join(staging, SOURCE_FILE), source)
  // One that is intact and does not run is of no use either.
  await rm(dirname(binary), { recursive: true, force: true })
  await publish(staging, dirname(binary))
  await removeOldBuilds()
  return binary
}

/** A QEMU that is not of Debian's source: the tree that set-up built it from, or the binary that somebody else built. */
export interface OwnQemu {
  readonly what: 'source' | 'binary'
  readonly path: string
}

/** Where a binary comes from; undefined: from Debian's source. */
export async function ownQemu(binary: string): Promise<OwnQemu | undefined> {
  if (!binary.startsWith(`${cachePath('qemu')}/`)) return { what: 'binary', path: binary }
  const path = await readFile(join(dirname(binary), SOURCE_FILE), 'utf8').catch(() => undefined)
  return path === undefined ? undefined : { what: 'source', path }
}

/** What a binary says of itself, as 10.0.13; undefined: nothing. */
export const qemuVersion = (binary: string): Promise<string | undefined> =>
  promisify(execFile)(binary, ['--version']).then(
    ({ stdout }) => /^QEMU emulator version (\S+)/.exec(stdout)?.[1],
    () => undefined,
  )

/** Keeps what switching between a few branches needs; older builds come back in seconds from the build tree. */
async function removeOldBuilds(): Promise<void> {
  const dirs = (await entries(cachePath('qemu'))).map(name => cachePath('qemu', name))
  const dated = await Promise.all(dirs.map(async dir => ({ dir, time: (await stat(dir)).mtimeMs })))
  dated.sort((a, b) => b.time - a.time)
  for (const { dir } of dated.slice(KEPT_BUILDS)) await rm(dir, { recursive: true })
}

/** Folder of the cache with sources of a version, as Debian has them. Older set-ups take the newest that is in `qemu-source`. */
export const sourceFolder = (qemu: QemuVersion): string =>
  qemu === DEFAULT_QEMU ? 'qemu-source' : `qemu-source-${qemu}`

/** Where the source of one of Debian's versions is. */
export const sourceDir = (version: string): string =>
  cachePath(sourceFolder(matchingSeries(version) ?? DEFAULT_QEMU), version)

const mesonDir = (): string => cachePath('meson')

/** Fetches the Meson that QEMU wants, and that older releases of Debian do not have. */
export async function fetchMeson({ scratch, signal }: Context): Promise<void> {
  if (await exists(mesonDir())) return
  const options = { step: 'unpacking', log: logPath('qemu-source'), signal }
  const apt = await PrivateApt.open('trixie', signal)
  const meson = await apt.download('meson', join(scratch, 'meson-deb'))
  await run('dpkg-deb', ['-x', meson, join(scratch, 'meson')], options)
  await move(join(scratch, 'meson'), mesonDir())
}

function mesonEnvironment(): NodeJS.ProcessEnv {
  const { PATH } = process.env
  return {
    PATH: `${mesonDir()}/usr/bin:${PATH}`,
    PYTHONPATH: `${mesonDir()}/usr/lib/python3/dist-packages`,
    NINJA_STATUS: '[%f/%t] ',
  }
}
