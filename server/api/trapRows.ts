// SPDX-License-Identifier: Apache-2.0
/** Traps as clients see them, made of records: of the log in memory, or of a recording. */
import { type WarningTable, warningById } from '../policy/warnings.ts'
import { hex64 } from '../smmu/bits.ts'
import { commandBits } from '../smmu/commandFields.ts'
import { describeCommand, opcodeName } from '../smmu/commands.ts'
import { describeRegister, registerBits, registerName } from '../smmu/registers.ts'
import { describeRecord, describeRequest, describeTranslation, streamConfigName, streamIds } from '../trace/describe.ts'
import { commandWords, streamEntries } from '../trace/groupMemory.ts'
import type { Group, Root } from '../trace/groups.ts'
import { type KindName, type RecordOf, request, type TraceRecord, verdict } from '../trace/records.ts'
import { pcOf } from '../trace/symbols.ts'
import type { SteView } from './schemas/smmus.ts'
import type { ChildView, TrapDetail, TrapFilter, TrapRow } from './schemas/trace.ts'
import { steView } from './steFields.ts'

const VERDICTS = Object.keys(verdict)

/** Requests that are no work of the hypervisor. */
export const NOT_SHOWN: ReadonlySet<number> = new Set([request.other, request.faultsOpened, request.faultsArmed])

/** What a row needs besides its records. */
export interface RowContext {
  readonly warnings: WarningTable
  /** Server's clock 0, ms since 1970; undefined: not known. */
  readonly epoch: number | undefined
  /** The kernel function of a PC; undefined: not known, or not yet. */
  readonly where?: (pc: bigint) => string | undefined
}

/** A child of a group as a row looks at it: of a warning its id, of a command its opcode and verdict. */
export type VisitChild = (kind: KindName, first: number, second: number) => void

/** A row without the arguments of its commands. @param each visits the children of the group, in order */
export function plainRow(id: number, root: Root, each: (visit: VisitChild) => void, context: RowContext): TrapRow {
  const warnings: string[] = []
  const commands: { command: string; verdict: string; count: number }[] = []
  let nested = 0
  each((kind, first, second) => {
    nested++
    if (kind === 'warning') warnings.push(warningById(context.warnings, first)?.code ?? 'unknown')
    else if (kind === 'command') {
      const command = opcodeName(first)
      const result = VERDICTS[second] ?? 'kept'
      const last = commands.at(-1)
      if (last?.command === command && last.verdict === result) last.count++
      else if (commands.length < 32) commands.push({ command, verdict: result, count: 1 })
    }
  })
  const { epoch } = context
  const at = epoch === undefined ? {} : { at: epoch + root.start / 1e6 }
  const common = { ...at, id, us: Math.round(root.duration / 10) / 100, nested, warnings, commands }
  switch (root.kind) {
    case 'trap': {
      const pc = pcOf(root)
      const where = pc === 0n ? undefined : context.where?.(pc)
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
      return { ...common, kind: 'translate', time: root.time, smmu: root.smmu, text: describeTranslation(root) }
  }
}

/** The commands' arguments are in the memory that was read. @param children of the row's group, asked for when they are needed */
export function withArguments(row: TrapRow, children: () => readonly TraceRecord[]): TrapRow {
  if (row.commands.every(({ verdict }) => verdict === 'own')) return row
  const words = commandWords(children())
  let next = 0
  const commands = row.commands.map(command => {
    const first = command.verdict === 'own' ? undefined : words[next]
    if (command.verdict !== 'own') next += command.count
    const text = first && describeCommand(first).slice(command.command.length + 1)
    return text ? { ...command, arguments: text } : command
  })
  return { ...row, commands }
}

/** The row of a group that is decoded already. */
export function rowOf(id: number, { root, children }: Group, context: RowContext): TrapRow {
  const each = (visit: VisitChild) => {
    for (const child of children) {
      if (child.kind === 'warning') visit('warning', child.id, 0)
      else if (child.kind === 'command') visit('command', child.opcode, child.verdict)
      else visit(child.kind, 0, 0)
    }
  }
  return withArguments(plainRow(id, root, each, context), () => children)
}

/** What a detail tells besides its row and the accesses next to it. */
export function detailOf(group: Group, warnings: WarningTable): Omit<TrapDetail, 'row' | 'previous' | 'following'> {
  return {
    ...(group.root.kind === 'trap' && valueBits(group.root)),
    children: describeGroup(group, warnings),
    streams: [...streamIds(group)],
  }
}

/** The part of a filter that looks at warnings and commands. */
export function matches(row: TrapRow, filter: TrapFilter): boolean {
  if (filter.warnings === true && row.warnings.length === 0) return false
  const { commands } = filter
  return commands === undefined || row.commands.some(({ command }) => commands.includes(command))
}

export function hasText(row: TrapRow, text = ''): boolean {
  if (text === '') return true
  const wanted = text.toLowerCase()
  const commands = row.commands.map(({ command, arguments: rest = '' }) => `${command} ${rest}`)
  const haystack = [row.register, row.value, row.text, row.where, ...row.warnings, ...commands]
  return haystack.some(part => part?.toLowerCase().includes(wanted))
}

/** Kinds of rows that are shown when none are asked for. */
export const USUAL_KINDS = ['trap', 'reset', 'request'] as const

/** All of a filter but its text, on a group that is decoded already. */
export function passes(root: Root, row: TrapRow, filter: TrapFilter): boolean {
  const kinds: readonly string[] = filter.kinds ?? USUAL_KINDS
  if (!kinds.includes(root.kind) || (root.kind === 'request' && NOT_SHOWN.has(root.request))) return false
  if (filter.from !== undefined || filter.to !== undefined) {
    if (root.kind !== 'trap' && root.kind !== 'reset') return false
    if (root.time < (filter.from ?? 0) || root.time > (filter.to ?? Number.POSITIVE_INFINITY)) return false
  }
  if (root.kind !== 'trap') return filter.registers === undefined && filter.access === undefined && matches(row, filter)
  if (filter.access !== undefined && (root.write === 1) !== (filter.access === 'write')) return false
  if (filter.smmu !== undefined && root.smmu !== filter.smmu) return false
  if (filter.cpu !== undefined && root.cpu !== filter.cpu) return false
  if (filter.minUs !== undefined && root.duration < filter.minUs * 1000) return false
  return (
    hasRegister(
      root.offset,
      filter.registers?.map(name => name.toLowerCase()),
    ) && matches(row, filter)
  )
}

/** @param registers names or 0x offsets in small letters; undefined: any */
export function hasRegister(offset: number, registers: readonly string[] | undefined): boolean {
  if (registers === undefined) return true
  return registers.includes(registerName(offset).toLowerCase()) || registers.includes(`0x${offset.toString(16)}`)
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
