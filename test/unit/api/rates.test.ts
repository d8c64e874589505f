// SPDX-License-Identifier: Apache-2.0
import { expect, test } from 'vitest'
import { Rates } from '../../../server/api/rates.ts'

test('a rate is traps over the time between two samples', () => {
  const rates = new Rates()
  rates.sample(1, 1_000, 10)
  rates.sample(1, 1_500, 60)
  rates.sample(1, 3_500, 60)
  expect(rates.points).toEqual([
    { run: 1, at: 1_500, rate: 100 },
    { run: 1, at: 3_500, rate: 0 },
  ])
})

test('a new machine begins anew: no rate between two machines, none below 0', () => {
  const rates = new Rates()
  rates.sample(1, 1_000, 1_000)
  rates.sample(2, 2_000, 5)
  rates.sample(2, 3_000, 4)
  rates.sample(2, 4_000, 6)
  expect(rates.points).toEqual([{ run: 2, at: 4_000, rate: 2 }])
})

test('the oldest are forgotten', () => {
  const rates = new Rates()
  for (let i = 0; i <= 3_000; i++) rates.sample(1, i * 500, i)
  expect(rates.points.length).toBe(2_400)
  expect(rates.points.at(-1)?.at).toBe(1_500_000)
  expect(rates.points[0]?.at).toBe(1_500_000 - 2_399 * 500)
})
