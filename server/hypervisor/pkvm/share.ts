// SPDX-License-Identifier: Apache-2.0
/** Host structures that the hypervisor or the hardware uses: their pages are shared, and pinned while they are in use. */

import { type HypReport, PAGE_SHARE, PAGE_UNSHARE } from '../../policy/report.ts'
import { OK } from '../../policy/result.ts'
import type { PageOwnership } from './ownership.ts'
import { pageFloor, pageSpan } from './ownership.ts'

export class HostShare {
  readonly #ownership: PageOwnership
  readonly #report: HypReport

  constructor(ownership: PageOwnership, report: HypReport) {
    this.#ownership = ownership
    this.#report = report
  }

  /** Shares the pages that `bytes` at `address` touch, all or none. */
  share(address: number, bytes: number): number {
    const base = pageFloor(address)
    const size = pageSpan(address, bytes)
    const result = this.#ownership.share(base, size)
    this.#report.pages(PAGE_SHARE, base, size, 0, result)
    return result
  }

  unshare(address: number, bytes: number): number {
    const base = pageFloor(address)
    const size = pageSpan(address, bytes)
    const result = this.#ownership.unshare(base, size)
    this.#report.pages(PAGE_UNSHARE, base, size, 0, result)
    return result
  }

  /** Shares and pins. */
  sharePinned(address: number, bytes: number): number {
    const result = this.share(address, bytes)
    return result === OK ? this.#ownership.pin(pageFloor(address), pageSpan(address, bytes)) : result
  }

  /** Unpins and unshares. */
  unsharePinned(address: number, bytes: number): number {
    const result = this.#ownership.unpin(pageFloor(address), pageSpan(address, bytes))
    return result === OK ? this.unshare(address, bytes) : result
  }
}
