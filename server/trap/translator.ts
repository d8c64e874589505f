// SPDX-License-Identifier: Apache-2.0
/** Translation modes `server` and `lockstep`: the walker answers, or checks, every IOTLB miss of the machine. */
import { encodeTranslated, encodeTranslateMode, type Translate } from '../../protocol/generated/messages.ts'
import { enums } from '../../protocol/messages.ts'
import type { Injector } from '../faults/injector.ts'
import { hex64 } from '../smmu/bits.ts'
import { decodeFeatures, type Features } from '../smmu/features.ts'
import type { GuestMemory } from '../smmu/memory.ts'
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
  CR2_E2H,
  GBPA_UPDATE,
} from '../smmu/registers.ts'
import { SoftCaches } from '../smmu/soft/caches.ts'
import { execute } from '../smmu/soft/execute.ts'
import { NO_SSID, type Outcome, type Transaction } from '../smmu/transaction.ts'
import { Walker } from '../smmu/walker.ts'
import { describeStep } from '../smmu/walkSteps.ts'
import type { RingWriter } from '../trace/ring.ts'
import { type Answer, describeAnswer, newAnswer, sameAnswer, setOutcome, setRequested } from '../translate/answer.ts'
import { type Case, DIFFERENCES, Examiner, explain } from '../translate/differences.ts'
import type { CommandListener, TrackedHardware } from '../translate/trackedHardware.ts'
import type { Link } from './link.ts'
import { RecordedMemory } from './wirePorts.ts'

const { write: WRITE, exec: EXEC, privileged: PRIVILEGED, ssidValid: SSID_VALID } = enums.access
const { fault: FAULT } = enums.translation

export type TranslateMode = keyof typeof enums.translateMode

/** Where QEMU's model and the walker differ and nobody knows why: both answers, and the tables as they stand. */
export interface Mismatch {
  readonly smmu: number
  readonly sid: number
  readonly iova: string
  readonly access: 'read' | 'write'
  readonly hardware: string
  readonly walker: string
  /** What the tables say, where the walker's answer is one that it had cached: an invalidation is missing. */
  readonly tables?: string
  readonly steps: readonly string[]
}

/** A known difference of QEMU's model (differences.ts), and how many answers it explains. */
export interface Explained {
  readonly difference: string
  readonly section: string
  readonly count: number
}

/** The `translate` section of a report. */
export interface TranslateReport {
  readonly mode: TranslateMode
  readonly misses: number
  readonly faults: number
  /** Answers that differ, without those that known differences explain. */
  readonly mismatches: number
  /** The first of them. */
  readonly findings: readonly Mismatch[]
  readonly explained: readonly Explained[]
  /** Server's time for one translation, µs, of the last 4096. */
  readonly medianUs: number
  readonly p99Us: number
}

const LISTED_FINDINGS = 100
const TIMES = 4096

/** After so many walks the caches start anew: a guest that never invalidates does not fill the server's memory. */
const MAX_WALKS = 1 << 16

/**
 * One SMMU's walker, with caches of its own that only the commands empty which the hardware consumes: an invalidation that
 * the hypervisor swallowed shows as a translation by the old tables, as on hardware.
 */
class SmmuTranslator implements CommandListener {
  readonly #hardware: TrackedHardware
  readonly #features: Features
  /**
   * Not `maximal`: a level 1 descriptor of the stream table becomes valid with CFGI_STE of a leaf, in Linux and in the series,
   * and the model does not know the contiguous bit.
   */
  readonly #caches = new SoftCaches('walks')
  readonly #walker: Walker
  readonly #examiner: Examiner
  #generation = -1
  #walks = 0
  #e2h = false

  /** @param recorded guest memory, and whatever the walker reads of it is on the trace */
  constructor(hardware: TrackedHardware, memory: GuestMemory, recorded: GuestMemory) {
    this.#hardware = hardware
    const [idr0, idr1, idr3, idr5] = [ARM_SMMU_IDR0, ARM_SMMU_IDR1, ARM_SMMU_IDR3, ARM_SMMU_IDR5].map(offset =>
      hardware.value(offset),
    )
    this.#features = decodeFeatures({ idr0, idr1, idr3, idr5 })
    this.#walker = new Walker(this.#features, recorded, this.#caches)
    this.#examiner = new Examiner(this.#features, memory)
    hardware.listen(this.#features.cmdqs, this)
  }

  translate(transaction: Transaction): Outcome {
    if (this.#generation !== this.#hardware.generation) this.#load()
    if (++this.#walks > MAX_WALKS) this.lost()
    return this.#walker.translate(transaction)
  }

  /** The same without caches. */
  examine(transaction: Transaction, hardware: Answer): Case {
    return this.#examiner.examine(transaction, hardware)
  }

  command(words: Uint32Array, base: number): void {
    execute(words, base, this.#features, this.#caches, this.#e2h)
  }

  lost(): void {
    this.#caches.clear()
    this.#walks = 0
  }

  #load(): void {
    const hardware = this.#hardware
    const registers = {
      cr0: hardware.value(ARM_SMMU_CR0),
      cr2: hardware.value(ARM_SMMU_CR2),
      gbpa: hardware.value(ARM_SMMU_GBPA) & ~GBPA_UPDATE,
      strtabBaseLo: hardware.value(ARM_SMMU_STRTAB_BASE),
      strtabBaseHi: hardware.value(ARM_SMMU_STRTAB_BASE + 4),
      strtabBaseCfg: hardware.value(ARM_SMMU_STRTAB_BASE_CFG),
    }
    this.#walker.setRegisters(registers)
    this.#examiner.setRegisters(registers)
    this.#e2h = (registers.cr2 & CR2_E2H) !== 0
    this.#generation = hardware.generation
  }
}

/** Answers the machine's translate requests. */
export class Translator {
  readonly mode: TranslateMode
  /** Alters answers, while rules are armed. */
  faults: Pick<Injector, 'armed' | 'translate'> | undefined
  readonly #memory: GuestMemory
  readonly #ring: RingWriter
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
  /** By the name of the difference. */
  readonly #explained = new Map<string, number>()

  /** @param memory not recorded */
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
      this.#smmus[index] = new SmmuTranslator(hardware, this.#memory, new RecordedMemory(this.#memory, this.#ring))
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
  request(link: Pick<Link, 'out'>, request: Translate): void {
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
    if (this.faults?.armed) this.faults.translate(request, answer)
    if (answer.status === FAULT[0]) this.#faults++
    if (this.mode === 'lockstep' && smmu !== undefined) this.#compare(request, smmu)
    const words = answer.words
    encodeTranslated(
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
    this.#ring.translate(request, start, duration, answer, answer.record, 0, answer.record.length)
  }

  report(): TranslateReport {
    const times = this.#times.slice(0, Math.min(this.#misses, TIMES)).sort()
    const us = (share: number) => Math.round((times[Math.floor(times.length * share)] ?? 0) / 10) / 100
    const explained = DIFFERENCES.flatMap(({ name, section }) => {
      const count = this.#explained.get(name)
      return count === undefined ? [] : [{ difference: name, section, count }]
    })
    return {
      mode: this.mode,
      misses: this.#misses,
      faults: this.#faults,
      mismatches: this.#mismatches,
      findings: this.#findings,
      explained,
      medianUs: us(0.5),
      p99Us: us(0.99),
    }
  }

  #compare(request: Translate, smmu: SmmuTranslator): void {
    const theirs = this.#theirs
    const ours = this.#answer
    setRequested(theirs, request)
    if (sameAnswer(theirs, ours)) return
    const found = smmu.examine(this.#transaction, theirs)
    const stale = !sameAnswer(found.walker, ours)
    const names = stale ? undefined : explain(found)
    if (names !== undefined) {
      for (const name of names) this.#explained.set(name, (this.#explained.get(name) ?? 0) + 1)
      return
    }
    this.#mismatches++
    if (this.#findings.length === LISTED_FINDINGS) return
    this.#findings.push({
      smmu: request.smmu,
      sid: request.sid,
      iova: hex64(request.iovaLo, request.iovaHi),
      access: this.#transaction.write ? 'write' : 'read',
      hardware: describeAnswer(theirs),
      walker: describeAnswer(ours),
      ...(stale && { tables: describeAnswer(found.walker) }),
      steps: found.steps.map(describeStep),
    })
  }
}
