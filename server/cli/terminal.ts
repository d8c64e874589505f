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

/** Columns and lines of the terminal that standard output leads to; undefined: to none, or to one that does not say. */
export function terminalSize(): { readonly columns: number; readonly lines: number } | undefined {
  const { isTTY, columns, rows } = process.stdout
  return isTTY && columns > 0 && rows > 0 ? { columns, lines: rows } : undefined
}

const told = (): void => {}

/** Passes on, unchanged, what a command says. Resolves when more may come. @throws Error when nobody reads it any more */
export function pass(stream: 'stdout' | 'stderr', chunk: Buffer): Promise<void> {
  const to = process[stream]
  // The write tells. Node has listeners of its own there, for the output of threads, which pass the error on when they are alone.
  if (!to.listeners('error').includes(told)) to.on('error', told)
  return new Promise((resolve, reject) => to.write(chunk, error => (error ? reject(error) : resolve())))
}

/** Prints an interactive console unchanged: the user's terminal is the guest's. */
export function raw(chunk: Buffer): void {
  process.stdout.write(chunk)
}
