// SPDX-License-Identifier: Apache-2.0
/** How the traps of a machine lie in time. */
import type { Timeline, TimelineQuery } from './schemas/trace.ts'
import type { TrapLog } from './trapLog.ts'

const BINS = 200
/** Marks that one answer has. */
const MARKS = 500

/**
 * Counts the traps from row `rows` on in bins of equal length; the last bin includes `to`.
 * @param query times in ns; absent: from the first trap to the last, so that nothing is left out
 */
export function timeline(log: TrapLog, rows: number, marks: Timeline['marks'], query: TimelineQuery): Timeline {
  let first = Number.POSITIVE_INFINITY
  let last = 0
  log.eachTrap(rows, (_, time) => {
    first = Math.min(first, time)
    last = Math.max(last, time)
  })
  if (first > last) first = 0
  const { from = first, to = Math.max(last, first + 1), bins = BINS } = query
  const traps = new Array<number>(bins).fill(0)
  const ids = new Array<number>(bins).fill(0)
  const width = Math.max(to - from, 1) / bins
  log.eachTrap(rows, (id, time) => {
    if (time < from || time > to) return
    const bin = Math.min(bins - 1, Math.floor((time - from) / width))
    traps[bin] = (traps[bin] ?? 0) + 1
    if (ids[bin] === 0) ids[bin] = id
  })
  const seen = marks.filter(({ time }) => time >= from && time <= to)
  return { from, to, first, last, traps, rows: ids, marks: seen.sort((a, b) => a.time - b.time).slice(-MARKS) }
}
