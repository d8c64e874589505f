// SPDX-License-Identifier: Apache-2.0
/** The one place of the command line that prints. */
import { StringDecoder } from 'node:string_decoder'
import { escaped } from '../trace/terminal.ts'

/** A line, or several, on standard output. */
export function print(text: string): void {
  console.log(escaped(text))
}

/** What concerns the user and is no result: on standard error. Further lines are indented, so that none can pose as another. */
export function say(text: string): void {
  console.error(`smmu-cosim: ${escaped(text).replaceAll('\n', '\nsmmu-cosim:   ')}`)
}

/** A report for people, on standard error, so that standard output stays what was asked for. */
export function report(lines: readonly string[]): void {
  console.error(escaped(lines.join('\n')))
}

/** Prints a guest's console as it comes. */
export class ConsolePrinter {
  readonly #decoder = new StringDecoder('utf8')
  /** A carriage return whose line feed may be in the next chunk. */
  #held = ''

  write(chunk: Buffer): void {
    const text = this.#held + this.#decoder.write(chunk)
    this.#held = text.endsWith('\r') ? '\r' : ''
    process.stdout.write(escaped(text.slice(0, text.length - this.#held.length)))
  }
}

/** The guest's console where a person types into it: a terminal at a serial line, with all that it can do. */
export function raw(chunk: Buffer): void {
  process.stdout.write(chunk)
}
