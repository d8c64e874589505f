// SPDX-License-Identifier: Apache-2.0
/** Numbers and lists on the command line. */
import { InvalidArgumentError } from 'commander'

/** `a,b`: words. */
export const list = (text: string): string[] => text.split(',').filter(word => word !== '')

/**
 * Reads a whole number, in decimal or behind `0x`, and nothing that JavaScript takes for one besides: the empty text, `1e3`, ` 5`.
 * @param most at most 2^53 - 1: more is not exact
 */
export function within(least: number, most: number = Number.MAX_SAFE_INTEGER): (text: string) => number {
  const range = most < Number.MAX_SAFE_INTEGER ? ` from ${least} to ${most}` : least > 0 ? ` of at least ${least}` : ''
  return text => {
    const value = Number(text)
    if (!/^(\d+|0x[\da-f]+)$/i.test(text) || value < least || value > most)
      throw new InvalidArgumentError(`expected a whole number${range}`)
    return value
  }
}

/** @throws InvalidArgumentError */
export const whole = within(0)

/** To listen at; 0: any that is free. @throws InvalidArgumentError */
export const port = within(0, 65_535)

/** `1,2,5-8`: whole numbers, one or more, each once. @throws InvalidArgumentError */
export function numbers(text: string): number[] {
  const parts = list(text)
  if (parts.length === 0) throw new InvalidArgumentError('expected a number, or FROM-TO')
  const all = parts.flatMap(part => {
    const [from, to = from, ...more] = part.split('-').map(whole)
    if (from === undefined || to === undefined || more.length > 0 || to < from || to - from > 10_000) {
      throw new InvalidArgumentError(`"${part}": expected a number, or FROM-TO`)
    }
    return Array.from({ length: to - from + 1 }, (_, i) => from + i)
  })
  return [...new Set(all)]
}
