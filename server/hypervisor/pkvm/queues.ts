// SPDX-License-Identifier: Apache-2.0
/**
 * Event and PRI queue (server/hypervisor/README.md, sections 4.2 and 5): they stay the host's, the hardware writes them where
 * the host said. So their pages must be pages that the host shares, and must stay so while the queue is enabled.
 */
import { addressOf } from '../../smmu/bits.ts'
import { MAX_QUEUE_LOG2SIZE, queueBase, queueLog2Size } from '../../smmu/queue.ts'
import { Q_BASE_HI_ADDR, Q_BASE_LO_ADDR } from '../../smmu/registers.ts'
import type { HostShare } from './share.ts'
import { StateLayout } from './stateLayout.ts'

/** The base register as the host wrote it; what a checkpoint holds. */
export interface HostQueueRegisters {
  baseLo: number
  baseHi: number
}

export const HOST_QUEUE_STATE = new StateLayout<HostQueueRegisters>({ baseLo: 'u32', baseHi: 'u32' })

export class HostQueue {
  readonly #share: HostShare
  readonly #entrySize: number
  readonly registers: HostQueueRegisters = { baseLo: 0, baseHi: 0 }

  constructor(share: HostShare, entrySize: number) {
    this.#share = share
    this.#entrySize = entrySize
  }

  reset(): void {
    Object.assign(this.registers, { baseLo: 0, baseHi: 0 } satisfies HostQueueRegisters)
  }

  get log2size(): number {
    return queueLog2Size(this.registers.baseLo, MAX_QUEUE_LOG2SIZE)
  }

  get address(): number {
    return queueBase(this.registers.baseLo, this.registers.baseHi, this.log2size, this.#entrySize)
  }

  /**
   * Bytes from `address` on that the hardware may write. A base that is not aligned to the size of the queue is aligned
   * down by the architecture, but not by every implementation: both places count.
   */
  get bytes(): number {
    const { baseLo, baseHi } = this.registers
    const written = addressOf((baseLo & Q_BASE_LO_ADDR) >>> 0, (baseHi & Q_BASE_HI_ADDR) >>> 0)
    return written - this.address + this.#entrySize * 2 ** this.log2size
  }

  enable(): number {
    return this.#share.sharePinned(this.address, this.bytes)
  }

  disable(): number {
    return this.#share.unsharePinned(this.address, this.bytes)
  }
}
