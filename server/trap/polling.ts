// SPDX-License-Identifier: Apache-2.0
import { availableParallelism } from 'node:os'

/** How long the next message is looked for. In Linux's reads and writes of disks most traps come within it. */
const SPIN_MS = 1
/** So long looks follow one another at once, as traps in a row do. */
const TIGHT_MS = 0.02
/** Later, the thread stays away from the event loop in between: each turn of it leaves garbage behind. */
const PAUSE_MS = 0.003
/** Looks at the clock in that time, at most. */
const PAUSE_LOOKS = 200
/** After so many messages that came later, none is looked for until one comes early. */
const MISSES = 4
/** Between two looks lie some µs: a look that comes so late was held up by others who want the processor. */
const LATE_MS = 0.1
/** So much polling is judged at a time. */
const WINDOW_MS = 50
/** More of it than this was waiting for the processor: then polling takes it from the vCPU that is waited for. */
const CROWDED = 0.12
/** No polling for so long then; twice as long each time in a row, up to a limit. */
const REST_MS = 1_000
const MAX_REST_MS = 16_000

/**
 * Keeps the event loop awake for a while after each message. A thread that sleeps is woken up within tens of µs, with cold
 * caches, which is longer than most traps take; one that looks for its next message is there at once. It gives up where it
 * does no good: while messages come rarely, and while the processors are busy.
 */
export class Polling {
  readonly #again: (look: () => void) => void
  readonly #now: () => number
  /** When the last message was dealt with, and when it was last looked for another, ms. */
  #last = Number.NEGATIVE_INFINITY
  #looked = 0
  #misses = MISSES
  #scheduled = false
  #stopped: boolean
  /** Of the present window, ms. */
  #spent = 0
  #lost = 0
  #restUntil = 0
  #rest = REST_MS

  /**
   * @param processors on the only one, the peer could not run meanwhile
   * @param again calls its argument once after the event loop has taken what there is
   * @param now ms
   */
  constructor(
    processors = availableParallelism(),
    again: (look: () => void) => void = setImmediate,
    now: () => number = () => performance.now(),
  ) {
    this.#stopped = processors < 2
    this.#again = again
    this.#now = now
  }

  /** A message came. */
  arrived(): void {
    this.#misses = this.#now() - this.#last < SPIN_MS ? 0 : this.#misses + 1
  }

  /** It is dealt with: the next one may come. */
  done(): void {
    const now = this.#now()
    this.#last = now
    this.#looked = now
    if (this.#scheduled || this.#stopped || this.#misses >= MISSES || now < this.#restUntil) return
    this.#scheduled = true
    this.#again(this.#look)
  }

  stop(): void {
    this.#stopped = true
  }

  readonly #look = (): void => {
    const now = this.#now()
    const gap = now - this.#looked
    this.#looked = now
    this.#spent += gap
    if (gap > LATE_MS) this.#lost += gap
    if (this.#spent > WINDOW_MS) this.#judge(now)
    const waited = now - this.#last
    if (this.#stopped || waited >= SPIN_MS || now < this.#restUntil) {
      this.#scheduled = false
      return
    }
    if (waited > TIGHT_MS) for (let i = 0; i < PAUSE_LOOKS && this.#now() < now + PAUSE_MS; i++);
    this.#again(this.#look)
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
