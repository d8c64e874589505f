// SPDX-License-Identifier: Apache-2.0
import type { FaultEffect, Span } from '../../api/schemas/faults.ts'

/** One thing that is counted, before rules were armed and since. */
export interface EffectRow {
  readonly name: string
  readonly unit: 'count' | 'bytes'
  readonly before: number | null
  readonly since: number | null
  /** A second. */
  readonly rates: readonly [before: number | null, since: number | null]
  /** New since the rules were armed; stopped since then; or neither. */
  readonly change: 'new' | 'stopped' | 'none'
  /** An error, rather than normal activity. */
  readonly bad: boolean
}

/** A count has stopped when at least this many were to be expected and none came. */
const EXPECTED = 5

/** Counts before and since, side by side. Warnings and events are listed once there is one. */
export function effectRows({ before, since }: FaultEffect): EffectRow[] {
  const row = (name: string, get: (span: Span) => number | null, bad: boolean, unit: EffectRow['unit'] = 'count') => {
    const [a, b] = [get(before), get(since)]
    const rate = (value: number | null, { seconds }: Span) => (value === null || seconds <= 0 ? null : value / seconds)
    const rates = [rate(a, before), rate(b, since)] as const
    const stopped = b === 0 && (rates[0] ?? 0) * since.seconds >= EXPECTED
    const change = a === 0 && b !== null && b > 0 ? 'new' : stopped ? 'stopped' : 'none'
    return { name, unit, before: a, since: b, rates, change, bad } as const
  }
  const union = (list: (span: Span) => readonly string[]) => [...new Set([...list(before), ...list(since)])].sort()
  const warnings = union(span => span.warnings.map(({ code }) => code))
  const events = union(span => span.events.map(({ name }) => name))
  const warning = (code: string) => (span: Span) => span.warnings.find(w => w.code === code)?.count ?? 0
  const expected = (code: string) =>
    [...before.warnings, ...since.warnings].find(w => w.code === code)?.expected === true
  return [
    row('Traps', span => span.traps, false),
    row('Aborted traps', span => span.aborted, true),
    row('Hardware GERROR', span => span.gerrors, true),
    row('Guard faults', span => span.guardFaults, true),
    row('Disk reads', ({ disk }) => disk?.reads ?? null, false),
    row('Disk writes', ({ disk }) => disk?.writes ?? null, false),
    row('Disk bytes', ({ disk }) => disk?.bytes ?? null, false, 'bytes'),
    row('Failed disk I/O', ({ disk }) => disk?.failed ?? null, true),
    ...warnings.map(code => row(`Warning ${code}`, warning(code), !expected(code))),
    ...events.map(name => row(`Event ${name}`, span => span.events.find(e => e.name === name)?.count ?? 0, true)),
  ]
}
