// SPDX-License-Identifier: Apache-2.0
/** Traps as clients see them: rows of the log, filters, and one group in full. */
import { type WarningTable, warningById } from '../policy/warnings.ts'
import { hex64 } from '../smmu/bits.ts'
import { commandBits } from '../smmu/commandFields.ts'
import { describeCommand, opcodeName } from '../smmu/commands.ts'
import { describeRegister, registerBits, registerName } from '../smmu/registers.ts'
import { describeRecord, describeRequest, describeTranslation, streamConfigName, streamIds } from '../trace/describe.ts'
import { commandWords, streamEntries } from '../trace/groupMemory.ts'
import type { Group } from '../trace/groups.ts'
import { f64At, u32At } from '../trace/layout.ts'
import { type RecordOf, request, type TraceRecord, verdict } from '../trace/records.ts'
import { pcOf } from '../trace/symbols.ts'
import type { Source } from './feed.ts'
import type { KernelFunctions } from './kernelFunctions.ts'
import type { SteView } from './schemas/smmus.ts'
import type { ChildView, TrapDetail, TrapFilter, TrapRow } from './schemas/trace.ts'
import { steView } from './steFields.ts'
import type { LogEntry, TrapLog } from './trapLog.ts'

const VERDICTS = Object.keys(verdict)

/** Limit of rows that one read scans. */
const SCAN = 20_000

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

  /** The last rows before `before` that match, oldest first. */
  last(max: number, filter: TrapFilter, before = this.next): TrapRow[] {
    const items: TrapRow[] = []
    const quick = quickFilter(filter)
    const end = Math.max(this.oldest, before - SCAN)
    for (let id = Math.min(before, this.next) - 1; id >= end && items.length < max; id--) {
      const entry = this.#log.entry(id)
      if (entry === undefined || !quick(entry)) continue
      const row = this.#matching(entry, filter)
      if (row !== undefined) items.push(row)
    }
    return items.reverse()
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

  /** A row without the arguments of its commands. */
  #plain(entry: LogEntry): TrapRow {
    const root = this.#log.root(entry)
    const warnings: string[] = []
    const commands: { command: string; verdict: string; count: number }[] = []
    let nested = 0
    const table = this.#table(entry.id)
    this.#log.children(entry.id, (layout, words, at) => {
      nested++
      if (layout.name === 'warning')
        warnings.push(warningById(table, words[at + u32At.warning.id] ?? 0)?.code ?? 'unknown')
      else if (layout.name === 'command') {
        const command = opcodeName(words[at + u32At.command.opcode] ?? 0)
        const result = VERDICTS[words[at + u32At.command.verdict] ?? 0] ?? 'kept'
        const last = commands.at(-1)
        if (last?.command === command && last.verdict === result) last.count++
        else if (commands.length < 32) commands.push({ command, verdict: result, count: 1 })
      }
    })
    const epoch = this.#epoch(entry.id)
    const at = epoch === undefined ? {} : { at: epoch + root.start / 1e6 }
    const common = { ...at, id: entry.id, us: Math.round(root.duration / 10) / 100, nested, warnings, commands }
    switch (root.kind) {
      case 'trap': {
        const pc = pcOf(root)
        const where = pc === 0n ? undefined : this.#functions.name(entry.id, pc)
        return {
          ...common,
          kind: 'trap',
          seq: root.seq,
          time: root.time,
          smmu: root.smmu,
          cpu: root.cpu,
          write: root.write === 1,
          offset: root.offset,
          register: registerName(root.offset),
          size: root.size,
          value: hex64(root.lo, root.hi),
          text: describeRegister(root.offset, root.lo, root.hi),
          aborted: root.aborted === 1,
          ...(pc !== 0n && { pc: `0x${pc.toString(16)}` }),
          ...(where !== undefined && { where }),
        }
      }
      case 'reset':
        return { ...common, kind: 'reset', time: root.time, text: 'machine reset' }
      case 'request':
        return { ...common, kind: 'request', text: describeRequest(root) }
      case 'translate':
        return {
          ...common,
          kind: 'translate',
          time: root.time,
          smmu: root.smmu,
          text: describeTranslation(root),
        }
    }
  }

  /** The commands' arguments are in the memory that was read. */
  #withArguments(row: TrapRow): TrapRow {
    if (row.commands.every(({ verdict }) => verdict === 'own')) return row
    const words = commandWords(this.#log.group(row.id)?.children ?? [])
    let next = 0
    const commands = row.commands.map(command => {
      const first = command.verdict === 'own' ? undefined : words[next]
      if (command.verdict !== 'own') next += command.count
      const text = first && describeCommand(first).slice(command.command.length + 1)
      return text ? { ...command, arguments: text } : command
    })
    return { ...row, commands }
  }

  /** One group in full. */
  detail(id: number): TrapDetail | undefined {
    const entry = this.#log.entry(id)
    const group = this.#log.group(id)
    if (entry === undefined || group === undefined) return undefined
    const row = this.row(entry)
    const { root } = group
    return {
      row,
      ...(root.kind === 'trap' && valueBits(root)),
      children: describeGroup(group, this.#table(id)),
      streams: [...streamIds(group)],
      ...this.#neighbours(row),
    }
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

/** Requests that are no work of the hypervisor. */
const NOT_SHOWN: ReadonlySet<number> = new Set([request.other, request.faultsOpened, request.faultsArmed])

/** The part of the filter that needs no decoding. */
function quickFilter(filter: TrapFilter): (entry: LogEntry) => boolean {
  const kinds = new Set<string>(filter.kinds ?? ['trap', 'reset', 'request'])
  const offsets = filter.registers && new Set(filter.registers.map(name => name.toLowerCase()))
  return ({ layout, words, doubles, at }) => {
    if (!kinds.has(layout.name)) return false
    if (layout.name === 'request' && NOT_SHOWN.has(words[at + u32At.request.request] ?? 0)) return false
    if (filter.from !== undefined || filter.to !== undefined) {
      if (layout.name !== 'trap' && layout.name !== 'reset') return false
      const time = doubles[(at >> 1) + f64At[layout.name].time] ?? 0
      if (time < (filter.from ?? 0) || time > (filter.to ?? Number.POSITIVE_INFINITY)) return false
    }
    if (layout.name !== 'trap') return offsets === undefined && filter.access === undefined
    if (filter.access !== undefined && (words[at + u32At.trap.write] === 1) !== (filter.access === 'write'))
      return false
    if (filter.smmu !== undefined && words[at + u32At.trap.smmu] !== filter.smmu) return false
    if (filter.cpu !== undefined && words[at + u32At.trap.cpu] !== filter.cpu) return false
    if (filter.minUs !== undefined && (doubles[(at >> 1) + f64At.trap.duration] ?? 0) < filter.minUs * 1000)
      return false
    if (offsets === undefined) return true
    const offset = words[at + u32At.trap.offset] ?? 0
    return offsets.has(registerName(offset).toLowerCase()) || offsets.has(`0x${offset.toString(16)}`)
  }
}

function matches(row: TrapRow, filter: TrapFilter): boolean {
  if (filter.warnings === true && row.warnings.length === 0) return false
  const { commands } = filter
  return commands === undefined || row.commands.some(({ command }) => commands.includes(command))
}

function hasText(row: TrapRow, text = ''): boolean {
  if (text === '') return true
  const wanted = text.toLowerCase()
  const commands = row.commands.map(({ command, arguments: rest = '' }) => `${command} ${rest}`)
  const haystack = [row.register, row.value, row.text, row.where, ...row.warnings, ...commands]
  return haystack.some(part => part?.toLowerCase().includes(wanted))
}

function valueBits({ offset, size, lo, hi }: RecordOf<'trap'>): Pick<TrapDetail, 'bytes' | 'bits'> {
  const value = Buffer.alloc(8)
  value.writeUInt32LE(lo, 0)
  value.writeUInt32LE(hi, 4)
  const bits = registerBits(offset, lo, hi).filter(field => field.hi < size * 8)
  return { bytes: value.subarray(0, size).toString('hex'), bits }
}

const SHOWN = 256
const MAX_CHILDREN = 500

function describeGroup(group: Group, warnings: WarningTable): ChildView[] {
  const words = commandWords(group.children)
  let commands = 0
  const children = group.children.map((child, index): ChildView => {
    switch (child.kind) {
      case 'command': {
        const mine = child.verdict === verdict.own ? undefined : words[commands++]
        const text = mine ? describeCommand(mine) : opcodeName(child.opcode)
        const bytes = mine && { bytes: Buffer.from(mine.buffer).toString('hex'), bits: commandBits(mine) }
        return { kind: 'command', text, verdict: VERDICTS[child.verdict] ?? 'kept', ...bytes }
      }
      case 'stream': {
        const { host, shadow } = streamEntries(group.children, index)
        const [before, after] = [child.hostConfig, child.shadowConfig].map(streamConfigName)
        const text = `sid 0x${child.sid.toString(16)}: host ${before} → shadow ${after}`
        const views: { host?: SteView; shadow?: SteView } = {}
        if (host) views.host = steView(host)
        if (shadow) views.shadow = steView(shadow)
        return { kind: 'stream', text, ...views }
      }
      default:
        return plain(child, warnings)
    }
  })
  return children.slice(0, MAX_CHILDREN)
}

function plain(child: TraceRecord, warnings: WarningTable): ChildView {
  const text = describeRecord(child, warnings).replace(/^\S+\s+/, '')
  const us = 'duration' in child ? { us: Math.round(child.duration / 10) / 100 } : {}
  if (child.kind === 'memory' && child.bytes.length > 0) {
    return { kind: child.kind, text, bytes: Buffer.from(child.bytes.subarray(0, SHOWN)).toString('hex') }
  }
  // The time has a field of its own.
  return { kind: child.kind, text: 'us' in us ? text.replace(/\s+[\d.]+ µs$/, '') : text, ...us }
}
