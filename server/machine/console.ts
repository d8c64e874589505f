// SPDX-License-Identifier: Apache-2.0
import { EventEmitter } from 'node:events'
import { createWriteStream, type WriteStream } from 'node:fs'
import type { Readable } from 'node:stream'

/** Longest line kept as one; a guest that never ends a line does not grow our memory. */
const MAX_LINE = 8192

/**
 * The guest's serial console: every byte to the log file, whole lines to listeners (`line`, without the line end), raw
 * chunks to whoever shows them (`data`).
 */
export class GuestConsole extends EventEmitter<{ line: [string]; data: [Buffer]; end: [] }> {
  readonly logPath: string
  readonly #log: WriteStream
  #partial = ''

  constructor(stream: Readable, logPath: string) {
    super()
    this.logPath = logPath
    this.#log = createWriteStream(logPath)
    // A full disk must not end the run: the console goes on, the log is short.
    this.#log.on('error', () => {})
    stream.on('data', (chunk: Buffer) => this.#push(chunk))
    stream.on('close', () => {
      if (this.#partial !== '') this.emit('line', this.#partial)
      this.#log.end()
      this.emit('end')
    })
  }

  #push(chunk: Buffer): void {
    this.#log.write(chunk)
    this.emit('data', chunk)
    const lines = (this.#partial + chunk.toString('latin1')).split('\n')
    this.#partial = (lines.pop() ?? '').slice(-MAX_LINE)
    for (const line of lines) this.emit('line', line.replace(/\r+$/, ''))
  }
}
