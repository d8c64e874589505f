// SPDX-License-Identifier: Apache-2.0
/**
 * A recording behind the routes and streams of the API, at any of its moments, read-only: the views of the dashboard do not differ. Made
 * for a browser, so that what a recording may do to its reader stays in one of its tabs; nothing of it is trusted.
 */
import { SEGMENT_WORDS, TrapLog } from '../api/trapLog.ts'
import { machineFault } from '../policy/machineFault.ts'
import { NO_WARNINGS, type WarningTable } from '../policy/warnings.ts'
import { ARM_SMMU_CR0, CR0_SMMUEN } from '../smmu/registers.ts'
import type { TraceHeader } from '../trace/format.ts'
import { type Group, groups, type Item, isGroup } from '../trace/groups.ts'
import { decodeRecord, type Layout, type RecordViews, sizeAt } from '../trace/layout.ts'
import { TraceReader } from '../trace/reader.ts'
import { recordedOptions } from '../trace/recordedOptions.ts'
import type { TraceRecord } from '../trace/records.ts'
import { putRecord } from '../trace/recordWords.ts'
import { Replay } from '../trace/replay.ts'
import type { LongWrites } from '../trace/shown.ts'
import { counted } from '../trace/words.ts'
import { Moment } from './moment.ts'
import { POLICIES } from './policies.ts'
import { Told } from './told.ts'
import { RecordedViews } from './views.ts'

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
/** Time between two looks at the page, ms. */
const SLICE_MS = 12

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

export class Recording {
  readonly file: RecordedFile
  readonly header: TraceHeader
  /** What is wrong with the recording or left out of what is shown, in sentences. */
  readonly problems: string[] = []
  /** Of hyp warnings. */
  readonly warnings: WarningTable
  /** What the API shows of it. */
  readonly views: RecordedViews
  readonly #reader: TraceReader
  readonly #log = new TrapLog(MOST_SEGMENTS + 1, GROUP_WORDS)
  readonly #told: Told
  /** Records that stand for themselves, by the row behind them. */
  readonly #notes = new Map<number, TraceRecord[]>()
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
  #lost = 0
  /** Words of the group that goes into the log. */
  #words = 0
  readonly #replay: Replay | undefined
  #replayProblem: string | undefined
  readonly #scratch: RecordViews & { decode(layout: Layout, at: number): TraceRecord }

  private constructor(file: RecordedFile) {
    this.file = file
    this.#reader = TraceReader.of(file.name, file.bytes)
    this.header = this.#reader.header
    const { machine } = this.header
    const fault = machineFault(machine)
    if (fault !== undefined) throw new Error(`${file.name}: the machine that it describes: ${fault}`)
    const policy = POLICIES.get(this.header.policy)
    this.warnings = this.header.warnings ?? POLICIES.get('pkvm')?.description.warnings ?? NO_WARNINGS
    if (policy === undefined) this.#replayProblem = `it was recorded with a policy of its own, "${this.header.policy}"`
    const large = machine.ram.reduce((sum, { size }) => sum + size, 0) > MOST_RAM
    if (large) this.#replayProblem = `the machine has more than ${MOST_RAM / 2 ** 30} GiB of RAM`
    this.#replay =
      large || policy === undefined
        ? undefined
        : new Replay(machine, policy.factory, recordedOptions(this.header), { warnings: this.warnings })
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
    this.#told = new Told(this.header, this.warnings, () => this.row)
    this.views = new RecordedViews({
      ...{ header: this.header, warnings: this.warnings, log: this.#log, told: this.#told, functions },
      now: () => this.#now,
      last: () => this.#last,
    })
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
      this.problems.push(`too long to be shown as a whole: it is cut off behind ${counted(this.rows, 'decision')}`)
      return false
    }
    const row = this.#log.next
    if (!isGroup(item)) {
      this.#note(item, row)
      return true
    }
    const { root } = item
    this.#told.begin(root)
    const again = this.#again(item)
    if (again !== undefined) this.#long.set(row, again)
    this.#words = 0
    let long = false
    for (const child of item.children) {
      if (child.kind === 'event' || child.kind === 'gerror' || child.kind === 'guardFault') this.#note(child, row)
      else {
        this.#told.record(child, row, this.#now)
        if (!this.#logged(child)) long = true
      }
    }
    if (!this.#logged(root) && this.#log.next === row) return true
    const kept = long && this.#behind.size < MOST_KEPT
    const whole = item.whole && (!long || kept)
    if (!whole) this.#broken.add(row)
    this.#apply(this.#now, { ...item, children: item.children.filter(({ kind }) => !NOTED.has(kind)), whole }, row)
    if (kept) this.#behind.set(row, new Moment(this.header.machine, this.#now))
    this.#told.decided(root, row, this.#now)
    this.#follow(row)
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
    this.#told.record(record, row, this.#now)
    if (record.kind === 'console' || record.kind === 'machine' || record.kind === 'control') return
    if (record.kind === 'lost') this.#lost += record.count
    const notes = this.#notes.get(row)
    if (notes === undefined) this.#notes.set(row, [record])
    else notes.push(record)
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

  #follow(row: number): void {
    const now = this.#now
    if (((now.shown.register('hardware', 0, ARM_SMMU_CR0) ?? 0) & CR0_SMMUEN) !== 0) this.#lastOn = row
    if (row % this.#every !== 0) return
    this.#kept.push(new Moment(this.header.machine, now))
    if (this.#kept.length < MOST_KEPT) return
    this.#every *= 2
    const left = this.#kept.filter(kept => kept.row % this.#every === 0)
    this.#kept.splice(0, this.#kept.length, ...left)
  }

  #end(): void {
    const damaged = this.#reader.problems.map(({ offset, message }) => `byte ${offset}: ${message}`)
    this.problems.push(...damaged.slice(0, 20))
    if (damaged.length > 20) this.problems.push(`and ${counted(damaged.length - 20, 'more place')}`)
    if (this.#replayProblem !== undefined)
      this.problems.push(`some of what the hypervisor wrote is not known: ${this.#replayProblem}`)
    if (this.#lost > 0) this.problems.push(`${counted(this.#lost, 'record is', 'records are')} missing`)
    this.#last = new Moment(this.header.machine, this.#now)
    this.seek(this.best)
  }

  /** All records once more, for a comparison. */
  records(): Iterable<TraceRecord> {
    return this.#reader.records()
  }

  get tellsRewritten(): boolean {
    return this.#reader.tellsRewritten
  }

  /** Row of the trap with this number in its machine; undefined: there is none. */
  rowOf(trap: number): number | undefined {
    return this.views.rowOf(trap)
  }
}

const NONE: LongWrites = new Map()
const NOTED: ReadonlySet<string> = new Set(['event', 'gerror', 'guardFault'])
