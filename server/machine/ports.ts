// SPDX-License-Identifier: Apache-2.0
/**
 * The two ports through which the hypervisor reaches the outside, and the few services that a machine gives it.
 * All calls are synchronous: a trap is decided in one go, with the vCPU waiting.
 */

import type { SmmuHardware } from '../smmu/hardware.ts'
import type { GuestMemory } from '../smmu/memory.ts'

/** Who may see a page through the CPU: loads and stores by a vCPU to a guarded range are external aborts. */
export interface CpuGuard {
  /** All of the range is guarded, whatever part of it was so. `base` and `size` in bytes, multiples of 4096. False: refused, nothing changed. */
  add(base: number, size: number): boolean
  /** Nothing of the range is guarded any more. False: refused, nothing changed. */
  remove(base: number, size: number): boolean
}

/** What EL2 has in VTTBR_EL2 and VTCR_EL2 for its host, in halves. */
export interface HostStage2Registers {
  readonly vttbrLo: number
  readonly vttbrHi: number
  readonly vtcrLo: number
  readonly vtcrHi: number
}

/** A hypervisor at EL2 inside the machine. Which pages it lets its host reach stands in tables in RAM. */
export interface El2 {
  /**
   * Stores of vCPUs to a page of 4 KiB are told to the policy from now on (`stage2Changed`), or no longer. What is read
   * afterwards has all earlier stores in it.
   * @returns false when the page cannot be watched
   */
  watch(page: number, on: boolean): boolean
  /** Where EL2 keeps its host's tables; null: nowhere yet. */
  hostStage2(): HostStage2Registers | null
}

/** What a policy is given at the start. */
export interface Machine {
  readonly memory: GuestMemory
  /** Hypervisor memory, bytes; size 0 when the machine has none. */
  readonly carveout: { readonly base: number; readonly size: number }
  readonly smmus: readonly { readonly base: number; readonly size: number; readonly hardware: SmmuHardware }[]
  readonly devices: readonly {
    readonly smmu: number
    readonly sid: number
    readonly name: string
    readonly model: string
  }[]
  readonly guard: CpuGuard
  /** Absent: the vCPUs have no EL2. */
  readonly el2?: El2
}
