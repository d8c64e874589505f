// SPDX-License-Identifier: Apache-2.0

/**
 * Makes everything ready that a boot needs: the patched QEMU, an arm64 kernel, an initramfs with the workload.
 * All of it lives in the user's cache folder under keys of its content, so a second call costs a few `stat`s.
 */

import { ensureInitramfs } from './initramfs.ts'
import { ensureKernel, KERNEL_SERIES, type KernelSeries } from './kernel.ts'
import { ensureQemu } from './qemu.ts'

export { ensureBrowser, ensureHostPackages } from './packages.ts'
export { SetupError } from './run.ts'
export { ensureInitramfs, ensureKernel, ensureQemu, KERNEL_SERIES, type KernelSeries }

export interface SetupOptions {
  /** Receives the lines that say what is being done; by default they go to stderr, with a running percentage. */
  progress?: (line: string) => void
  /** Ends set-up early: child processes are killed, the lock is released, nothing half-made is published. */
  signal?: AbortSignal
  kernel?: KernelSeries
}

export interface KernelFiles {
  /** For example 6.12.57+deb13-arm64. */
  version: string
  image: string
  /** Debian ships the symbol map with its debug package only; then there is none here. */
  systemMap: string | undefined
  /** The folder with modules.dep. */
  modules: string
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
