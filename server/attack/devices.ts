// SPDX-License-Identifier: Apache-2.0
/** Devices of the host: they access memory, through ATCs where they have one, and request pages. */

import { PAGE_SIZE } from '../oracle/pageMap.ts'
import { getField, hex } from '../smmu/bits.ts'
import { CMDQ_ATC_0_SID } from '../smmu/commands.ts'
import { eventName } from '../smmu/events.ts'
import { Atc } from '../smmu/soft/atc.ts'
import type { SoftSmmu } from '../smmu/soft/softSmmu.ts'
import { NO_SSID, type Outcome, type Transaction } from '../smmu/transaction.ts'
import type { Feedback } from './feedback.ts'
import type { Oracle } from './oracle.ts'
import type { Dma, Page } from './steps.ts'

/** A device's StreamID whose ATC answers no invalidation. */
const MUTE_SID = 0x1f

/** Accesses that got through and are remembered. */
const REMEMBERED = 8

const HOW = { untranslated: 0, atc: 1, translated: 2 } as const
const KIND = { translated: 0, fault: 1, abort: 2, stalled: 3 } as const

export class Devices {
  readonly #smmus: readonly SoftSmmu[]
  readonly #oracle: Oracle
  readonly #feedback: Feedback
  readonly #atcs = new Map<number, Atc>()
  readonly #t = newTransaction()
  /** Accesses that got through, latest ones: the step, and the page where it ended. */
  readonly reached: { readonly step: Dma; readonly page: number }[] = []
  #oldest = 0

  constructor(smmus: readonly SoftSmmu[], oracle: Oracle, feedback: Feedback) {
    this.#smmus = smmus
    this.#oracle = oracle
    this.#feedback = feedback
  }

  /** Nobody has accessed anything. */
  clear(): void {
    this.#atcs.clear()
    this.reached.length = this.#oldest = 0
  }

  /** CMD_ATC_INV arrives. Returns false when the device does not answer. */
  invalidate(smmu: number, cmd: Uint32Array): boolean {
    return this.#atcs.get(atcKey(smmu, getField(cmd, CMDQ_ATC_0_SID)))?.invalidate(cmd) ?? true
  }

  /**
   * What a device's access ends in; undefined where there is no SMMU. It is good until the next one.
   * @param meanwhile the hypervisor is in the middle of something
   */
  access(step: Dma, meanwhile = false): Outcome | undefined {
    const smmu = this.#smmus[step.smmu]
    if (smmu === undefined) return undefined
    const outcome = this.#outcome(step, smmu)
    const event = outcome.kind === 'fault' ? outcome.event.id : 0
    const owner = outcome.kind === 'translated' ? this.#oracle.map.owner(outcome.pa) : 0
    this.#feedback.outcome(HOW[step.how], KIND[outcome.kind], event, owner)
    if (outcome.kind === 'translated') {
      const { pa } = outcome
      this.reached[this.#oldest++ % REMEMBERED] = { step, page: pa - (pa % PAGE_SIZE) }
      if (this.#oracle.forbidden(pa, step.smmu, step.sid)) this.#report(step, smmu, pa, outcome.bypass, meanwhile)
    }
    return outcome
  }

  #outcome(step: Dma, smmu: SoftSmmu): Outcome {
    const t = fill(this.#t, step)
    if (step.how === 'translated') return smmu.translatedTransaction(t)
    if (step.how === 'untranslated') return smmu.translate(t)
    const key = atcKey(step.smmu, step.sid)
    let atc = this.#atcs.get(key)
    if (atc === undefined) {
      atc = new Atc(smmu, step.sid)
      atc.answers = step.sid !== MUTE_SID
      this.#atcs.set(key, atc)
    }
    return atc.access(t)
  }

  /** A device has reached what it must not. */
  #report(step: Dma, smmu: SoftSmmu, pa: number, bypass: boolean, meanwhile: boolean): void {
    const now = smmu.walk(transactionOf(step))
    const stale = now.kind !== 'translated' || now.pa !== pa
    const cached = stale ? ', from a cache' : ''
    const ways = {
      translated: 'as Translated',
      atc: stale ? 'by what an ATC kept' : 'by what an ATC asked for',
      untranslated: bypass ? `untranslated${cached}` : `by stage 2${cached}`,
    }
    const tables = now.kind === 'translated' ? hex(now.pa) : now.kind === 'fault' ? eventName(now.event.id) : 'abort'
    const what = `SMMU ${step.smmu}: stream ${hex(step.sid)} ${step.write ? 'writes' : 'reads'} ${hex(pa)}`
    this.#oracle.report(
      `dma ${ways[step.how]}${meanwhile ? ', meanwhile' : ''}`,
      `${what}, which ${this.#oracle.notOf(step.smmu, step.sid, pa)}; the tables in memory say ${tables}`,
      pa - (pa % PAGE_SIZE),
    )
  }

  request({ smmu, sid, address, last }: Page): void {
    this.#smmus[smmu]?.pageRequest({
      sid,
      ssid: NO_SSID,
      lo: address % 2 ** 32,
      hi: Math.floor(address / 2 ** 32),
      prgIndex: 1,
      last,
      read: true,
      write: true,
      execute: false,
      privileged: false,
    })
  }
}

/** A device's access as a transaction. */
export function transactionOf(step: Dma): Transaction {
  return fill(newTransaction(), step)
}

const newTransaction = (): Transaction => ({
  sid: 0,
  ssid: NO_SSID,
  lo: 0,
  hi: 0,
  write: false,
  privileged: false,
  instruction: false,
})

function fill(t: Transaction, { sid, ssid, address, write }: Dma): Transaction {
  t.sid = sid
  t.ssid = ssid ?? NO_SSID
  t.lo = address % 2 ** 32
  t.hi = Math.floor(address / 2 ** 32)
  t.write = write
  return t
}

function atcKey(smmu: number, sid: number): number {
  return smmu * 2 ** 32 + sid
}
