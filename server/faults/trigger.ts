// SPDX-License-Identifier: Apache-2.0
/** *When* of a rule: gates, counters and chance. Deterministic by seed, rule name and the order of matches. */
import type { FaultRule } from './rule.ts'

/** Where a trigger stands; what another thread goes on from. */
export interface TriggerState {
  readonly matches: number
  readonly fired: number
  readonly open: boolean
  readonly random: number
}

export class Trigger {
  readonly #first: number
  readonly #last: number
  readonly #times: number
  readonly #notBefore: number
  readonly #probability: number
  readonly #after: (() => boolean) | undefined
  /** The console line that it waits for has come, or it waits for none. */
  #open: boolean
  #random: number
  /** Matches while the gates were open. */
  matches = 0
  fired = 0

  /** @param fired tells whether the rule of a name has fired */
  constructor(rule: FaultRule, seed: number, fired: (name: string) => boolean) {
    const { nth, skip = 0, times, after, console, time = 0, probability = 1 } = rule.when ?? {}
    this.#first = nth ?? skip + 1
    this.#last = nth ?? Number.POSITIVE_INFINITY
    this.#times = times === 'always' ? Number.POSITIVE_INFINITY : (times ?? 1)
    this.#notBefore = time * 1e6
    this.#probability = probability
    this.#after = after === undefined ? undefined : () => fired(after)
    this.#open = console === undefined
    this.#random = hash(rule.name, seed)
  }

  /** The console line has come. */
  open(): void {
    this.#open = true
  }

  /** The gates alone: what a rule without a place waits for. @param time guest's clock, ns */
  ready(time: number): boolean {
    return this.#open && time >= this.#notBefore && this.#after?.() !== false
  }

  /** The thing happened that the rule is about. @returns whether it fires */
  match(time: number): boolean {
    if (this.fired >= this.#times || !this.ready(time)) return false
    this.matches++
    if (this.matches < this.#first || this.matches > this.#last) return false
    if (this.#probability < 1 && this.#draw() >= this.#probability) return false
    this.fired++
    return true
  }

  /** Somebody wants it now, whatever the conditions say. */
  force(): void {
    this.fired++
  }

  /** 0 ≤ x < 1 (mulberry32). */
  #draw(): number {
    this.#random = (this.#random + 0x6d2b_79f5) >>> 0
    let t = this.#random
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }

  get state(): TriggerState {
    return { matches: this.matches, fired: this.fired, open: this.#open, random: this.#random }
  }

  set state({ matches, fired, open, random }: TriggerState) {
    this.matches = matches
    this.fired = fired
    this.#open = open
    this.#random = random
  }
}

/** FNV-1a of the name, mixed with the seed. */
function hash(name: string, seed: number): number {
  let h = 0x811c_9dc5 ^ seed
  for (let i = 0; i < name.length; i++) h = Math.imul(h ^ name.charCodeAt(i), 0x0100_0193)
  return h >>> 0
}
