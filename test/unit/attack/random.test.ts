// SPDX-License-Identifier: Apache-2.0
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { Random } from '../../../server/attack/random.ts'

const seed = fc.integer({ min: 0, max: 2 ** 32 - 1 })

test('a seed decides all', () => {
  fc.assert(
    fc.property(seed, seed, (a, b) => {
      const some = (r: Random) => Array.from({ length: 20 }, () => r.next())
      expect(some(new Random(a))).toEqual(some(new Random(b).seed(a)))
      if (a !== b) expect(some(new Random(a))).not.toEqual(some(new Random(b)))
    }),
  )
})

test('numbers are in their range, and reach its ends', () => {
  const random = new Random(1)
  const some = (draw: () => number) => new Set(Array.from({ length: 4000 }, draw))
  expect([...some(() => random.below(7))].sort()).toEqual([0, 1, 2, 3, 4, 5, 6])
  expect([...some(() => random.logUniform(2))].sort()).toEqual([0, 1, 2, 3])
  const wide = [...some(() => random.logUniform(52))]
  expect(Math.max(...wide)).toBeLessThan(2 ** 52)
  expect(Math.max(...wide)).toBeGreaterThan(2 ** 51)
  expect(wide.every(Number.isSafeInteger)).toBe(true)
  expect([...some(() => Number(random.chance(0)))]).toEqual([0])
  expect([...some(() => Number(random.chance(100)))]).toEqual([1])
})
