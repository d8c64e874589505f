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
}
