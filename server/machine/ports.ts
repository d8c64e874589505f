// SPDX-License-Identifier: Apache-2.0
/**
 * The two ports through which the hypervisor reaches the outside, and the few services that a machine gives it.
 * All calls are synchronous: a trap is decided in one go, with the vCPU waiting.
 */

import type { GuestMemory } from '../smmu/memory.ts'

/** One value of up to 64 bits in halves, so that the trap path needs no BigInt. Both are unsigned 32-bit integers. */
export interface Halves {
  lo: number
  hi: number
}

/** The register frame of one hardware SMMU (IHI 0070 chapter 6), little-endian. */
export interface SmmuHardware {
  /**
   * Reads `size` (1, 2, 4, 8) bytes at `offset` of the frame into `into`, zero-extended.
   * @returns false when the hardware aborts the access; `into` is then 0.
   */
  read(offset: number, size: number, into: Halves): boolean
  /** Writes; returns false when the hardware aborts the access. Returns after what the write started is consumed. */
  write(offset: number, size: number, lo: number, hi: number): boolean
  /**
   * Writes 32 bits at `offset`, then reads 32 bits at `readOffset` into `into`, in one round trip. For hardware that is
   * far away; absent: nothing is gained by it.
   * @returns false when the hardware aborts either; `into` is then 0.
   */
  writeThenRead?(offset: number, value: number, readOffset: number, into: Halves): boolean
  /**
   * Writes 32 bits at `offset` without waiting, together with the answer to the trap at hand: at `checkOffset` the hardware
   * is to hold `checkValue` then. While it does, a vCPU that reads 32 bits there gets `answer` without a trap, up to the
   * next trap or access of ours; should it not, the policy's `postMismatch` is called before the next trap.
   * @returns false, with nothing done, when the write has to be waited for.
   */
  post?(offset: number, value: number, checkOffset: number, checkValue: number, answer: number): boolean
}

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
