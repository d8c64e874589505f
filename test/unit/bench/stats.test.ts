// SPDX-License-Identifier: Apache-2.0
import { expect, test } from 'vitest'
import { evaluate } from '../../bench/figure.ts'
import { inPairs, median, ratios, summarize } from '../../bench/stats.ts'

test.each([
  [[5], 5],
  [[3, 1, 2], 2],
  [[4, 1, 3, 2], 2.5],
  [[10, 9, 100, 1], 9.5],
])('median of %j is %d', (values, expected) => {
  expect(median(values)).toBe(expected)
})

test('the median leaves its argument as it is, and needs one', () => {
  const values = [3, 1, 2]
  median(values)
  expect(values).toEqual([3, 1, 2])
  expect(() => median([])).toThrow(RangeError)
  expect(() => summarize([])).toThrow(RangeError)
})

test('a summary is median and range', () => {
  expect(summarize([30, 10, 11])).toEqual({ median: 11, min: 10, max: 30 })
})

test('ratios are those of pairs', () => {
  expect(ratios([2, 9], [1, 3])).toEqual([2, 3])
  expect(() => ratios([1, 2], [1])).toThrow('2 values cannot be paired with 1')
  expect(() => ratios([1, 1], [1, 0])).toThrow('pair 2: division by 0')
  expect(() => ratios([1], [Number.NaN])).toThrow(RangeError)
})

test('the ratio of a figure is the median of the pairs’ ratios, not the ratio of medians', () => {
  const side = (values: number[]) => ({ label: '', values })
  const figure = { bench: 'trap', what: '', unit: 'µs', a: side([10, 40, 30]), b: side([10, 20, 60]) } as const
  expect(evaluate(figure)).toMatchObject({
    summary: { median: 30 },
    other: { median: 20 },
    ratio: { median: 1, min: 0.5, max: 2 },
  })
  expect(evaluate({ bench: 'trap', what: '', unit: 'µs', a: side([1]) })).not.toHaveProperty('ratio')
})

test('pairs run one after the other, a first', async () => {
  const order: string[] = []
  let running = 0
  const side = (name: string) => async (pair: number) => {
    expect(++running).toBe(1)
    await new Promise(resolve => setTimeout(resolve, 1))
    running--
    order.push(`${name}${pair}`)
    return pair
  }
  expect(await inPairs(3, new AbortController().signal, side('a'), side('b'))).toEqual({ a: [0, 1, 2], b: [0, 1, 2] })
  expect(order).toEqual(['a0', 'b0', 'a1', 'b1', 'a2', 'b2'])
})

test('what is interrupted keeps its whole pairs, and fails when it has none', async () => {
  const run = async (abortIn: number) => {
    const controller = new AbortController()
    return inPairs(
      5,
      controller.signal,
      async pair => pair,
      async pair => {
        if (pair === abortIn) {
          controller.abort(new Error('Ctrl-C'))
          throw new Error('a boot was ended')
        }
        return -pair
      },
    )
  }
  expect(await run(2)).toEqual({ a: [0, 1], b: [-0, -1] })
  await expect(run(0)).rejects.toThrow('a boot was ended')
  await expect(
    inPairs(
      2,
      new AbortController().signal,
      async () => 1,
      () => Promise.reject(new Error('of its own')),
    ),
  ).rejects.toThrow('of its own')
})
