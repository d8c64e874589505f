// SPDX-License-Identifier: Apache-2.0
/**
 * Chrome's trace event format in JSON, which ui.perfetto.dev and chrome://tracing open: a track for each vCPU with its
 * traps and the hardware accesses inside them, tracks for what is not a vCPU's, marks, and counters.
 *
 * Perfetto's importer asks for more than the format does, and drops what does not fit: threads are found by their tid
 * alone; times are cut to whole ns, and slices must lie in each other after that; older ones take every time for ns where
 * `displayTimeUnit` is `ns`, and refuse a file with an escaped control character before a `ts`.
 */
import type { WarningTable } from '../../policy/warnings.ts'
import { hex, hex64 } from '../../smmu/bits.ts'
import { describeRegister, registerName } from '../../smmu/registers.ts'
import { describeChildren, describeRecord } from '../describe.ts'
import type { TraceHeader } from '../format.ts'
import { type Group, groups, isGroup } from '../groups.ts'
import type { TraceRecord } from '../records.ts'
import { pcOf, type Symbols } from '../symbols.ts'
import { warningsOf } from '../warnings.ts'

const GUEST = 1
const SERVER = 2
/** Threads of SERVER. */
const TRACKS = { machine: 11, 'translation requests': 12, events: 13, 'guest console': 14 } as const
/** Thread of vCPU 0. */
const VCPUS = 100

/** Width of a step of the counters, ns. */
const STEP = 10_000_000

interface TraceEvent {
  /** µs. */
  readonly ts?: number
  readonly dur?: number
  readonly name: string
  readonly ph: 'X' | 'i' | 'C' | 'M'
  readonly pid: number
  readonly tid: number
  readonly cat?: string
  readonly s?: 't'
  readonly args?: Readonly<Record<string, unknown>>
}

/** ns as µs, so that a reader that multiplies by 1000 and cuts the rest off gets the same ns. */
export function traceTime(ns: number): number {
  const us = ns / 1000
  return Math.trunc(us * 1000) === ns ? us : (ns + 0.25) / 1000
}

/** Without control characters, such as those that colour a console. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
const plain = (text: string): string => text.replace(/\x1b\[[0-9;]*[A-Za-z]|[\x00-\x1f\x7f]/g, '')

/** @yields the file's text in pieces */
export function* perfetto(header: TraceHeader, records: Iterable<TraceRecord>, symbols?: Symbols): Generator<string> {
  const { policy, policyOptions, kernel, created, machine } = header
  const otherData = { policy, policyOptions, kernel, created, qemu: machine.qemu }
  yield `{"otherData":${JSON.stringify(otherData)},"traceEvents":[\n`
  let comma = ''
  for (const event of events(header, records, symbols)) {
    yield `${comma}${JSON.stringify(event)}`
    comma = ',\n'
  }
  yield '\n]}\n'
}

function* events(header: TraceHeader, records: Iterable<TraceRecord>, symbols?: Symbols): Generator<TraceEvent> {
  yield* names(header.machine.vcpus)
  const counters = new Rates()
  const warnings = warningsOf(header)
  let now = 0
  for (const item of groups(records)) {
    if (isGroup(item)) {
      now = Math.max(now, item.root.start)
      yield* counters.until(item.root.start)
      counters.count(item)
      yield* decision(item, warnings, symbols)
    } else {
      if ('start' in item) now = Math.max(now, item.start)
      yield mark(item, warnings, now)
    }
  }
  yield* counters.until(now + STEP)
}

function* names(vcpus: number): Generator<TraceEvent> {
  const name = (what: string, pid: number, tid: number, text: string): TraceEvent => ({
    name: what,
    ph: 'M',
    pid,
    tid,
    args: { name: text },
  })
  yield name('process_name', GUEST, GUEST, 'guest')
  yield name('process_name', SERVER, SERVER, 'server')
  for (let cpu = 0; cpu < vcpus; cpu++) yield name('thread_name', GUEST, VCPUS + cpu, `vCPU ${cpu}`)
  for (const [text, tid] of Object.entries(TRACKS)) yield name('thread_name', SERVER, tid, text)
}

function* decision(
  { root, children }: Group,
  warnings: WarningTable,
  symbols: Symbols | undefined,
): Generator<TraceEvent> {
  const ts = traceTime(root.start)
  const dur = traceTime(root.duration)
  const place = { pid: SERVER, tid: TRACKS.machine as number }
  if (root.kind === 'trap') {
    place.pid = GUEST
    place.tid = VCPUS + root.cpu
  } else if (root.kind === 'translate') place.tid = TRACKS['translation requests']
  const args = argsOf({ root, children }, warnings, symbols)
  yield { ts, dur, name: nameOf(root), ph: 'X', cat: root.kind, ...place, args }
  for (const child of children) {
    if (child.kind === 'hardware') {
      const name = `hardware ${child.write ? 'W' : 'R'} ${registerName(child.offset)}`
      const args = { value: hex64(child.lo, child.hi), ok: child.ok === 1 }
      const times = { ts: traceTime(child.start), dur: traceTime(child.duration) }
      yield { ...times, name, ph: 'X', cat: 'hardware', ...place, args }
    } else if (MARKS.has(child.kind)) yield mark(child, warnings, root.start, place)
  }
}

const MARKS: ReadonlySet<string> = new Set(['warning', 'fault', 'breakpoint', 'event', 'gerror', 'guardFault'])

function nameOf(root: Group['root']): string {
  switch (root.kind) {
    case 'trap':
      return `${root.write ? 'W' : 'R'} ${registerName(root.offset)}${root.aborted ? ' aborted' : ''}`
    case 'translate':
      return `translate sid ${hex(root.sid)}`
    default:
      return root.kind
  }
}

function argsOf(
  group: Pick<Group, 'root' | 'children'>,
  warnings: WarningTable,
  symbols: Symbols | undefined,
): Record<string, unknown> {
  const { root } = group
  const details = describeChildren({ ...group, whole: true }, true, warnings)
  const inside = details.length > 0 ? { details } : {}
  switch (root.kind) {
    case 'trap': {
      const { seq, lo, hi, offset, cpu, time } = root
      const pc = pcOf(root)
      const where = pc === 0n ? {} : { pc: `0x${pc.toString(16)}`, ...(symbols && { function: symbols.describe(pc) }) }
      const value = { value: hex64(lo, hi), fields: describeRegister(offset, lo, hi) }
      return { seq, cpu, ...value, ...where, virtual_ns: time, ...inside }
    }
    case 'translate':
      return { sid: root.sid, iova: hex64(root.iovaLo, root.iovaHi), pa: hex(root.pa), status: root.status }
    case 'request':
      return { base: hex(root.v0), size: root.v1, vm: root.v2, result: root.result | 0, ...inside }
    case 'reset':
      return { cause: root.cause, ...inside }
  }
}

function mark(
  record: TraceRecord,
  warnings: WarningTable,
  now: number,
  place = { pid: SERVER, tid: trackOf(record) },
): TraceEvent {
  const ts = traceTime('start' in record ? record.start : now)
  const text = record.kind === 'console' ? record.text : describeRecord(record, warnings)
  return { ts, name: plain(text), ph: 'i', s: 't', cat: record.kind, ...place }
}

function trackOf({ kind }: TraceRecord): number {
  if (kind === 'console') return TRACKS['guest console']
  return kind === 'event' || kind === 'gerror' || kind === 'guardFault' ? TRACKS.events : TRACKS.machine
}

/** Server clocks beyond are none, ns: steps would not be seen in them any more. */
const MAX_CLOCK = 2 ** 53

/** Traps and commands per second, in steps of STEP. */
class Rates {
  #from = 0
  #traps = 0
  #commands = 0

  count({ root, children }: Group): void {
    if (root.kind === 'trap') this.#traps++
    for (const child of children) if (child.kind === 'command') this.#commands++
  }

  *until(time: number): Generator<TraceEvent> {
    if (!(Math.abs(time) <= MAX_CLOCK)) return
    if (this.#from === 0) this.#from = time
    while (time >= this.#from + STEP) {
      const ts = traceTime(this.#from)
      const counter = (name: string, count: number): TraceEvent => {
        return { ts, name, ph: 'C', pid: SERVER, tid: SERVER, args: { 'per second': (count * 1e9) / STEP } }
      }
      yield counter('traps', this.#traps)
      yield counter('commands', this.#commands)
      const idle = this.#traps === 0 && this.#commands === 0
      this.#traps = 0
      this.#commands = 0
      // Long idle times need two points, not thousands.
      this.#from = idle ? Math.max(this.#from + STEP, time - (time % STEP) - STEP) : this.#from + STEP
    }
  }
}
