// SPDX-License-Identifier: Apache-2.0
import { mkdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { PrivateApt, type Suite } from './apt.ts'
import { cachePath, entries, exists, logPath, publish } from './cache.ts'
import type { KernelFiles, SetupOptions } from './index.ts'
import { type Context, exclusively } from './lock.ts'
import { installHostPackages } from './packages.ts'
import { run, SetupError } from './run.ts'

/** The Debian release that each kernel comes from. */
const SUITES = { '6.12': 'trixie', '6.1': 'bookworm' } as const satisfies Record<string, Suite>
export type KernelSeries = keyof typeof SUITES

export const DEFAULT_KERNEL: KernelSeries = '6.12'

/** Debian's arm64 image package holds a stub of one line instead of a symbol map, unless it has the real one. */
const SMALLEST_SYMBOL_MAP = 4096

/** Returns the files of Debian's arm64 kernel of the wanted series; fetches them if they are not in the cache. */
export async function ensureKernel(options: SetupOptions = {}): Promise<KernelFiles> {
  const series = options.kernel ?? DEFAULT_KERNEL
  const cached = await cachedKernel(series)
  if (cached) return cached
  return exclusively(options, async context => {
    await installHostPackages(context)
    const fetch = () => fetchKernel(series, context)
    return (await cachedKernel(series)) ?? context.progress.step('kernel', `Debian's arm64 kernel ${series}`, fetch)
  })
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
  const complete = (await exists(files.image)) && (await exists(join(files.modules, 'modules.dep')))
  return complete ? files : undefined
}

async function fetchKernel(series: KernelSeries, { scratch, signal }: Context): Promise<KernelFiles> {
  const apt = await PrivateApt.open(SUITES[series], signal)
  // The metapackage depends on the image package, whose name has the version in it.
  const depends = await apt.field('linux-image-arm64', 'Depends')
  const version = /linux-image-(\S+)/.exec(depends)?.[1]
  if (version === undefined) throw new SetupError(`linux-image-arm64 depends on no kernel image but on: ${depends}`)

  const options = { step: 'unpacking the kernel', log: logPath('kernel'), signal }
  const deb = await apt.download(`linux-image-${version}`, join(scratch, 'deb'))
  const unpacked = join(scratch, 'unpacked')
  await run('dpkg-deb', ['-x', deb, unpacked], options)

  const dir = join(scratch, 'kernel')
  const modules = join(dir, 'lib/modules')
  await mkdir(dir)
  await publish(join(unpacked, 'boot'), join(dir, 'boot'))
  const merged = join(unpacked, 'usr/lib/modules')
  await publish((await exists(merged)) ? merged : join(unpacked, 'lib/modules'), modules)
  await run('/sbin/depmod', ['-b', dir, version], options)
  await publish(dir, cachePath('kernel', series, version))

  const files = await cachedKernel(series)
  if (!files) throw new SetupError(`the package linux-image-${version} holds no kernel image`)
  return files
}
