// SPDX-License-Identifier: Apache-2.0
/** Hypervisors with one wrong line each. Whether they are found is measured by `attack --mutants`: it takes too long for a unit test. */
import { describe, expect, test } from 'vitest'
import { choose, mutantsOf } from '../../../server/attack/mutants.ts'

const changes = (text: string) => mutantsOf('a.ts', text).map(({ before, after }) => `${before} => ${after}`)

describe('mutants of a line', () => {
  test.each([
    [
      '  if (owner === HOST && size > 0) {',
      ['if (owner !== HOST && size > 0) {', 'if (owner === HOST || size > 0) {', 'if (owner === HOST && size >= 0) {'],
    ],
    ['    if (own !== OK) return EPERM', ['if (own === OK) return EPERM', 'if (own !== OK) return OK']],
    ['    this.#locate()', [';']],
    ['    shadow[3] = BigInt(idmap.root)', [';']],
    ['  const word = ste[0] & ~MASK', ['const word = ste[0] & MASK']],
    ['  return false', ['return true']],
  ])('%s', (line, after) => expect(mutantsOf('a.ts', line).map(mutant => mutant.after)).toEqual(after))

  test.each([
    ['  // a === b'],
    [' * a === b'],
    ["import { a } from './a.ts'"],
    ['  smmu.warn(HYP_UNMAP, a + b)'],
    ['  readonly #size = a + b'],
    ["  if (quirks.has('eats') && a) return"],
  ])('of %s there are none', line => expect(changes(line)).toEqual([]))

  test('say where they are', () => {
    expect(mutantsOf('a.ts', '\n\n  return true\n')).toEqual([
      { file: 'a.ts', line: 3, before: 'return true', after: 'return false' },
    ])
  })
})

test('some are chosen, spread over all, the same for the same seed', () => {
  const all = Array.from({ length: 1000 }, (_, line) => ({ file: 'a.ts', line, before: '', after: '' }))
  const some = choose(all, 50, 7).map(({ line }) => line)
  expect(some).toHaveLength(50)
  expect(new Set(some).size).toBe(50)
  for (const [i, line] of some.entries()) expect(Math.floor(line / 20)).toBe(i)
  expect(choose(all, 50, 7).map(({ line }) => line)).toEqual(some)
  expect(choose(all, 50, 8).map(({ line }) => line)).not.toEqual(some)
  expect(choose(all.slice(0, 3), 50, 7)).toHaveLength(3)
})
