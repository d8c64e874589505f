// SPDX-License-Identifier: Apache-2.0
/** What a few runs say of what many would. Pure functions; no distribution is assumed where an exact one can be counted. */

/** The 97.5 % quantile of the normal distribution. */
const Z = 1.959963984540054
/** Ways of dealing out runs that are looked at one by one. */
const MOST_WAYS = 100_000

/** A share with its 95 % interval; all of them 0 to 1. */
export interface Share {
  readonly share: number
  readonly low: number
  readonly high: number
}

/**
 * The score interval of a binomial share (Wilson 1927). It stays within 0 and 1, and is none of zero width where all runs ended alike.
 * @param n of runs; 0: nothing is known
 */
export function wilson(successes: number, n: number): Share {
  if (n === 0) return { share: 0, low: 0, high: 1 }
  const share = successes / n
  const whole = 1 + Z ** 2 / n
  const centre = (share + Z ** 2 / (2 * n)) / whole
  const half = (Z / whole) * Math.sqrt((share * (1 - share)) / n + Z ** 2 / (4 * n ** 2))
  return {
    share,
    low: successes === 0 ? 0 : Math.max(0, centre - half),
    high: successes === n ? 1 : Math.min(1, centre + half),
  }
}

/** A test of whether two samples are of one distribution. */
export interface TestResult {
  /** Of two sides: how often chance alone gives a difference as large as this one, 0 to 1. */
  readonly p: number
  /** The smallest that the numbers of runs and outcomes could have given. */
  readonly least: number
  /** Greater than 0: the second sample is further up. */
  readonly direction: number
}

/** Of samples that cannot differ. */
export const NO_DIFFERENCE: TestResult = { p: 1, least: 1, direction: 0 }

/**
 * The exact test of Wilcoxon, Mann and Whitney, with ties: outcomes are ordered, and runs are dealt out to the two samples in all ways. With
 * two outcomes it is Fisher's test. Where there are too many ways to look at, the sum of ranks is taken to be normal.
 * @param before, after number of runs with each outcome, in the order of outcomes; both of the same length
 */
export function compareCounts(before: readonly number[], after: readonly number[]): TestResult {
  // Twice the middle rank of each outcome: whole numbers.
  const outcomes: Outcome[] = []
  let all = 0
  let seen = 0
  before.forEach((n, i) => {
    const later = after[i] ?? 0
    const total = n + later
    const rank = 2 * all + total + 1
    if (total > 0) outcomes.push({ total, rank })
    all += total
    seen += later * rank
  })
  const wanted = after.reduce((sum, n) => sum + n, 0)
  if (outcomes.length < 2 || wanted === 0 || wanted === all) return NO_DIFFERENCE
  const mean = wanted * (all + 1)
  const distance = Math.abs(seen - mean)
  const direction = Math.sign(seen - mean)
  // How many of the most frequent one there are follows from the others.
  const rarestFirst = outcomes.sort((a, b) => a.total - b.total)
  if (rarestFirst.slice(0, -1).reduce((ways, { total }) => ways * (total + 1), 1) > MOST_WAYS) {
    return { p: normal(distance, outcomes, wanted, all), least: 0, direction }
  }
  const sums = rankSums(rarestFirst, wanted, all)
  const furthest = Math.max(...Array.from(sums.keys(), sum => Math.abs(sum - mean)))
  const beyond = (least: number): number => {
    let share = 0
    for (const [sum, of] of sums) if (Math.abs(sum - mean) >= least) share += of
    return Math.min(1, share)
  }
  return { p: beyond(distance), least: beyond(furthest), direction }
}

interface Outcome {
  /** Runs of both samples. */
  readonly total: number
  readonly rank: number
}

/** Natural logarithms of factorials, as far as they were asked for. */
const logFactorials = [0]
function logFactorial(n: number): number {
  for (let i = logFactorials.length; i <= n; i++) logFactorials.push((logFactorials[i - 1] ?? 0) + Math.log(i))
  return logFactorials[n] ?? 0
}
const logChoose = (n: number, k: number): number => logFactorial(n) - logFactorial(k) - logFactorial(n - k)

/** Each sum of ranks that `wanted` of the runs can have, and in what share of all ways to choose them. */
function rankSums(outcomes: readonly Outcome[], wanted: number, all: number): ReadonlyMap<number, number> {
  const sums = new Map<number, number>()
  const ways = logChoose(all, wanted)
  const choose = (i: number, left: number, sum: number, logWays: number): void => {
    const outcome = outcomes[i]
    if (outcome === undefined) {
      sums.set(sum, (sums.get(sum) ?? 0) + Math.exp(logWays - ways))
      return
    }
    const { total, rank } = outcome
    const least = i === outcomes.length - 1 ? left : 0
    for (let n = least; n <= Math.min(left, total); n++)
      choose(i + 1, left - n, sum + n * rank, logWays + logChoose(total, n))
  }
  choose(0, wanted, 0, 0)
  return sums
}

/** How often a sum of ranks is as far from its mean as that, were it normal; with the variance of ranks that are tied. */
function normal(distance: number, outcomes: readonly Outcome[], wanted: number, all: number): number {
  const ties = outcomes.reduce((sum, { total }) => sum + total ** 3 - total, 0)
  const variance = ((wanted * (all - wanted)) / 3) * (all + 1 - ties / (all * (all - 1)))
  return variance === 0 ? 1 : errorFunctionComplement(distance / Math.sqrt(2 * variance))
}

/** erfc(x) of x >= 0, to 1.5e-7 (Abramowitz and Stegun 7.1.26). */
function errorFunctionComplement(x: number): number {
  const t = 1 / (1 + 0.3275911 * x)
  const terms = [1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592]
  return terms.reduce((sum, term) => (sum + term) * t, 0) * Math.exp(-(x ** 2))
}

/**
 * By how much each p has to be multiplied so that of all tests together one or more is wrong in a share `level` of comparisons at most (Tarone
 * 1990): tests that could not have found anything, because all their runs ended alike or were too few, cost nothing.
 * @returns number of tests that are counted; 0: none of them can find anything
 */
export function testsThatCount(tests: readonly TestResult[], level: number): number {
  if (!tests.some(({ least }) => least <= level)) return 0
  let counted = 1
  while (tests.filter(({ least }) => least <= level / counted).length > counted) counted++
  return counted
}
