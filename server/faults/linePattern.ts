// SPDX-License-Identifier: Apache-2.0
/**
 * Patterns of rules for lines of the guest's console. Whoever wrote the rule and whoever writes the line are both strangers:
 * RE2 matches in a time that grows with the line, never with the ways in which it could match.
 */
import { RE2JS } from 're2js'

/** Instructions of a compiled pattern: each may be looked at for each character of a line. */
const MAX_PROGRAM = 400

export class LinePattern {
  readonly #pattern: RE2JS

  /** @throws Error that says what is wrong with the pattern, or that it is too large */
  constructor(text: string) {
    this.#pattern = RE2JS.compile(text)
    const size = this.#pattern.programSize()
    if (size > MAX_PROGRAM)
      throw new Error(`the pattern is too large: ${size} steps for a character, at most ${MAX_PROGRAM}`)
  }

  test(line: string): boolean {
    return this.#pattern.matcher(line).find()
  }
}
