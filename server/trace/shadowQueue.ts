// SPDX-License-Identifier: Apache-2.0
import { addressOf } from '../smmu/bits.ts'
import { CMDQ_ENT_WORDS } from '../smmu/commands.ts'
import {
  ARM_SMMU_CMDQ_BASE,
  ARM_SMMU_CMDQ_PROD,
  Q_BASE_HI_ADDR,
  Q_BASE_LO_ADDR,
  Q_BASE_LOG2SIZE,
} from '../smmu/registers.ts'

const ENTRY_BYTES = 4 * CMDQ_ENT_WORDS

/**
 * Where the command queue of the hardware is and how far it was filled, from the registers that were written. Two runs of
 * which one issued a command more have the same commands at other places from then on; what is the same is how far behind
 * the last PROD a command was put, and how far PROD moved.
 */
export class ShadowQueue {
  #base = 0
  #entries = 1
  #prod = 0

  /** @returns how far a write of CMDQ_PROD moved it; undefined for other registers. */
  register(offset: number, lo: number, hi: number): number | undefined {
    if (offset === ARM_SMMU_CMDQ_BASE) {
      this.#base = addressOf((lo & Q_BASE_LO_ADDR) >>> 0, (hi & Q_BASE_HI_ADDR) >>> 0)
      this.#entries = 2 ** (lo & Q_BASE_LOG2SIZE)
    }
    if (offset !== ARM_SMMU_CMDQ_PROD) return undefined
    // One bit more than the index: the wrap bit.
    const moved = modulo(lo - this.#prod, 2 * this.#entries)
    this.#prod = lo
    return moved
  }

  /** How many entries behind PROD an address is; undefined outside of the queue. */
  place(address: number): number | undefined {
    const entry = (address - this.#base) / ENTRY_BYTES
    if (!Number.isInteger(entry) || entry < 0 || entry >= this.#entries) return undefined
    return modulo(entry - this.#prod, this.#entries)
  }
}

function modulo(value: number, divisor: number): number {
  return ((value % divisor) + divisor) % divisor
}
