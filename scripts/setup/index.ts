// SPDX-License-Identifier: Apache-2.0

/**
 * Makes everything ready that a boot needs: the patched QEMU, an arm64 kernel, an initramfs with the workload.
 * All of it lives in the user's cache folder under keys of its content, so a second call costs a few `stat`s.
 */

import { ensureFirmware } from './firmware.ts'
import type { GuestProgram } from './guestPrograms.ts'
import { ensureInitramfs } from './initramfs.ts'
import { ensureKernel } from './kernel.ts'
import type { KernelFiles, SetupOptions } from './options.ts'
import { ensureQemu, NoSourceError, qemuBuild } from './qemu.ts'
import { matchingSeries, type OwnQemu, ownQemu, qemuVersion } from './qemuBuild.ts'
import { treeVersion } from './qemuTree.ts'

export {
  DEFAULT_QEMU,
  isQemuVersion,
  KERNEL_SERIES,
  type KernelFiles,
  type KernelSeries,
  QEMU_VERSIONS,
  type QemuVersion,
  type SetupOptions,
} from './options.ts'
export { ensureBrowser, ensureDebugger, ensureHostPackages, ensureKubectl, ensureRedis, REDIS } from './packages.ts'
export { SetupError } from './run.ts'
export type { GuestProgram, OwnQemu }
export {
  ensureFirmware,
  ensureInitramfs,
  ensureKernel,
  ensureQemu,
  matchingSeries,
  NoSourceError,
  ownQemu,
  qemuBuild,
  qemuVersion,
  treeVersion,
}

export interface SetupResult {
  /** The patched qemu-system-aarch64. */
  qemu: string
  kernel: KernelFiles
  initrd: string
}

/** Does all set-up that is not done yet. Throws a SetupError that says what failed and where the log is. */
export async function setup(options: SetupOptions = {}): Promise<SetupResult> {
  const qemu = await ensureQemu(options)
  const kernel = await ensureKernel(options)
  const initrd = await ensureInitramfs({ ...options, modules: kernel.modules })
  return { qemu, kernel, initrd }
}
