// SPDX-License-Identifier: Apache-2.0
/** A machine with a hypervisor of the guest's own at EL2. */

/** `pkvm`: the guest's kernel runs as pKVM, and starts a protected VM that is attacked (scripts/guest/el2). */
export const EL2_MODES = ['none', 'pkvm'] as const
export type El2Mode = (typeof EL2_MODES)[number]

/** The first of Debian's kernels that has protected VMs. */
export const EL2_KERNEL = '7.3'

/** QEMU's options: EL2, a CPU that pKVM can use, and a DMA master that a program can drive. */
export const EL2_QEMU_ARGS: readonly string[] = [
  ...['-machine', 'virtualization=on'],
  // pKVM keeps SVE from its guests, and TCG is faster without.
  ...['-cpu', 'max,sve=off,sme=off'],
  ...['-device', 'edu,id=edu,dma_mask=0xffffffffffffffff'],
]

export const EL2_COMMAND_LINE = 'kvm-arm.mode=protected'
