// SPDX-License-Identifier: Apache-2.0
/** Against published values, and against counting all ways by hand. */
import { describe, expect, test } from 'vitest'
import { compareCounts, type TestResult, testsThatCount, wilson } from '../../../server/sessions/statistics.ts'

describe('the score interval of a share', () => {
  // Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
  test.each([
    [81, 263, 0.2553, 0.3662],
    [15, 148, 0.0624, 0.1605],
    [0, 20, 0, 0.1611],
    [1, 29, 0.0061, 0.1718],
  ])('%i of %i', (successes, n, low, high) => {
    const found = wilson(successes, n)
    expect(found.low).toBeCloseTo(low, 4)
    expect(found.high).toBeCloseTo(high, 4)
    expect(found.share).toBe(successes / n)
    // What did not happen has the interval of what did, seen from the other end.
    const other = wilson(n - successes, n)
    expect(other.low).toBeCloseTo(1 - found.high, 10)
    expect(other.high).toBeCloseTo(1 - found.low, 10)
  })

  test('of nothing, nothing is known', () => {
    expect(wilson(0, 0)).toEqual({ share: 0, low: 0, high: 1 })
  })

  test('covers the share in about 95 % of all samples, and in no less than 83 %', () => {
    const covered: number[] = []
    for (let percent = 1; percent < 100; percent++) {
      let inside = 0
      for (let k = 0; k <= 10; k++) {
        const { low, high } = wilson(k, 10)
        if (low <= percent / 100 && percent / 100 <= high) {
          inside += choose(10, k) * (percent / 100) ** k * (1 - percent / 100) ** (10 - k)
        }
      }
      covered.push(inside)
    }
    expect(Math.min(...covered)).toBeGreaterThan(0.83)
    expect(covered.reduce((sum, share) => sum + share) / covered.length).toBeGreaterThan(0.94)
  })
})

const choose = (n: number, k: number): number => (k === 0 ? 1 : (choose(n - 1, k - 1) * n) / k)

describe('two samples', () => {
  // Fisher's lady tasting tea, and his table of convictions of like-sex twins, two-sided.
  test.each([
    [[3, 1], [1, 3], 34 / 70],
    [[2, 10], [15, 3], 0.0005367],
    [[4, 0], [0, 4], 2 / 70],
    [[3, 0], [0, 3], 2 / 20],
    [[1, 0], [0, 1], 1],
    [[10, 0], [0, 10], 2 / 184_756],
    // Ranks 1 to 3 and 4 to 6, and one that changed places.
    [[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1], 2 / 20],
    [[1, 1, 0, 1, 0, 0], [0, 0, 1, 0, 1, 1], 4 / 20],
  ])('%j and %j', (before, after, p) => {
    expect(compareCounts(before, after).p).toBeCloseTo(p, 7)
    expect(compareCounts(after, before).p).toBeCloseTo(p, 7)
  })

  test('the direction is that of the second one', () => {
    expect(compareCounts([4, 0], [0, 4]).direction).toBe(1)
    expect(compareCounts([0, 0, 2], [1, 1, 0]).direction).toBe(-1)
    expect(compareCounts([2, 2], [1, 1]).direction).toBe(0)
  })

  test('all ways, dealt out one by one', () => {
    let seed = 7
    const random = (below: number) => {
      seed = (seed * 1_103_515_245 + 12_345) % 2_147_483_648
      return Math.floor((seed / 2_147_483_648) * below)
    }
    for (let round = 0; round < 25; round++) {
      const outcomes = 2 + random(3)
      const [before, after] = [0, 0].map(() => Array.from({ length: outcomes }, () => random(3)))
      const found = compareCounts(before, after)
      const byHand = dealt(before, after)
      expect(found.p, `${before} and ${after}`).toBeCloseTo(byHand.p, 9)
      expect(found.least, `${before} and ${after}`).toBeCloseTo(byHand.least, 9)
      expect(found.p).toBeGreaterThanOrEqual(found.least)
    }
  })

  test('an empty sample, or outcomes that are all alike, differ in nothing', () => {
    for (const [before, after] of [
      [
        [0, 0],
        [3, 4],
      ],
      [
        [5, 5],
        [0, 0],
      ],
      [
        [7, 0],
        [9, 0],
      ],
    ]) {
      expect(compareCounts(before, after)).toEqual({ p: 1, least: 1, direction: 0 })
    }
  })

  test('more runs than there is a number for the ways of', () => {
    expect(compareCounts([700, 0], [0, 700]).p).toBeLessThan(1e-300)
    expect(compareCounts([350, 350], [350, 350]).p).toBeCloseTo(1, 9)
    expect(compareCounts([3000, 3000], [3000, 3000]).p).toBeCloseTo(1, 9)
  })

  test('too many ways to look at: nearly the same', () => {
    // 40 runs of each of five outcomes have 41⁴ ways; with four outcomes, 41³ are still counted.
    const [before, after] = [
      [22, 20, 20, 18, 20],
      [18, 20, 20, 22, 20],
    ]
    const found = compareCounts(before, after)
    // 240 from the mean; the variance is 100 · 100 · (201 − 5 · (40³ − 40) / (200 · 199)) / 12.
    expect(found.least).toBe(0)
    expect(found.p).toBeCloseTo(0.5495, 4)
    const counted = compareCounts([22, 20, 20, 18], [18, 20, 20, 22])
    expect(counted.least).toBeGreaterThan(0)
    // 240 of 283.7 without, 220 with a correction for sums that are 40 apart.
    expect(counted.p).toBeGreaterThan(0.3976)
    expect(counted.p).toBeLessThan(0.4381 + 0.005)
  })
})

/** The same by taking each subset of the runs. */
function dealt(before: readonly number[], after: readonly number[]): { p: number; least: number } {
  const runs = before.flatMap((n, i) => Array<number>(n + after[i]).fill(i))
  const wanted = after.reduce((sum, n) => sum + n, 0)
  if (wanted === 0 || wanted === runs.length) return { p: 1, least: 1 }
  const ranks = runs.map(run => runs.filter(other => other < run).length + (runs.filter(r => r === run).length + 1) / 2)
  const mean = (wanted * (runs.length + 1)) / 2
  const distances: number[] = []
  for (let set = 0; set < 2 ** runs.length; set++) {
    const own = ranks.filter((_, i) => set & (1 << i))
    if (own.length === wanted) distances.push(Math.abs(own.reduce((sum, rank) => sum + rank, 0) - mean))
  }
  const rank = (outcome: number) => ranks[runs.indexOf(outcome)] ?? 0
  const seen = Math.abs(after.reduce((sum, n, i) => sum + (n > 0 ? n * rank(i) : 0), 0) - mean)
  const share = (distance: number) => distances.filter(d => d >= distance - 1e-9).length / distances.length
  return { p: share(seen), least: share(Math.max(...distances)) }
}

describe('many tests at once', () => {
  const least = (value: number): TestResult => ({ p: 1, least: value, direction: 0 })

  test('those that cannot find anything cost nothing', () => {
    const silent = Array.from({ length: 500 }, () => least(1))
    expect(testsThatCount([...silent, least(0.001)], 0.05)).toBe(1)
    expect(testsThatCount([...silent, ...Array.from({ length: 20 }, () => least(1e-5))], 0.05)).toBe(20)
    // With 4 runs each the least is 2 of 70: enough for one, and for none of two.
    expect(testsThatCount([least(2 / 70)], 0.05)).toBe(1)
    expect(testsThatCount([least(2 / 70), least(2 / 70)], 0.05)).toBe(2)
    expect(testsThatCount(silent, 0.05)).toBe(0)
    expect(testsThatCount([], 0.05)).toBe(0)
  })

  test('of comparisons in which nothing has changed, one in twenty finds something at most', () => {
    // 30 places, each with a verdict that comes in half of 8 runs: all ways in which one of them can come out.
    const ways = Array.from({ length: 9 }, (_, a) => Array.from({ length: 9 }, (_, b) => [a, b] as const)).flat()
    const weight = (k: number) => choose(8, k) / 256
    const tests = ways.map(([a, b]) => ({ ...compareCounts([a, 8 - a], [b, 8 - b]), weight: weight(a) * weight(b) }))
    const limit = 0.05 / 30
    const wrong = tests.filter(({ p }) => p <= limit).reduce((sum, { weight }) => sum + weight, 0)
    expect(1 - (1 - wrong) ** 30).toBeLessThanOrEqual(0.05)
  })
})
