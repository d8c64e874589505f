// SPDX-License-Identifier: Apache-2.0
/** Rows of the trap log that are no longer in memory, read from the recording: on a thread of its own (recordedWorker.ts). */
import { CHILDREN, type Group, groups, isGroup } from '../trace/groups.ts'
import { TraceReader } from '../trace/reader.ts'
import { roots, type TraceRecord } from '../trace/records.ts'
import { warningsOf } from '../trace/warnings.ts'
import type { TrapDetail, TrapFilter, TrapRow } from './schemas/trace.ts'
import { detailOf, passes, rowOf } from './trapRows.ts'

/** A trap of which the row and the number are known; number 0: the beginning of the recording, and the row of its first group. */
export interface Anchor {
  readonly id: number
  readonly seq: number
}

/** Rows between two of them, which lie in one recording. */
export interface Window {
  /** Its file; of one in several, the first. */
  readonly path: string
  readonly from: Anchor
  /** null: to the end of what was recorded. */
  readonly to: Anchor | null
  /** Server's clock 0, ms since 1970. */
  readonly epoch: number | undefined
}

/** What is asked of a window. */
export type Wanted =
  | { readonly what: 'detail'; readonly id: number }
  | { readonly what: 'numbered'; readonly seq: number }
  /** Rows `first` to `last` − 1 that pass the filter; its text is not looked at. */
  | { readonly what: 'rows'; readonly first: number; readonly last: number; readonly filter: TrapFilter }

/** In the order of the rows. Of a PC no function is known here. */
export interface Found {
  readonly rows: readonly TrapRow[]
  /** Of a detail: the rest of it. */
  readonly detail?: Omit<TrapDetail, 'row'>
}

interface Numbered {
  readonly id: number
  readonly group: Group
}

/** More groups than these in a window are not read: translations may come between two traps without end. */
const MOST_GROUPS = 1 << 16

/** The groups of a window that was read last: whoever looks at one row looks at its neighbours. */
export class RecordedRows {
  #key = ''
  #groups: readonly Numbered[] = []
  #reader: TraceReader | undefined

  /** @throws Error when the recording does not have the window any more, or not as the log had it */
  find(window: Window, wanted: Wanted): Found {
    const key = JSON.stringify([window.path, window.from.id, window.to?.id])
    // What is recorded still has no end.
    if (key !== this.#key || window.to === null) {
      this.#key = ''
      this.#reader = TraceReader.open(window.path)
      this.#groups = read(this.#reader, window)
      this.#key = key
    }
    const warnings = this.#reader === undefined ? [] : warningsOf(this.#reader.header)
    const context = { warnings, epoch: window.epoch }
    const row = ({ id, group }: Numbered): TrapRow => rowOf(id, group, context)
    switch (wanted.what) {
      case 'numbered': {
        const found = this.#groups.findLast(({ group: { root } }) => root.kind === 'trap' && root.seq === wanted.seq)
        return { rows: found === undefined ? [] : [row(found)] }
      }
      case 'rows': {
        const rows: TrapRow[] = []
        for (const found of this.#groups) {
          if (found.id < wanted.first || found.id >= wanted.last) continue
          const made = row(found)
          if (passes(found.group.root, made, wanted.filter)) rows.push(made)
        }
        return { rows }
      }
      case 'detail': {
        const at = this.#groups.findIndex(({ id }) => id === wanted.id)
        const found = this.#groups[at]
        if (found === undefined) return { rows: [] }
        const { root } = found.group
        const isSame = ({ group: { root: other } }: Numbered) =>
          root.kind === 'trap' && other.kind === 'trap' && other.offset === root.offset && other.smmu === root.smmu
        const previous = this.#groups.slice(0, at).findLast(isSame)
        const following = this.#groups.slice(at + 1).find(isSame)
        const detail = {
          ...detailOf(found.group, warnings),
          ...(previous && { previous: row(previous) }),
          ...(following && { following: row(following) }),
        }
        return { rows: [row(found)], detail }
      }
    }
  }
}

/** @throws Error */
function read(reader: TraceReader, { from, to }: Window): Numbered[] {
  const found: Numbered[] = []
  const ids = new Map<TraceRecord, number>()
  let begun = from.seq === 0
  /** Of the next group; undefined: before the window. */
  let next = begun ? from.id : undefined
  let ended = false
  function* numbered(): Generator<TraceRecord> {
    const records = reader.records(({ lastSeq }) => {
      // The records in front of a trap are behind the one before.
      begun ||= lastSeq !== 0 && lastSeq >= from.seq - 1
      return begun
    })
    for (const record of records) {
      if (roots.has(record.kind)) {
        if (record.kind === 'trap' && record.seq === from.seq) next = from.id
        if (next !== undefined) {
          if (record.kind === 'trap' && record.seq === to?.seq) {
            ended = next === to.id
            return
          }
          if (to !== null && next >= to.id) return
          ids.set(record, next++)
        }
      }
      yield record
    }
  }
  for (const item of groups(numbered())) {
    if (!isGroup(item)) continue
    const id = ids.get(item.root)
    if (id === undefined) continue
    if (found.length === MOST_GROUPS) throw new Error('too much happened between two traps')
    const children = item.children.filter(({ kind }) => CHILDREN.has(kind))
    found.push({ id, group: { ...item, children } })
  }
  // Rows are counted: where records are missing, or a part was removed, it is not known which is which.
  if (to !== null && !ended) throw new Error('the recording does not have them any more')
  return found.sort((a, b) => a.id - b.id)
}
