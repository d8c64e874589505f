// SPDX-License-Identifier: Apache-2.0
import type { Choices } from './choices.ts'

/** What is fuzzed. */
export interface Target {
  readonly name: string
  /** For a list, half a line. */
  readonly summary: string
  /**
   * Tries one input.
   * @returns what it came to, in a word or two: inputs that come to something new are kept and changed further
   * @throws whatever should not have happened: that is a finding
   */
  run(choices: Choices): string | Promise<string>
  /** Ends what inputs have in common. */
  close?(): Promise<void>
}

/** What should not have happened, in words. */
export class Finding extends Error {
  override readonly name = 'Finding'
}

/** What the engine and Node say, not code that throws on purpose. */
const ENGINE =
  /invalid (array|typed array|string|count|code point)|maximum|allocation|out of (range|bounds)|must be|cannot be converted/i

/** Errors of code that did not expect what it met; those that it throws on purpose are others. */
export function isBug(error: unknown): boolean {
  if (!(error instanceof Error) || error instanceof Finding) return true
  return isBugText(`${error.name}: ${error.message}`)
}

/** The same of the text of an error, as `stack` begins. */
export function isBugText(text: string): boolean {
  const [first] = text.split('\n')
  return /^(Type|Reference|Syntax|URI)Error/.test(first) || (/^RangeError/.test(first) && ENGINE.test(first))
}

/** Milliseconds that this thread has computed: what else runs on the machine does not count. */
export function computed(): number {
  const { user, system } = process.threadCpuUsage()
  return (user + system) / 1000
}

/** What came of an input, without what is not the same each time: numbers, and times among them. */
export const withoutNumbers = (text: string): string => text.replaceAll(/\d+([.]\d+)?/g, '0')

/** Of a stack: who runs targets, which is not the same while an input is made shorter. */
const RUNNER = /\/test\/fuzz\/(worker|shrink)[.]ts/

/** The text of an error, and where it was thrown. */
export function describe(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const stack = (error.stack ?? error.message).split('\n').filter(line => !RUNNER.test(line))
  const from = stack.findIndex(line => /^\s+at /.test(line))
  return stack.slice(0, from < 0 ? 4 : from + 4).join('\n')
}

/** Two findings are the same one when only numbers in their texts differ. */
export const kindOf = (description: string): string => description.replaceAll(/0x[0-9a-f]+|\d+/g, '0')
