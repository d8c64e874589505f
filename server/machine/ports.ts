// SPDX-License-Identifier: Apache-2.0
/**
 * The two ports through which the hypervisor reaches the outside, and the few services that a machine gives it.
 * All calls are synchronous: a trap is decided in one go, with the vCPU waiting.
 */

import type { PowerState, SmmuHardware } from '../smmu/hardware.ts'
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

/** Switches SMMUs off and on: firmware, which is trusted, and asked by the hypervisor alone. */
export interface PowerControl {
  /**
   * Devices meet an abort from power-on until software has written GBPA. Its value after a reset is IMPLEMENTATION DEFINED (IHI 0070
   * section 6.3.14), no register tells, and what firmware left in GBPA does not either: the platform has to promise it.
   */
  readonly resetsToAbort: boolean
  /** The SMMU is in that state when this returns; one that is in it already stays as it is. @returns false when the controller refuses */
  set(smmu: number, state: PowerState): boolean
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
  /** Absent: SMMUs are on all the time. */
  readonly power?: PowerControl
}
