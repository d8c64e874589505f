// SPDX-License-Identifier: Apache-2.0

/** Numbers that look random; the same ones for the same seed (Marsaglia's xorshift with 128 bits). */
export class Random {
  readonly #state: Uint32Array

  constructor(seed: number) {
    this.#state = Uint32Array.of(seed, 0x9e37_79b9, seed ^ 0xdead_beef, 0x2545_f491)
    for (let i = 0; i < 16; i++) this.u32()
  }

  u32(): number {
    const state = this.#state
    let t = state[3]
    const s = state[0]
    state[3] = state[2]
    state[2] = state[1]
    state[1] = s
    t ^= t << 11
    t ^= t >>> 8
    state[0] = t ^ s ^ (s >>> 19)
    return state[0]
  }

  below(count: number): number {
    return this.u32() % count
  }
}
