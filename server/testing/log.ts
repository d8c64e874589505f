// SPDX-License-Identifier: Apache-2.0
/** What happened in a machine, as a test looks at it: the trace, in words. */

import { formatWarningValues, type WarningTable, warningById } from '../policy/warnings.ts'
import { hex64 } from '../smmu/bits.ts'
import { namedStream } from '../smmu/commandFields.ts'
import { describeCommand, opcodeName } from '../smmu/commands.ts'
import { decodeEvent, describeEvent, EVTQ_ENT_WORDS, eventName } from '../smmu/events.ts'
import { registerName } from '../smmu/registers.ts'
import { describeChildren, describeRecord, describeRoot } from '../trace/describe.ts'
import { commandWords } from '../trace/groupMemory.ts'
import { CHILDREN, type Group, type Root } from '../trace/groups.ts'
import type { Layout } from '../trace/layout.ts'
import type { Sink } from '../trace/pump.ts'
import { type RecordOf, roots, type TraceRecord, verdict } from '../trace/records.ts'
import type { RingReader } from '../trace/ring.ts'
import { took } from '../trace/words.ts'

/** The newest so many of each sort are kept. */
const KEPT = 20_000
/** Lines of the excerpt. */
const EXCERPT = 60
/** Children of one decision; a group of more is cut. */
const MAX_CHILDREN = 20_000

/** An event that the SMMU recorded (IHI 0070 section 7.3). */
export interface SmmuEvent {
  /** Its name in the specification: `F_TRANSLATION`, `C_BAD_STE`. */
  readonly type: string
  readonly smmu: number
  /** StreamID, and the name of the device that has it. */
  readonly sid: number
  readonly device: string
  /** RnW: a read was refused, not a write. */
  readonly read: boolean
  /** The fault was at stage 2. */
  readonly s2: boolean
  /** InputAddr; 0 where the record has none. */
  readonly iova: bigint
  /** IPA of a fault at stage 2, of its page; else 0. */
  readonly ipa: number
  /** QEMU's virtual clock, ns. */
  readonly time: number
  readonly text: string
}

/** An access of a vCPU to a register of the SMMU. */
export interface SmmuTrap {
  readonly seq: number
  readonly smmu: number
  /** 0xffff: not made by a vCPU. */
  readonly cpu: number
  /** Linux's name: `CMDQ_PROD`, `CR0`. */
  readonly register: string
  readonly write: boolean
  /** Written, or answered. */
  readonly value: bigint
  readonly aborted: boolean
  readonly time: number
  readonly text: string
}

/** A command of the host's queue, or one of the hypervisor's own. */
export interface SmmuCommand {
  /** Its name in the specification, without `CMD_`: `CFGI_STE`, `TLBI_S2_IPA`. */
  readonly name: string
  readonly smmu: number
  /** What became of it; `own`: issued by the hypervisor. */
  readonly verdict: 'kept' | 'rewritten' | 'dropped' | 'own'
  /** StreamID that it names; undefined: none. */
  readonly sid: number | undefined
  /** Number of the trap in which it was decided; 0: outside of traps. */
  readonly trap: number
  readonly text: string
}

/** A hyp warning: where the real hypervisor would stop. */
export interface HypWarningSeen {
  readonly code: string
  /** An unmodified driver does this in normal operation. */
  readonly expected: boolean
  readonly smmu: number
  readonly text: string
}

/** The newest of what happened, oldest first. */
export class Log<T extends { readonly text: string }> implements Iterable<T> {
  readonly #refresh: () => void
  readonly #items: T[] = []
  /** For people: `event`. */
  readonly what: string
  /** How many there were. */
  count = 0

  /** @param refresh fetches what is not here yet */
  constructor(what: string, refresh: () => void) {
    this.what = what
    this.#refresh = refresh
  }

  add(item: T): void {
    this.count++
    this.#items.push(item)
    if (this.#items.length > 2 * KEPT) this.#items.splice(0, KEPT)
  }

  /** What there is by now. */
  get all(): readonly T[] {
    this.#refresh()
    return this.#items
  }

  [Symbol.iterator](): Iterator<T> {
    return this.all[Symbol.iterator]()
  }

  filter(pattern: Pattern<T>): T[] {
    return this.all.filter(item => matches(item, pattern))
  }

  /** Forgets what there is: what comes from now on counts. */
  clear(): void {
    this.#refresh()
    this.#items.length = 0
    this.count = 0
  }
}

/** Fields with the values that they must have; text also by a regular expression, 64-bit values also as numbers. */
export type Pattern<T> = {
  readonly [K in keyof T]?: T[K] extends string ? T[K] | RegExp : T[K] extends bigint ? bigint | number : T[K]
}

/** Whether an item has the fields of the pattern. */
export function matches<T extends object>(item: T, pattern: Pattern<T>): boolean {
  return Object.entries(pattern).every(([name, wanted]) => {
    const value = (item as Readonly<Record<string, unknown>>)[name]
    if (wanted instanceof RegExp) return typeof value === 'string' && wanted.test(value)
    if (typeof value === 'bigint' && typeof wanted === 'number') return value === BigInt(wanted)
    return value === wanted
  })
}

const VERDICTS = ['kept', 'rewritten', 'dropped', 'own'] as const satisfies readonly (keyof typeof verdict)[]
const nameOfVerdict = (value: number): SmmuCommand['verdict'] =>
  VERDICTS.find(name => verdict[name] === value) ?? 'dropped'

/** Takes the trace apart. */
export class MachineLog implements Sink {
  readonly ready = true
  readonly events: Log<SmmuEvent>
  readonly traps: Log<SmmuTrap>
  readonly commands: Log<SmmuCommand>
  readonly warnings: Log<HypWarningSeen>
  readonly #device: (smmu: number, sid: number) => string
  readonly #table: () => WarningTable
  #children: TraceRecord[] = []
  /** The last groups and records, and where steps of the test began. */
  readonly #lines: string[] = []

  /**
   * @param refresh has what the trap thread did by now handed to this sink
   * @param table of the policy's warnings
   */
  constructor(refresh: () => void, device: (smmu: number, sid: number) => string, table: () => WarningTable) {
    this.events = new Log('event', refresh)
    this.traps = new Log('trap', refresh)
    this.commands = new Log('command', refresh)
    this.warnings = new Log('hyp warning', refresh)
    this.#device = device
    this.#table = table
  }

  /** The end of the trace, in lines. */
  excerpt(): readonly string[] {
    return this.#lines
  }

  fromRing(reader: RingReader, layout: Layout, at: number): void {
    this.record(reader.decode(layout, at))
  }

  flush(): void {}

  record(record: TraceRecord): void {
    if (record.kind === 'event') this.#event(record)
    if (record.kind === 'warning') this.#warning(record)
    if (roots.has(record.kind)) {
      this.#group({ root: record as Root, children: this.#children, whole: true })
      this.#children = []
    } else if (CHILDREN.has(record.kind)) {
      if (this.#children.length < MAX_CHILDREN) this.#children.push(record)
    } else if (record.kind !== 'console') this.#line(describeRecord(record, this.#table()))
  }

  #group(group: Group): void {
    const { root } = group
    if (root.kind === 'trap') this.#trap(root)
    this.#commands(group)
    // Looks that nobody asked the test about.
    if (root.kind === 'request' && root.request === 0) return
    this.#line(describeRoot(root), ...describeChildren(group, false, this.#table()).map(line => `    ${line}`))
  }

  #line(...lines: readonly string[]): void {
    this.#lines.push(...lines)
    if (this.#lines.length > EXCERPT) this.#lines.splice(0, this.#lines.length - EXCERPT)
  }

  #event({ smmu, time, bytes }: RecordOf<'event'>): void {
    const words = new Uint32Array(EVTQ_ENT_WORDS)
    new Uint8Array(words.buffer).set(bytes.subarray(0, 4 * EVTQ_ENT_WORDS))
    const event = decodeEvent(words)
    this.events.add({
      type: eventName(event.id),
      smmu,
      sid: event.streamId,
      device: this.#device(smmu, event.streamId),
      read: event.rnw,
      s2: event.s2,
      iova: (BigInt(event.inputHi) << 32n) | BigInt(event.inputLo >>> 0),
      ipa: event.ipa,
      time,
      text: describeEvent(event),
    })
  }

  #trap(root: RecordOf<'trap'>): void {
    const { seq, smmu, cpu, offset, write, lo, hi, aborted, time, duration } = root
    const register = registerName(offset)
    this.traps.add({
      seq,
      smmu,
      cpu,
      register,
      write: write === 1,
      value: (BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0),
      aborted: aborted === 1,
      time,
      text: `#${seq} ${write ? 'W' : 'R'} ${register} ${hex64(lo, hi)} ${took(duration / 1000)}`,
    })
  }

  #commands({ root, children }: Group): void {
    const found = children.filter(child => child.kind === 'command')
    if (found.length === 0) return
    const words = commandWords(children)
    const trap = root.kind === 'trap' ? root.seq : 0
    let host = 0
    for (const { smmu, opcode, verdict: what } of found) {
      const name = opcodeName(opcode)
      const verdictName = nameOfVerdict(what)
      const own = verdictName === 'own' ? undefined : words[host++]
      const text = `${verdictName.padEnd(9)} ${own === undefined ? name : describeCommand(own)}`
      this.commands.add({
        name,
        smmu,
        verdict: verdictName,
        sid: own === undefined ? undefined : namedStream(own, 0),
        trap,
        text,
      })
    }
  }

  #warning({ id, smmu, v0, v1, v2, v3 }: RecordOf<'warning'>): void {
    const warning = warningById(this.#table(), id)
    const code = warning?.code ?? `number ${id}`
    const text = warning === undefined ? code : `${code} ${formatWarningValues(warning, [v0, v1, v2, v3])}`
    this.warnings.add({ code, expected: warning?.expected ?? false, smmu, text })
  }
}
