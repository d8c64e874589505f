// SPDX-License-Identifier: Apache-2.0
/** Records in words, for someone who knows the specification. */

import { enums } from '../../protocol/messages.ts'
import { PAGE_OPERATION_NAMES } from '../policy/report.ts'
import { resultName } from '../policy/result.ts'
import { formatWarningValues, type WarningTable, warningById } from '../policy/warnings.ts'
import { addressOf, hex, hex64 } from '../smmu/bits.ts'
import { namedStream, namesStream } from '../smmu/commandFields.ts'
import { describeCommand, opcodeName } from '../smmu/commands.ts'
import { decodeEvent, describeEvent } from '../smmu/events.ts'
import { POWER_STATES } from '../smmu/hardware.ts'
import { describeRegister, registerAt, registerName } from '../smmu/registers.ts'
import { describeSte, steConfigName } from '../smmu/ste.ts'
import { commandWords, INVALID, streamEntries } from './groupMemory.ts'
import type { Group, Root } from './groups.ts'
import { FAULT_ACTIONS, machineState, type RecordOf, request, type TraceRecord, verdict } from './records.ts'
import { pcOf, returnAddresses, type Symbols } from './symbols.ts'
import { counted, micros, took } from './words.ts'

export const NO_CPU = 0xffff
const SHOWN_BYTES = 32

const nameOf = (values: Readonly<Record<string, number>>, value: number): string =>
  Object.entries(values).find(([, v]) => v === value)?.[0] ?? String(value)
const nameOfCode = (values: Readonly<Record<string, readonly [number, string]>>, value: number): string =>
  Object.entries(values).find(([, [v]]) => v === value)?.[0] ?? String(value)

function range(address: number, length: number): string {
  return `${hex(address)} +${length % 4096 === 0 && length > 0 ? counted(length / 4096, 'page') : length}`
}

function access(
  record: {
    readonly write: number
    readonly offset: number
    readonly size: number
    readonly lo: number
    readonly hi: number
  },
  known: boolean,
): string {
  const { write, offset, lo, hi } = record
  const head = `${write ? 'W' : 'R'} ${registerName(offset)}`.padEnd(18)
  if (!known) return head
  const value = hex64(lo, hi)
  const words = describeRegister(offset, lo, hi)
  return `${head} ${value.padEnd(10)}${words === value ? '' : ` ${words}`}`
}

/** A root in one line, without its time. */
export function describeRoot(root: Root, symbols?: Symbols): string {
  switch (root.kind) {
    case 'trap': {
      const { seq, smmu, cpu, aborted, size, duration } = root
      const who = `${cpu === NO_CPU ? 'no cpu' : `cpu${cpu}`}${smmu > 0 ? ` smmu${smmu}` : ''}`
      const outcome = aborted ? ' ABORTED' : ''
      const width = size * 8 === (registerAt(root.offset)?.bits ?? 32) ? '' : ` (${size * 8} bits)`
      const text = `${`#${seq}`.padStart(7)} ${who} ${access(root, aborted === 0 || root.write === 1)}${width}${outcome}`
      const pc = pcOf(root)
      const where = symbols !== undefined && pc !== 0n ? `  ${symbols.describe(pc)}` : ''
      return `${text.padEnd(72)} ${took(duration / 1000).padStart(16)}${where}`
    }
    case 'reset':
      return `reset (${nameOfCode(enums.resetCause, root.cause)})  ${micros(root.duration / 1000)}`
    case 'request':
      return `request: ${describeRequest(root)}  ${micros(root.duration / 1000)}`
    case 'translate':
      return `translate ${describeTranslation(root)}  ${micros(root.duration / 1000)}`
  }
}

/** Without its time. */
export function describeRequest({ request: asked, v0, v1, v2, result }: RecordOf<'request'>): string {
  switch (asked) {
    case request.donate:
    case request.reclaim:
      return `${nameOf(request, asked)} ${range(v0, v1)} vm ${v2}: ${resultName(result)}`
    case request.power:
      return `smmu${v0} power ${POWER_STATES[v1] ?? v1}: ${resultName(result)}`
    case request.stage2Changed:
      return `EL2's tables changed: ${result === 0 ? 'followed' : 'NOT FOLLOWED'}`
    case request.postMismatch:
      return `post mismatch: smmu${v0} ${registerName(v1)} is ${hex(v2)}`
    case request.faultsOpened:
      return 'what rules wait for has come'
    case request.faultsArmed:
      return v0 === 0 ? 'rules disarmed' : `${counted(v0, 'rule')} armed`
    case request.other:
      return 'inspection'
    default:
      return nameOf(request, asked)
  }
}

/** Without its time. */
export function describeTranslation(root: RecordOf<'translate'>): string {
  const { sid, iovaLo, iovaHi, pa, status, permissions } = root
  const answer = nameOfCode(enums.translation, status)
  const to = status === enums.translation.mapped[0] ? ` ${hex(pa)} permissions ${permissions}` : ''
  return `sid ${hex(sid)} ${hex64(iovaLo, iovaHi)}: ${answer}${to}`
}

/** The children of a group, one line each; `all`: with hardware, memory and guard accesses. */
export function describeChildren(group: Group, all: boolean, warnings: WarningTable, symbols?: Symbols): string[] {
  const lines: string[] = []
  const words = commandWords(group.children)
  let commands = 0
  group.children.forEach((child, index) => {
    if (child.kind === 'command')
      lines.push(command(child, child.verdict === verdict.own ? undefined : words[commands++]))
    else if (child.kind === 'stream') lines.push(...stream(child, group, index))
    else if (child.kind === 'stack') lines.push(stack(child, symbols))
    else if (all || !DETAILS.has(child.kind)) lines.push(describeRecord(child, warnings))
  })
  return lines
}

const DETAILS: ReadonlySet<string> = new Set(['hardware', 'memory', 'guard'])

function command(record: RecordOf<'command'>, words: Uint32Array | undefined): string {
  if (record.verdict === verdict.own) return `own cmd   ${opcodeName(record.opcode)}`
  const text = words ? describeCommand(words) : opcodeName(record.opcode)
  return `host cmd  ${text}${record.verdict === verdict.kept ? '' : `  ${nameOf(verdict, record.verdict).toUpperCase()}`}`
}

/** Config of a `stream` record. */
export const streamConfigName = (config: number): string => (config === INVALID ? 'invalid' : steConfigName(config))

function stream(record: RecordOf<'stream'>, group: Group, index: number): string[] {
  const { host, shadow } = streamEntries(group.children, index)
  const lines = [
    `stream    sid ${hex(record.sid)}: host ${streamConfigName(record.hostConfig)}, shadow ${streamConfigName(record.shadowConfig)}`,
  ]
  if (host) lines.push(`          host   ${describeSte(host)}`)
  if (shadow) lines.push(`          shadow ${describeSte(shadow)}`)
  return lines
}

/** The innermost first. */
function stack({ bytes }: RecordOf<'stack'>, symbols?: Symbols): string {
  const callers = returnAddresses(bytes).map(address => symbols?.describe(address - 4n) ?? hex64Of(address))
  return `called by ${callers.join(' < ')}`
}

const hex64Of = (value: bigint): string => `0x${value.toString(16)}`

/** A record that is no root, in one line. @param warnings that the recording's ids stand for */
export function describeRecord(record: TraceRecord, warnings: WarningTable): string {
  switch (record.kind) {
    case 'hardware': {
      const failed = record.ok ? '' : ' REFUSED'
      return `hardware  ${access(record, record.ok === 1 || record.write === 1)}${failed}  ${micros(record.duration / 1000)}`
    }
    case 'memory':
      return memory(record)
    case 'guard':
      return `guard     ${record.add ? 'add' : 'remove'} ${range(record.base, record.size)}`
    case 'command':
      return command(record, undefined)
    case 'stream':
      return `stream    sid ${hex(record.sid)}: host ${streamConfigName(record.hostConfig)}, shadow ${streamConfigName(record.shadowConfig)}`
    case 'warning': {
      const warning = warningById(warnings, record.id)
      if (warning === undefined) return `WARNING   number ${record.id}`
      const values = formatWarningValues(warning, [record.v0, record.v1, record.v2, record.v3])
      return `WARNING   ${warning.code} (${warning.section}) ${values}`
    }
    case 'pages': {
      const owner = record.owner === 0 ? '' : ` vm ${record.owner}`
      const operation = PAGE_OPERATION_NAMES[record.operation] ?? `operation ${record.operation}`
      const result = record.result === 0 ? '' : `: ${resultName(record.result)}`
      return `pages     ${operation} ${range(record.base, record.size)}${owner}${result}`
    }
    case 'probe':
      return `probe     smmu${record.smmu}: ${record.text || 'isolated'}`
    case 'event': {
      return `EVENT     smmu${record.smmu} ${describeEvent(decodeEvent(eventWords(record.bytes)))}`
    }
    case 'gerror':
      return `GERROR    smmu${record.smmu} GERROR ${hex(record.gerror)} GERRORN ${hex(record.gerrorn)}`
    case 'guardFault': {
      const { cpu, write, size, address } = record
      return `GUARD     cpu${cpu} ${write ? 'store to' : 'load from'} ${hex(address)} (${size} bytes) aborted`
    }
    case 'breakpoint':
      return `break     breakpoint ${record.id} at trap #${record.seq}`
    case 'stage2': {
      const told = record.all ? 'all of its tables' : `${counted(record.bytes.length / 8, 'page')} of its tables`
      return `EL2       cpu${record.cpu} ${told}, VTTBR ${hex64(record.vttbrLo, record.vttbrHi)} VTCR ${hex64(record.vtcrLo, record.vtcrHi)}`
    }
    case 'stack':
      return stack(record)
    case 'fault':
      return `FAULT     rule ${record.rule} ${FAULT_ACTIONS[record.action] ?? 'unknown'} ${hex(record.v0)} ${hex(record.v1)}`
    case 'machine':
      return `machine   ${nameOf(machineState, record.state)}`
    case 'lost':
      return `LOST      ${counted(record.count, 'record is', 'records are')} missing here`
    case 'console':
      return `console   ${record.text}`
    case 'control':
      return `control   ${record.text}`
    default:
      return describeRoot(record)
  }
}

function memory(record: RecordOf<'memory'>): string {
  const { write, address, length, done, ok, bytes, digest } = record
  const head = `memory    ${write ? 'W' : 'R'} ${hex(address)} +${length}`
  if (!ok) return `${head} NOT RAM`
  if (write && bytes.length === 0 && length > 0) return `${head} ${digest === 0 ? 'zeros' : `crc ${hex(digest)}`}`
  const shown = Buffer.from(bytes.subarray(0, SHOWN_BYTES))
    .toString('hex')
    .replace(/(.{8})(?=.)/g, '$1 ')
  return `${head}${done > 0 ? ` from ${done}` : ''} ${shown}${bytes.length > SHOWN_BYTES ? ' …' : ''}`
}

/** The eight words of an event record; 0 where it is cut short. */
function eventWords(bytes: Uint8Array): Uint32Array {
  const words = new Uint32Array(8)
  new Uint8Array(words.buffer).set(bytes.subarray(0, 32))
  return words
}

/** StreamIDs that a group names. */
export function streamIds({ root, children }: Group): Set<number> {
  const found = new Set<number>()
  for (const child of children) {
    if (child.kind === 'stream') found.add(child.sid)
    else if (child.kind === 'event') found.add(decodeEvent(eventWords(child.bytes)).streamId)
  }
  for (const words of commandWords(children)) {
    const sid = words && namedStream(words, 0)
    if (sid !== undefined) found.add(sid)
  }
  if (root.kind === 'translate') found.add(root.sid)
  return found
}

/** Is a group about a stream: does it name it, or a range that it is in? */
export function concernsStream(group: Group, sid: number): boolean {
  if (streamIds(group).has(sid)) return true
  return commandWords(group.children).some(words => words !== undefined && namesStream(words, 0, sid))
}

/** Does the group, or something in it, concern guest physical addresses from `from` up to, not including, `to`? */
export function touches(group: Group, from: number, to: number): boolean {
  const overlaps = (base: number, size: number) => base < to && base + size > from
  const { root } = group
  const pages = root.kind === 'request' && (root.request === request.donate || root.request === request.reclaim)
  if (pages && overlaps(root.v0, root.v1)) return true
  if (root.kind === 'translate' && overlaps(addressOf(root.iovaLo, root.iovaHi), 1)) return true
  return group.children.some(child => {
    if (child.kind === 'memory') return overlaps(child.address, child.length)
    if (child.kind === 'guard' || child.kind === 'pages') return overlaps(child.base, child.size)
    return child.kind === 'guardFault' && overlaps(child.address, child.size)
  })
}
