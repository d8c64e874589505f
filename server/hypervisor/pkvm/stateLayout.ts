// SPDX-License-Identifier: Apache-2.0
/**
 * State as words of a checkpoint. A layout names every field of the state that it is made for: one that is forgotten does
 * not compile.
 */
import { addressOf, TWO_POW_32 } from '../../smmu/bits.ts'

/** `u32`: unsigned, one word. `u53`: unsigned, below 2^53, two words, the low one first. `flag`: 0 or 1, one word. */
type Kind = 'u32' | 'u53' | 'flag'

/** How each field of a state lies in a checkpoint, in this order. */
export type Kinds<S> = { readonly [K in keyof S]-?: S[K] extends boolean ? 'flag' : 'u32' | 'u53' }

export class StateLayout<S extends object> {
  /** 32-bit words of a state. */
  readonly words: number
  readonly #fields: readonly (readonly [name: string, kind: Kind])[]

  constructor(kinds: Kinds<S>) {
    this.#fields = Object.entries(kinds) as [string, Kind][]
    this.words = this.#fields.reduce((words, [, kind]) => words + (kind === 'u53' ? 2 : 1), 0)
  }

  /** @returns the word behind the state. */
  save(state: Readonly<S>, into: Uint32Array, at: number): number {
    const values = state as Readonly<Record<string, number | boolean>>
    const fields = this.#fields
    // By index: it is done for each trap that sends commands, and an iterator and its pairs would be garbage of it.
    for (let i = 0; i < fields.length; i++) {
      const kind = fields[i][1]
      const value = Number(values[fields[i][0]])
      into[at++] = kind === 'u53' ? value % TWO_POW_32 : value
      if (kind === 'u53') into[at++] = value / TWO_POW_32
    }
    return at
  }

  /** What `save` wrote. Values are whatever the words hold: `u53` may be beyond 2^53. */
  load(from: Uint32Array, at: number): S {
    const state: Record<string, number | boolean> = {}
    for (const [name, kind] of this.#fields) {
      const word = from[at++]
      state[name] = kind === 'u32' ? word : kind === 'flag' ? word !== 0 : addressOf(word, from[at++])
    }
    return state as S
  }
}
