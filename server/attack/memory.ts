// SPDX-License-Identifier: Apache-2.0
/** RAM of an attacked machine: flat, and zeroed again by the pages that were written. */
import { PAGE_SIZE } from '../oracle/pageMap.ts'
import type { GuestMemory } from '../smmu/memory.ts'

export interface RamRange {
  readonly base: number
  readonly size: number
}

/** Up to so many bytes a loop is faster than a view. */
const SHORT = 64

export class AttackMemory implements GuestMemory {
  readonly ram: readonly RamRange[]
  readonly #bytes: Uint8Array
  readonly #words: Uint32Array
  /** Where each range of RAM starts in `#bytes`. */
  readonly #starts: readonly number[]
  readonly #dirty: Uint8Array
  #dirtyPages: number[] = []

  constructor(ram: readonly RamRange[]) {
    this.ram = ram
    let size = 0
    this.#starts = ram.map(range => {
      const start = size
      size += range.size
      return start
    })
    this.#bytes = new Uint8Array(size)
    this.#words = new Uint32Array(this.#bytes.buffer)
    this.#dirty = new Uint8Array(size / PAGE_SIZE)
  }

  /** Index of the byte at `address`; -1 unless all of `length` bytes from there on are RAM. */
  #locate(address: number, length: number): number {
    for (let i = 0; i < this.ram.length; i++) {
      const { base, size } = this.ram[i]
      const offset = address - base
      if (offset >= 0 && offset + length <= size) return this.#starts[i] + offset
    }
    return -1
  }

  isRam(address: number): boolean {
    return this.#locate(address, 1) >= 0
  }

  read(address: number, target: Uint8Array, targetOffset: number, length: number): boolean {
    const at = this.#locate(address, length)
    if (at < 0) return false
    const bytes = this.#bytes
    if (length <= SHORT) for (let i = 0; i < length; i++) target[targetOffset + i] = bytes[at + i]
    else target.set(bytes.subarray(at, at + length), targetOffset)
    return true
  }

  write(address: number, source: Uint8Array, sourceOffset: number, length: number): boolean {
    const at = this.#locate(address, length)
    if (at < 0) return false
    const bytes = this.#bytes
    this.#touch(at, length)
    if (length <= SHORT) for (let i = 0; i < length; i++) bytes[at + i] = source[sourceOffset + i]
    else bytes.set(source.subarray(sourceOffset, sourceOffset + length), at)
    return true
  }

  #touch(at: number, length: number): void {
    const last = (at + length - 1) >>> 12
    for (let page = at >>> 12; page <= last; page++) {
      if (this.#dirty[page]) continue
      this.#dirty[page] = 1
      this.#dirtyPages.push(page)
    }
  }

  /** A 32-bit word; `address` is a multiple of 4. 0 where there is no RAM. */
  word(address: number): number {
    const at = this.#locate(address, 4)
    return at < 0 ? 0 : this.#words[at >>> 2]
  }

  /** Stores a 32-bit word. Returns false where there is no RAM. */
  setWord(address: number, value: number): boolean {
    const at = this.#locate(address, 4)
    if (at < 0) return false
    this.#touch(at, 4)
    this.#words[at >>> 2] = value
    return true
  }

  /** Fills a page with a word. */
  fillPage(address: number, word: number): void {
    const at = this.#locate(address, PAGE_SIZE)
    if (at < 0) return
    this.#touch(at, PAGE_SIZE)
    this.#words.fill(word, at >>> 2, (at + PAGE_SIZE) >>> 2)
  }

  /** A word of the page is `word`. */
  contains(address: number, word: number): boolean {
    const at = this.#locate(address, PAGE_SIZE)
    return at >= 0 && this.#words.subarray(at >>> 2, (at + PAGE_SIZE) >>> 2).includes(word)
  }

  /** All zero again. */
  clear(): void {
    for (const page of this.#dirtyPages) {
      this.#bytes.fill(0, page * PAGE_SIZE, (page + 1) * PAGE_SIZE)
      this.#dirty[page] = 0
    }
    this.#dirtyPages = []
  }
}
