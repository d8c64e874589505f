// SPDX-License-Identifier: Apache-2.0
import { letOthersRun } from '../machine/sharedMemory.ts'

/** How long the next message is looked for, ms. In rows of traps and in a disk's I/O nearly all come within it. */
const LOOK_MS = 0.5
/** One that comes so late after the last, ms, sleep and wake-up included, would not have been found. */
const LATE_MS = LOOK_MS + 0.2
/** After so many late ones in a row none is looked for, until one comes early. */
const MISSES = 4
/** So long after a message looks follow one another at once, ms; later, others may run so often in between. */
const TIGHT_MS = 0.02
const GIVE_MS = 0.005
/** A sleeping thread is woken up in so long, ms: a message that is found by looking wins it, one that waited for the look loses the more. */
const WAKE_UP_MS = 0.02
/** So much may be lost by messages that waited, or have been won before, ms. */
const STAKE_MS = 1.5
/** So many messages are slept for then; twice as many the next time, up to a limit, and half as many when so many were looked for. */
const SKIPPED = 32
const MAX_SKIPPED = 512

/** Indices of times, which have an array: a number of an object would be a new object each time. */
const [LAST, LOOKED, GAVE, WON] = [0, 1, 2, 3] as const

/**
 * How long to look for a message before sleeping. To be woken up takes tens of µs, with cold caches; to look takes a processor, which
 * others may want. So the thread looks for a moment after each message, unless messages come rarely or there is only one processor.
 *
 * While it looks, it gives the processor to others that wait for it. Those who do I/O are done within µs. Those who compute keep it for
 * ms, and a message that comes meanwhile waits: the thread is not asleep, so nobody wakes it, and a thread that is woken goes before one
 * that computes. So there is an account: when messages that waited have lost more than the others won, it sleeps for a number of messages.
 */
export class Looking {
  readonly #never: boolean
  readonly #now: () => number
  readonly #give: () => void
  /** When the last message was dealt with, when it was last looked, and when others were last let run, and what looking has won, ms. */
  readonly #times = Float64Array.of(Number.NEGATIVE_INFINITY, 0, 0, 0)
  #misses = MISSES
  /** Messages that are slept for; how many it will be the next time; how many were looked for since. */
  #skip = 0
  #skipNext = SKIPPED
  #kept = 0

  /**
   * @param processors on the only one, the peer could not run meanwhile
   * @param now ms
   * @param give lets others run that wait for this processor
   */
  constructor(processors: number, now: () => number = () => performance.now(), give: () => void = letOthersRun) {
    this.#never = processors < 2
    this.#now = now
    this.#give = give
  }

  /** Since the last message, at the last look; ms. */
  get waited(): number {
    return this.#times[LOOKED] - this.#times[LAST]
  }

  /** A row of looks begins. @returns now */
  begin(): number {
    this.#times[LOOKED] = this.#now()
    return this.#times[LOOKED]
  }

  /** A message is there that was looked for. It came after the look before this one. */
  seen(): void {
    const now = this.#now()
    const won = this.#times[WON] + WAKE_UP_MS - (now - this.#times[LOOKED])
    this.#times[LOOKED] = now
    if (won >= -STAKE_MS) {
      this.#times[WON] = Math.min(won, STAKE_MS)
      return
    }
    this.#times[WON] = 0
    this.#skip = this.#skipNext
    this.#skipNext = Math.min(2 * this.#skipNext, MAX_SKIPPED)
    this.#kept = 0
  }

  /** A message was there, and is dealt with. @returns now */
  found(): number {
    if (this.#times[LOOKED] - this.#times[LAST] < LATE_MS) this.#misses = 0
    else if (this.#misses < MISSES) this.#misses++
    if (this.#skip > 0) this.#skip--
    else if (++this.#kept >= this.#skipNext) {
      this.#kept = 0
      this.#skipNext = Math.max(this.#skipNext >> 1, SKIPPED)
    }
    const now = this.#now()
    this.#times[LAST] = now
    this.#times[LOOKED] = now
    return now
  }

  /** Nothing is there. @returns whether to look again at once */
  pays(): boolean {
    if (this.#never || this.#misses >= MISSES || this.#skip > 0) return false
    const now = this.#now()
    this.#times[LOOKED] = now
    // Not by `waited`: its result would be an object of each look.
    const waited = now - this.#times[LAST]
    if (waited >= LOOK_MS) return false
    if (waited > TIGHT_MS && now - this.#times[GAVE] > GIVE_MS) {
      this.#give()
      this.#times[GAVE] = this.#now()
    }
    return true
  }
}
