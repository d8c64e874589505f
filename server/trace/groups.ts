// SPDX-License-Identifier: Apache-2.0
import { type KindName, type RecordOf, roots, type TraceRecord } from './records.ts'

export type Root = RecordOf<'trap'> | RecordOf<'reset'> | RecordOf<'translate'> | RecordOf<'request'>

/** A decision of the trap thread and all that it did for it, in order. */
export interface Group {
  readonly root: Root
  readonly children: readonly TraceRecord[]
  /** False: records of it are missing, because they were lost or the trace begins in the middle. */
  readonly whole: boolean
}

/** A group, or a record that stands for itself. */
export type Item = Group | TraceRecord

export function isGroup(item: Item): item is Group {
  return 'root' in item
}

/** Kinds that go with the next root. The notices of the hardware stand for themselves. */
export const CHILDREN: ReadonlySet<KindName> = new Set([
  'hardware',
  'memory',
  'guard',
  'command',
  'stream',
  'warning',
  'pages',
  'probe',
  'fault',
  'breakpoint',
])

const NOTICES: ReadonlySet<KindName> = new Set(['event', 'gerror', 'guardFault'])

function isRoot(record: TraceRecord): record is Root {
  return roots.has(record.kind)
}

/** Puts records together that belong together. Notices of the hardware that came while a trap was decided are part of it. */
export function* groups(records: Iterable<TraceRecord>): Generator<Item> {
  let children: TraceRecord[] = []
  let whole = true
  for (const record of records) {
    if (isRoot(record)) {
      const before = 'time' in record ? record.time : Number.POSITIVE_INFINITY
      const early = (child: TraceRecord) => NOTICES.has(child.kind) && 'time' in child && child.time < before
      yield* children.filter(early)
      yield { root: record, children: children.filter(child => !early(child)), whole }
      children = []
      whole = true
    } else if (CHILDREN.has(record.kind) || NOTICES.has(record.kind)) {
      children.push(record)
    } else if (record.kind === 'lost') {
      yield* children
      children = []
      whole = false
      yield record
    } else yield record
  }
  yield* children
}
