// SPDX-License-Identifier: Apache-2.0
/** Kernels that the command line names, looked at before there is a machine. */
import type { DeviceName } from '../machine/devices.ts'
import { expectPages, isSeries } from '../run/files.ts'
import { checkFiles } from '../run/options.ts'
import { ownKernel } from '../run/ownKernel.ts'
import { UsageError, usage } from './exit.ts'

export interface NamedKernel {
  readonly kernel: string
  readonly modules?: string
  readonly initrd?: string
  /** Of the workload, beside the usual ones. */
  readonly devices?: readonly DeviceName[]
  /** The user's words for QEMU. */
  readonly qemuArgs?: readonly string[]
}

/**
 * One that cannot boot would be waited for. A confined process has been through this.
 * @param workload the workload's drivers are needed, unless the initramfs is the user's
 * @param say told what may go wrong
 * @throws UsageError naming what was expected
 */
export async function checkKernel(
  { kernel, modules, initrd, devices, qemuArgs = [] }: NamedKernel,
  workload: boolean,
  say: (line: string) => void,
): Promise<void> {
  usage(() => checkFiles({ kernel }))
  if (isSeries(kernel)) {
    if (modules !== undefined) throw new UsageError(`--modules: not with Debian's kernel ${kernel}, which has its own`)
    return
  }
  try {
    const { notes, pageSize } = await ownKernel(kernel, modules, workload && initrd === undefined, devices)
    expectPages(pageSize, qemuArgs)
    if (process.permission === undefined) for (const note of notes) say(note)
  } catch (error) {
    throw new UsageError(`--kernel: ${(error as Error).message}`.replace(/^--kernel: (?=--)/, ''))
  }
}
