// SPDX-License-Identifier: Apache-2.0
import type { Random } from './random.ts'

/** Longest input, bytes. */
export const MAX_INPUT = 4096
/** Most inputs that are kept because they came to something new. */
const MAX_KEPT = 2000

/** Inputs for one target: the corpus, new ones, and changed ones of those that came to something new. */
export class Inputs {
  readonly #random: Random
  readonly #corpus: Uint8Array[]
  readonly #kept: Uint8Array[] = []
  readonly #outcomes = new Set<string>()

  constructor(random: Random, corpus: readonly Uint8Array[]) {
    this.#random = random
    this.#corpus = [...corpus]
  }

  /** Different outcomes so far. */
  get outcomes(): number {
    return this.#outcomes.size
  }

  next(): Uint8Array {
    const first = this.#corpus.shift()
    if (first !== undefined) return first
    if (this.#kept.length === 0 || this.#random.below(3) === 0) return this.#bytes(this.#length())
    return this.#change(this.#kept[this.#random.below(this.#kept.length)])
  }

  /** What an input came to. */
  learn(input: Uint8Array, outcome: string): void {
    if (this.#outcomes.has(outcome)) return
    this.#outcomes.add(outcome)
    if (this.#kept.length < MAX_KEPT) this.#kept.push(input)
    else this.#kept[this.#random.below(MAX_KEPT)] = input
  }

  /** Short ones are quick, and most faults need no more. */
  #length(): number {
    return 1 + this.#random.below(2 ** (3 + this.#random.below(9)))
  }

  #bytes(length: number): Uint8Array {
    return Uint8Array.from({ length }, () => this.#random.u32())
  }

  #change(input: Uint8Array): Uint8Array {
    let bytes = Uint8Array.from(input)
    for (let count = 1 + this.#random.below(4); count > 0; count--) {
      const at = this.#random.below(bytes.length + 1)
      switch (this.#random.below(4)) {
        case 0:
          bytes[Math.min(at, bytes.length - 1)] = this.#random.u32()
          break
        case 1:
          bytes = Uint8Array.of(...bytes.subarray(0, at), ...bytes.subarray(at + 1 + this.#random.below(8)))
          break
        case 2:
          bytes = Uint8Array.of(...bytes.subarray(0, at), ...this.#bytes(this.#length()))
          break
        default: {
          const other = this.#kept[this.#random.below(this.#kept.length)]
          bytes = Uint8Array.of(...bytes.subarray(0, at), ...other.subarray(this.#random.below(other.length + 1)))
        }
      }
    }
    return bytes.subarray(0, MAX_INPUT)
  }
}
