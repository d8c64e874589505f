// SPDX-License-Identifier: Apache-2.0
/**
 * Chrome's trace event format in JSON, which ui.perfetto.dev and chrome://tracing open: a track for each vCPU with its
 * traps and the hardware accesses inside them, tracks for what is not a vCPU's, marks, and counters.
 */
import { hex, hex64 } from '../../smmu/bits.ts'
import { describeRegister, registerName } from '../../smmu/registers.ts'
import { describeChildren, describeRecord } from '../describe.ts'
import type { TraceHeader } from '../format.ts'
import { type Group, groups, isGroup } from '../groups.ts'
import type { TraceRecord } from '../records.ts'
import { pcOf, type Symbols } from '../symbols.ts'

const GUEST = 1
const SERVER = 2
/** Threads of SERVER. */
const TRACKS = { machine: 1, 'translation requests': 2, events: 3, 'guest console': 4 } as const

/** Width of a step of the counters, ns. */
const STEP = 10_000_000

interface TraceEvent {
  readonly name: string
  readonly ph: 'X' | 'i' | 'C' | 'M'
  readonly pid: number
  readonly tid: number
  /** µs. */
  readonly ts?: number
  readonly dur?: number
  readonly cat?: string
  readonly s?: 't'
  readonly args?: Readonly<Record<string, unknown>>
}

/** @yields the file's text in pieces */
export function* perfetto(header: TraceHeader, records: Iterable<TraceRecord>, symbols?: Symbols): Generator<string> {
  const { policy, policyOptions, kernel, created, machine } = header
  const otherData = { policy, policyOptions, kernel, created, qemu: machine.qemu }
  yield `{"displayTimeUnit":"ns","otherData":${JSON.stringify(otherData)},"traceEvents":[\n`
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
  let now = 0
  for (const item of groups(records)) {
    if (isGroup(item)) {
      now = Math.max(now, item.root.start)
      yield* counters.until(item.root.start)
      counters.count(item)
      yield* decision(item, symbols)
    } else {
      if ('start' in item) now = Math.max(now, item.start)
      yield mark(item, now)
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
  yield name('process_name', GUEST, 0, 'guest')
  yield name('process_name', SERVER, 0, 'server')
  for (let cpu = 0; cpu < vcpus; cpu++) yield name('thread_name', GUEST, cpu + 1, `vCPU ${cpu}`)
  for (const [text, tid] of Object.entries(TRACKS)) yield name('thread_name', SERVER, tid, text)
}

function* decision({ root, children }: Group, symbols: Symbols | undefined): Generator<TraceEvent> {
  const ts = root.start / 1000
  const dur = root.duration / 1000
  const place = { pid: SERVER, tid: TRACKS.machine as number }
  if (root.kind === 'trap') {
    place.pid = GUEST
    place.tid = root.cpu + 1
  } else if (root.kind === 'translate') place.tid = TRACKS['translation requests']
  yield { name: nameOf(root), ph: 'X', cat: root.kind, ...place, ts, dur, args: argsOf({ root, children }, symbols) }
  for (const child of children) {
    if (child.kind === 'hardware') {
      const name = `hardware ${child.write ? 'W' : 'R'} ${registerName(child.offset)}`
      const args = { value: hex64(child.lo, child.hi), ok: child.ok === 1 }
      yield { name, ph: 'X', cat: 'hardware', ...place, ts: child.start / 1000, dur: child.duration / 1000, args }
    } else if (MARKS.has(child.kind)) yield mark(child, root.start, place)
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

function argsOf(group: Pick<Group, 'root' | 'children'>, symbols: Symbols | undefined): Record<string, unknown> {
  const { root } = group
  const details = describeChildren({ ...group, whole: true }, true)
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

function mark(record: TraceRecord, now: number, place = { pid: SERVER, tid: trackOf(record) }): TraceEvent {
  const ts = ('start' in record ? record.start : now) / 1000
  const text = record.kind === 'console' ? record.text : describeRecord(record)
  return { name: text, ph: 'i', s: 't', cat: record.kind, ...place, ts }
}

function trackOf({ kind }: TraceRecord): number {
  if (kind === 'console') return TRACKS['guest console']
  return kind === 'event' || kind === 'gerror' || kind === 'guardFault' ? TRACKS.events : TRACKS.machine
}

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
    if (this.#from === 0) this.#from = time
    while (time >= this.#from + STEP) {
      const ts = this.#from / 1000
      const counter = (name: string, count: number): TraceEvent => {
        return { name, ph: 'C', pid: SERVER, tid: 0, ts, args: { 'per second': (count * 1e9) / STEP } }
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
