// SPDX-License-Identifier: Apache-2.0
/** PCIe ATS (IHI 0070 sections 3.9.1, 13.6): Translation Requests, and transactions that a device marks as Translated. */
import { addressOf, alignDown, exceeds } from '../bits.ts'
import {
  EVT_ID_BAD_ATS_TREQ,
  EVT_ID_BAD_STREAMID_CONFIG,
  EVT_ID_PERMISSION_FAULT,
  EVT_ID_TRANSL_FORBIDDEN,
  emptyEvent,
  isTranslationRelated,
} from '../events.ts'
import type { Features } from '../features.ts'
import type { PageRequest } from '../pageRequest.ts'
import { CR0_ATSCHK, CR0_SMMUEN, CR2_REC_CFG_ATS, CR2_RECINVSID } from '../registers.ts'
import { STRTAB_STE_1_EATS_ABT, STRTAB_STE_1_EATS_S1CHK } from '../ste.ts'
import type { Ste } from '../streamConfig.ts'
import {
  ABORTED,
  type Faulted,
  NO_SSID,
  type Outcome,
  passed,
  type Transaction,
  type Translated,
} from '../transaction.ts'
import type { Walker } from '../walker.ts'
import type { EventQueue } from './evtq.ts'
import type { ControlRegister } from './update.ts'

/** A Translation Request. */
export interface TranslationRequest {
  sid: number
  /** NO_SSID: without a PASID. */
  ssid: number
  /** Untranslated address in unsigned halves. */
  lo: number
  hi: number
  /** NW: the device does not ask for write access. */
  noWrite: boolean
  /** Attributes of the PASID; without one they do not count. */
  execute: boolean
  privileged: boolean
}

/** A Translated transaction. It carries no PASID. */
export interface TranslatedTransaction {
  sid: number
  /** Translated address in unsigned halves: physical, or an IPA with split-stage ATS. */
  lo: number
  hi: number
  write: boolean
}

/** A Translation Completion. */
export type Completion =
  | {
      readonly status: 'success'
      /** Of the 4 KiB page that holds the untranslated address. */
      readonly address: number
      /** log2 of the aligned range around it that is mapped linearly. */
      readonly shift: number
      readonly read: boolean
      readonly write: boolean
      readonly execute: boolean
    }
  | { readonly status: 'unsupported-request' }
  | { readonly status: 'completer-abort' }

const UR: Completion = { status: 'unsupported-request' }
const CA: Completion = { status: 'completer-abort' }

export class Ats {
  readonly #features: Features
  readonly #walker: Walker
  readonly #cr0: ControlRegister
  readonly #cr2: { readonly value: number }
  readonly #events: EventQueue

  constructor(
    features: Features,
    walker: Walker,
    cr0: ControlRegister,
    cr2: { readonly value: number },
    events: EventQueue,
  ) {
    this.#features = features
    this.#walker = walker
    this.#cr0 = cr0
    this.#cr2 = cr2
    this.#events = events
  }

  /** IHI 0070 section 3.9.1.2. */
  request(request: TranslationRequest): Completion {
    if (!this.#features.ats) return UR
    const pasid = request.ssid !== NO_SSID
    const t: Transaction = {
      sid: request.sid,
      ssid: request.ssid,
      lo: request.lo,
      hi: request.hi,
      write: false,
      privileged: pasid && request.privileged,
      instruction: false,
    }
    if (!(this.#cr0.value & CR0_SMMUEN)) return this.#disallowed(t)
    const ste = this.#walker.configuration(t)
    if ('kind' in ste) return this.#failed(ste)
    if (!(ste.config & 4)) return UR
    if (ste.eats === STRTAB_STE_1_EATS_ABT) return this.#disallowed(t)
    let outcome = this.#walker.translate(t)
    if (outcome.kind === 'fault' && outcome.event.id === EVT_ID_PERMISSION_FAULT && !request.noWrite) {
      outcome = this.#walker.translate({ ...t, write: true })
    }
    if (outcome.kind === 'translated') return granted(outcome, ste, request, pasid)
    if (outcome.kind === 'fault' && !isTranslationRelated(outcome.event.id)) return this.#failed(outcome)
    return { status: 'success', address: 0, shift: this.#features.stu, read: false, write: false, execute: false }
  }

  /** F_BAD_ATS_TREQ (IHI 0070 section 7.3.6). */
  #disallowed(t: Transaction): Completion {
    const event = emptyEvent(EVT_ID_BAD_ATS_TREQ, t.sid)
    event.ssv = t.ssid !== NO_SSID
    event.substreamId = event.ssv ? t.ssid : 0
    event.inputLo = (t.lo & 0xffff_f000) >>> 0
    event.inputHi = t.hi
    this.#events.record(event)
    return UR
  }

  /** A configuration error or an external abort. */
  #failed(fault: Faulted): Completion {
    if (fault.event.id !== EVT_ID_BAD_STREAMID_CONFIG || this.#cr2.value & CR2_RECINVSID) this.#recordError(fault)
    return CA
  }

  /** @returns whether it was recorded: only with CR2.REC_CFG_ATS */
  #recordError(fault: Faulted): boolean {
    if (!(this.#cr2.value & CR2_REC_CFG_ATS)) return false
    this.#events.record(fault.event)
    return true
  }

  /** IHI 0070 section 3.9.1.3. */
  translated(t: TranslatedTransaction): Outcome {
    if (!this.#features.ats) return ABORTED
    if (!(this.#cr0.value & CR0_SMMUEN)) return this.#forbidden(t)
    if (!(this.#cr0.value & CR0_ATSCHK)) return this.#pass(t)
    const plain: Transaction = { ...t, ssid: NO_SSID, privileged: false, instruction: false }
    const ste = this.#walker.configuration(plain)
    // RECINVSID has no say here.
    if ('kind' in ste) return { ...ste, record: this.#recordError(ste) }
    if (!(ste.config & 4)) return ABORTED
    if (ste.eats === STRTAB_STE_1_EATS_ABT) return this.#forbidden(t)
    if (ste.eats !== STRTAB_STE_1_EATS_S1CHK) return this.#pass(t)
    const outcome = this.#walker.translateStage2(plain, ste)
    if (outcome.kind === 'fault' && outcome.record) this.#events.record(outcome.event)
    return outcome
  }

  /** An address beyond OAS is aborted without an event (IHI 0070 section 3.9.1.1). */
  #pass(t: TranslatedTransaction): Outcome {
    const address = addressOf(t.lo, t.hi)
    return exceeds(address, this.#features.oas) ? ABORTED : passed(address, this.#features.oas)
  }

  /** F_TRANSL_FORBIDDEN (IHI 0070 section 7.3.8). */
  #forbidden(t: TranslatedTransaction): Faulted {
    const event = emptyEvent(EVT_ID_TRANSL_FORBIDDEN, t.sid)
    event.rnw = !t.write
    event.inputLo = t.lo
    event.inputHi = t.hi
    this.#events.record(event)
    return { kind: 'fault', event, record: true, response: 'abort' }
  }

  /** STE.PPAR, for the response to a page request that is discarded; undefined if there is no usable STE (IHI 0070 section 8.1). */
  ppar(request: PageRequest): boolean | undefined {
    const ste = this.#walker.configuration({ ...request, write: false, privileged: false, instruction: false })
    if (!('kind' in ste)) return ste.ppar
    this.#failed(ste)
    return undefined
  }
}

function granted(outcome: Translated, ste: Ste, request: TranslationRequest, pasid: boolean): Completion {
  return {
    status: 'success',
    address: alignDown(ste.eats === STRTAB_STE_1_EATS_S1CHK ? outcome.ipa : outcome.pa, 12),
    shift: outcome.shift,
    read: outcome.read,
    write: outcome.write && !request.noWrite,
    execute: outcome.execute && pasid && request.execute,
  }
}
