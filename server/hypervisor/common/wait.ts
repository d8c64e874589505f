// SPDX-License-Identifier: Apache-2.0
/**
 * Waiting for the hardware, with the vCPU standing still: bounded by an injected clock, and by a number of polls in case
 * that clock does not move. After a wait of a trap has failed, the others of that trap look only once, so that a trap ends
 * in about one time limit however much the host asked for.
 */
export class HardwareWait {
  readonly #clock: () => number
  readonly #limitMs: number
  readonly #polls: number
  #spent = false

  constructor(clock: () => number, limitMs: number, polls: number) {
    this.#clock = clock
    this.#limitMs = limitMs
    this.#polls = polls
  }

  /** A trap, or an operation outside of traps, begins. */
  begin(): void {
    this.#spent = false
  }

  /** Polls until `done` is true; false when the limit is reached. */
  until(done: () => boolean): boolean {
    if (done()) return true
    if (this.#spent) return false
    const deadline = this.#clock() + this.#limitMs
    for (let polls = 1; polls < this.#polls; polls++) {
      if (done()) return true
      if (this.#clock() >= deadline) break
    }
    this.#spent = true
    return false
  }
}
