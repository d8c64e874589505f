// SPDX-License-Identifier: Apache-2.0
import type { Command } from 'commander'
import { setup } from '../../scripts/setup/index.ts'
import { qemuOption, qemuSourceOption } from './bootOptions.ts'
import { abortOnSignal, fail } from './exit.ts'
import { print } from './terminal.ts'

/** `smmu-cosim setup`: everything a boot needs, without booting. */
export function setupCommand(program: Command): void {
  program
    .command('setup')
    .description('fetch and build what a boot needs: system packages, patched QEMU, kernel, initramfs')
    .addOption(qemuOption())
    .addOption(qemuSourceOption())
    .action(async (options: { readonly qemu?: string }) => {
      const { signal } = abortOnSignal()
      try {
        const { qemu, kernel, initrd } = await setup({ ...options, signal })
        print(`qemu    ${qemu}\nkernel  ${kernel.image} (${kernel.version})\ninitrd  ${initrd}`)
      } catch (error) {
        fail(error, signal)
      }
    })
}
