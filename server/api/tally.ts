// SPDX-License-Identifier: Apache-2.0
/** Counts before and after a fault. */
import type { DiskCounts, Span } from './schemas/faults.ts'

/** Counts at one moment. */
export interface Tally extends Omit<Span, 'from' | 'seconds'> {
  /** ms since the epoch. */
  readonly at: number
}

/** All counts 0. */
export const nothing = (at: number): Tally => ({
  at,
  traps: 0,
  aborted: 0,
  gerrors: 0,
  guardFaults: 0,
  warnings: [],
  events: [],
  disk: { reads: 0, writes: 0, bytes: 0, failed: 0 },
})

/** Difference of two tallies of one machine; counters are reset only between machines, so no count is negative. */
export function span(from: Tally, to: Tally): Span {
  const less = <T extends { readonly count: number }>(
    list: readonly T[],
    former: readonly T[],
    key: (item: T) => string,
  ) =>
    list
      .map(item => ({ ...item, count: item.count - (former.find(other => key(other) === key(item))?.count ?? 0) }))
      .filter(({ count }) => count > 0)
  const disk = (a: DiskCounts, b: DiskCounts): DiskCounts => ({
    reads: b.reads - a.reads,
    writes: b.writes - a.writes,
    bytes: b.bytes - a.bytes,
    failed: b.failed - a.failed,
  })
  return {
    from: new Date(from.at).toISOString(),
    seconds: Math.max(0, to.at - from.at) / 1000,
    traps: to.traps - from.traps,
    aborted: to.aborted - from.aborted,
    gerrors: to.gerrors - from.gerrors,
    guardFaults: to.guardFaults - from.guardFaults,
    warnings: less(to.warnings, from.warnings, ({ code }) => code),
    events: less(to.events, from.events, ({ name }) => name),
    disk: from.disk && to.disk && disk(from.disk, to.disk),
  }
}

/** Sum over all disks of what QMP's `query-blockstats` answers; null when it is something else. */
export function disks(answer: unknown): DiskCounts | null {
  if (!Array.isArray(answer)) return null
  const sum = { reads: 0, writes: 0, bytes: 0, failed: 0 }
  for (const { stats } of answer as { stats?: Readonly<Record<string, number>> }[]) {
    const get = (name: string) => stats?.[name] ?? 0
    sum.reads += get('rd_operations')
    sum.writes += get('wr_operations')
    sum.bytes += get('rd_bytes') + get('wr_bytes')
    sum.failed += get('failed_rd_operations') + get('failed_wr_operations')
  }
  return sum
}
