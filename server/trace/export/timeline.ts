// SPDX-License-Identifier: Apache-2.0
/**
 * What a decision did, as spans of the server's clock that lie in each other, in whole ns.
 *
 * Accesses to the hardware have a time of their own. Commands and stream table entries have only a place in the order: those
 * between two times share what lies between them evenly. A command of the host is recorded when it is done with, so its span
 * reaches back to the command before it, and holds what was done for it.
 */
import { type RecordOf, type TraceRecord, verdict } from '../records.ts'

/** A record and its time; `begin` = `end`: a moment. */
export interface Span {
  readonly record: TraceRecord
  /** Of the record in its group. */
  readonly index: number
  readonly begin: number
  readonly end: number
  /** In order, one after the other, none beyond `begin` or `end`. */
  readonly inside: readonly Span[]
}

/** 13 days, in ns: larger times are not exact as µs with a fraction, in which the exports write them. */
export const MAX_CLOCK = 2 ** 50

/** A time or duration of a record in whole ns: a recording that was made up may have any number there. */
export const clockOf = (ns: number): number => (Number.isNaN(ns) ? 0 : Math.min(Math.max(Math.trunc(ns), 0), MAX_CLOCK))

type Access = RecordOf<'hardware'>

export const isHostCommand = (record: TraceRecord): boolean =>
  record.kind === 'command' && record.verdict !== verdict.own

/** The write goes to the hardware with the answer to the guest: what is recorded is when it was decided. */
export const isPosted = ({ write, duration }: Access): boolean => write === 1 && duration === 0

const takesTime = (record: TraceRecord): boolean =>
  record.kind === 'command' || record.kind === 'stream' || (record.kind === 'hardware' && isPosted(record))

/** @param children of a group @param begin of its root @param end of its root, not before `begin` */
export function spansOf(children: readonly TraceRecord[], begin: number, end: number): Span[] {
  const top: Span[] = []
  let inside: Span[] = []
  let commandBegin = begin
  for (const span of flat(children, begin, end)) {
    if (!isHostCommand(span.record)) {
      inside.push(span)
      continue
    }
    top.push({ ...span, begin: commandBegin, inside })
    inside = []
    commandBegin = span.end
  }
  return [...top, ...inside]
}

/** One after the other. */
function* flat(children: readonly TraceRecord[], begin: number, end: number): Generator<Span> {
  let cursor = begin
  let from = 0
  /** Spreads the records before `to` between the cursor and `until`. */
  function* spread(to: number, until: number): Generator<Span> {
    const records = children.slice(from, to)
    const parts = records.filter(takesTime).length
    const [start, length] = [cursor, until - cursor]
    let part = 0
    for (const [i, record] of records.entries()) {
      const at = cursor
      if (takesTime(record)) cursor = start + Math.floor((length * ++part) / parts)
      yield { record, index: from + i, begin: at, end: cursor, inside: [] }
    }
    from = to
  }
  for (const [index, record] of children.entries()) {
    if (record.kind !== 'hardware') continue
    const start = Math.min(Math.max(clockOf(record.start), cursor), end)
    yield* spread(index, start)
    cursor = start
    if (isPosted(record)) continue
    const done = Math.min(start + clockOf(record.duration), end)
    yield { record, index, begin: start, end: done, inside: [] }
    cursor = done
    from = index + 1
  }
  yield* spread(children.length, end)
}
