// SPDX-License-Identifier: Apache-2.0
import { existsSync } from 'node:fs'
import { isAbsolute, join } from 'node:path'
import { readRegular } from './regularFile.ts'
import { SetupError } from './run.ts'

/** Drivers of the devices that the guest exercises; what they need comes along. */
const MODULES = ['virtio_pci', 'virtio_blk', 'nvme', 'virtio_net', 'e1000e', 'virtio_rng', 'af_packet']

/** Of modules.dep and its like, bytes: a kernel with all modules that there are has less than 1 MiB. */
export const MAX_LIST = 64 << 20

/**
 * Paths in a modules folder of what the guest loads, in that order.
 * @param extra names, besides the usual ones
 * @throws SetupError when it is none, or leads out of it
 */
export async function guestModules(dir: string, extra: readonly string[] = []): Promise<string[]> {
  const path = join(dir, 'modules.dep')
  if (!existsSync(path)) throw new SetupError(`${dir} is not a modules folder: it has no modules.dep`)
  const dep = readRegular(path, MAX_LIST).toString('utf8')
  const order = loadOrder(parseModulesDep(dep), [...MODULES, ...extra])
  const outside = order.find(path => isAbsolute(path) || path.split('/').includes('..'))
  if (outside !== undefined) throw new SetupError(`${dir}: modules.dep leads out of it: ${outside.slice(0, 100)}`)
  return order
}

/** The text of modules.dep as a map from each module's path to the paths of all that it needs. */
export function parseModulesDep(text: string): Map<string, string[]> {
  const dependencies = new Map<string, string[]>()
  for (const line of text.split('\n')) {
    const [path, list] = line.split(':')
    if (path && list !== undefined) dependencies.set(path, list.split(' ').filter(Boolean))
  }
  return dependencies
}

/**
 * The paths of the named modules and of all that they need, each after what it needs.
 * A name without a module is built into the kernel or unknown to it; either way there is no file to load.
 */
export function loadOrder(dependencies: Map<string, string[]>, names: readonly string[]): string[] {
  const order = new Set<string>()
  const byName = new Map([...dependencies.keys()].map(path => [moduleName(path), path]))
  // depmod lists all that a module needs, but who wrote this file is not known: it may lead in circles, and far.
  const seen = new Set<string>()
  const left = names.flatMap(name => byName.get(moduleName(name)) ?? []).reverse()
  for (let path = left.at(-1); path !== undefined; path = left.at(-1)) {
    if (seen.has(path)) {
      order.add(path)
      left.pop()
      continue
    }
    seen.add(path)
    for (const needed of (dependencies.get(path) ?? []).toReversed()) if (!seen.has(needed)) left.push(needed)
  }
  return [...order]
}

/** `kernel/drivers/nvme/host/nvme-core.ko.xz` is the module `nvme_core`. */
export function moduleName(path: string): string {
  return path
    .replace(/^.*\//, '')
    .replace(/\.ko(\.\w+)?$/, '')
    .replaceAll('-', '_')
}
