// SPDX-License-Identifier: Apache-2.0
/**
 * Text for a terminal. What guests, peers and files say may hold control sequences: a terminal that obeyed them would move
 * its cursor, rename its window, or answer as if somebody typed.
 */

/** Control characters but tab and line ends, marks that turn the direction of text, separators that may end a line. */
const UNSAFE = /\r(?!\n)|(?![\r\n\t])\p{Cc}|[\p{Bidi_Control}\p{Zl}\p{Zp}]/gu

/** The same text with such characters as `\uXXXX`, which leaves JSON what it is. */
export function escaped(text: string): string {
  return text.toWellFormed().replace(UNSAFE, c => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`)
}
