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
  '6.1': 'bookworm',
  '6.16': 'trixie-backports',
  '6.17': 'trixie-backports',
  '6.18': 'trixie-backports',
  '6.19': 'trixie-backports',
  '7.0': 'trixie-backports',
  '7.1': 'trixie-backports',
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

/** The version in the name of the image package that the metapackage depends on. @throws SetupError */
export function imageVersion(depends: string): string {
  const version = /linux-image-(\S+)/.exec(depends)?.[1]
  if (version === undefined) throw new SetupError(`linux-image-arm64 depends on no kernel image but on: ${depends}`)
  return version
}

/** The newest plain arm64 image of a series among the names of all packages, for a suite that has moved on. */
export function newestImage(series: string, names: readonly string[]): string | undefined {
  return names
    .flatMap(name => /^linux-image-(\d+\.\d+\.\d+\+\w+-arm64)$/.exec(name)?.[1] ?? [])
    .filter(version => version.startsWith(`${series}.`))
    .sort((a, b) => a.localeCompare(b, 'en', { numeric: true }))
    .at(-1)
}

/** The version to fetch. */
async function wanted(series: KernelSeries, apt: PrivateApt): Promise<string> {
  const version = imageVersion(await apt.field('linux-image-arm64', 'Depends'))
  if (series === 'latest' || version.startsWith(`${series}.`)) return version
  const older = newestImage(series, await apt.names('linux-image-'))
  if (older === undefined) {
    throw new SetupError(`Debian's ${SUITES[series]} has no arm64 kernel ${series} any more; its newest is ${version}`)
  }
  return older
}

async function fetchKernel(series: KernelSeries, { scratch, signal }: Context): Promise<KernelFiles> {
  const apt = await PrivateApt.open(SUITES[series], signal)
  const version = await wanted(series, apt)
  const options = { step: 'unpacking the kernel', log: logPath('kernel'), signal }
  const unpacked = join(scratch, 'unpacked')
  for (const name of kernelPackages(version, await apt.field(`linux-image-${version}`, 'Depends'))) {
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
