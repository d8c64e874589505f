// SPDX-License-Identifier: Apache-2.0
/**
 * Chrome's trace event format in JSON, which ui.perfetto.dev, speedscope and chrome://tracing open: a track for each vCPU with
 * its traps, the commands and the hardware accesses inside them; tracks for what is not a vCPU's; marks, counters, and flows
 * from a command to the access that handed it to the hardware, and from a CMD_SYNC of the hypervisor to the read that saw it done.
 *
 * Importers ask for more than the format does, and drop what does not fit. Perfetto finds threads by their tid alone; it cuts
 * times to whole ns, and slices must lie in each other after that; its older versions take every time for ns where
 * `displayTimeUnit` is `ns`, and refuse a file with an escaped control character before a `ts`. speedscope adds `ts` and `dur`
 * after it moved `ts`, so that of two ends at the same time either may come first: slices are written as beginnings and ends,
 * which it matches by name and `args`, and so no two have both in common. What took no time is a mark, not a slice.
 */
import type { WarningTable } from '../../policy/warnings.ts'
import { hex, hex64 } from '../../smmu/bits.ts'
import { CMDQ_OP_CMD_SYNC, describeCommand, opcodeName } from '../../smmu/commands.ts'
import { ARM_SMMU_CMDQ_CONS, ARM_SMMU_CMDQ_PROD, describeRegister, registerName } from '../../smmu/registers.ts'
import { describeRecord, describeRequest, NO_CPU, streamConfigName } from '../describe.ts'
import type { TraceHeader } from '../format.ts'
import { commandWords } from '../groupMemory.ts'
import { type Group, groups, isGroup } from '../groups.ts'
import { type TraceRecord, verdict } from '../records.ts'
import { pcOf, type Symbols } from '../symbols.ts'
import { warningsOf } from '../warnings.ts'
import { type Depth, Depths } from './depths.ts'
import { clockOf, isHostCommand, isPosted, type Span, spansOf } from './timeline.ts'

const GUEST = 1
const SERVER = 2
/** Threads of SERVER. */
const TRACKS = { machine: 11, 'translation requests': 12, events: 13, 'guest console': 14 } as const
/** Thread of vCPU 0. */
const VCPUS = 100

/** Width of a step of the rates, ns. */
const STEP = 10_000_000

interface Track {
  readonly pid: number
  readonly tid: number
}

interface TraceEvent extends Track {
  /** µs. */
  readonly ts?: number
  readonly name: string
  readonly ph: 'B' | 'E' | 'i' | 'C' | 'M' | 's' | 'f'
  readonly cat?: string
  /** Of an instant: its thread. */
  readonly s?: 't'
  /** Of a flow. */
  readonly id?: number
  /** Of the end of a flow: it ends in the slice around it. */
  readonly bp?: 'e'
  readonly args?: Readonly<Record<string, unknown>>
}

const float = new Float64Array(1)
const bits = new BigInt64Array(float.buffer)

/** ns as µs: the nearest number, or where a reader that multiplies by 1000 and cuts the rest off would lose a ns, the next. */
export function traceTime(ns: number): number {
  const us = ns / 1000
  if (Math.trunc(us * 1000) === ns) return us
  float[0] = us
  bits[0] = (bits[0] ?? 0n) + 1n
  return float[0]
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
  for (const event of new Timeline(header, symbols).events(records)) {
    yield `${comma}${JSON.stringify(event)}`
    comma = ',\n'
  }
  yield '\n]}\n'
}

/** A decision whose end is not written yet: the next one of the same track may begin before it. */
interface Waiting {
  readonly group: Group
  readonly begin: number
  readonly end: number
}

class Timeline {
  readonly #vcpus: number
  readonly #warnings: WarningTable
  readonly #symbols: Symbols | undefined
  /** By tid. */
  readonly #waiting = new Map<number, Waiting>()
  /** By tid: when the last decision that was written ended. */
  readonly #written = new Map<number, number>()
  readonly #depths = new Map<number, Depths>()
  readonly #rates = new Rates()
  /** Of slices, so that each is another. */
  #slices = 0
  #flows = 0

  constructor(header: TraceHeader, symbols: Symbols | undefined) {
    this.#vcpus = header.machine.vcpus
    this.#warnings = warningsOf(header)
    this.#symbols = symbols
  }

  *events(records: Iterable<TraceRecord>): Generator<TraceEvent> {
    yield* names(this.#vcpus)
    // Of the trap thread: what the control thread records may stand before decisions that came earlier.
    let now = 0
    for (const item of groups(records)) {
      if (isGroup(item)) {
        now = Math.max(now, clockOf(item.root.start))
        yield* this.#rates.until(now)
        this.#rates.count(item)
        yield* this.#count(item, now)
        yield* this.#wait(item, clockOf(item.root.start))
      } else {
        if (item.kind === 'event') yield* this.#counters(item.smmu, now, this.#depthsOf(item.smmu).event())
        yield this.#mark(item, trackOf(item), 'start' in item ? clockOf(item.start) : now)
      }
    }
    for (const waiting of this.#waiting.values()) yield* this.#decision(waiting)
    yield* this.#rates.until(now + STEP)
  }

  /** Writes the decision before it on its track, and keeps this one. */
  *#wait(group: Group, start: number): Generator<TraceEvent> {
    const { pid, tid } = trackOf(group.root)
    // An access of no vCPU, or of one that the header does not know.
    if (pid === GUEST && tid >= VCPUS + this.#vcpus && !this.#waiting.has(tid)) {
      yield thread(
        pid,
        tid,
        group.root.kind === 'trap' && group.root.cpu === NO_CPU ? 'no vCPU' : `vCPU ${tid - VCPUS}`,
      )
    }
    const before = this.#waiting.get(tid)
    const begin = Math.max(start, before?.begin ?? 0, this.#written.get(tid) ?? 0)
    // A trap that was held takes longer than until the next one begins: the time that it was held counts, too.
    if (before !== undefined) yield* this.#decision({ ...before, end: Math.min(before.end, begin) })
    this.#waiting.set(tid, { group, begin, end: clockOf(begin + clockOf(group.root.duration)) })
  }

  *#decision({ group: { root, children }, begin, end }: Waiting): Generator<TraceEvent> {
    const track = trackOf(root)
    this.#written.set(track.tid, end)
    // Who called is no moment of the decision.
    const done = children.filter(({ kind }) => kind !== 'stack')
    const spans = spansOf(done, begin, end)
    const links = new Links(spans, () => ++this.#flows)
    const args = { ...argsOf(root, this.#symbols), n: ++this.#slices }
    const slice = { ...track, name: nameOf(root), cat: root.kind, args }
    yield* this.#between(slice, begin, end, this.#inside(spans, track, links, commandTexts(children)))
  }

  /** A slice with what is in it, or a mark. */
  *#between(
    slice: Omit<TraceEvent, 'ts' | 'ph'>,
    begin: number,
    end: number,
    inside: Iterable<TraceEvent>,
  ): Generator<TraceEvent> {
    if (end > begin) {
      yield { ts: traceTime(begin), ph: 'B', ...slice }
      yield* inside
      yield { ts: traceTime(end), ph: 'E', ...slice }
    } else {
      yield { ts: traceTime(begin), ph: 'i', s: 't', ...slice }
      yield* inside
    }
  }

  *#inside(
    spans: readonly Span[],
    track: Track,
    links: Links,
    words: ReadonlyMap<number, string>,
  ): Generator<TraceEvent> {
    for (const span of spans) {
      const { record, begin, end } = span
      const named = describeSpan(span, words)
      if (named === undefined) {
        yield this.#mark(record, track, begin)
        continue
      }
      const { name, args } = named
      const slice = { ...track, name, cat: record.kind, args: { ...args, n: ++this.#slices } }
      yield* this.#between(slice, begin, end, this.#contents(span, track, links, words))
    }
  }

  *#contents(span: Span, track: Track, links: Links, words: ReadonlyMap<number, string>): Generator<TraceEvent> {
    const { begin } = span
    const last = span.inside.at(-1)?.end ?? begin
    const flow = { ...track, name: 'effect', cat: 'flow' }
    for (const id of links.to(span)) yield { ...flow, ts: traceTime(begin), ph: 'f', bp: 'e', id }
    yield* this.#inside(span.inside, track, links, words)
    for (const id of links.from(span)) yield { ...flow, ts: traceTime(last), ph: 's', id }
  }

  #mark(record: TraceRecord, track: Track, time: number): TraceEvent {
    const text = record.kind === 'console' ? record.text : describeRecord(record, this.#warnings)
    return { ts: traceTime(time), name: plain(text), ph: 'i', s: 't', cat: record.kind, ...track }
  }

  /** What a decision changes is counted from when it began: that is when the host handed it over. */
  *#count({ root, children }: Group, time: number): Generator<TraceEvent> {
    if (root.kind === 'reset') for (const depths of this.#depths.values()) depths.reset()
    if (root.kind === 'trap') yield* this.#counters(root.smmu, time, this.#depthsOf(root.smmu).access(root))
    for (const child of children) {
      if (child.kind === 'event') yield* this.#counters(child.smmu, time, this.#depthsOf(child.smmu).event())
      else if (child.kind === 'command' && isHostCommand(child)) {
        yield* this.#counters(child.smmu, time, this.#depthsOf(child.smmu).command(child))
      }
    }
  }

  #depthsOf(smmu: number): Depths {
    const known = this.#depths.get(smmu)
    if (known !== undefined) return known
    const depths = new Depths()
    this.#depths.set(smmu, depths)
    return depths
  }

  *#counters(smmu: number, time: number, depths: Iterable<Depth>): Generator<TraceEvent> {
    const ts = traceTime(time)
    for (const [what, value] of depths) {
      yield { ts, name: `smmu${smmu} ${what}`, ph: 'C', pid: SERVER, tid: SERVER, args: { value } }
    }
  }
}

/** Flows between the slices of a decision. */
class Links {
  readonly #from = new Map<Span, number[]>()
  readonly #to = new Map<Span, number[]>()

  constructor(spans: readonly Span[], nextId: () => number) {
    let commands: Span[] = []
    let sync: Span | undefined
    for (const span of inOrder(spans)) {
      const { record } = span
      // Moments are no slices: there is nothing that a flow could begin or end in.
      if (span.begin === span.end) continue
      if (record.kind === 'command') {
        if (record.verdict !== verdict.dropped) commands.push(span)
      } else if (record.kind === 'hardware' && record.write === 1 && record.offset === ARM_SMMU_CMDQ_PROD) {
        for (const command of commands) this.#add(command, span, nextId())
        sync = commands.findLast(({ record }) => record.kind === 'command' && record.opcode === CMDQ_OP_CMD_SYNC)
        this.#prod = record.lo
        commands = []
      } else if (record.kind === 'hardware' && record.write === 0 && record.offset === ARM_SMMU_CMDQ_CONS) {
        if (sync === undefined || record.lo !== this.#prod) continue
        this.#add(sync, span, nextId())
        sync = undefined
      }
    }
  }

  #prod = 0

  #add(from: Span, to: Span, id: number): void {
    this.#from.set(from, [...(this.#from.get(from) ?? []), id])
    this.#to.set(to, [...(this.#to.get(to) ?? []), id])
  }

  /** Ids of the flows that begin in a span. */
  from(span: Span): readonly number[] {
    return this.#from.get(span) ?? []
  }

  /** Ids of the flows that end in it. */
  to(span: Span): readonly number[] {
    return this.#to.get(span) ?? []
  }
}

/** As they were recorded: what was done for a command before the command. */
function* inOrder(spans: readonly Span[]): Generator<Span> {
  for (const span of spans) {
    yield* inOrder(span.inside)
    yield span
  }
}

const named = (what: string, pid: number, tid: number, name: string): TraceEvent => ({
  name: what,
  ph: 'M',
  pid,
  tid,
  args: { name },
})
const thread = (pid: number, tid: number, name: string) => named('thread_name', pid, tid, name)

function* names(vcpus: number): Generator<TraceEvent> {
  yield named('process_name', GUEST, GUEST, 'guest')
  yield named('process_name', SERVER, SERVER, 'server')
  for (let cpu = 0; cpu < vcpus; cpu++) yield thread(GUEST, VCPUS + cpu, `vCPU ${cpu}`)
  for (const [text, tid] of Object.entries(TRACKS)) yield thread(SERVER, tid, text)
}

/** Of a record, or of the decision that a root stands for. */
function trackOf(record: TraceRecord): Track {
  switch (record.kind) {
    case 'trap':
      return { pid: GUEST, tid: VCPUS + record.cpu }
    case 'translate':
      return { pid: SERVER, tid: TRACKS['translation requests'] }
    case 'console':
      return { pid: SERVER, tid: TRACKS['guest console'] }
    case 'event':
    case 'gerror':
    case 'guardFault':
      return { pid: SERVER, tid: TRACKS.events }
    default:
      return { pid: SERVER, tid: TRACKS.machine }
  }
}

function nameOf(root: Group['root']): string {
  switch (root.kind) {
    case 'trap':
      return `${root.write ? 'W' : 'R'} ${registerName(root.offset)}${root.aborted ? ' aborted' : ''}`
    case 'translate':
      return `translate sid ${hex(root.sid)}`
    case 'request':
      return describeRequest(root)
    default:
      return root.kind
  }
}

function argsOf(root: Group['root'], symbols: Symbols | undefined): Record<string, unknown> {
  switch (root.kind) {
    case 'trap': {
      const { seq, smmu, lo, hi, offset, time, duration } = root
      const pc = pcOf(root)
      const where = pc === 0n ? {} : { pc: hex(pc), ...(symbols && { function: symbols.describe(pc) }) }
      const value = { value: hex64(lo, hi), fields: describeRegister(offset, lo, hi) }
      return { seq, smmu, ...value, ...where, virtual_ns: time, ...(duration === 0 && { predicted: true }) }
    }
    case 'translate':
      return { iova: hex64(root.iovaLo, root.iovaHi), pa: hex(root.pa), status: root.status }
    case 'request':
      return { result: root.result | 0 }
    case 'reset':
      return { cause: root.cause }
  }
}

/** What a slice is called; undefined for what is a mark. @param words of the host's commands, by index */
function describeSpan(
  { record, index }: Span,
  words: ReadonlyMap<number, string>,
): { readonly name: string; readonly args: Readonly<Record<string, unknown>> } | undefined {
  switch (record.kind) {
    case 'hardware': {
      const { write, offset, lo, hi, ok } = record
      const posted = isPosted(record)
      const name = `${posted ? 'posted' : 'hardware'} ${write ? 'W' : 'R'} ${registerName(offset)}`
      return { name, args: { value: hex64(lo, hi), ...(ok === 0 && { refused: true }) } }
    }
    case 'command': {
      const name = opcodeName(record.opcode)
      if (!isHostCommand(record)) return { name: `own ${name}`, args: {} }
      const command = words.get(index)
      const [became] = Object.entries(verdict).find(([, value]) => value === record.verdict) ?? [record.verdict]
      return { name, args: { ...(command !== undefined && { command }), verdict: became } }
    }
    case 'stream': {
      const { sid, hostConfig, shadowConfig } = record
      const configs = { host: streamConfigName(hostConfig), shadow: streamConfigName(shadowConfig) }
      return { name: `shadow STE ${hex(sid)}`, args: configs }
    }
    default:
      return undefined
  }
}

/** The host's commands in words, by their index in the group. */
function commandTexts(children: readonly TraceRecord[]): Map<number, string> {
  const words = commandWords(children)
  const indices = children.flatMap((child, index) => (isHostCommand(child) ? [index] : []))
  return new Map(
    indices.flatMap((index, n) => {
      const command = words[n]
      return command === undefined ? [] : [[index, describeCommand(command)] as const]
    }),
  )
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
