// SPDX-License-Identifier: Apache-2.0
/**
 * The hypervisor's memory: pages of the carve-out, handed out zeroed and naturally aligned, lowest address first. What
 * it gives for tables that grow at run time is limited; running out is a normal outcome that the caller reports.
 *
 * The machine hands the carve-out over zeroed, and nobody else writes it. So only pages that were in use are ever zeroed:
 * touching all of it would cost more than building the idmap.
 */

import { EINVAL, ENOMEM, OK } from '../../policy/result.ts'
import type { GuestMemory } from '../../smmu/memory.ts'
import { PAGE_SIZE } from './ownership.ts'

const ZERO = new Uint8Array(1 << 20)

/** Writes zeroes, for everybody to see; false when the range is not RAM. */
export function zero(memory: GuestMemory, address: number, bytes: number): boolean {
  for (let done = 0; done < bytes; done += ZERO.length) {
    if (!memory.write(address + done, ZERO, 0, Math.min(ZERO.length, bytes - done))) return false
  }
  memory.clean?.(address, bytes)
  return true
}

export class PagePool {
  readonly base: number
  /** Pages of the carve-out. */
  readonly capacity: number
  readonly #memory: GuestMemory
  readonly #used: Uint8Array
  /** No page below is free. */
  #lowest = 0
  /** No page from here on was handed out since it was last zeroed. */
  #clean = 0
  #limit: number
  /** Pages handed out. */
  used = 0
  /** Most pages that were handed out at a time. */
  peak = 0
  /** Allocations that failed. */
  failures = 0
  /** Counts every change. */
  generation = 0

  constructor(memory: GuestMemory, carveout: { readonly base: number; readonly size: number }) {
    this.#memory = memory
    this.base = Math.ceil(carveout.base / PAGE_SIZE) * PAGE_SIZE
    const end = Math.floor((carveout.base + carveout.size) / PAGE_SIZE) * PAGE_SIZE
    this.capacity = Math.max(0, (end - this.base) / PAGE_SIZE)
    this.#limit = this.capacity
    this.#used = new Uint8Array(this.capacity)
  }

  /** Takes everything back, zeroed. Returns whether the carve-out could be written. */
  reset(): boolean {
    const dirty = this.#clean
    this.#clean = 0
    this.#used.fill(0)
    this.#lowest = 0
    this.used = 0
    this.peak = 0
    this.failures = 0
    this.#limit = this.capacity
    this.generation++
    return zero(this.#memory, this.base, dirty * PAGE_SIZE)
  }

  /** Most pages that may be handed out at a time. */
  get limit(): number {
    return this.#limit
  }

  set limit(pages: number) {
    this.#limit = Math.min(this.capacity, pages)
    this.generation++
  }

  /** Pages that may still be handed out. */
  get free(): number {
    return Math.max(0, this.#limit - this.used)
  }

  /**
   * Zeroed pages for `bytes`, aligned to the power of two that is not smaller than `bytes`.
   * @param overwritten the caller writes all of it at once: it need not be zeroed
   * @returns their address, or ENOMEM.
   */
  allocate(bytes: number, overwritten = false): number {
    const pages = Math.ceil(bytes / PAGE_SIZE)
    const address = pages > 0 && pages <= this.free ? this.#find(pages) : ENOMEM
    if (address === ENOMEM || (!overwritten && !zero(this.#memory, address, pages * PAGE_SIZE))) {
      this.failures++
      return ENOMEM
    }
    const first = (address - this.base) / PAGE_SIZE
    this.#used.fill(1, first, first + pages)
    this.#clean = Math.max(this.#clean, first + pages)
    while (this.#used[this.#lowest] === 1) this.#lowest++
    this.used += pages
    this.peak = Math.max(this.peak, this.used)
    this.generation++
    return address
  }

  #find(pages: number): number {
    const used = this.#used
    const step = 2 ** Math.ceil(Math.log2(pages))
    const lowestAddress = this.base + this.#lowest * PAGE_SIZE
    const bytes = step * PAGE_SIZE
    let at = (Math.ceil(lowestAddress / bytes) * bytes - this.base) / PAGE_SIZE
    for (; at + pages <= this.capacity; at += step) {
      let i = at
      while (i < at + pages && used[i] === 0) i++
      if (i === at + pages) return this.base + at * PAGE_SIZE
    }
    return ENOMEM
  }

  /** Gives back what `allocate` gave. */
  release(address: number, bytes: number): number {
    const first = (address - this.base) / PAGE_SIZE
    const pages = Math.ceil(bytes / PAGE_SIZE)
    if (!Number.isInteger(first) || first < 0 || pages <= 0 || first + pages > this.capacity) return EINVAL
    for (let i = first; i < first + pages; i++) if (this.#used[i] === 0) return EINVAL
    this.#used.fill(0, first, first + pages)
    this.#lowest = Math.min(this.#lowest, first)
    this.used -= pages
    this.generation++
    return OK
  }

  /** Marks a range as handed out, if it is not: a table that stands in memory. Returns EINVAL for what is no pool memory. */
  claim(address: number, bytes: number): number {
    const first = (address - this.base) / PAGE_SIZE
    const end = first + Math.ceil(bytes / PAGE_SIZE)
    if (!Number.isInteger(first) || first < 0 || end > this.capacity) return EINVAL
    for (let i = first; i < end; i++) {
      this.used += 1 - this.#used[i]
      this.#used[i] = 1
    }
    this.#clean = Math.max(this.#clean, end)
    while (this.#used[this.#lowest] === 1) this.#lowest++
    this.peak = Math.max(this.peak, this.used)
    this.generation++
    return OK
  }

  /** Whether a range is wholly handed out. */
  holds(address: number, bytes: number): boolean {
    const first = (address - this.base) / PAGE_SIZE
    const pages = Math.ceil(bytes / PAGE_SIZE)
    if (!Number.isInteger(first) || first < 0 || first + pages > this.capacity) return false
    for (let i = first; i < first + pages; i++) if (this.#used[i] === 0) return false
    return true
  }

  /** Takes back all that is handed out but these ranges, which are. */
  keep(ranges: readonly { readonly base: number; readonly size: number }[]): void {
    const kept = new Uint8Array(this.capacity)
    for (const { base, size } of ranges) {
      const first = (base - this.base) / PAGE_SIZE
      kept.fill(1, first, first + Math.ceil(size / PAGE_SIZE))
    }
    for (let i = 0; i < this.capacity; i++) {
      if (kept[i] === 0 && this.#used[i] === 1) this.release(this.base + i * PAGE_SIZE, PAGE_SIZE)
    }
  }

  /** Runs of pages that are handed out: first page, number of pages, … */
  runs(): number[] {
    const runs: number[] = []
    let start = this.#used.indexOf(1)
    while (start >= 0) {
      let end = this.#used.indexOf(0, start)
      if (end === -1) end = this.capacity
      runs.push(start, end - start)
      start = this.#used.indexOf(1, end)
    }
    return runs
  }

  /** Marks pages as handed out, without touching memory: the state that `runs` gave. */
  restore(runs: readonly number[], limit: number, peak: number, failures: number): number {
    this.#used.fill(0)
    this.used = 0
    for (let i = 0; i + 1 < runs.length; i += 2) {
      const [first, pages] = [runs[i], runs[i + 1]]
      if (first < 0 || pages <= 0 || first + pages > this.capacity) return EINVAL
      this.#used.fill(1, first, first + pages)
      this.#clean = Math.max(this.#clean, first + pages)
      this.used += pages
    }
    this.#lowest = 0
    while (this.#used[this.#lowest] === 1) this.#lowest++
    this.#limit = Math.min(this.capacity, limit)
    this.peak = peak
    this.failures = failures
    this.generation++
    return OK
  }
}
