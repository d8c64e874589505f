// SPDX-License-Identifier: Apache-2.0
/** A machine with a hypervisor of the guest's own at EL2. */
import { describeDisagreement } from '../oracle/agreement.ts'
import type { El2Report } from '../trap/el2Oracle.ts'
import type { Ending } from './ending.ts'

/** Of a report. */
interface Sections {
  readonly el2?: El2Report
}

/**
 * `pkvm`: the guest's kernel runs as pKVM, and starts a protected VM that is attacked (scripts/guest/el2). `kernel`: the same of a
 * kernel whose EL2 drives the SMMU itself, and what it programs is held against its own tables.
 */
export const EL2_MODES = ['none', 'pkvm', 'kernel'] as const
export type El2Mode = (typeof EL2_MODES)[number]

/** The first of Debian's kernels that has protected VMs. */
export const EL2_KERNEL = '7.3'

/** pKVM keeps SVE from its guests, and TCG is faster without. */
const CPU = 'max,sve=off,sme=off'
/** 40 bits of addresses, no 52-bit descriptors, no HCR_EL2.FWB: what its stage 2 says, QEMU's SMMU can read. */
const CPU_SHARED = 'cortex-a76'

/**
 * QEMU's options: EL2, a CPU that pKVM can use, and a DMA master that a program can drive.
 * @param shared an SMMU walks the tables of EL2
 */
export const el2QemuArgs = (shared = false): readonly string[] => [
  ...['-machine', 'virtualization=on'],
  ...['-cpu', shared ? CPU_SHARED : CPU],
  ...['-device', 'edu,id=edu,dma_mask=0xffffffffffffffff'],
]

export const EL2_COMMAND_LINE = 'kvm-arm.mode=protected'

const ISOLATED = 'isolation-violation'

/** Devices reached what EL2 keeps from its host, or nobody can tell: whatever else went wrong comes after it. */
export function el2Violation({ el2 }: Sections): Ending<typeof ISOLATED> | undefined {
  if (el2 === undefined) return undefined
  const { violation, problem, agreement } = el2
  const found = agreement?.disagreements.find(({ what }) => what !== 'lost')
  const message = violation ?? problem ?? (found && describeDisagreement(found))
  return message === undefined ? undefined : { outcome: ISOLATED, message: `EL2 and the SMMU do not agree: ${message}` }
}

/** Devices did not reach what EL2 lets its host reach: no harm to isolation, and wrong all the same. */
export function el2Failure({ el2 }: Sections): Ending<'guest-failed'> | undefined {
  const [first] = el2?.agreement?.disagreements ?? []
  return first && { outcome: 'guest-failed', message: `EL2 and the SMMU do not agree: ${describeDisagreement(first)}` }
}
