// SPDX-License-Identifier: Apache-2.0
import type { RatePoint } from './schemas/lifecycle.ts'

/** Points that are kept: 20 minutes at two a second. */
const KEPT = 2_400

/** How many traps a second there were, whether somebody watched or not. */
export class Rates {
  readonly #points: RatePoint[] = []
  #last: { readonly run: number; readonly at: number; readonly traps: number } | undefined

  /** Oldest first. */
  get points(): readonly RatePoint[] {
    return this.#points
  }

  /** @param run number of the machine @param at ms since 1970 @param traps of this machine so far */
  sample(run: number, at: number, traps: number): void {
    const last = this.#last
    this.#last = { run, at, traps }
    if (last?.run !== run || at <= last.at || traps < last.traps) return
    this.#points.push({ run, at, rate: ((traps - last.traps) / (at - last.at)) * 1000 })
    if (this.#points.length > KEPT) this.#points.shift()
  }
}
