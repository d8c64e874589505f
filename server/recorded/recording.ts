// SPDX-License-Identifier: Apache-2.0
/**
 * A recording behind the routes and streams of the API, at any of its moments, read-only: the views of the dashboard do not differ. Made
 * for a browser, so that what a recording may do to its reader stays in one of its tabs; nothing of it is trusted.
 */
import { countersView } from '../api/countersView.ts'
import type { Numbered, Source } from '../api/feed.ts'
import { historyItem, marks, powerItem } from '../api/historyItems.ts'
import { Inspection } from '../api/inspection.ts'
import { Problem } from '../api/problem.ts'
import { pageHandlers } from '../api/routes/pages.ts'
import { smmuHandlers } from '../api/routes/smmus.ts'
import { traceHandlers } from '../api/routes/trace.ts'
import type { Answer, Input, RouteName } from '../api/schemas/contract.ts'
import type { FiringItem } from '../api/schemas/faults.ts'
import type { CountersView, Info, MachineStatus, Phase, RatePoint } from '../api/schemas/lifecycle.ts'
import type { PageItem } from '../api/schemas/pages.ts'
import type { ConsoleItem, StreamItems, StreamName } from '../api/schemas/subscriptions.ts'
import type { EventItem, TrapFilter, WarningItem } from '../api/schemas/trace.ts'
import { timeline } from '../api/timeline.ts'
import { SEGMENT_WORDS, TrapLog } from '../api/trapLog.ts'
import { Traps } from '../api/traps.ts'
import { Verdicts } from '../api/verdicts.ts'
import { type GuestEvent, parseGuestEvent } from '../machine/guestEvents.ts'
import { machineFault } from '../policy/machineFault.ts'
import { OperationError } from '../policy/operationError.ts'
import { NO_WARNINGS, type WarningTable } from '../policy/warnings.ts'
import { type AttackReport, AttackTable } from '../run/attackTable.ts'
import { hex } from '../smmu/bits.ts'
import { decodeEvent, describeEvent, eventName } from '../smmu/events.ts'
import { COMMAND_NAMES, EVENT_NAMES } from '../smmu/names.ts'
import { ARM_SMMU_CR0, CR0_SMMUEN, REGISTERS } from '../smmu/registers.ts'
import type { TraceHeader } from '../trace/format.ts'
import { type Group, groups, type Item, isGroup } from '../trace/groups.ts'
import { decodeRecord, type Layout, type RecordViews, sizeAt } from '../trace/layout.ts'
import { TraceReader } from '../trace/reader.ts'
import { recordedOptions } from '../trace/recordedOptions.ts'
import { FAULT_ACTIONS, type RecordOf, type TraceRecord } from '../trace/records.ts'
import { putRecord } from '../trace/recordWords.ts'
import { Replay } from '../trace/replay.ts'
import type { LongWrites, View } from '../trace/shown.ts'
import type { Operations, RegisterValue } from '../trap/operations.ts'
import { atMost } from '../trap/ownershipRanges.ts'
import { Moment } from './moment.ts'
import { POLICIES } from './policies.ts'

/** Segments of the log, 4 MiB each: about a million traps. What comes behind is left out, and said. */
const MOST_SEGMENTS = 64
/** Words of the longest record that is taken, and of the longest group. */
const RECORD_WORDS = 1 << 15
const GROUP_WORDS = SEGMENT_WORDS - RECORD_WORDS
/** RAM of a machine whose policy decides again, bytes: it keeps something for each page. */
const MOST_RAM = 2 ** 36
/** Of what the policy makes again, bytes. */
const MOST_LONG = 64 << 20
/** Moments that are kept to go on from. */
const MOST_KEPT = 24
/** Items of each list. */
const MOST_ITEMS = 50_000
/** Console, characters. */
const MOST_CONSOLE = 16 << 20
/** Time between two looks at the page, ms. */
const SLICE_MS = 12
/** The trend has a point so often, ms. */
const RATE_MS = 500
const MOST_RATES = 20_000
/** Events that the event queue shows. */
const SHOWN_EVENTS = 256
const GUEST_EVENTS: ReadonlySet<string> = new Set(['attack', 'pvm', 'storm'])

/** A file, and what whoever gave it knows besides. */
export interface RecordedFile {
  readonly name: string
  /** Not compressed. */
  readonly bytes: Uint8Array
  /** Kernel functions by PC, as `0x…`. */
  readonly functions?: Readonly<Record<string, string>>
  /** What is not in the file although it was in the recording, in words. */
  readonly cut?: string
}

/** Items of one kind, each with the row of the log that it belongs to. */
class Rows<T extends Numbered> implements Source<T> {
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

export class Recording {
  readonly file: RecordedFile
  readonly header: TraceHeader
  /** What is wrong with the recording or left out of what is shown, in sentences. */
  readonly problems: string[] = []
  readonly #reader: TraceReader
  readonly #warnings: WarningTable
  readonly #log = new TrapLog(MOST_SEGMENTS + 1, GROUP_WORDS)
  readonly #traps: Traps
  readonly #events = new Rows<EventItem>(() => this.row)
  readonly #warned = new Rows<WarningItem>(() => this.row)
  readonly #pages = new Rows<PageItem>(() => this.row)
  readonly #firings = new Rows<FiringItem>(() => this.row)
  readonly #console = new Rows<ConsoleItem>(() => this.row)
  readonly #phases: { readonly row: number; readonly phase: Phase }[] = []
  readonly #guest: { readonly row: number; readonly event: GuestEvent }[] = []
  readonly #rates: RatePoint[] = []
  /** Records that stand for themselves, by the row behind them. */
  readonly #notes = new Map<number, TraceRecord[]>()
  /** Events as they were recorded, with the row. */
  readonly #reported: { readonly row: number; readonly record: RecordOf<'event'> }[] = []
  /** The moments behind decisions that are too long for the log, such as a reset that builds all tables. */
  readonly #behind = new Map<number, Moment>()
  /** Rows of which records are missing. */
  readonly #broken = new Set<number>()
  readonly #long = new Map<number, LongWrites>()
  #longBytes = 0
  readonly #kept: Moment[] = []
  #every = 1 << 10
  #now: Moment
  #last: Moment | undefined
  readonly #fired = new Map<string, number>()
  #consoleLength = 0
  #lost = 0
  /** Words of the group that goes into the log. */
  #words = 0
  #time = 0
  #verdicts: { readonly row: number; readonly of: Verdicts } | undefined
  readonly #replay: Replay | undefined
  #replayProblem: string | undefined
  readonly #scratch: RecordViews & { decode(layout: Layout, at: number): TraceRecord }
  readonly #handlers: Readonly<Record<string, (request: never) => unknown>>

  private constructor(file: RecordedFile) {
    this.file = file
    this.#reader = TraceReader.of(file.name, file.bytes)
    this.header = this.#reader.header
    const { machine } = this.header
    const fault = machineFault(machine)
    if (fault !== undefined) throw new Error(`${file.name}: the machine that it describes: ${fault}`)
    const policy = POLICIES.get(this.header.policy)
    this.#warnings = this.header.warnings ?? POLICIES.get('pkvm')?.description.warnings ?? NO_WARNINGS
    if (policy === undefined) this.#replayProblem = `it was recorded with a policy of its own, "${this.header.policy}"`
    const large = machine.ram.reduce((sum, { size }) => sum + size, 0) > MOST_RAM
    if (large) this.#replayProblem = `the machine has more than ${MOST_RAM / 2 ** 30} GiB of RAM`
    this.#replay =
      large || policy === undefined
        ? undefined
        : new Replay(machine, policy.factory, recordedOptions(this.header), { warnings: this.#warnings })
    this.#now = new Moment(machine)
    const buffer = new ArrayBuffer(RECORD_WORDS * 4)
    const views = {
      words: new Uint32Array(buffer),
      doubles: new Float64Array(buffer),
      bytes: new Uint8Array(buffer),
    }
    this.#scratch = { ...views, decode: (layout, at) => decodeRecord(views, layout, at) }
    const { functions = {}, cut } = file
    if (cut !== undefined) this.problems.push(cut)
    const names = { want() {}, name: (_row: number, pc: bigint) => own(functions, hex(pc)) }
    this.#traps = new Traps(
      this.#log,
      names,
      () => this.#warnings,
      () => this.header.epoch,
    )
    this.#handlers = this.#routes()
  }

  /**
   * Reads a recording, and lets the page live meanwhile.
   * @param progress told how many decisions were read
   * @throws Error when it is no recording
   */
  static async read(file: RecordedFile, progress: (rows: number) => void = () => {}): Promise<Recording> {
    const recording = new Recording(file)
    let since = performance.now()
    for (const item of groups(recording.#reader.records())) {
      if (!recording.#take(item)) break
      if (performance.now() - since < SLICE_MS) continue
      progress(recording.rows)
      await new Promise(resolve => setTimeout(resolve))
      since = performance.now()
    }
    recording.#end()
    return recording
  }

  /** Decisions that it has. */
  get rows(): number {
    return this.#log.next - 1
  }

  /** The moment: after this decision; 0: before the first. */
  get row(): number {
    return this.#now.row
  }

  /** Traps there are, for words. */
  get moment(): { readonly row: number; readonly trap: number; readonly time: number; readonly at: number } {
    const { row, trap, time, start } = this.#now
    return { row, trap, time, at: this.header.epoch + start / 1e6 }
  }

  /** Goes to the moment after decision `row`. */
  seek(row: number): void {
    const wanted = Math.min(Math.max(0, Math.floor(row)), this.rows)
    if (wanted < this.#now.row) {
      const from = this.#kept.findLast(kept => kept.row <= wanted)
      this.#now = new Moment(this.header.machine, from)
    } else {
      const nearer = this.#kept.findLast(kept => kept.row <= wanted)
      if (nearer !== undefined && nearer.row > this.#now.row) this.#now = new Moment(this.header.machine, nearer)
    }
    while (this.#now.row < wanted) {
      const next = this.#now.row + 1
      const behind = this.#behind.get(next)
      const group = this.#log.group(next)
      if (behind !== undefined) this.#now = new Moment(this.header.machine, behind)
      else if (group === undefined) break
      else this.#apply(this.#now, { ...group, whole: !this.#broken.has(next) }, next)
    }
  }

  #apply(moment: Moment, group: Group, row: number): void {
    for (const note of this.#notes.get(row) ?? []) moment.note(note)
    moment.take(group, this.#long.get(row) ?? NONE)
  }

  /** The last decision after which the first SMMU was on, or the last there is: what to look at first. */
  get best(): number {
    return this.#lastOn > 0 ? this.#lastOn : this.rows
  }

  #lastOn = 0

  /** @returns false: there is no room for more */
  #take(item: Item): boolean {
    if (this.#log.segments > MOST_SEGMENTS) {
      this.problems.push(`too long to be shown as a whole: it is cut off behind ${this.rows} decisions`)
      return false
    }
    const row = this.#log.next
    if (!isGroup(item)) {
      this.#note(item, row)
      return true
    }
    const { root } = item
    if ('time' in root && root.kind !== 'translate') this.#time = root.time
    const again = this.#again(item)
    if (again !== undefined) this.#long.set(row, again)
    this.#words = 0
    let long = false
    for (const child of item.children) {
      if (child.kind === 'event' || child.kind === 'gerror' || child.kind === 'guardFault') this.#note(child, row)
      else {
        this.#list(child, row)
        if (!this.#logged(child)) long = true
      }
    }
    if (!this.#logged(root) && this.#log.next === row) return true
    const kept = long && this.#behind.size < MOST_KEPT
    const whole = item.whole && (!long || kept)
    if (!whole) this.#broken.add(row)
    if (root.kind === 'reset' && row > 1) {
      const at = isoOf(this.header.epoch + root.start / 1e6)
      this.#events.push(row, { at, time: root.time, kind: 'reset', name: 'reset', text: 'machine reset' })
    }
    const power = powerItem(root, isoOf(this.header.epoch + ('start' in root ? root.start : 0) / 1e6), this.#time)
    if (power !== undefined) this.#events.push(row, power)
    this.#apply(this.#now, { ...item, children: item.children.filter(({ kind }) => !NOTED.has(kind)), whole }, row)
    if (kept) this.#behind.set(row, new Moment(this.header.machine, this.#now))
    this.#follow(root, row)
    return true
  }

  /** Into the log. @returns false: it is too long for a record of ours, and left out */
  #logged(record: TraceRecord): boolean {
    const layout = putRecord(this.#scratch, 0, record)
    if (layout === undefined) return false
    this.#words += sizeAt(this.#scratch.words, 0)
    this.#log.fromRing(this.#scratch, layout, 0)
    return this.#words <= GROUP_WORDS
  }

  #note(record: TraceRecord, row: number): void {
    this.#list(record, row)
    switch (record.kind) {
      case 'console':
        return this.#line(record.text, row)
      case 'event':
        if (this.#reported.length < MOST_ITEMS) this.#reported.push({ row, record })
        break
      case 'lost':
        this.#lost += record.count
        break
      case 'machine':
      case 'control':
        return
    }
    const notes = this.#notes.get(row)
    if (notes === undefined) this.#notes.set(row, [record])
    else notes.push(record)
  }

  #list(record: TraceRecord, row: number): void {
    const at = isoOf(this.header.epoch + ('start' in record ? record.start : this.#now.start) / 1e6)
    const found = historyItem(record, { at, time: this.#time, row, warnings: this.#warnings })
    if (found?.feed === 'warnings') this.#warned.push(row, found.item)
    else if (found?.feed === 'events') this.#events.push(row, found.item)
    else if (found?.feed === 'pages') this.#pages.push(row, found.item)
    if (record.kind !== 'fault') return
    const given = this.header.faults?.rules[record.rule - 1] as { readonly name?: unknown } | undefined
    const rule = typeof given?.name === 'string' ? given.name : `rule ${record.rule}`
    const n = (this.#fired.get(rule) ?? 0) + 1
    this.#fired.set(rule, n)
    const what = FAULT_ACTIONS[record.action] ?? String(record.action)
    this.#firings.push(row, { at, rule, n, trap: this.#now.trap + 1, time: this.#time, what })
  }

  #line(text: string, row: number): void {
    if (this.#phases.length === 0) this.#phases.push({ row, phase: 'kernel' })
    this.#consoleLength += text.length
    if (this.#consoleLength <= MOST_CONSOLE) this.#console.push(row, { text: `${text}\n` })
    const event = parseGuestEvent(text)
    if (event === undefined || this.#guest.length >= MOST_ITEMS) return
    this.#guest.push({ row, event })
    if (event.event === 'userspace' || event.event === 'done') this.#phases.push({ row, phase: event.event })
  }

  /** What long writes had in them: the policy makes them again. */
  #again(group: Group): LongWrites | undefined {
    if (this.#replay === undefined || this.#replayProblem !== undefined) return undefined
    try {
      for (const _ of this.#replay.run([group]));
      const { longWrites } = this.#replay
      if (longWrites.size === 0) return undefined
      for (const bytes of longWrites.values()) this.#longBytes += bytes.length
      if (this.#longBytes <= MOST_LONG) return new Map(longWrites)
      this.#replayProblem = `it is more than ${MOST_LONG >> 20} MiB`
    } catch (error) {
      this.#replayProblem = (error as Error).message
    }
    return undefined
  }

  #follow(root: Group['root'], row: number): void {
    const now = this.#now
    if (root.kind === 'reset') this.#phases.push({ row, phase: 'qemu' })
    if (root.kind === 'trap' && root.write === 1 && root.offset === ARM_SMMU_CR0 && (root.lo & CR0_SMMUEN) !== 0)
      this.#phases.push({ row, phase: 'smmu' })
    if (((now.shown.register('hardware', 0, ARM_SMMU_CR0) ?? 0) & CR0_SMMUEN) !== 0) this.#lastOn = row
    this.#rate()
    if (row % this.#every !== 0) return
    this.#kept.push(new Moment(this.header.machine, now))
    if (this.#kept.length < MOST_KEPT) return
    this.#every *= 2
    const left = this.#kept.filter(kept => kept.row % this.#every === 0)
    this.#kept.splice(0, this.#kept.length, ...left)
  }

  #rated = { at: 0, traps: 0 }

  #rate(): void {
    const at = this.#now.start / 1e6
    if (at - this.#rated.at < RATE_MS || this.#rates.length >= MOST_RATES) return
    const { counters } = this.#now
    const traps = counters.get('reads') + counters.get('writes')
    const rate = ((traps - this.#rated.traps) / (at - this.#rated.at)) * 1000
    this.#rates.push({ run: 1, at: this.header.epoch + at, rate })
    this.#rated = { at, traps }
  }

  #end(): void {
    const damaged = this.#reader.problems.map(({ offset, message }) => `byte ${offset}: ${message}`)
    this.problems.push(...damaged.slice(0, 20))
    if (damaged.length > 20) this.problems.push(`and ${damaged.length - 20} places more`)
    if (this.#replayProblem !== undefined)
      this.problems.push(`some of what the hypervisor wrote is not known: ${this.#replayProblem}`)
    if (this.#lost > 0) this.problems.push(`${this.#lost} records are missing`)
    this.#last = new Moment(this.header.machine, this.#now)
    this.seek(this.best)
  }

  // Routes.

  /** @throws Problem */
  async call<K extends RouteName>(route: K, input?: Input<K>): Promise<Answer<K>> {
    const handler = this.#handlers[route]
    if (handler === undefined) throw new Problem(409, 'this is a recording: there is no machine to do that with')
    this.#now.shown.memory.missing = undefined
    return (await handler({ params: {}, query: {}, body: undefined, ...input } as never)) as Answer<K>
  }

  #routes(): Readonly<Record<string, (request: never) => unknown>> {
    const { machine } = this.header
    // The moment changes, and what is asked of it with it.
    const memory = {
      ram: machine.ram,
      read: (address: number, target: Uint8Array, offset: number, length: number) =>
        this.#now.shown.memory.read(address, target, offset, length),
      write: () => false,
    }
    const shown = Object.defineProperty(memory, 'missing', { get: () => this.#now.shown.memory.missing })
    const verdicts = {
      host: (smmu: number, index: number) => this.#verdictsNow().host(smmu, index),
      shadow: (smmu: number, index: number) => this.#verdictsNow().shadow(smmu, index),
    }
    const inspection = new Inspection({ call: this.#asked() }, machine, shown, verdicts, () => {})
    const {
      'POST /memory/donate': _d,
      'POST /memory/reclaim': _r,
      ...pages
    } = pageHandlers({
      inspection,
      attacks: { report: () => this.attacks() },
    })
    const { 'POST /smmus/:smmu/power': _p, ...smmus } = smmuHandlers({ inspection, status: () => this.status() })
    return {
      ...smmus,
      ...pages,
      ...traceHandlers({
        history: {
          traps: this.#traps,
          events: this.#events,
          warnings: this.#warned,
          timeline: query =>
            timeline(this.#log, 1, marks(this.#log, this.#events.all, this.#warned.all, this.#firings.all), query),
        },
        recordedSegments: async () => [],
      }),
      'GET /smmus/:smmu/queues': async (request: Parameters<(typeof smmus)['GET /smmus/:smmu/queues']>[0]) => {
        const queues = await smmus['GET /smmus/:smmu/queues'](request)
        return { ...queues, events: { ...queues.events, shown: this.#eventQueue(request.params.smmu) } }
      },
      'GET /info': () => this.info(),
      'GET /machine': () => this.status(),
      'GET /machine/rates': () => ({ points: this.#rates.filter(({ at }) => at <= this.moment.at) }),
      'GET /machine/console': () => ({ text: this.#consoleText(), next: this.#console.next }),
      'GET /counters': () => this.counters(),
    } as Readonly<Record<string, (request: never) => unknown>>
  }

  /** What a trap thread is asked for by an inspection. */
  #asked(): ConstructorParameters<typeof Inspection>[0]['call'] {
    const answers: Partial<Operations> = {
      registers: (smmu, view, offsets) => offsets.map(offset => this.#register(smmu, view, offset)),
      ownership: (from, to, limit) => {
        const { policy, policyOptions } = this.header
        const keeps = POLICIES.get(policy)?.description.facilities(recordedOptions({ policyOptions }))
        if (policy === 'partition' || keeps?.includes('ownership') === false)
          throw new OperationError('state', `policy ${policy}: the recording does not tell whose pages are`)
        return atMost(this.#now.owners.ranges(from, to), from, to, limit)
      },
      powerState: smmu => {
        if (this.header.policyOptions.power === undefined)
          throw new OperationError('state', 'its SMMUs were not to be switched off')
        return this.#now.power[smmu] ?? null
      },
      hostStage2: () => null,
      el2: () => {
        const { el2 } = this.#now
        return el2 && { ...el2, checks: 0, agreement: null, problem: "a recording does not have EL2's own tables" }
      },
      oracle: () => null,
    }
    return (async (operation: keyof Operations, ...args: readonly unknown[]) => {
      const answer = answers[operation] as ((...args: readonly unknown[]) => unknown) | undefined
      if (answer === undefined) throw new OperationError('state', 'this is a recording')
      return answer(...args)
    }) as ConstructorParameters<typeof Inspection>[0]['call']
  }

  /** What the hardware says of itself never changes: it is known at any moment once it was read. */
  #register(smmu: number, view: View, offset: number): RegisterValue {
    const value = this.#now.register(smmu, view, offset)
    return value.absent && view === 'hardware' && offset < ARM_SMMU_CR0
      ? (this.#last ?? this.#now).register(smmu, view, offset)
      : value
  }

  /** The hardware writes its queue itself: what is known of it is what was reported. */
  #eventQueue(smmu: number) {
    return this.#reported
      .filter(({ row, record }) => row <= this.row && record.smmu === smmu)
      .map(({ record }, index) => {
        const words = new Uint32Array(8)
        new Uint8Array(words.buffer).set(record.bytes.subarray(0, 32))
        const event = decodeEvent(words)
        return { index, name: eventName(event.id), text: describeEvent(event), words: [...words].map(hex) }
      })
      .slice(-SHOWN_EVENTS)
  }

  #verdictsNow(): Verdicts {
    if (this.#verdicts?.row === this.row) return this.#verdicts.of
    const of = new Verdicts(this.#log)
    for (let id = 1; id <= this.row; id++) {
      const entry = this.#log.entry(id)
      if (entry !== undefined) of.group(entry)
    }
    this.#verdicts = { row: this.row, of }
    return of
  }

  #consoleText(): string {
    return this.#console
      .read(1, Number.POSITIVE_INFINITY)
      .items.map(({ text }) => text)
      .join('')
  }

  counters(): CountersView {
    return countersView(this.#now.counters, this.#now.lost, this.#warnings)
  }

  info(): Info {
    return {
      version: String(this.header.versions['smmu-cosim'] ?? ''),
      policies: [],
      stages: [],
      kernels: [],
      images: [],
      translate: [],
      qmp: [],
      registers: REGISTERS.map(({ name, offset, bits, meaning }) => ({ name, offset, bits, meaning })),
      commands: COMMAND_NAMES,
      events: EVENT_NAMES,
      hardware: [],
      devices: [],
      quirks: [],
      warnings: this.#warnings.map(({ code, section, meaning }) => ({ code, section, meaning })),
    }
  }

  status(): MachineStatus {
    const { machine, policy, policyOptions, created, kernel } = this.header
    const options = recordedOptions({ policyOptions })
    const step = this.#guest.findLast(({ row }) => row <= this.row)?.event
    return {
      state: 'off',
      phase: this.#phases.findLast(({ row }) => row <= this.row)?.phase ?? 'qemu',
      step: step === undefined ? null : step.name === undefined ? step.event : `${step.event} ${step.name}`,
      // A label: of a policy of one's own it is a file.
      options: { ...options, policy: policy as 'own', quirks: [...(options.quirks ?? [])] },
      startedAt: created,
      kernel: kernel === '' ? null : kernel,
      machine: {
        qemu: machine.qemu,
        vcpus: machine.vcpus,
        carveout: { base: hex(machine.carveout.base), size: machine.carveout.size },
        ram: machine.ram.map(({ base, size }) => ({ base: hex(base), size })),
        smmus: machine.smmus.map(({ base, size }) => ({ base: hex(base), size })),
        devices: machine.devices,
      },
      held: null,
      guest: null,
      breaking: false,
      end: null,
      run: 1,
    }
  }

  attacks(): AttackReport & { readonly attacks: AttackReport['attacks'] } {
    const table = new AttackTable()
    for (const { row, record } of this.#reported) if (row <= this.row) table.record(record)
    const events = this.#guest.flatMap(({ row, event }) =>
      row <= this.row && GUEST_EVENTS.has(event.event) ? [event] : [],
    )
    return table.report(events, true) ?? { attacks: [], secretChanged: null, storm: null }
  }

  /** Items of a stream as far as the moment goes; of the traps all that match, from `from` on. */
  stream<K extends StreamName>(name: K, from: number, max: number, filter?: TrapFilter) {
    const streams: { readonly [N in StreamName]?: () => { items: readonly unknown[]; next: number } } = {
      traps: () => this.#traps.read(from, max, filter),
      events: () => this.#events.read(from, max),
      warnings: () => this.#warned.read(from, max),
      pages: () => this.#pages.read(from, max),
      firings: () => this.#firings.read(from, max),
      console: () => this.#console.read(from, max),
      machine: () => ({ items: [{ id: 1, status: this.status() }], next: 2 }),
      counters: () => ({ items: [{ id: 1, at: this.moment.at, counters: this.counters() }], next: 2 }),
      attacks: () => ({ items: [{ id: 1, run: 1, attacks: this.attacks() }], next: 2 }),
    }
    const found = streams[name]?.() ?? { items: [], next: from }
    return found as { readonly items: readonly StreamItems[K][]; readonly next: number }
  }

  /** All records once more, for a comparison. */
  records(): Iterable<TraceRecord> {
    return this.#reader.records()
  }

  get tellsRewritten(): boolean {
    return this.#reader.tellsRewritten
  }

  get warnings(): WarningTable {
    return this.#warnings
  }

  /** Row of the trap with this number in its machine; undefined: there is none. */
  rowOf(trap: number): number | undefined {
    return this.#traps.numbered(trap)?.id
  }
}

const NONE: LongWrites = new Map()
const NOTED: ReadonlySet<string> = new Set(['event', 'gerror', 'guardFault'])

const own = (names: Readonly<Record<string, string>>, key: string): string | undefined =>
  Object.hasOwn(names, key) ? names[key] : undefined
