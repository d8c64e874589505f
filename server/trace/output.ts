// SPDX-License-Identifier: Apache-2.0
import { once } from 'node:events'
import { createWriteStream } from 'node:fs'
import type { Writable } from 'node:stream'
import { escaped } from './terminal.ts'

const FULL = 1 << 16

/** Text for a file or the terminal, in large pieces, with memory that does not grow. */
export class Output {
  readonly #open: () => Writable | undefined
  readonly #file: boolean
  #stream: Writable | undefined
  #text = ''
  #error: NodeJS.ErrnoException | undefined

  /**
   * @param to a file to be replaced; or what opens something that leads to a terminal, such as a pager, when there is text for
   *   it; absent, or nothing opened: standard output
   */
  constructor(to: string | (() => Writable | undefined) = () => undefined) {
    this.#file = typeof to === 'string'
    this.#open = typeof to === 'string' ? () => createWriteStream(to) : to
    if (this.#file) this.#opened()
  }

  #opened(): Writable {
    this.#stream ??= (this.#open() ?? process.stdout).on('error', this.#failed)
    return this.#stream
  }

  readonly #failed = (error: Error): void => {
    this.#error = error
  }

  /** After text was added: nobody reads any more (`| head`), so there is no point in going on. */
  get closed(): boolean {
    return this.#error?.code === 'EPIPE'
  }

  get full(): boolean {
    return this.#text.length >= FULL
  }

  text(text: string): void {
    // A file keeps what was recorded; standard output may be a terminal, or lead to one.
    this.#text += this.#file ? text : escaped(text)
  }

  /** @param paint puts colours around what is safe to show */
  line(text: string, paint: (shown: string) => string = shown => shown): void {
    this.#text += `${paint(this.#file ? text : escaped(text))}\n`
  }

  /** Hands on what was added. @throws Error when it cannot be written, but for a reader that left. */
  async flush(): Promise<void> {
    const text = this.#text
    this.#text = ''
    if (text !== '' && this.#error === undefined) {
      await new Promise(resolve => this.#opened().write(text, resolve))
    }
    // The error event of a failed write comes after its callback.
    await new Promise(resolve => setImmediate(resolve))
    if (this.#error !== undefined && !this.closed) throw this.#error
  }

  async close(): Promise<void> {
    await this.flush()
    if (!this.#file) {
      this.#stream?.off('error', this.#failed)
      return
    }
    const stream = this.#opened().end()
    if (this.#error === undefined) await once(stream, 'close')
  }
}
