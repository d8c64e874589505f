// SPDX-License-Identifier: Apache-2.0
/** What set-up is asked for, and what it gives. */

/**
 * The kernels that can be fetched: of those between 6.18 and 7.2, the archive has images whose modules are gone; 6.12-16k has pages of
 * 16 KiB.
 */
export const KERNEL_SERIES = ['6.12', '6.12-16k', '6.1', '6.16', '6.17', '6.18', '7.2', '7.3', 'latest'] as const
export type KernelSeries = (typeof KERNEL_SERIES)[number]

/** The QEMUs that set-up can fetch and build. */
export const QEMU_VERSIONS = ['10.0', '10.2'] as const
export type QemuVersion = (typeof QEMU_VERSIONS)[number]
export const DEFAULT_QEMU: QemuVersion = '10.0'

export const isQemuVersion = (text: string): text is QemuVersion => (QEMU_VERSIONS as readonly string[]).includes(text)

export interface SetupOptions {
  /** Receives the lines that say what is being done; by default they go to stderr, with a running percentage. */
  progress?: (line: string) => void
  /** Ends set-up early: child processes are killed, the lock is released, nothing half-made is published. */
  signal?: AbortSignal
  kernel?: KernelSeries
  /** One of QEMU_VERSIONS, a binary with the patches, or a folder with QEMU's source; default: $SMMU_COSIM_QEMU, else 10.0. */
  qemu?: string
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
