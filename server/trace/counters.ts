// SPDX-License-Identifier: Apache-2.0
/**
 * Counters of a run in a SharedArrayBuffer: the trap thread counts with plain stores, the control thread reads at any
 * time. Unlike the ring they are complete, whatever happens to the trace.
 */
import type { Trap } from '../policy/policy.ts'
import { opcodeName } from '../smmu/commands.ts'
import type { PowerState } from '../smmu/hardware.ts'
import { ARM_SMMU_FRAME_SIZE, registerName } from '../smmu/registers.ts'
import { buckets, count, HISTOGRAM_WORDS, type Percentiles, percentiles } from './histogram.ts'
import { verdict } from './records.ts'
import { counted, grouped } from './words.ts'

const SLOTS = ARM_SMMU_FRAME_SIZE / 4
const CODES = 256
/** The index of an SMMU is a byte. */
const MAX_SMMUS = 256

/** Single counts. */
const SCALARS = [
  'reads',
  'writes',
  'aborted',
  'hardwareReads',
  'hardwareWrites',
  'memoryReads',
  'memoryWrites',
  'gerrors',
  'guardFaults',
  'resets',
  'faults',
  'breakpoints',
  'translations',
  'predicted',
  'poweredOff',
  'poweredOn',
  'powerRefused',
] as const
export type Scalar = (typeof SCALARS)[number]

/** Word indices. */
const READS = 0
const WRITES = READS + SLOTS
const COMMANDS = WRITES + SLOTS
const VERDICTS = Object.keys(verdict).length
const WARNINGS = COMMANDS + CODES * VERDICTS
const EVENTS = WARNINGS + CODES
const LATENCY = EVENTS + CODES
const SERVER = LATENCY + HISTOGRAM_WORDS
const SCALAR = SERVER + HISTOGRAM_WORDS
/** SMMUs that the machine has. */
const SMMU_COUNT = SCALAR + SCALARS.length
/** Of each SMMU. */
const SMMUS = SMMU_COUNT + 1
const SMMU_READS = 0
const SMMU_WRITES = 1
const SMMU_PREDICTED = 2
const SMMU_COMMANDS = 3
const SMMU_WORDS = SMMU_COMMANDS + VERDICTS
const WORDS = SMMUS + MAX_SMMUS * SMMU_WORDS

const smmuAt = (smmu: number): number => SMMUS + (smmu & 0xff) * SMMU_WORDS

const scalarAt = Object.fromEntries(SCALARS.map((name, i) => [name, SCALAR + i])) as Record<Scalar, number>

export function createCounters(): SharedArrayBuffer {
  return new SharedArrayBuffer(WORDS * 4)
}

/** For one thread alone. */
export const ownCounters = (): ArrayBuffer => new ArrayBuffer(WORDS * 4)

/** The trap thread's end. Nothing allocates. */
export class CountersWriter {
  readonly #words: Uint32Array

  constructor(buffer: ArrayBufferLike) {
    this.#words = new Uint32Array(buffer)
  }

  /** A machine is there, with so many SMMUs. */
  machine(smmus: number): void {
    this.#words[SMMU_COUNT] = smmus
  }

  /** @param lastTrapNs of the trap before; 0: unknown. @param serverNs from frame received to reply sent; 0: there was none. */
  trap(trap: Readonly<Trap>, lastTrapNs: number, serverNs: number): void {
    const slot = trap.offset < ARM_SMMU_FRAME_SIZE ? trap.offset >>> 2 : SLOTS - 1
    this.#increment((trap.write ? WRITES : READS) + slot)
    this.#increment(smmuAt(trap.smmu) + (trap.write ? SMMU_WRITES : SMMU_READS))
    this.add(trap.write ? 'writes' : 'reads')
    if (trap.aborted) this.add('aborted')
    this.latency(lastTrapNs)
    if (serverNs !== 0) count(this.#words, SERVER, serverNs)
  }

  /** Round trip of a trap as QEMU measured it, ns; also of the last one, which comes with `shutdown`. 0: unknown. */
  latency(ns: number): void {
    if (ns !== 0) count(this.#words, LATENCY, ns)
  }

  /** Of the reads: QEMU answered one by itself. */
  predicted(smmu: number): void {
    this.#increment(smmuAt(smmu) + SMMU_PREDICTED)
    this.add('predicted')
  }

  /** @param result a value of `verdict`. */
  command(smmu: number, opcode: number, result: number): void {
    this.#increment(COMMANDS + (opcode & 0xff) * VERDICTS + result)
    this.#increment(smmuAt(smmu) + SMMU_COMMANDS + result)
  }

  /** @param id of a HypWarning. */
  warning(id: number): void {
    this.#increment(WARNINGS + (id & 0xff))
  }

  /** @param id of an event record (its first byte). */
  event(id: number): void {
    this.#increment(EVENTS + (id & 0xff))
  }

  /** An SMMU was to be switched. @param before null: there is none @param done it is in the state `to` now */
  power(before: PowerState | null, to: PowerState, done: boolean): void {
    if (!done) this.add('powerRefused')
    else if (before !== to) this.add(to === 'on' ? 'poweredOn' : 'poweredOff')
  }

  add(scalar: Scalar): void {
    this.#increment(scalarAt[scalar])
  }

  #increment(at: number): void {
    this.#words[at] = (this.#words[at] ?? 0) + 1
  }
}

export interface RegisterCount {
  readonly offset: number
  /** Linux's name, or `0x…`. */
  readonly register: string
  readonly reads: number
  readonly writes: number
}

/** Commands by what became of them. */
export interface Verdicts {
  readonly kept: number
  readonly rewritten: number
  readonly dropped: number
  /** Issued by the hypervisor itself. */
  readonly own: number
}

export interface CommandCount extends Verdicts {
  readonly opcode: number
  readonly command: string
}

/** What one SMMU had to do with. */
export interface SmmuCount {
  readonly smmu: number
  readonly reads: number
  readonly writes: number
  /** Of the reads: QEMU answered them by itself. */
  readonly predicted: number
  readonly commands: Verdicts
}

/** For people. */
export function describeSmmu({ smmu, reads, writes, predicted, commands }: SmmuCount): string {
  const { kept, rewritten, dropped, own } = commands
  const byQemu = predicted === 0 ? '' : `, of which ${grouped(predicted)} answered by QEMU`
  const hosts = `${counted(kept + rewritten + dropped, 'command')} of the host`
  return `SMMU ${smmu}: ${counted(reads + writes, 'access', 'accesses')}${byQemu}; ${hosts}, ${grouped(own)} of the hypervisor`
}

/** The control thread's end. Every method reads what is there now. */
export class Counters {
  readonly #words: Uint32Array

  constructor(buffer: ArrayBufferLike) {
    this.#words = new Uint32Array(buffer)
  }

  get(scalar: Scalar): number {
    return this.#at(scalarAt[scalar])
  }

  /** Most frequent first. */
  registers(): RegisterCount[] {
    const list: RegisterCount[] = []
    for (let slot = 0; slot < SLOTS; slot++) {
      const reads = this.#at(READS + slot)
      const writes = this.#at(WRITES + slot)
      if (reads + writes === 0) continue
      list.push({ offset: slot * 4, register: registerName(slot * 4), reads, writes })
    }
    return list.sort((a, b) => b.reads + b.writes - a.reads - a.writes)
  }

  /** By opcode. */
  commands(): CommandCount[] {
    const list: CommandCount[] = []
    for (let opcode = 0; opcode < CODES; opcode++) {
      const verdicts = this.#verdicts(COMMANDS + opcode * VERDICTS)
      const { kept, rewritten, dropped, own } = verdicts
      if (kept + rewritten + dropped + own === 0) continue
      list.push({ opcode, command: opcodeName(opcode), ...verdicts })
    }
    return list
  }

  /** Of each SMMU of the machine. */
  smmus(): SmmuCount[] {
    return Array.from({ length: this.#at(SMMU_COUNT) }, (_, smmu) => {
      const at = smmuAt(smmu)
      const [reads, writes] = [this.#at(at + SMMU_READS), this.#at(at + SMMU_WRITES)]
      const predicted = this.#at(at + SMMU_PREDICTED)
      return { smmu, reads, writes, predicted, commands: this.#verdicts(at + SMMU_COMMANDS) }
    })
  }

  /** Of hyp warnings, by id. */
  warnings(): { id: number; count: number }[] {
    return this.#codes(WARNINGS)
  }

  /** Of event records, by id. */
  events(): { id: number; count: number }[] {
    return this.#codes(EVENTS)
  }

  /** Round trips as QEMU measured them, ns. */
  latency(): Percentiles {
    return percentiles(this.#words, LATENCY)
  }

  /** The server's own time per trap, ns. */
  server(): Percentiles {
    return percentiles(this.#words, SERVER)
  }

  /** Buckets of both histograms that are not empty, as `[middle in ns, count]`. */
  latencyBuckets(): [number, number][] {
    return buckets(this.#words, LATENCY)
  }

  serverBuckets(): [number, number][] {
    return buckets(this.#words, SERVER)
  }

  /** The `traps` section of a report; times in µs. */
  traps() {
    const us = ({ p50, p90, p99, max }: Percentiles) => {
      const round = (ns: number) => Math.round(ns) / 1000
      return { p50: round(p50), p90: round(p90), p99: round(p99), max: round(max) }
    }
    const reads = this.get('reads')
    const writes = this.get('writes')
    return {
      total: reads + writes,
      reads,
      writes,
      predicted: this.get('predicted'),
      byRegister: this.registers().map(({ register, reads, writes }) => ({ register, reads, writes })),
      bySmmu: this.smmus(),
      latencyUs: us(this.latency()),
      serverUs: us(this.server()),
    }
  }

  #verdicts(base: number): Verdicts {
    return {
      kept: this.#at(base + verdict.kept),
      rewritten: this.#at(base + verdict.rewritten),
      dropped: this.#at(base + verdict.dropped),
      own: this.#at(base + verdict.own),
    }
  }

  #codes(base: number): { id: number; count: number }[] {
    const list = []
    for (let id = 0; id < CODES; id++) {
      const n = this.#at(base + id)
      if (n > 0) list.push({ id, count: n })
    }
    return list
  }

  #at(index: number): number {
    return this.#words[index] ?? 0
  }
}
