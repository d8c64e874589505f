// SPDX-License-Identifier: Apache-2.0
import { CHILDREN, type Group, type Root } from '../trace/groups.ts'
import { decodeRecord, f64At, type Layout, layoutAt, type RecordViews, sizeAt, u32At } from '../trace/layout.ts'
import type { Sink } from '../trace/pump.ts'
import { roots, type TraceRecord } from '../trace/records.ts'
import type { RingReader } from '../trace/ring.ts'

/** Words of a segment; a group lies in one segment. */
export const SEGMENT_WORDS = 1 << 20
/** Groups of a segment. */
const SEGMENT_GROUPS = 1 << 15
/** Segments kept: 48 MiB, a hundred thousand traps and more. */
const SEGMENTS = 12
/** Words that are kept of one group; what a reset writes to build its tables is more. */
const GROUP_WORDS = 1 << 15

interface Segment extends RecordViews {
  /** Id of the first group. */
  readonly first: number
  /** Word where each group starts; the root is its last record. */
  readonly starts: Uint32Array
  /** Where each group's root is. */
  readonly roots: Uint32Array
  groups: number
  used: number
}

/** A group as it lies in the log, without decoding it. */
export interface LogEntry {
  readonly id: number
  /** Word index of the root in `words` and `doubles`. */
  readonly at: number
  readonly layout: Layout
  readonly words: Uint32Array
  readonly doubles: Float64Array
}

/**
 * The last decisions of the trap thread, as the ring had them: copied word by word and decoded on demand.
 * Ids count all groups since the server started, so that a client can go on where it was.
 */
export class TrapLog implements Sink {
  readonly ready = true
  readonly #most: number
  readonly #groupWords: number
  /** Called with every record that is no part of a group, with warnings and with pages that change hands. */
  onRecord: ((record: TraceRecord) => void) | undefined
  /** Called for each finished group. */
  onGroup: ((entry: LogEntry) => void) | undefined
  onFlush: (() => void) | undefined
  readonly #segments: Segment[] = []
  #next = 1
  /** Start of the group being collected, in the last segment. */
  #start = 0
  /** What was done for a trap before a breakpoint stopped it: until its root comes, requests may. */
  #held: { readonly seq: number; readonly words: Uint32Array } | undefined

  /** @param most segments that are kept @param groupWords kept of one group, fewer than a segment has */
  constructor(most = SEGMENTS, groupWords = GROUP_WORDS) {
    this.#most = most
    this.#groupWords = groupWords
  }

  /** Segments that are in use. */
  get segments(): number {
    return this.#segments.length
  }

  /** Id that the next group gets. */
  get next(): number {
    return this.#next
  }

  /** Id of the oldest group that is still there. */
  get oldest(): number {
    return this.#segments[0]?.first ?? this.#next
  }

  fromRing(reader: Pick<RingReader, 'words' | 'decode'>, layout: Layout, at: number): void {
    const root = roots.has(layout.name)
    if (layout.name === 'lost') this.#forget()
    if (!root && !CHILDREN.has(layout.name)) return this.onRecord?.(reader.decode(layout, at))
    if (layout.name === 'trap') this.#goOn(reader.words[at + u32At.trap.seq] ?? 0)
    const size = sizeAt(reader.words, at)
    const segment = this.#room(size)
    const to = segment.used
    // The most telling part of a long group is its beginning and its root.
    if (root || to - this.#start + size <= this.#groupWords) {
      segment.words.set(reader.words.subarray(at, at + size), to)
      segment.used += size
    }
    if (!root) {
      if (layout.name === 'warning' || layout.name === 'pages') this.onRecord?.(reader.decode(layout, at))
      if (layout.name === 'breakpoint') this.#hold(reader.words[at + u32At.breakpoint.seq] ?? 0)
      return
    }
    segment.starts[segment.groups] = this.#start
    segment.roots[segment.groups] = to
    segment.groups++
    this.#start = segment.used
    const id = this.#next++
    this.onGroup?.({ id, at: to, layout, words: segment.words, doubles: segment.doubles })
  }

  /** Words of the group being collected, taken out of the log. */
  #taken(): Uint32Array {
    const segment = this.#segments.at(-1)
    if (segment === undefined) return new Uint32Array()
    const words = segment.words.slice(this.#start, segment.used)
    segment.used = this.#start
    return words
  }

  /** Records are missing: what there is of a group is no group. */
  #forget(): void {
    this.#taken()
    this.#held = undefined
  }

  #hold(seq: number): void {
    if (this.#held?.seq === seq) this.#goOn(seq)
    this.#held = { seq, words: this.#taken() }
  }

  /** The rest of a held trap comes: what was done for it before stands in front. */
  #goOn(seq: number): void {
    const held = this.#held
    if (held === undefined) return
    this.#held = undefined
    if (held.seq !== seq) return
    const rest = this.#taken()
    const segment = this.#room(held.words.length + rest.length)
    segment.words.set(held.words, segment.used)
    segment.words.set(rest, segment.used + held.words.length)
    segment.used += held.words.length + rest.length
  }

  record(record: TraceRecord): void {
    this.onRecord?.(record)
  }

  flush(): void {
    this.onFlush?.()
  }

  entry(id: number): LogEntry | undefined {
    const segment = this.#segmentOf(id)
    if (segment === undefined) return undefined
    const at = segment.roots[id - segment.first] ?? 0
    const layout = layoutAt(segment.words, at)
    return layout && { id, at, layout, words: segment.words, doubles: segment.doubles }
  }

  /** The root alone. */
  root(entry: LogEntry): Root {
    const segment = this.#segmentOf(entry.id)
    if (segment === undefined) throw new Error(`group ${entry.id} is gone`)
    return decodeRecord(segment, entry.layout, entry.at) as Root
  }

  group(id: number): Group | undefined {
    const segment = this.#segmentOf(id)
    if (segment === undefined) return undefined
    const records: TraceRecord[] = []
    let at = segment.starts[id - segment.first] ?? 0
    const root = segment.roots[id - segment.first] ?? 0
    while (at <= root) {
      const layout = layoutAt(segment.words, at)
      if (layout !== undefined) records.push(decodeRecord(segment, layout, at))
      at += sizeAt(segment.words, at)
    }
    const last = records.pop()
    return last && { root: last as Root, children: records, whole: true }
  }

  /** Calls `visit` with kind and place of each child of a group. */
  children(id: number, visit: (layout: Layout, words: Uint32Array, at: number) => void): void {
    const segment = this.#segmentOf(id)
    if (segment === undefined) return
    const root = segment.roots[id - segment.first] ?? 0
    for (let at = segment.starts[id - segment.first] ?? 0; at < root; ) {
      const layout = layoutAt(segment.words, at)
      if (layout !== undefined) visit(layout, segment.words, at)
      at += sizeAt(segment.words, at)
    }
  }

  /** Calls `visit` with each trap from group `from` on: its id, and guest time in ns. Nothing is decoded or allocated. */
  eachTrap(from: number, visit: (id: number, time: number) => void): void {
    for (const { first, groups, roots: at, words, doubles } of this.#segments) {
      for (let i = Math.max(0, from - first); i < groups; i++) {
        const root = at[i] ?? 0
        if (layoutAt(words, root)?.name === 'trap') visit(first + i, doubles[(root >> 1) + f64At.trap.time] ?? 0)
      }
    }
  }

  #segmentOf(id: number): Segment | undefined {
    if (!Number.isInteger(id) || id < this.oldest || id >= this.#next) return undefined
    return this.#segments.findLast(({ first }) => first <= id)
  }

  /** The last segment, or a new one that begins with what there is of the group being collected. */
  #room(size: number): Segment {
    const last = this.#segments.at(-1)
    if (last !== undefined && last.used + size <= SEGMENT_WORDS && last.groups < SEGMENT_GROUPS) return last
    const recycled = this.#segments.length >= this.#most ? this.#segments.shift() : undefined
    const words = recycled?.words ?? new Uint32Array(SEGMENT_WORDS)
    const segment: Segment = {
      first: this.#next,
      words,
      doubles: new Float64Array(words.buffer),
      bytes: new Uint8Array(words.buffer),
      starts: recycled?.starts ?? new Uint32Array(SEGMENT_GROUPS),
      roots: recycled?.roots ?? new Uint32Array(SEGMENT_GROUPS),
      groups: 0,
      used: 0,
    }
    if (last !== undefined) {
      words.set(last.words.subarray(this.#start, last.used))
      segment.used = last.used - this.#start
    }
    this.#start = 0
    this.#segments.push(segment)
    return segment
  }
}
