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
export class GuestConsole extends EventEmitter<{
  line: [string]
  data: [Buffer]
  end: []
  /** The log file takes no more: why. */
  refused: [string]
}> {
  readonly logPath: string
  readonly #stream: Readable
  /** Undefined: it can't be written to. */
  #log: WriteStream | undefined
  #partial = ''
  #held = false

  constructor(stream: Readable, logPath: string) {
    super()
    this.logPath = logPath
    this.#stream = stream
    const log = createWriteStream(logPath)
    this.#log = log
    // A full disk must not end the run: the console goes on, the log is short.
    log.on('error', error => {
      this.#log = undefined
      this.#go()
      this.emit('refused', error.message)
    })
    log.on('drain', () => this.#go())
    stream.on('data', (chunk: Buffer) => this.#push(chunk))
    stream.on('close', () => {
      if (this.#partial !== '') this.emit('line', this.#partial)
      this.#log?.end()
      this.emit('end')
    })
  }

  /** Nothing is read until `release`: who wants all of it is not there yet. */
  hold(): void {
    this.#held = true
    this.#stream.pause()
  }

  release(): void {
    this.#held = false
    this.#go()
  }

  #go(): void {
    if (!this.#held) this.#stream.resume()
  }

  #push(chunk: Buffer): void {
    // A guest that writes faster than the disk has to wait: it must not fill our memory.
    if (this.#log?.write(chunk) === false) this.#stream.pause()
    this.emit('data', chunk)
    const lines = (this.#partial + chunk.toString('latin1')).split('\n')
    this.#partial = (lines.pop() ?? '').slice(-MAX_LINE)
    for (const line of lines) this.emit('line', line.replace(/\r+$/, ''))
  }
}
