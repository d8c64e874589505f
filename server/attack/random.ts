// SPDX-License-Identifier: Apache-2.0
/** Random numbers that a seed decides (mulberry32). */
export class Random {
  #state: number

  constructor(seed: number) {
    this.#state = seed >>> 0
  }

  /** Starts over from a seed. */
  seed(seed: number): this {
    this.#state = seed >>> 0
    return this
  }

  /** 32 bits, unsigned. */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0
    let t = this.#state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return (t ^ (t >>> 14)) >>> 0
  }

  /** 0 to `limit - 1`; `limit` is at most 2^32. */
  below(limit: number): number {
    return Math.floor((this.next() / 2 ** 32) * limit)
  }

  /** True in `percent` of 100 cases. */
  chance(percent: number): boolean {
    return this.next() < percent * 42_949_672.96
  }

  pick<T>(values: readonly T[]): T {
    return values[this.below(values.length)]
  }

  /** A number of at most `bits` bits whose length is uniform: small numbers are as likely as large ones. */
  logUniform(bits: number): number {
    const length = this.below(bits + 1)
    return length === 0 ? 0 : 2 ** (length - 1) + this.below(2 ** (length - 1))
  }
}
