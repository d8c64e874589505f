// SPDX-License-Identifier: Apache-2.0
/** All output of the command line. */
import { StringDecoder } from 'node:string_decoder'
import { escaped } from '../trace/terminal.ts'

/** Somebody looks at standard output. */
export function isTerminal(): boolean {
  return process.stdout.isTTY
}

/** Prints to standard output. */
export function print(text: string): void {
  console.log(escaped(text))
}

/** Prints a message to standard error. Further lines are indented, so that no text can look like a second message. */
export function say(text: string): void {
  console.error(`smmu-cosim: ${escaped(text).replaceAll('\n', '\nsmmu-cosim:   ')}`)
}

/** Prints a report to standard error; standard output is for results. No text in a line can look like a line of ours. */
export function report(lines: readonly string[]): void {
  console.error(lines.map(line => escaped(line).replace(/\r?\n/g, '\n        | ')).join('\n'))
}

/** Prints a guest's console as it comes. */
export class ConsolePrinter {
  readonly #decoder = new StringDecoder('utf8')
  /** A trailing CR: its LF may be in the next chunk. */
  #held = ''

  write(chunk: Buffer): void {
    const text = this.#held + this.#decoder.write(chunk)
    this.#held = text.endsWith('\r') ? '\r' : ''
    process.stdout.write(escaped(text.slice(0, text.length - this.#held.length)))
  }
}

/** Prints an interactive console unchanged: the user's terminal is the guest's. */
export function raw(chunk: Buffer): void {
  process.stdout.write(chunk)
}
