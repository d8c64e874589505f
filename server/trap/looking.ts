// SPDX-License-Identifier: Apache-2.0

/** How long the next message is looked for, ms. In rows of traps and in a disk's I/O most come within it. */
const LOOK_MS = 0.3
/** One that comes so late after the last, ms, sleep and wake-up included, would not have been found. */
const LATE_MS = LOOK_MS + 0.2
/** After so many late ones in a row none is looked for, until one comes early. */
const MISSES = 4
/** Between two looks lie less than a µs: a look that comes so late, ms, was held up by others who want the processor. */
const HELD_UP_MS = 0.1
/** So much looking is judged at a time, ms. */
const WINDOW_MS = 20
/** More of it than this was being held up: then looking takes the processor from the vCPU that is waited for. */
const CROWDED = 0.12
/** No looking for so long then, ms; twice as long each time in a row, up to a limit. */
const REST_MS = 1_000
const MAX_REST_MS = 16_000

/**
 * How long to look at a ring before sleeping. To be woken up takes tens of µs, with cold caches; to look costs a processor, which
 * another may want. So the thread looks for a moment after each message, unless messages come rarely, the processors are crowded, or
 * there is only one.
 */
export class Looking {
  readonly #never: boolean
  readonly #now: () => number
  /** When the last message was dealt with, and when it was last looked, ms. */
  #last = Number.NEGATIVE_INFINITY
  #looked = 0
  #misses = 0
  /** Of the present window, ms. */
  #spent = 0
  #lost = 0
  #restUntil = 0
  #rest = REST_MS

  /** @param processors on the only one, the peer could not run meanwhile. @param now ms */
  constructor(processors: number, now: () => number = () => performance.now()) {
    this.#never = processors < 2
    this.#now = now
  }

  /** A doorbell came. */
  woken(): void {
    if (this.#now() - this.#last > LATE_MS) this.#misses++
    else this.#misses = 0
  }

  /** A row of looks begins. @returns now */
  begin(): number {
    this.#looked = this.#now()
    return this.#looked
  }

  /** A message was there, and is dealt with. @returns now */
  found(): number {
    const now = this.#now()
    if (now - this.#last < LATE_MS) this.#misses = 0
    this.#last = now
    this.#looked = now
    return now
  }

  /** Nothing is there. @returns whether to look again at once */
  pays(): boolean {
    if (this.#never || this.#misses >= MISSES) return false
    const now = this.#now()
    const gap = now - this.#looked
    this.#looked = now
    this.#spent += gap
    if (gap > HELD_UP_MS) this.#lost += gap
    if (this.#spent > WINDOW_MS) this.#judge(now)
    return now - this.#last < LOOK_MS && now >= this.#restUntil
  }

  #judge(now: number): void {
    if (this.#lost > CROWDED * this.#spent) {
      this.#restUntil = now + this.#rest
      this.#rest = Math.min(2 * this.#rest, MAX_REST_MS)
    } else this.#rest = REST_MS
    this.#spent = 0
    this.#lost = 0
  }
}
