// SPDX-License-Identifier: Apache-2.0
/**
 * Event and PRI queue (server/hypervisor/README.md, sections 4.2 and 5): they stay the host's, the hardware writes them where
 * the host said. So their pages must be pages that the host shares, and must stay so while the queue is enabled.
 */
import { EIO, OK } from '../../policy/result.ts'
import { addressOf, type Halves } from '../../smmu/bits.ts'
import { MAX_QUEUE_LOG2SIZE, queueBase, queueLog2Size } from '../../smmu/queue.ts'
import { Q_BASE_HI_ADDR, Q_BASE_LO_ADDR } from '../../smmu/registers.ts'
import type { HardwareFrame } from '../common/hardwareFrame.ts'
import type { HypContext } from './context.ts'
import { StateLayout } from './stateLayout.ts'

/** The base register as the hardware had it when the queue was enabled; what a checkpoint holds. */
export interface HostQueueRegisters {
  baseLo: number
  baseHi: number
}

export const HOST_QUEUE_STATE = new StateLayout<HostQueueRegisters>({ baseLo: 'u32', baseHi: 'u32' })

export class HostQueue {
  readonly #hyp: HypContext
  readonly #hardware: HardwareFrame
  readonly #register: number
  readonly #entrySize: number
  readonly registers: HostQueueRegisters = { baseLo: 0, baseHi: 0 }

  /** @param register offset of the base register @param entrySize bytes */
  constructor(hyp: HypContext, hardware: HardwareFrame, register: number, entrySize: number) {
    this.#hyp = hyp
    this.#hardware = hardware
    this.#register = register
    this.#entrySize = entrySize
  }

  reset(): void {
    Object.assign(this.registers, { baseLo: 0, baseHi: 0 } satisfies HostQueueRegisters)
  }

  get log2size(): number {
    return queueLog2Size(this.registers.baseLo, MAX_QUEUE_LOG2SIZE)
  }

  get address(): number {
    if (this.#hyp.quirks.has('queue-base-unaligned')) return this.#written
    return queueBase(this.registers.baseLo, this.registers.baseHi, this.log2size, this.#entrySize)
  }

  /** Address in the base register, whatever its alignment. */
  get #written(): number {
    const { baseLo, baseHi } = this.registers
    return addressOf((baseLo & Q_BASE_LO_ADDR) >>> 0, (baseHi & Q_BASE_HI_ADDR) >>> 0)
  }

  /**
   * Bytes from `address` on that the hardware may write. A base that is not aligned to the size of the queue is aligned
   * down by the architecture, but not by every implementation: both places count.
   */
  get bytes(): number {
    return this.#written - this.address + this.#entrySize * 2 ** this.log2size
  }

  /** What the hardware has counts, whatever was written: it may have ignored that. */
  enable(): number {
    const { quirks, share } = this.#hyp
    const base: Halves = { lo: 0, hi: 0 }
    if (!this.#hardware.read(this.#register, 8, base)) return EIO
    Object.assign(this.registers, { baseLo: base.lo, baseHi: base.hi } satisfies HostQueueRegisters)
    return quirks.has('queues-unshared') ? OK : share.sharePinned(this.address, this.bytes)
  }

  disable(): number {
    const { quirks, share } = this.#hyp
    return quirks.has('queues-unshared') ? OK : share.unsharePinned(this.address, this.bytes)
  }
}
