// SPDX-License-Identifier: Apache-2.0

/** What repeats of one figure come to. */
export interface Summary {
  readonly median: number
  readonly min: number
  readonly max: number
}

/** @throws RangeError when there is none. */
export function median(values: readonly number[]): number {
  if (values.length === 0) throw new RangeError('the median of nothing')
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

/** Median and the range that the values lie in. @throws RangeError when there is none. */
export function summarize(values: readonly number[]): Summary {
  return { median: median(values), min: Math.min(...values), max: Math.max(...values) }
}

/**
 * a ÷ b of each pair. What slows the machine down for a while slows both of a pair, so these spread less than the values.
 * @throws RangeError unless each value has its partner, and can be divided by it.
 */
export function ratios(a: readonly number[], b: readonly number[]): number[] {
  if (a.length !== b.length) throw new RangeError(`${a.length} values cannot be paired with ${b.length}`)
  return a.map((value, i) => {
    if (!(b[i] > 0)) throw new RangeError(`pair ${i + 1}: division by ${b[i]}`)
    return value / b[i]
  })
}

/**
 * Runs `a` and `b` in turn, A B A B, one at a time.
 * @param signal ends it after whole pairs, of which there must be one
 * @returns the results, those of a pair at the same index
 */
export async function inPairs<A, B>(
  pairs: number,
  signal: AbortSignal,
  a: (pair: number) => Promise<A>,
  b: (pair: number) => Promise<B>,
): Promise<{ readonly a: readonly A[]; readonly b: readonly B[] }> {
  const whole = await repeat(pairs, signal, async pair => ({ a: await a(pair), b: await b(pair) }))
  return { a: whole.map(pair => pair.a), b: whole.map(pair => pair.b) }
}

/** One after the other. */
export async function inTurn<T, R>(items: readonly T[], work: (item: T) => Promise<R>): Promise<R[]> {
  const results: R[] = []
  for (const item of items) results.push(await work(item))
  return results
}

/** Runs `work` so many times. @param signal ends it; what was measured by then is returned, and that is not nothing */
export async function repeat<T>(times: number, signal: AbortSignal, work: (n: number) => Promise<T>): Promise<T[]> {
  const results: T[] = []
  try {
    while (results.length < times) {
      signal.throwIfAborted()
      results.push(await work(results.length))
    }
  } catch (error) {
    if (!signal.aborted || results.length === 0) throw error
  }
  return results
}
