// SPDX-License-Identifier: Apache-2.0
/** Kernels that the command line names, looked at before there is a machine. */
import { resolve } from 'node:path'
import { expectPages, isSeries, needsOf, seriesPageSize, type WantedFiles } from '../run/files.ts'
import { checkFiles } from '../run/options.ts'
import { ownKernel } from '../run/ownKernel.ts'
import { UsageError, usage } from './exit.ts'

/** As a plan keeps it: a path holds wherever it is gone on from. */
export const kernelName = (kernel: string): string => (isSeries(kernel) ? kernel : resolve(kernel))

export interface NamedKernel extends WantedFiles {
  /** The user's words for QEMU. */
  readonly qemuArgs?: readonly string[]
  /** It runs as pKVM. */
  readonly pkvm?: boolean
}

/**
 * One that cannot boot would be waited for. A confined process has been through this.
 * @param say told what may go wrong
 * @throws UsageError naming what was expected
 */
export async function checkKernel(
  { qemuArgs = [], pkvm = false, ...wanted }: NamedKernel,
  say: (line: string) => void,
): Promise<void> {
  const { kernel, modules } = wanted
  usage(() => checkFiles({ kernel }))
  if (isSeries(kernel) && modules !== undefined)
    throw new UsageError(`--modules: not with Debian's kernel ${kernel}, which has its own`)
  try {
    const { notes, pageSize } = isSeries(kernel)
      ? { notes: [], pageSize: seriesPageSize(kernel) }
      : await ownKernel(kernel, modules, needsOf(wanted))
    expectPages(pageSize, qemuArgs, pkvm)
    if (process.permission === undefined) for (const note of notes) say(note)
  } catch (error) {
    throw new UsageError(`--kernel: ${(error as Error).message}`.replace(/^--kernel: (?=--)/, ''))
  }
}
