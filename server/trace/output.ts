// SPDX-License-Identifier: Apache-2.0
import { once } from 'node:events'
import { createWriteStream } from 'node:fs'
import type { Writable } from 'node:stream'
import { escaped } from './terminal.ts'

const FULL = 1 << 16

/** Text for a file or the terminal, in large pieces, with memory that does not grow. */
export class Output {
  readonly #stream: Writable
  readonly #file: boolean
  #text = ''
  #error: NodeJS.ErrnoException | undefined

  /** @param path a file to be replaced; absent: standard output. */
  constructor(path?: string) {
    this.#file = path !== undefined
    this.#stream = path === undefined ? process.stdout : createWriteStream(path)
    this.#stream.on('error', this.#failed)
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
    this.#text += text
  }

  line(text: string): void {
    this.#text += `${text}\n`
  }

  /** Hands on what was added. @throws Error when it cannot be written, but for a reader that left. */
  async flush(): Promise<void> {
    const text = this.#text
    this.#text = ''
    if (text !== '' && this.#error === undefined) {
      // A file keeps what was recorded; standard output may be a terminal, or lead to one.
      const shown = this.#file ? text : escaped(text)
      await new Promise(resolve => this.#stream.write(shown, resolve))
    }
    // The error event of a failed write comes after its callback.
    await new Promise(resolve => setImmediate(resolve))
    if (this.#error !== undefined && !this.closed) throw this.#error
  }

  async close(): Promise<void> {
    await this.flush()
    if (!this.#file) {
      this.#stream.off('error', this.#failed)
      return
    }
    this.#stream.end()
    if (this.#error === undefined) await once(this.#stream, 'close')
  }
}
