// SPDX-License-Identifier: Apache-2.0
import { availableParallelism } from 'node:os'
import { Looking } from './looking.ts'

/** So long after a message looks follow one another at once, as traps in a row do, ms. */
const TIGHT_MS = 0.02
/** Later, the thread stays away from the event loop in between, ms: each turn of it leaves garbage behind. */
const PAUSE_MS = 0.003
/** Looks at the clock in that time, at most. */
const PAUSE_LOOKS = 200

/** Keeps the event loop awake while it pays to look for the next message on a socket (looking.ts). */
export class Polling {
  readonly #again: (look: () => void) => void
  readonly #now: () => number
  readonly #looking: Looking
  #scheduled = false
  #stopped = false

  /**
   * @param looking decides how long
   * @param again calls its argument once after the event loop has taken what there is
   * @param now ms
   */
  constructor(
    looking = new Looking(availableParallelism()),
    again: (look: () => void) => void = setImmediate,
    now: () => number = () => performance.now(),
  ) {
    this.#looking = looking
    this.#again = again
    this.#now = now
  }

  /** A message came. */
  arrived(): void {
    if (this.#scheduled) this.#looking.seen()
    else this.#looking.begin()
  }

  /** It is dealt with: the next one may come. */
  done(): void {
    this.#looking.found()
    if (this.#scheduled || this.#stopped || !this.#looking.pays()) return
    this.#scheduled = true
    this.#again(this.#look)
  }

  stop(): void {
    this.#stopped = true
  }

  readonly #look = (): void => {
    if (this.#stopped || !this.#looking.pays()) {
      this.#scheduled = false
      return
    }
    if (this.#looking.waited > TIGHT_MS) {
      const until = this.#now() + PAUSE_MS
      for (let i = 0; i < PAUSE_LOOKS && this.#now() < until; i++);
    }
    this.#again(this.#look)
  }
}
