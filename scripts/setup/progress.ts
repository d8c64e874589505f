// SPDX-License-Identifier: Apache-2.0

/** The steps of a cold set-up, in order. A warm one takes none and prints nothing. */
const STEPS = ['packages', 'qemu-source', 'qemu-build', 'kernel', 'initramfs'] as const
export type Step = (typeof STEPS)[number]
/** What most boots do not need. */
const EXTRAS = ['qemu-own', 'qemu-series', 'qemu-sanitized', 'firmware'] as const
export type Extra = (typeof EXTRAS)[number]

/** Tells the user what set-up is doing, or the caller, if it asked for the lines. */
export class Progress {
  readonly #print: ((line: string) => void) | undefined
  #title = ''
  #started = 0
  #tenths = 0

  constructor(print?: (line: string) => void) {
    this.#print = print
  }

  /** A remark outside the steps. */
  note(text: string): void {
    this.#line(`set-up: ${text}`)
  }

  /** Runs one step between a line that says what begins and a line that says how long it took. */
  async step<T>(step: Step | Extra, what: string, work: () => Promise<T>): Promise<T> {
    const steps: readonly string[] = STEPS
    const at = steps.indexOf(step)
    this.#title = at < 0 ? what : `[${at + 1}/${STEPS.length}] ${what}`
    this.#started = Date.now()
    this.#tenths = 0
    this.#transient('…')
    let outcome = 'stopped after'
    try {
      const result = await work()
      outcome = 'done in'
      return result
    } finally {
      this.#line(`${this.#title}: ${outcome} ${elapsed(this.#started)}`)
    }
  }

  /** How far the current step is, from 0 to 1. */
  fraction(done: number): void {
    const percent = Math.floor(done * 100)
    if (this.#isTerminal()) return this.#transient(`${percent}% (${elapsed(this.#started)})`)
    const tenths = Math.floor(percent / 10)
    if (tenths > this.#tenths) this.#transient(`${tenths * 10}% (${elapsed(this.#started)})`)
    this.#tenths = tenths
  }

  #isTerminal(): boolean {
    return this.#print === undefined && process.stderr.isTTY
  }

  /** On a terminal, what comes next overwrites it. */
  #transient(text: string): void {
    if (this.#isTerminal()) process.stderr.write(`\r\x1b[K${this.#title}: ${text}`)
    else this.#line(`${this.#title}: ${text}`)
  }

  #line(text: string): void {
    if (this.#print) this.#print(text)
    else process.stderr.write(`${process.stderr.isTTY ? '\r\x1b[K' : ''}${text}\n`)
  }
}

function elapsed(since: number): string {
  const seconds = Math.round((Date.now() - since) / 1000)
  return seconds < 60 ? `${seconds} s` : `${Math.floor(seconds / 60)} min ${seconds % 60} s`
}
