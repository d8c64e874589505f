// SPDX-License-Identifier: Apache-2.0
import { copyFileSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import type { KernelFiles } from '../../scripts/setup/index.ts'
import { moduleContent } from '../../scripts/setup/initramfs.ts'
import { guestModules } from '../../scripts/setup/modules.ts'
import { type DeviceName, driversOf } from '../../server/machine/devices.ts'
import { privateFolder } from '../../server/machine/scratch.ts'

/**
 * Fills a folder as a build of this kernel leaves it: modules where they were made, unpacked, and none installed.
 * @param devices that it has drivers for, besides the usual ones
 */
export async function kernelTree(
  folder: string,
  kernel: KernelFiles,
  devices: readonly DeviceName[] = [],
): Promise<void> {
  const put = (name: string, content: string | Uint8Array) => {
    mkdirSync(dirname(join(folder, name)), { recursive: true })
    writeFileSync(join(folder, name), content)
  }
  const scratch = privateFolder(tmpdir(), 'modules-')
  const built: string[] = []
  for (const path of await guestModules(kernel.modules, Object.keys(driversOf(devices)))) {
    const name = path.replace(/^kernel\//, '').replace(/\.xz$/, '')
    put(name, await moduleContent(join(kernel.modules, path), { scratch, signal: undefined }))
    built.push(name)
  }
  rmSync(scratch, { recursive: true })
  put('modules.order', `${built.join('\n')}\n`)
  put('include/config/kernel.release', `${kernel.version}\n`)
  mkdirSync(join(folder, 'arch/arm64/boot'), { recursive: true })
  copyFileSync(kernel.image, join(folder, 'arch/arm64/boot/Image'))
  copyFileSync(join(kernel.modules, 'modules.builtin'), join(folder, 'modules.builtin'))
}
