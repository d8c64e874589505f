// SPDX-License-Identifier: Apache-2.0
/**
 * Event and PRI queue (server/hypervisor/README.md, sections 4.2 and 5): they stay the host's, the hardware writes them where
 * the host said. So their pages must be pages that the host shares, and must stay so while the queue is enabled.
 */
import { addressOf } from '../../smmu/bits.ts'
import { queueBase, queueLog2Size } from '../../smmu/queue.ts'
import { Q_BASE_HI_ADDR, Q_BASE_LO_ADDR } from '../../smmu/registers.ts'
import { QUEUE_MAX_LOG2SIZE } from './cmdq.ts'
import type { HostShare } from './share.ts'

export class HostQueue {
  readonly #share: HostShare
  readonly #entrySize: number
  /** The base register as the host wrote it. */
  baseLo = 0
  baseHi = 0

  constructor(share: HostShare, entrySize: number) {
    this.#share = share
    this.#entrySize = entrySize
  }

  reset(): void {
    this.baseLo = 0
    this.baseHi = 0
  }

  get log2size(): number {
    return queueLog2Size(this.baseLo, QUEUE_MAX_LOG2SIZE)
  }

  get address(): number {
    return queueBase(this.baseLo, this.baseHi, this.log2size, this.#entrySize)
  }

  /**
   * Bytes from `address` on that the hardware may write. A base that is not aligned to the size of the queue is aligned
   * down by the architecture, but not by every implementation: both places count.
   */
  get bytes(): number {
    const written = addressOf((this.baseLo & Q_BASE_LO_ADDR) >>> 0, (this.baseHi & Q_BASE_HI_ADDR) >>> 0)
    return written - this.address + this.#entrySize * 2 ** this.log2size
  }

  enable(): number {
    return this.#share.sharePinned(this.address, this.bytes)
  }

  disable(): number {
    return this.#share.unsharePinned(this.address, this.bytes)
  }
}
