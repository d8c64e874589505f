// SPDX-License-Identifier: Apache-2.0
/**
 * Fetches of STEs and CDs that are not atomic (IHI 0070 section 3.21.3): the 64-bit words of one fetch may be read at any time and in
 * any order since the structure was last invalidated, so each may be any value that it held since then.
 */
import type { GuestMemory } from '../memory.ts'

/** Bytes of an STE and of a CD. */
const STRUCTURE = 64

export class TornFetches {
  readonly #memory: GuestMemory
  readonly #pick: (values: number) => number
  /** Former values of a word, low and high half in turns, oldest first; by address. */
  readonly #former = new Map<number, number[]>()
  readonly #bytes = new Uint8Array(STRUCTURE)
  readonly #words = new Uint32Array(this.#bytes.buffer)

  /**
   * @param memory where the structures are
   * @param pick chooses one of `values` values of a word, 0 to `values - 1`; the last is the present one
   */
  constructor(memory: GuestMemory, pick: (values: number) => number) {
    this.#memory = memory
    this.#pick = pick
  }

  /** Words that have former values. */
  get size(): number {
    return this.#former.size
  }

  /** Whoever stores to memory that may hold structures says so before; at most 64 bytes at a time, a multiple of 8, aligned. */
  storing(address: number, length: number): void {
    if (!this.#memory.read(address, this.#bytes, 0, length)) return
    for (let at = 0; at < length; at += 8) {
      const word = address + at
      let values = this.#former.get(word)
      if (values === undefined) {
        values = []
        this.#former.set(word, values)
      }
      values.push(this.#words[at / 4], this.#words[at / 4 + 1])
    }
  }

  /** A fetch of `length` bytes at `address` was read into `target` at `offset`. */
  tear(address: number, target: Uint8Array, offset: number, length: number): void {
    if (length !== STRUCTURE || this.#former.size === 0) return
    for (let at = 0; at < length; at += 8) {
      const values = this.#former.get(address + at)
      if (values === undefined) continue
      const picked = this.#pick(values.length / 2 + 1)
      if (2 * picked >= values.length) continue
      put(target, offset + at, values[2 * picked])
      put(target, offset + at + 4, values[2 * picked + 1])
    }
  }

  /** No fetch of the structure that began before is still under way. */
  settle(address: number): void {
    for (let at = 0; at < STRUCTURE; at += 8) this.#former.delete(address + at)
  }

  settleAll(): void {
    this.#former.clear()
  }
}

/** Little-endian. */
function put(target: Uint8Array, at: number, value: number): void {
  for (let i = 0; i < 4; i++) target[at + i] = value >>> (8 * i)
}
