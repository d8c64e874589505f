// SPDX-License-Identifier: Apache-2.0
import type { Halves } from './bits.ts'

/**
 * `retained`: off, and the registers are there when it is on again; what the caches hold by then nobody says. `off`: everything is lost,
 * and it comes back as from a reset. The SCMI power domain protocol (DEN 0056) has the same two: context preserved, context lost.
 */
export const POWER_STATES = ['on', 'retained', 'off'] as const
export type PowerState = (typeof POWER_STATES)[number]

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

/** A register of the hardware, or as much of it; 0 where the hardware aborts the access. */
export function readRegister(hardware: Pick<SmmuHardware, 'read'>, offset: number, size = 4): Halves {
  const value = { lo: 0, hi: 0 }
  hardware.read(offset, size, value)
  return value
}
