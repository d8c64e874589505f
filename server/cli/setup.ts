// SPDX-License-Identifier: Apache-2.0
import type { Command } from 'commander'
import { setup } from '../../scripts/setup/index.ts'
import { abortOnSignal, fail } from './exit.ts'
import { print } from './terminal.ts'

/** `smmu-cosim setup`: everything a boot needs, without booting. */
export function setupCommand(program: Command): void {
  program
    .command('setup')
    .description('fetch and build what a boot needs: system packages, patched QEMU, kernel, initramfs')
    .action(async () => {
      const { signal } = abortOnSignal()
      try {
        const { qemu, kernel, initrd } = await setup({ signal })
        print(`qemu    ${qemu}\nkernel  ${kernel.image} (${kernel.version})\ninitrd  ${initrd}`)
      } catch (error) {
        fail(error, signal)
      }
    })
}
