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
  'stage2',
  'stack',
])

const NOTICES: ReadonlySet<KindName> = new Set(['event', 'gerror', 'guardFault'])

function isRoot(record: TraceRecord): record is Root {
  return roots.has(record.kind)
}

/** A trap that a breakpoint stopped, from there to its root. */
interface Held {
  readonly seq: number
  /** What was done for it before. */
  readonly children: TraceRecord[]
  readonly whole: boolean
  /** What came since, if the policy had decided it: that came first. */
  behind: Item[] | undefined
}

/** Puts records together that belong together. Notices of the hardware that came while a trap was decided are part of it. */
export function* groups(records: Iterable<TraceRecord>): Generator<Item> {
  let children: TraceRecord[] = []
  let whole = true
  let held: Held | undefined
  for (const record of records) {
    if (record.kind === 'breakpoint') {
      const before = held?.seq === record.seq ? held : undefined
      if (held !== undefined && before === undefined) yield* leftovers(held)
      held = {
        seq: record.seq,
        children: [...(before?.children ?? []), ...children, record],
        whole: whole && (before?.whole ?? true),
        behind: record.decided === 1 ? [] : undefined,
      }
      children = []
      whole = true
    } else if (isRoot(record)) {
      const mine = record.kind === 'trap' && record.seq === held?.seq ? held : undefined
      const items = [...close(record, [...(mine?.children ?? []), ...children], whole && (mine?.whole ?? true))]
      children = []
      whole = true
      if (mine !== undefined) {
        yield* items
        yield* mine.behind ?? []
        held = undefined
      } else if (record.kind === 'trap' || record.kind === 'reset') {
        if (held !== undefined) yield* leftovers(held)
        held = undefined
        yield* items
      } else if (held?.behind !== undefined) held.behind.push(...items)
      else yield* items
    } else if (CHILDREN.has(record.kind) || NOTICES.has(record.kind)) {
      children.push(record)
    } else if (record.kind === 'lost') {
      if (held !== undefined) yield* leftovers(held)
      held = undefined
      yield* children
      children = []
      whole = false
      yield record
    } else if (held?.behind !== undefined) held.behind.push(record)
    else yield record
  }
  if (held !== undefined) yield* leftovers(held)
  yield* children
}

/** A group, behind the notices that came before it began. */
function* close(root: Root, children: readonly TraceRecord[], whole: boolean): Generator<Item> {
  const before = 'time' in root ? root.time : Number.POSITIVE_INFINITY
  const early = (child: TraceRecord) => NOTICES.has(child.kind) && 'time' in child && child.time < before
  yield* children.filter(early)
  yield { root, children: children.filter(child => !early(child)), whole }
}

/** Of a trap that was never answered. */
function* leftovers({ children, behind }: Held): Generator<Item> {
  yield* children
  yield* behind ?? []
}
