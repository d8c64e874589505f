// SPDX-License-Identifier: Apache-2.0
/** What a recording tells as lists, as the API has them of a machine: events, warnings, pages, firings, console. Each item has its decision. */
import type { Numbered, Source } from '../api/feed.ts'
import { historyItem, powerItem } from '../api/historyItems.ts'
import type { FiringItem } from '../api/schemas/faults.ts'
import type { Phase, RatePoint } from '../api/schemas/lifecycle.ts'
import type { PageItem } from '../api/schemas/pages.ts'
import type { ConsoleItem } from '../api/schemas/subscriptions.ts'
import type { EventItem, WarningItem } from '../api/schemas/trace.ts'
import { type GuestEvent, parseGuestEvent } from '../machine/guestEvents.ts'
import type { WarningTable } from '../policy/warnings.ts'
import { ARM_SMMU_CR0, CR0_SMMUEN } from '../smmu/registers.ts'
import type { TraceHeader } from '../trace/format.ts'
import type { Group } from '../trace/groups.ts'
import { FAULT_ACTIONS, type RecordOf, type TraceRecord } from '../trace/records.ts'
import type { Moment } from './moment.ts'

/** Items of each list. */
const MOST_ITEMS = 50_000
/** Console, characters. */
const MOST_CONSOLE = 16 << 20
/** The trend has a point so often, ms. */
const RATE_MS = 500
const MOST_RATES = 20_000

/** Something that is so from a decision on. */
interface From<T> {
  readonly row: number
  readonly what: T
}

/** Items of one kind, each with the row of the log that it belongs to. */
export class Rows<T extends Numbered> implements Source<T> {
  readonly #items: T[] = []
  readonly #rows: number[] = []
  readonly #row: () => number

  /** @param row up to which items are seen */
  constructor(row: () => number) {
    this.#row = row
  }

  push(row: number, item: Omit<T, 'id'>): void {
    if (this.#items.length >= MOST_ITEMS) return
    this.#items.push({ id: this.#items.length + 1, ...item } as unknown as T)
    this.#rows.push(row)
  }

  readonly oldest = 1

  /** Those of decisions up to now. */
  get next(): number {
    const row = this.#row()
    let [low, high] = [0, this.#rows.length]
    while (low < high) {
      const middle = (low + high) >> 1
      if ((this.#rows[middle] ?? 0) <= row) low = middle + 1
      else high = middle
    }
    return low + 1
  }

  get all(): readonly T[] {
    return this.#items
  }

  read(from: number, max: number): { items: T[]; next: number } {
    const start = Math.max(1, from)
    const items = this.#items.slice(start - 1, Math.min(this.next - 1, start - 1 + max))
    return { items, next: start + items.length }
  }
}

/** ms since 1970 as text; a recording may claim any. */
const isoOf = (ms: number): string => new Date(Math.abs(ms) <= 8.64e15 ? ms : 0).toISOString()

export class Told {
  readonly events: Rows<EventItem>
  readonly warnings: Rows<WarningItem>
  readonly pages: Rows<PageItem>
  readonly firings: Rows<FiringItem>
  readonly console: Rows<ConsoleItem>
  readonly rates: RatePoint[] = []
  /** Events as they were recorded. */
  readonly reported: From<RecordOf<'event'>>[] = []
  /** What the guest said of its workload. */
  readonly guest: From<GuestEvent>[] = []
  readonly #phases: From<Phase>[] = []
  readonly #header: TraceHeader
  readonly #table: WarningTable
  readonly #fired = new Map<string, number>()
  #consoleLength = 0
  /** Guest time of the last decision that has one, ns. */
  #time = 0
  #rated = { at: 0, traps: 0 }

  /** @param table of hyp warnings @param row of the moment: up to which items are seen */
  constructor(header: TraceHeader, table: WarningTable, row: () => number) {
    this.#header = header
    this.#table = table
    this.events = new Rows(row)
    this.warnings = new Rows(row)
    this.pages = new Rows(row)
    this.firings = new Rows(row)
    this.console = new Rows(row)
  }

  /** A decision begins, before what belongs to it is listed. */
  begin(root: Group['root']): void {
    if ('time' in root && root.kind !== 'translate') this.#time = root.time
  }

  /** @param now before the decision that the record belongs to */
  record(record: TraceRecord, row: number, now: Moment): void {
    const at = this.#at('start' in record ? record.start : now.start)
    const found = historyItem(record, { at, time: this.#time, row, warnings: this.#table })
    if (found?.feed === 'warnings') this.warnings.push(row, found.item)
    else if (found?.feed === 'events') this.events.push(row, found.item)
    else if (found?.feed === 'pages') this.pages.push(row, found.item)
    if (record.kind === 'console') this.#line(record.text, row)
    if (record.kind === 'event' && this.reported.length < MOST_ITEMS) this.reported.push({ row, what: record })
    if (record.kind !== 'fault') return
    const given = this.#header.faults?.rules[record.rule - 1] as { readonly name?: unknown } | undefined
    const rule = typeof given?.name === 'string' ? given.name : `rule ${record.rule}`
    const n = (this.#fired.get(rule) ?? 0) + 1
    this.#fired.set(rule, n)
    const what = FAULT_ACTIONS[record.action] ?? String(record.action)
    this.firings.push(row, { at, rule, n, trap: now.trap + 1, time: this.#time, what })
  }

  /** A decision is over. @param now after it */
  decided(root: Group['root'], row: number, now: Moment): void {
    const at = this.#at('start' in root ? root.start : now.start)
    // The first reset is that of the start.
    if (root.kind === 'reset' && row > 1)
      this.events.push(row, { at, time: root.time, kind: 'reset', name: 'reset', text: 'machine reset' })
    const power = powerItem(root, at, this.#time)
    if (power !== undefined) this.events.push(row, power)
    if (root.kind === 'reset') this.#phases.push({ row, what: 'qemu' })
    if (root.kind === 'trap' && root.write === 1 && root.offset === ARM_SMMU_CR0 && (root.lo & CR0_SMMUEN) !== 0)
      this.#phases.push({ row, what: 'smmu' })
    this.#rate(now)
  }

  /** How far the guest had come. */
  phase(at: number): Phase {
    return this.#phases.findLast(({ row }) => row <= at)?.what ?? 'qemu'
  }

  get consoleText(): string {
    const { items } = this.console.read(1, Number.POSITIVE_INFINITY)
    return items.map(({ text }) => text).join('')
  }

  /** @param start of the server's clock, ns since the start of the run */
  #at(start: number): string {
    return isoOf(this.#header.epoch + start / 1e6)
  }

  #line(text: string, row: number): void {
    if (this.#phases.length === 0) this.#phases.push({ row, what: 'kernel' })
    this.#consoleLength += text.length
    if (this.#consoleLength <= MOST_CONSOLE) this.console.push(row, { text: `${text}\n` })
    const event = parseGuestEvent(text)
    if (event === undefined || this.guest.length >= MOST_ITEMS) return
    this.guest.push({ row, what: event })
    if (event.event === 'userspace' || event.event === 'done') this.#phases.push({ row, what: event.event })
  }

  #rate({ start, counters }: Moment): void {
    const at = start / 1e6
    if (at - this.#rated.at < RATE_MS || this.rates.length >= MOST_RATES) return
    const traps = counters.get('reads') + counters.get('writes')
    const rate = ((traps - this.#rated.traps) / (at - this.#rated.at)) * 1000
    this.rates.push({ run: 1, at: this.#header.epoch + at, rate })
    this.#rated = { at, traps }
  }
}
