// SPDX-License-Identifier: Apache-2.0
/**
 * Log-linear histogram of unsigned 32-bit values in a Uint32Array: values below 64 exactly, above that 32 buckets for each
 * power of two, so that a percentile is within 1.6 % of the truth.
 */
const EXACT = 64
const PER_OCTAVE = 32
const BUCKETS = EXACT + (32 - 6) * PER_OCTAVE

/** Words that a histogram takes: the buckets, then the maximum. */
export const HISTOGRAM_WORDS = BUCKETS + 1

function bucketOf(value: number): number {
  if (value < EXACT) return value
  const shift = 26 - Math.clz32(value)
  return shift * PER_OCTAVE + (value >>> shift)
}

/** Middle of a bucket. */
function middleOf(bucket: number): number {
  if (bucket < EXACT) return bucket
  const shift = Math.floor(bucket / PER_OCTAVE) - 1
  return (PER_OCTAVE + (bucket % PER_OCTAVE) + 0.5) * 2 ** shift
}

/** Counts `value` (ns; saturates at 2^32 - 1) in the histogram at word `base`. */
export function count(words: Uint32Array, base: number, value: number): void {
  const v = value > 0xffffffff ? 0xffffffff : value >>> 0
  const at = base + bucketOf(v)
  words[at] = (words[at] ?? 0) + 1
  if (v > (words[base + BUCKETS] ?? 0)) words[base + BUCKETS] = v
}

export interface Percentiles {
  readonly p50: number
  readonly p90: number
  readonly p99: number
  /** Exact. */
  readonly max: number
}

/** Buckets that are not empty, as `[middle, count]`, ascending. */
export function buckets(words: Uint32Array, base = 0): [value: number, count: number][] {
  const list: [number, number][] = []
  for (let i = 0; i < BUCKETS; i++) {
    const n = words[base + i] ?? 0
    if (n > 0) list.push([middleOf(i), n])
  }
  return list
}

/** In the unit of the values; all 0 when there are none. */
export function percentiles(words: Uint32Array, base = 0): Percentiles {
  const list = buckets(words, base)
  const total = list.reduce((sum, [, n]) => sum + n, 0)
  const max = words[base + BUCKETS] ?? 0
  const quantile = (q: number) => {
    let left = Math.ceil(total * q)
    for (const [value, n] of list) {
      left -= n
      if (left <= 0) return Math.min(value, max)
    }
    return 0
  }
  return { p50: quantile(0.5), p90: quantile(0.9), p99: quantile(0.99), max }
}
