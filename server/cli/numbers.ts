// SPDX-License-Identifier: Apache-2.0
/** Numbers and lists on the command line. */
import { InvalidArgumentError } from 'commander'

/** `a,b`: words. */
export const list = (text: string): string[] => text.split(',').filter(word => word !== '')

/** @throws InvalidArgumentError */
export function whole(text: string): number {
  const value = Number(text)
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(value)) throw new InvalidArgumentError('expected a whole number')
  return value
}

/** `1,2,5-8`: whole numbers, one or more, each once. @throws InvalidArgumentError */
export function numbers(text: string): number[] {
  const parts = list(text)
  if (parts.length === 0) throw new InvalidArgumentError('expected a number, or FROM-TO')
  const all = parts.flatMap(part => {
    const [from, to = from] = part.split('-').map(whole)
    if (from === undefined || to === undefined || to < from || to - from > 10_000) {
      throw new InvalidArgumentError(`"${part}": expected a number, or FROM-TO`)
    }
    return Array.from({ length: to - from + 1 }, (_, i) => from + i)
  })
  return [...new Set(all)]
}
