// SPDX-License-Identifier: Apache-2.0
/** Translation modes `server` and `lockstep`: the walker answers, or checks, every IOTLB miss of the machine. */
import type { FrameWriter } from '../../protocol/framing.ts'
import { encodeTranslated, type Translate } from '../../protocol/generated/messages.ts'
import { enums } from '../../protocol/messages.ts'
import { hex64 } from '../smmu/bits.ts'
import type { GuestMemory } from '../smmu/memory.ts'
import { NO_SSID, type Transaction } from '../smmu/transaction.ts'
import { describeStep } from '../smmu/walkSteps.ts'
import { type Answer, describeAnswer, newAnswer, sameAnswer, setOutcome, setRequested } from './answer.ts'
import { DIFFERENCES, explain } from './differences.ts'
import { SmmuTranslator } from './smmuTranslator.ts'
import type { TrackedHardware } from './trackedHardware.ts'

const { write: WRITE, exec: EXEC, privileged: PRIVILEGED, ssidValid: SSID_VALID } = enums.access
const { fault: FAULT, mapped: MAPPED } = enums.translation

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

/** The trace, as the translator needs it. */
export interface TranslationTrace {
  /** ns. */
  now(): number
  /** An answer was given; `bytes` from `from` is the event record of a fault. */
  translate(
    request: Translate,
    start: number,
    duration: number,
    answer: Answer,
    bytes: Uint8Array,
    from: number,
    count: number,
  ): void
}

/** Guest memory, as it is and so that accesses to it are on the trace. */
export interface TranslatorMemory {
  readonly plain: GuestMemory
  readonly traced: GuestMemory
}

/** Alters answers while it is armed. */
export interface AnswerFault {
  readonly armed: boolean
  translate(request: Translate, answer: Answer): void
}

const LISTED_FINDINGS = 100
const TIMES = 4096

/** Answers the machine's translate requests. */
export class Translator {
  readonly mode: TranslateMode
  faults: AnswerFault | undefined
  readonly #memory: TranslatorMemory
  readonly #trace: TranslationTrace
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

  constructor(
    mode: TranslateMode,
    memory: TranslatorMemory,
    trace: TranslationTrace,
    hardware: readonly TrackedHardware[],
  ) {
    this.mode = mode
    this.#memory = memory
    this.#trace = trace
    this.#hardware = hardware
  }

  /** The machine was reset. Reads ID registers, so it must not be called while an answer is awaited. */
  reset(): void {
    for (const [index, hardware] of this.#hardware.entries()) {
      hardware.forget()
      this.#smmus[index] = new SmmuTranslator(hardware, this.#memory.plain, this.#memory.traced)
    }
  }

  /** Walks, compares in lockstep, and encodes the answer. @returns where the transaction goes; -1: nowhere */
  request(out: FrameWriter, request: Translate): number {
    const start = this.#trace.now()
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
      out,
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
    const duration = this.#trace.now() - start
    this.#times[this.#misses % TIMES] = duration
    this.#misses++
    this.#trace.translate(request, start, duration, answer, answer.record, 0, answer.record.length)
    return answer.status === MAPPED[0] ? answer.pa : -1
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
