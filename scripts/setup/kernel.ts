// SPDX-License-Identifier: Apache-2.0
import { mkdir, stat, utimes } from 'node:fs/promises'
import { join } from 'node:path'
import { PrivateApt, type Suite } from './apt.ts'
import { cachePath, entries, exists, intact, logPath, move, publish } from './cache.ts'
import { type Context, exclusively } from './lock.ts'
import { guestModules } from './modules.ts'
import type { KernelFiles, KernelSeries, SetupOptions } from './options.ts'
import { installHostPackages } from './packages.ts'
import { run, SetupError } from './run.ts'

/** The suite of Debian's archive that each kernel comes from. `latest` is the newest that any of them has. */
const SUITES = {
  '6.12': 'trixie',
  '6.12-16k': 'trixie',
  '6.1': 'bookworm',
  '6.16': 'trixie-backports',
  '6.17': 'trixie-backports',
  '6.18': 'trixie-backports',
  '7.2': 'trixie-backports',
  '7.3': 'trixie-backports',
  latest: 'trixie-backports',
} as const satisfies Record<KernelSeries, Suite>

export const DEFAULT_KERNEL: KernelSeries = '6.12'

/** How long the archive is not asked again what the latest kernel is, ms. */
const LATEST_MS = 24 * 3600 * 1000

/** Debian's arm64 image package holds a stub of one line instead of a symbol map, unless it has the real one. */
const SMALLEST_SYMBOL_MAP = 4096

/** Returns the files of Debian's arm64 kernel of the wanted series; fetches them if they are not in the cache. */
export async function ensureKernel(options: SetupOptions = {}): Promise<KernelFiles> {
  const series = options.kernel ?? DEFAULT_KERNEL
  const cached = await cachedKernel(series)
  if (cached && !(await outdated(series))) return cached
  return exclusively(options, async context => {
    await installHostPackages(context)
    const fetch = () => fetchKernel(series, context)
    const again = (await outdated(series)) ? undefined : await cachedKernel(series)
    return again ?? context.progress.step('kernel', `Debian's arm64 kernel ${series}`, fetch)
  })
}

/** Whether the archive may have a newer one by now. */
async function outdated(series: KernelSeries): Promise<boolean> {
  if (series !== 'latest') return false
  const asked = await stat(cachePath('kernel', series)).catch(() => undefined)
  return asked === undefined || Date.now() - asked.mtimeMs > LATEST_MS
}

async function cachedKernel(series: KernelSeries): Promise<KernelFiles | undefined> {
  const version = (await entries(cachePath('kernel', series))).at(-1)
  if (version === undefined) return undefined
  const dir = cachePath('kernel', series, version)
  const systemMap = join(dir, 'boot', `System.map-${version}`)
  const symbolMapSize = await stat(systemMap).then(
    file => file.size,
    () => 0,
  )
  const files = {
    version,
    image: join(dir, 'boot', `vmlinuz-${version}`),
    systemMap: symbolMapSize < SMALLEST_SYMBOL_MAP ? undefined : systemMap,
    modules: join(dir, 'lib/modules', version),
  }
  const modules = join('lib/modules', version)
  if (!(await intact(dir, join('boot', `vmlinuz-${version}`), join(modules, 'modules.dep')))) return undefined
  const loaded = (await guestModules(files.modules)).map(module => join(modules, module))
  return (await intact(dir, ...loaded)) ? files : undefined
}

/**
 * The packages that hold a kernel: the image package, and where Debian has split it, those of the same version that it
 * depends on (binary, modules and base).
 * @param depends the `Depends` field of the image package
 */
export function kernelPackages(version: string, depends: string): string[] {
  const parts = [...depends.matchAll(/linux-(?:binary|modules|base)-(\S+)/g)]
  return [`linux-image-${version}`, ...parts.filter(match => match[1] === version).map(([name]) => name)]
}

/** Lists of what is built in, and device trees: a kernel boots without. */
const isBase = (name: string): boolean => name.startsWith('linux-base-')

/** Debian's name for what a kernel is built for: that of its package and the end of its version. */
const flavourOf = (series: string): string => (series.endsWith('-16k') ? 'arm64-16k' : 'arm64')

/** The version in the name of the image package that a metapackage depends on. @throws SetupError */
export function imageVersion(metapackage: string, depends: string): string {
  const version = /linux-image-(\S+)/.exec(depends)?.[1]
  if (version === undefined) throw new SetupError(`${metapackage} depends on no kernel image but on: ${depends}`)
  return version
}

/** The images of a series among the names of all packages, the newest first. */
export function imagesOf(series: string, names: readonly string[]): string[] {
  const [number, flavour] = [series.replace(/-16k$/, ''), flavourOf(series)]
  return names
    .flatMap(name => /^linux-image-(\d+\.\d+\.\d+[+-]\w+-arm64(?:-16k)?)$/.exec(name)?.[1] ?? [])
    .filter(version => version.startsWith(`${number}.`) && version.endsWith(`-${flavour}`))
    .sort((a, b) => b.localeCompare(a, 'en', { numeric: true }))
}

/** A version to fetch, and its packages. */
interface Wanted {
  readonly version: string
  readonly packages: readonly string[]
}

/** What is asked of an archive. */
export type KernelArchive = Pick<PrivateApt, 'field' | 'names'>

/**
 * The newest version of a series that a suite has as a whole: the image of one that it has moved on from may outlive its modules.
 * @throws SetupError naming what is gone
 */
export async function wholeKernel(series: KernelSeries, apt: KernelArchive): Promise<Wanted> {
  const metapackage = `linux-image-${flavourOf(series)}`
  const newest = imageVersion(metapackage, await apt.field(metapackage, 'Depends'))
  const names = await apt.names('linux-')
  const current = series === 'latest' || newest.startsWith(`${series.replace(/-16k$/, '')}.`)
  const gone: string[] = []
  for (const version of current ? [newest] : imagesOf(series, names)) {
    const packages = kernelPackages(version, await apt.field(`linux-image-${version}`, 'Depends'))
    const missing = packages.filter(name => !names.includes(name) && !isBase(name))
    if (missing.length === 0) return { version, packages: packages.filter(name => names.includes(name)) }
    gone.push(`linux-image-${version} needs ${missing.join(' and ')}`)
  }
  const why = gone[0] === undefined ? '' : `: ${gone[0]}, which it does not have`
  throw new SetupError(`Debian's ${SUITES[series]} has no whole arm64 kernel ${series}${why}; its newest is ${newest}`)
}

async function fetchKernel(series: KernelSeries, { scratch, signal }: Context): Promise<KernelFiles> {
  const apt = await PrivateApt.open(SUITES[series], signal)
  const { version, packages } = await wholeKernel(series, apt)
  const options = { step: 'unpacking the kernel', log: logPath('kernel'), signal }
  const unpacked = join(scratch, 'unpacked')
  for (const name of packages) {
    const deb = await apt.download(name, join(scratch, 'deb', name))
    await run('dpkg-deb', ['-x', deb, unpacked], options)
  }

  const dir = join(scratch, 'kernel')
  const modules = join(dir, 'lib/modules')
  await mkdir(join(dir, 'boot'), { recursive: true })
  const merged = join(unpacked, 'usr/lib/modules')
  const unpackedModules = (await exists(merged)) ? merged : join(unpacked, 'lib/modules')
  // Newer packages keep image and symbol map with the modules.
  for (const name of ['vmlinuz', 'System.map']) {
    const places = [join(unpacked, 'boot', `${name}-${version}`), join(unpackedModules, version, name)]
    for (const place of places) if (await exists(place)) await move(place, join(dir, 'boot', `${name}-${version}`))
  }
  await move(unpackedModules, modules)
  await run('/sbin/depmod', ['-b', dir, version], options)
  await publish(dir, cachePath('kernel', series, version))
  await utimes(cachePath('kernel', series), new Date(), new Date())

  const files = await cachedKernel(series)
  if (!files) throw new SetupError(`the packages of linux-image-${version} hold no kernel image`)
  return files
}
