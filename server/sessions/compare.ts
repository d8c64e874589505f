// SPDX-License-Identifier: Apache-2.0
/**
 * What has changed between campaigns, or matrices, of two times. A place – an entry with a kernel and a prefix, or a cell – was tried with
 * several seeds, and a verdict that comes and goes with them is no change: what is told as one is more than chance gives.
 */
import { compareCounts, NO_DIFFERENCE, type Share, type TestResult, testsThatCount, wilson } from './statistics.ts'

/** Of all comparisons in which nothing has changed, the share in which one or more places are told as changed all the same. */
const LEVEL = 0.05

/** What came of one session. */
export interface Sample {
  readonly verdict: string
  /** Whether it is what is expected there. */
  readonly good: boolean
  /** 0: the gravest. */
  readonly gravity: number
}

/** What was tried at two times. */
export interface Place {
  readonly name: string
  readonly before: readonly Sample[]
  readonly after: readonly Sample[]
}

/** Sessions of two times by their place, in the order in which places come. */
export function byPlace<Row>(
  before: readonly Row[],
  after: readonly Row[],
  placeOf: (row: Row) => string,
): ReadonlyMap<string, { readonly before: readonly Row[]; readonly after: readonly Row[] }> {
  const places = new Map<string, { readonly before: Row[]; readonly after: Row[] }>()
  const at = (row: Row) => {
    const name = placeOf(row)
    const place = places.get(name) ?? { before: [], after: [] }
    places.set(name, place)
    return place
  }
  for (const row of before) at(row).before.push(row)
  for (const row of after) at(row).after.push(row)
  return places
}

/** A verdict, and how often it came. */
export interface Frequency extends Share {
  readonly verdict: string
  readonly count: number
}

/** What is known of a place at one time. */
export interface Side {
  readonly runs: number
  /** Sessions that ended as expected. */
  readonly good: Share & { readonly count: number }
  /** Most frequent first. */
  readonly verdicts: readonly Frequency[]
}

/**
 * What became of a place. `worse`, `better`: it ends as expected less, or more often; `graver`, `milder`: as often as before, but with other
 * verdicts; `other`: with others that are neither.
 */
export type Change = 'worse' | 'graver' | 'other' | 'milder' | 'better' | 'not run' | 'same'

export interface Difference {
  readonly name: string
  readonly change: Change
  /** It is more than chance gives with so many sessions. */
  readonly told: boolean
  /** Of the test that says so, for all places together; 1 at most. */
  readonly p: number
  readonly before: Side
  readonly after: Side
}

/** A place whose sessions do not end alike. */
export interface Flaky {
  readonly name: string
  /** Of both times, if they are not told apart. */
  readonly side: Side
}

export interface Comparison {
  /** What became worse first, and what is told before what may be chance; places that are the same are left out. */
  readonly differences: readonly Difference[]
  readonly flaky: readonly Flaky[]
  readonly same: number
  /** No place had sessions enough for anything to be told, however its verdicts differ. */
  readonly tooFew: boolean
}

const ORDER: readonly Change[] = ['worse', 'graver', 'other', 'milder', 'better', 'not run', 'same']

const share = (count: number, runs: number): Share & { readonly count: number } => ({ count, ...wilson(count, runs) })

function sideOf(samples: readonly Sample[]): Side {
  const counts = new Map<string, number>()
  for (const { verdict } of samples) counts.set(verdict, (counts.get(verdict) ?? 0) + 1)
  return {
    runs: samples.length,
    good: share(samples.filter(({ good }) => good).length, samples.length),
    verdicts: [...counts]
      .sort(([, a], [, b]) => b - a)
      .map(([verdict, count]) => ({ verdict, ...share(count, samples.length) })),
  }
}

/** Sessions of two times by what they are, the gravest first: the second sample is further up where it is milder. */
function counted(before: readonly Sample[], after: readonly Sample[], of: (sample: Sample) => number): TestResult {
  const values = [...new Set([...before, ...after].map(of))].sort((a, b) => a - b)
  const count = (samples: readonly Sample[]) => values.map(value => samples.filter(one => of(one) === value).length)
  return compareCounts(count(before), count(after))
}

const good = (sample: Sample): number => Number(sample.good)
const gravity = (sample: Sample): number => sample.gravity

/** Compares what was tried at two times. */
export function compare(places: readonly Place[]): Comparison {
  const tested = places.map(place => {
    const { before, after } = place
    const kinds = (of: (sample: Sample) => number) => new Set([...before, ...after].map(of)).size
    const expected = counted(before, after, good)
    // Where gravity says no more than that, it is no second test, which would cost something.
    return { place, expected, gravity: kinds(gravity) > kinds(good) ? counted(before, after, gravity) : NO_DIFFERENCE }
  })
  const tests = testsThatCount(
    tested.flatMap(({ expected, gravity }) => [expected, gravity]),
    LEVEL,
  )
  const all = tested.map(({ place, expected, gravity }): Difference => {
    const [before, after] = [sideOf(place.before), sideOf(place.after)]
    const adjusted = ({ p }: TestResult): number => Math.min(1, p * Math.max(1, tests))
    const isTold = (test: TestResult): boolean => tests > 0 && adjusted(test) <= LEVEL
    const difference = (change: Change, told: boolean, p: number) => ({
      ...{ name: place.name, change, told, p, before, after },
    })
    if (before.runs === 0 || after.runs === 0) return difference('not run', false, 1)
    const apart = Math.sign(after.good.share - before.good.share)
    const byExpectation = apart < 0 ? 'worse' : 'better'
    const byGravity = gravity.direction < 0 ? 'graver' : 'milder'
    if (isTold(expected)) return difference(byExpectation, true, adjusted(expected))
    if (isTold(gravity)) return difference(byGravity, true, adjusted(gravity))
    if (apart !== 0) return difference(byExpectation, false, adjusted(expected))
    if (gravity.direction !== 0) return difference(byGravity, false, adjusted(gravity))
    return difference(alike(before, after) ? 'same' : 'other', false, 1)
  })
  const rank = ({ change, told }: Difference): number => ORDER.indexOf(change) + (told ? 0 : ORDER.length)
  return {
    differences: all.filter(({ change }) => change !== 'same').sort((a, b) => rank(a) - rank(b)),
    flaky: places.flatMap(({ name, before, after }, i) => {
      if (
        new Set(before.map(({ verdict }) => verdict)).size < 2 &&
        new Set(after.map(({ verdict }) => verdict)).size < 2
      )
        return []
      return { name, side: sideOf(all[i]?.told ? after : [...before, ...after]) }
    }),
    same: all.filter(({ change }) => change === 'same').length,
    tooFew: places.every(({ before, after }) => compareCounts([before.length, 0], [0, after.length]).least > LEVEL),
  }
}

/** Whether the verdicts come in the same shares. */
const alike = (before: Side, after: Side): boolean =>
  before.verdicts.length === after.verdicts.length &&
  before.verdicts.every(({ verdict, share }) =>
    after.verdicts.some(one => one.verdict === verdict && one.share === share),
  )

const percent = ({ low, high }: Share): string => `${Math.round(low * 100)}–${Math.round(high * 100)} %`

/** `io-error`, or of several sessions `io-error 7, recovered 3`. */
function verdictsText({ runs, verdicts }: Side): string {
  if (runs === 0) return 'not run'
  return verdicts.map(({ verdict, count }) => (runs === 1 ? verdict : `${verdict} ${count}`)).join(', ')
}

const goodText = ({ runs, good }: Side): string => `${good.count} of ${runs} (${percent(good)})`

function differenceText({ name, change, told, p, before, after }: Difference): string {
  const verdicts = `${verdictsText(before)} → ${verdictsText(after)}`
  if (change === 'not run') return `${name}: ${verdicts}`
  const by = `${change}, ${told ? `p = ${p.toPrecision(2)}` : 'perhaps by chance'}`
  const shares = (change === 'worse' || change === 'better') && before.runs + after.runs > 2
  const expected = shares ? `; as expected ${goodText(before)} → ${goodText(after)}` : ''
  return `${name}: ${by}: ${verdicts}${expected}`
}

/**
 * For the terminal: what differs, what is flaky, and a line that counts.
 * @param notes what is to be said besides, a line each
 */
export function comparisonText({ differences, flaky, same, tooFew }: Comparison, notes: readonly string[]): string {
  const lines = differences.map(differenceText)
  for (const { name, side } of flaky) {
    const shares = side.verdicts.map(one => `${one.verdict} ${one.count} of ${side.runs} (${percent(one)})`)
    lines.push(`flaky: ${name}: ${shares.join(', ')}`)
  }
  if (tooFew && differences.some(({ change }) => change !== 'not run')) {
    lines.push('with so few sessions nothing can be told from chance: a place needs four each time')
  }
  const told = (...changes: Change[]): number =>
    differences.filter(one => one.told && changes.includes(one.change)).length
  const apart = differences.filter(({ change }) => change !== 'not run')
  const numbers = [
    `${same} the same`,
    `${apart.length} different`,
    `of these ${told('worse', 'graver')} worse and ${told('better', 'milder')} better by more than chance`,
    ...(apart.length < differences.length ? [`${differences.length - apart.length} not run`] : []),
    ...(flaky.length > 0 ? [`${flaky.length} flaky`] : []),
  ]
  return [...lines, ...notes, numbers.join(', ')].join('\n')
}

/** Whether anything became worse by more than chance gives. */
export const isWorse = ({ differences }: Comparison): boolean =>
  differences.some(({ change, told }) => told && (change === 'worse' || change === 'graver'))
