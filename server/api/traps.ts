// SPDX-License-Identifier: Apache-2.0
/** Traps of the log in memory, as clients see them: rows, filters, and one group in full. */
import type { WarningTable } from '../policy/warnings.ts'
import { f64At, u32At } from '../trace/layout.ts'
import type { Source } from './feed.ts'
import type { KernelFunctions } from './kernelFunctions.ts'
import type { TrapDetail, TrapFilter, TrapRow } from './schemas/trace.ts'
import type { LogEntry, TrapLog } from './trapLog.ts'
import {
  detailOf,
  hasRegister,
  hasText,
  matches,
  NOT_SHOWN,
  plainRow,
  USUAL_KINDS,
  type VisitChild,
  withArguments,
} from './trapRows.ts'

/** Limit of rows that one read scans. */
export const SCAN = 20_000

/** Kernel functions by row and PC. */
type Functions = Pick<KernelFunctions, 'want' | 'name'>

export class Traps implements Source<TrapRow> {
  /** 200 ms: sending rows competes with the trap thread for the processors. */
  readonly pace = 4
  readonly #log: TrapLog
  readonly #functions: Functions
  /** What the ids of warnings stand for in a row. */
  readonly #table: (row: number) => WarningTable
  /** When a row's machine was started, ms since 1970. */
  readonly #epoch: (row: number) => number | undefined

  constructor(
    log: TrapLog,
    functions: Functions,
    warnings: (row: number) => WarningTable,
    epoch: (row: number) => number | undefined,
  ) {
    this.#epoch = epoch
    this.#log = log
    this.#table = warnings
    this.#functions = functions
  }

  subscribed(): void {
    this.#functions.want()
  }

  get oldest(): number {
    return this.#log.oldest
  }

  get next(): number {
    return this.#log.next
  }

  read(from: number, max: number, filter: unknown): { items: TrapRow[]; next: number } {
    const wanted = (filter ?? {}) as TrapFilter
    const items: TrapRow[] = []
    let id = Math.max(from, this.oldest)
    const end = Math.min(this.next, id + SCAN)
    const quick = quickFilter(wanted)
    for (; id < end && items.length < max; id++) {
      const entry = this.#log.entry(id)
      if (entry === undefined || !quick(entry)) continue
      const row = this.#matching(entry, wanted)
      if (row !== undefined) items.push(row)
    }
    return { items, next: id }
  }

  /** The last rows before `before` that match, oldest first. @returns from: the oldest row that was looked at */
  last(max: number, filter: TrapFilter, before = this.next): { items: TrapRow[]; from: number } {
    const items: TrapRow[] = []
    const quick = quickFilter(filter)
    const newest = Math.min(before, this.next)
    const end = Math.max(this.oldest, newest - SCAN)
    let id = newest
    while (id > end && items.length < max) {
      const entry = this.#log.entry(--id)
      if (entry === undefined || !quick(entry)) continue
      const row = this.#matching(entry, filter)
      if (row !== undefined) items.push(row)
    }
    return { items: items.reverse(), from: id }
  }

  /** The newest row of the trap with this number. Every trap has a row, so the distance in numbers is a lower bound of that in rows. */
  numbered(seq: number): TrapRow | undefined {
    for (let id = this.next - 1; id >= this.oldest; ) {
      const entry = this.#log.entry(id)
      const root = entry && this.#log.root(entry)
      if (entry !== undefined && root?.kind === 'trap') {
        if (root.seq === seq) return this.row(entry)
        if (root.seq < seq) return undefined
        id -= root.seq - seq
      } else id--
    }
    return undefined
  }

  row(entry: LogEntry): TrapRow {
    return this.#withArguments(this.#plain(entry))
  }

  /** What needs more decoding comes last. */
  #matching(entry: LogEntry, filter: TrapFilter): TrapRow | undefined {
    const plain = this.#plain(entry)
    if (!matches(plain, filter)) return undefined
    const row = this.#withArguments(plain)
    return hasText(row, filter.text) ? row : undefined
  }

  #plain(entry: LogEntry): TrapRow {
    const { id } = entry
    const each = (visit: VisitChild) =>
      this.#log.children(id, ({ name }, words, at) => {
        if (name === 'warning') visit(name, words[at + u32At.warning.id] ?? 0, 0)
        else if (name === 'command')
          visit(name, words[at + u32At.command.opcode] ?? 0, words[at + u32At.command.verdict] ?? 0)
        else visit(name, 0, 0)
      })
    return plainRow(id, this.#log.root(entry), each, {
      warnings: this.#table(id),
      epoch: this.#epoch(id),
      where: pc => this.#functions.name(id, pc),
    })
  }

  #withArguments(row: TrapRow): TrapRow {
    return withArguments(row, () => this.#log.group(row.id)?.children ?? [])
  }

  /** One group in full. */
  detail(id: number): TrapDetail | undefined {
    const entry = this.#log.entry(id)
    const group = this.#log.group(id)
    if (entry === undefined || group === undefined) return undefined
    const row = this.row(entry)
    return { row, ...detailOf(group, this.#table(id)), ...this.#neighbours(row) }
  }

  /** The accesses of the same register next to this one, and its value before. */
  #neighbours(row: TrapRow): Pick<TrapDetail, 'previous' | 'following'> {
    if (row.kind !== 'trap') return {}
    const same = (id: number): TrapRow | undefined => {
      const entry = this.#log.entry(id)
      if (entry?.layout.name !== 'trap' || entry.words[entry.at + u32At.trap.offset] !== row.offset) return undefined
      return entry.words[entry.at + u32At.trap.smmu] === row.smmu ? this.row(entry) : undefined
    }
    let previous: TrapRow | undefined
    for (let id = row.id - 1; id >= this.oldest && id > row.id - SCAN && !previous; id--) previous = same(id)
    let following: TrapRow | undefined
    for (let id = row.id + 1; id < this.next && id < row.id + SCAN && !following; id++) following = same(id)
    return { ...(previous && { previous }), ...(following && { following }) }
  }
}

/** The part of the filter that needs no decoding. */
function quickFilter(filter: TrapFilter): (entry: LogEntry) => boolean {
  const kinds = new Set<string>(filter.kinds ?? USUAL_KINDS)
  const registers = filter.registers?.map(name => name.toLowerCase())
  return ({ layout, words, doubles, at }) => {
    if (!kinds.has(layout.name)) return false
    if (layout.name === 'request' && NOT_SHOWN.has(words[at + u32At.request.request] ?? 0)) return false
    if (filter.from !== undefined || filter.to !== undefined) {
      if (layout.name !== 'trap' && layout.name !== 'reset') return false
      const time = doubles[(at >> 1) + f64At[layout.name].time] ?? 0
      if (time < (filter.from ?? 0) || time > (filter.to ?? Number.POSITIVE_INFINITY)) return false
    }
    if (layout.name !== 'trap') return registers === undefined && filter.access === undefined
    if (filter.access !== undefined && (words[at + u32At.trap.write] === 1) !== (filter.access === 'write'))
      return false
    if (filter.smmu !== undefined && words[at + u32At.trap.smmu] !== filter.smmu) return false
    if (filter.cpu !== undefined && words[at + u32At.trap.cpu] !== filter.cpu) return false
    if (filter.minUs !== undefined && (doubles[(at >> 1) + f64At.trap.duration] ?? 0) < filter.minUs * 1000)
      return false
    return hasRegister(words[at + u32At.trap.offset] ?? 0, registers)
  }
}
