// SPDX-License-Identifier: Apache-2.0
/** Host structures that the hypervisor or the hardware uses: their pages are shared, and pinned while they are in use. */

import { type HypReport, PAGE_SHARE, PAGE_UNSHARE } from '../../policy/report.ts'
import { EFAULT, EPERM, ERANGE, OK } from '../../policy/result.ts'
import type { PageOwnership } from './ownership.ts'
import { MAX_PINS, pageFloor, pageSpan } from './ownership.ts'

export class HostShare {
  readonly #ownership: PageOwnership
  readonly #report: HypReport
  readonly #common: boolean

  /** @param common a page may hold several structures of the host (`Choices.commonPages`): each has a pin of its own */
  constructor(ownership: PageOwnership, report: HypReport, common: boolean) {
    this.#ownership = ownership
    this.#report = report
    this.#common = common
  }

  /** Shares the pages that `bytes` at `address` touch, all or none. */
  share(address: number, bytes: number): number {
    const base = pageFloor(address)
    const size = pageSpan(address, bytes)
    const result = this.#common ? this.#shareCommon(base, size) : this.#ownership.share(base, size)
    this.#report.pages(PAGE_SHARE, base, size, 0, result)
    return result
  }

  unshare(address: number, bytes: number): number {
    const base = pageFloor(address)
    const size = pageSpan(address, bytes)
    const result = this.#common ? this.#unshareCommon(base, size) : this.#ownership.unshare(base, size)
    this.#report.pages(PAGE_UNSHARE, base, size, 0, result)
    return result
  }

  /** Shares and pins. */
  sharePinned(address: number, bytes: number): number {
    const result = this.share(address, bytes)
    if (result !== OK || this.#common) return result
    return this.#ownership.pin(pageFloor(address), pageSpan(address, bytes))
  }

  /** Unpins and unshares. */
  unsharePinned(address: number, bytes: number): number {
    const result = this.#common ? OK : this.#ownership.unpin(pageFloor(address), pageSpan(address, bytes))
    return result === OK ? this.unshare(address, bytes) : result
  }

  /** Shares what is not shared yet, and pins all of it. */
  #shareCommon(base: number, size: number): number {
    const ownership = this.#ownership
    const runs = [...ownership.ranges(base, base + size)]
    if (size <= 0 || runs.reduce((sum, run) => sum + run.size, 0) !== size) return EFAULT
    if (runs.some(({ state }) => state !== 'owned' && state !== 'shared')) return EPERM
    if (runs.some(({ pins }) => pins >= MAX_PINS)) return ERANGE
    const done: (typeof runs)[number][] = []
    let result: number = OK
    for (const run of runs) {
      if (run.state !== 'owned') continue
      result = ownership.share(run.base, run.size)
      if (result !== OK) break
      done.push(run)
    }
    if (result === OK) result = ownership.pin(base, size)
    if (result !== OK) for (const run of done) ownership.unshare(run.base, run.size)
    return result
  }

  /** Unpins, and unshares what nothing else needs. */
  #unshareCommon(base: number, size: number): number {
    const ownership = this.#ownership
    const unpinned = ownership.unpin(base, size)
    if (unpinned !== OK) return unpinned
    const free = [...ownership.ranges(base, base + size)].filter(({ state, pins }) => state === 'shared' && pins === 0)
    let result: number = OK
    for (const run of free) {
      const unshared = ownership.unshare(run.base, run.size)
      if (unshared !== OK) result = unshared
    }
    return result
  }
}
