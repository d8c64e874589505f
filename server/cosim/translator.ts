// SPDX-License-Identifier: Apache-2.0
/** Translation modes `server` and `lockstep`: the walker answers, or checks, every IOTLB miss of the machine. */
import { encodeTranslated, encodeTranslateMode, type Translate } from '../../protocol/generated/messages.ts'
import { enums } from '../../protocol/messages.ts'
import type { Injector } from '../faults/injector.ts'
import type { GuestMemory } from '../machine/ports.ts'
import { hex64 } from '../smmu/bits.ts'
import { decodeFeatures } from '../smmu/features.ts'
import {
  ARM_SMMU_CR0,
  ARM_SMMU_CR2,
  ARM_SMMU_GBPA,
  ARM_SMMU_IDR0,
  ARM_SMMU_IDR1,
  ARM_SMMU_IDR3,
  ARM_SMMU_IDR5,
  ARM_SMMU_STRTAB_BASE,
  ARM_SMMU_STRTAB_BASE_CFG,
  GBPA_UPDATE,
} from '../smmu/registers.ts'
import { NO_SSID, type Outcome, type Transaction } from '../smmu/transaction.ts'
import { Walker } from '../smmu/walker.ts'
import { describeStep, type Recorder } from '../smmu/walkSteps.ts'
import type { RingWriter } from '../trace/ring.ts'
import { describeAnswer, newAnswer, sameAnswer, setOutcome, setRequested } from './answer.ts'
import type { Link } from './link.ts'

const { write: WRITE, exec: EXEC, privileged: PRIVILEGED, ssidValid: SSID_VALID } = enums.access
const { fault: FAULT } = enums.translation

export type TranslateMode = keyof typeof enums.translateMode

/** Where QEMU's model and the walker differ: both answers, and the tables as the walker read them. */
export interface Mismatch {
  readonly smmu: number
  readonly sid: number
  readonly iova: string
  readonly access: 'read' | 'write'
  readonly hardware: string
  readonly walker: string
  readonly steps: readonly string[]
}

/** The `translate` section of a report. */
export interface TranslateReport {
  readonly mode: TranslateMode
  readonly misses: number
  readonly faults: number
  readonly mismatches: number
  /** The first of them. */
  readonly findings: readonly Mismatch[]
  /** Server's time for one translation, µs: median of the last 4096. */
  readonly medianUs: number
}

const LISTED_FINDINGS = 100
const TIMES = 4096

/** The registers that translation depends on, kept from what is written to the hardware. */
export class TrackedHardware implements SmmuHardware {
  readonly #hardware: SmmuHardware
  readonly #written = new Map<number, number>()
  /** Counts writes, so that a reader knows when to look again. */
  generation = 0

  constructor(hardware: SmmuHardware) {
    this.#hardware = hardware
  }

  read(offset: number, size: number, into: Halves): boolean {
    return this.#hardware.read(offset, size, into)
  }

  write(offset: number, size: number, lo: number, hi: number): boolean {
    const ok = this.#hardware.write(offset, size, lo, hi)
    if (ok && offset < ARM_SMMU_STRTAB_BASE_CFG + 4 && size >= 4) {
      this.#written.set(offset, lo)
      if (size === 8) this.#written.set(offset + 4, hi)
      this.generation++
    }
    return ok
  }

  /** Of the queue registers, which translation does not depend on. */
  writeThenRead(offset: number, value: number, readOffset: number, into: Halves): boolean {
    if (this.#hardware.writeThenRead !== undefined) {
      return this.#hardware.writeThenRead(offset, value, readOffset, into)
    }
    return this.#hardware.write(offset, 4, value, 0) && this.#hardware.read(readOffset, 4, into)
  }

  /** What stands in the register: as written, or as the hardware says it is. */
  value(offset: number): number {
    const written = this.#written.get(offset)
    if (written !== undefined) return written
    const into = { lo: 0, hi: 0 }
    this.#hardware.read(offset, 4, into)
    this.#written.set(offset, into.lo)
    return into.lo
  }

  /** The hardware was reset: ask it again. */
  forget(): void {
    this.#written.clear()
    this.generation++
  }
}

/** One SMMU's walker. */
class SmmuTranslator {
  readonly #hardware: TrackedHardware
  readonly #walker: Walker
  #generation = -1

  constructor(hardware: TrackedHardware, memory: GuestMemory) {
    this.#hardware = hardware
    const [idr0, idr1, idr3, idr5] = [ARM_SMMU_IDR0, ARM_SMMU_IDR1, ARM_SMMU_IDR3, ARM_SMMU_IDR5].map(offset =>
      hardware.value(offset),
    )
    this.#walker = new Walker(decodeFeatures({ idr0, idr1, idr3, idr5 }), memory)
  }

  translate(transaction: Transaction, recorder?: Recorder): Outcome {
    if (this.#generation !== this.#hardware.generation) this.#load()
    return this.#walker.translate(transaction, recorder)
  }

  #load(): void {
    const hardware = this.#hardware
    this.#walker.setRegisters({
      cr0: hardware.value(ARM_SMMU_CR0),
      cr2: hardware.value(ARM_SMMU_CR2),
      gbpa: hardware.value(ARM_SMMU_GBPA) & ~GBPA_UPDATE,
      strtabBaseLo: hardware.value(ARM_SMMU_STRTAB_BASE),
      strtabBaseHi: hardware.value(ARM_SMMU_STRTAB_BASE + 4),
      strtabBaseCfg: hardware.value(ARM_SMMU_STRTAB_BASE_CFG),
    })
    this.#generation = hardware.generation
  }
}

/** Answers the machine's translate requests. */
export class Translator {
  readonly mode: TranslateMode
  readonly #memory: GuestMemory
  readonly #ring: RingWriter
  /** Alters answers, while rules are armed. */
  faults: Pick<Injector, 'armed' | 'translate'> | undefined
  readonly #hardware: readonly TrackedHardware[]
  readonly #smmus: (SmmuTranslator | undefined)[] = []
  readonly #transaction: Transaction = {
    sid: 0,
    ssid: NO_SSID,
    lo: 0,
    hi: 0,
    write: false,
    privileged: false,
    instruction: false,
  }
  readonly #answer = newAnswer()
  readonly #theirs = newAnswer()
  readonly #times = new Float64Array(TIMES)
  #misses = 0
  #faults = 0
  #mismatches = 0
  readonly #findings: Mismatch[] = []

  /** @param memory not recorded: a walk is on the trace as one record, with its result. */
  constructor(mode: TranslateMode, memory: GuestMemory, ring: RingWriter, hardware: readonly TrackedHardware[]) {
    this.mode = mode
    this.#memory = memory
    this.#ring = ring
    this.#hardware = hardware
  }

  /** The machine was reset. Reads ID registers, so it must not be called while an answer is awaited. */
  reset(): void {
    for (const [index, hardware] of this.#hardware.entries()) {
      hardware.forget()
      this.#smmus[index] = new SmmuTranslator(hardware, this.#memory)
    }
  }

  /** Tells QEMU who translates. @throws LinkClosed, ProtocolError */
  announce(link: Link): void {
    for (const index of this.#hardware.keys()) {
      const seq = link.nextSeq()
      encodeTranslateMode(link.out, seq, index, enums.translateMode[this.mode][0])
      link.call(seq)
    }
  }

  /** Walks, compares in lockstep, and encodes the answer into `link.out`. */
  request(link: Link, request: Translate): void {
    const start = this.#ring.now()
    const transaction = this.#transaction
    const { access } = request
    transaction.sid = request.sid
    transaction.ssid = (access & SSID_VALID[0]) === 0 ? NO_SSID : request.ssid
    transaction.lo = request.iovaLo
    transaction.hi = request.iovaHi
    transaction.write = (access & WRITE[0]) !== 0
    transaction.instruction = (access & EXEC[0]) !== 0
    transaction.privileged = (access & PRIVILEGED[0]) !== 0
    const smmu = this.#smmus[request.smmu]
    const answer = this.#answer
    if (smmu === undefined) setOutcome(answer, { kind: 'abort' })
    else setOutcome(answer, smmu.translate(transaction))
    if (answer.status === FAULT[0]) this.#faults++
    if (this.mode === 'lockstep' && smmu !== undefined) this.#compare(request, smmu)
    const words = answer.words
    encodeTranslated(
    if (this.faults?.armed) this.faults.translate(request, answer)
      link.out,
      request.seq,
      answer.status,
      answer.pa,
      answer.addressMask,
      answer.permissions,
      words[1],
      words[0],
      words[3],
      words[2],
      words[5],
      words[4],
      words[7],
      words[6],
    )
    const duration = this.#ring.now() - start
    this.#times[this.#misses % TIMES] = duration
    this.#misses++
    this.#ring.translate(request, answer, start, duration)
  }

  report(): TranslateReport {
    const times = this.#times.slice(0, Math.min(this.#misses, TIMES)).sort()
    return {
      mode: this.mode,
      misses: this.#misses,
      faults: this.#faults,
      mismatches: this.#mismatches,
      findings: this.#findings,
      medianUs: Math.round((times[times.length >> 1] ?? 0) / 10) / 100,
    }
  }

  #compare(request: Translate, smmu: SmmuTranslator): void {
    const theirs = this.#theirs
    setRequested(theirs, request)
    if (sameAnswer(theirs, this.#answer)) return
    this.#mismatches++
    if (this.#findings.length === LISTED_FINDINGS) return
    const steps: string[] = []
    smmu.translate(this.#transaction, step => steps.push(describeStep(step)))
    this.#findings.push({
      smmu: request.smmu,
      sid: request.sid,
      iova: hex64(request.iovaLo, request.iovaHi),
      access: this.#transaction.write ? 'write' : 'read',
      hardware: describeAnswer(theirs),
      walker: describeAnswer(this.#answer),
      steps,
    })
  }
}
