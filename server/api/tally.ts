// SPDX-License-Identifier: Apache-2.0
/** What is counted around a fault: two moments, and what lies between them. */
import { type Static, Type } from 'typebox'

const Count = (description: string) => Type.Integer({ description })

const DiskSchema = Type.Object({
  reads: Type.Integer(),
  writes: Type.Integer(),
  bytes: Type.Integer(),
  failed: Count('reads and writes that QEMU could not carry out'),
})

export const SpanSchema = Type.Object(
  {
    from: Type.String({ description: 'ISO 8601' }),
    seconds: Type.Number({ description: 'wall clock' }),
    traps: Type.Integer(),
    aborted: Count('traps that ended in an external abort'),
    gerrors: Count('changes of GERROR'),
    guardFaults: Count('CPU accesses to guarded memory'),
    warnings: Type.Array(Type.Object({ code: Type.String(), expected: Type.Boolean(), count: Type.Integer() })),
    events: Type.Array(Type.Object({ name: Type.String(), count: Type.Integer() })),
    disk: Type.Union([DiskSchema, Type.Null()], { description: "of QEMU's disks; null: QEMU could not be asked" }),
  },
  { $id: 'Span', title: 'Span' },
)
/** What was counted between two moments. */
export type Span = Static<typeof SpanSchema>
type Disk = Static<typeof DiskSchema>

/** What was counted until a moment. */
export interface Tally extends Omit<Span, 'from' | 'seconds'> {
  /** ms since the epoch. */
  readonly at: number
}

/** Nothing was counted yet. */
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

/** Counters start anew with a machine, never within one: nothing is ever negative. */
export function span(from: Tally, to: Tally): Span {
  const less = <T extends { readonly count: number }>(
    list: readonly T[],
    former: readonly T[],
    key: (item: T) => string,
  ) =>
    list
      .map(item => ({ ...item, count: item.count - (former.find(other => key(other) === key(item))?.count ?? 0) }))
      .filter(({ count }) => count > 0)
  const disk = (a: Disk, b: Disk): Disk => ({
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
export function disks(answer: unknown): Disk | null {
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
