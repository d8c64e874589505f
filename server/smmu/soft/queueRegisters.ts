// SPDX-License-Identifier: Apache-2.0
/** BASE, PROD and CONS of one queue as software sees them (IHI 0070 sections 3.5.1, 6.3.26 to 6.3.34). */
import { addressOf } from '../bits.ts'
import * as Q from '../queue.ts'
import { Q_BASE_HI_ADDR, Q_BASE_LO_ADDR } from '../registers.ts'

/** Index and wrap bit of the largest queue. */
export const Q_POINTER = 0xf_ffff

export class QueueRegisters {
  baseLo = 0
  baseHi = 0
  prod = 0
  cons = 0
  readonly #max: number
  readonly #entrySize: number
  readonly #aligned: boolean

  /**
   * @param max IDR1.CMDQS, EVTQS or PRIQS
   * @param entrySize bytes
   * @param aligned BASE is aligned down to the size of the queue
   */
  constructor(max: number, entrySize: number, aligned: boolean) {
    this.#max = max
    this.#entrySize = entrySize
    this.#aligned = aligned
  }

  get log2size(): number {
    return Q.queueLog2Size(this.baseLo, this.#max)
  }

  /** Physical address of the entry that a PROD or CONS points to. */
  address(pointer: number): number {
    const { log2size } = this
    const base = this.#aligned
      ? Q.queueBase(this.baseLo, this.baseHi, log2size, this.#entrySize)
      : addressOf((this.baseLo & Q_BASE_LO_ADDR) >>> 0, (this.baseHi & Q_BASE_HI_ADDR) >>> 0)
    return base + Q.queueIndex(pointer, log2size) * this.#entrySize
  }

  /** PROD or CONS as it reads: index bits above the wrap bit are zero, flags stay. */
  visible(register: number): number {
    return ((register & ~Q_POINTER) | Q.queuePointer(register, this.log2size)) >>> 0
  }

  reset(): void {
    this.baseLo = this.baseHi = this.prod = this.cons = 0
  }
}
