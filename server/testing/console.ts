// SPDX-License-Identifier: Apache-2.0
/** The guest's serial console. */
import type { GuestConsole } from '../machine/console.ts'

const TIMEOUT_MS = 30_000
/** The newest lines are kept. */
const KEPT = 50_000

export class Console {
  readonly #lines: string[]
  readonly #gone: () => Error | undefined
  /** Lines that are not kept any more. */
  #dropped = 0
  readonly #looking = new Set<() => void>()

  /**
   * @param before lines of the boot, of a machine that was saved since
   * @param gone why nothing comes any more
   */
  constructor(console: GuestConsole, before: readonly string[], gone: () => Error | undefined) {
    this.#lines = [...before]
    this.#gone = gone
    console.on('line', line => {
      this.#lines.push(line)
      if (this.#lines.length > 2 * KEPT) this.#dropped += this.#lines.splice(0, KEPT).length
      this.look()
    })
    console.on('end', () => this.look())
  }

  /** What it said so far; of a restored machine also what it said before it was saved. */
  get lines(): readonly string[] {
    return this.#lines
  }

  /** Those who wait look again. */
  look(): void {
    for (const look of [...this.#looking]) look()
  }

  /**
   * Waits for a line; one that has come already counts.
   * @param options `timeout` in ms, 30,000 by default
   * @returns the match
   * @throws Error with the last lines when it does not come
   */
  waitFor(pattern: RegExp, { timeout = TIMEOUT_MS }: { readonly timeout?: number } = {}): Promise<RegExpExecArray> {
    // One with the flag g would go on from where it last was.
    const expected = new RegExp(pattern.source, pattern.flags.replace(/[gy]/g, ''))
    return new Promise((resolve, reject) => {
      let from = 0
      const done = (work: () => void) => {
        clearTimeout(timer)
        this.#looking.delete(look)
        work()
      }
      const fail = (why: string) => done(() => reject(new Error(`console: ${pattern} ${why}${this.#tail()}`)))
      const look = () => {
        for (; from < this.#dropped + this.#lines.length; from++) {
          const match = expected.exec(this.#lines[from - this.#dropped] ?? '')
          if (match !== null) return done(() => resolve(match))
        }
        const gone = this.#gone()
        if (gone !== undefined) fail(`did not come: ${gone.message}`)
      }
      const timer = setTimeout(() => fail(`did not come within ${timeout} ms`), timeout)
      this.#looking.add(look)
      look()
    })
  }

  #tail(): string {
    const last = this.#lines.slice(-10)
    return last.length === 0 ? '; it was silent' : `; its last lines:\n${last.map(line => `  ${line}`).join('\n')}`
  }
}
