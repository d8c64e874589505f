// SPDX-License-Identifier: Apache-2.0
import { within } from '../smmu/memory.ts'

const PAGE = 4096
const ZERO = new Uint8Array(PAGE)

/** Guest RAM of which only some is known; the rest reads as 0. */
export class SparseMemory {
  readonly #ram: readonly { readonly base: number; readonly size: number }[]
  /** By page number; ZERO stands for a page that is all 0. */
  readonly #pages = new Map<number, Uint8Array>()

  constructor(ram: readonly { readonly base: number; readonly size: number }[]) {
    this.#ram = ram
  }

  /** The whole range is RAM. */
  contains(address: number, length: number): boolean {
    return within(this.#ram, address, length)
  }

  /** Something was written to every page of the range. */
  knows(address: number, length: number): boolean {
    for (let page = Math.floor(address / PAGE); page * PAGE < address + length; page++) {
      if (!this.#pages.has(page)) return false
    }
    return true
  }

  read(address: number, target: Uint8Array, offset: number, length: number): void {
    for (let done = 0; done < length; ) {
      const within = (address + done) % PAGE
      const count = Math.min(PAGE - within, length - done)
      const page = this.#pages.get((address + done - within) / PAGE) ?? ZERO
      for (let i = 0; i < count; i++) target[offset + done + i] = page[within + i] ?? 0
      done += count
    }
  }

  write(address: number, source: Uint8Array, offset: number, length: number): void {
    for (let done = 0; done < length; ) {
      const within = (address + done) % PAGE
      const count = Math.min(PAGE - within, length - done)
      const page = this.#own((address + done - within) / PAGE)
      for (let i = 0; i < count; i++) page[within + i] = source[offset + done + i] ?? 0
      done += count
    }
  }

  zero(address: number, length: number): void {
    for (let done = 0; done < length; ) {
      const within = (address + done) % PAGE
      const count = Math.min(PAGE - within, length - done)
      const number = (address + done - within) / PAGE
      if (count === PAGE) this.#pages.set(number, ZERO)
      else this.#own(number).fill(0, within, within + count)
      done += count
    }
  }

  #own(number: number): Uint8Array {
    let page = this.#pages.get(number)
    if (page === undefined || page === ZERO) {
      page = new Uint8Array(PAGE)
      this.#pages.set(number, page)
    }
    return page
  }
}
