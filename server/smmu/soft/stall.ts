// SPDX-License-Identifier: Apache-2.0
/** Stalled transactions (IHI 0070 sections 3.12.2, 4.7.1, 4.7.2): held until software resumes or terminates them. */

import { getField } from '../bits.ts'
import {
  CMDQ_RESUME_0_RESP,
  CMDQ_RESUME_0_RESP_ABORT,
  CMDQ_RESUME_0_RESP_RETRY,
  CMDQ_RESUME_0_SID,
  CMDQ_RESUME_1_STAG,
} from '../commands.ts'
import type { Features } from '../features.ts'
import { ABORTED, type Faulted, type Outcome, type Transaction } from '../transaction.ts'
import type { EventQueue } from './evtq.ts'
import type { SoftSmmuOptions } from './options.ts'

interface Stalled {
  readonly transaction: Transaction
  readonly fault: Faulted
  /** The event is in the queue; otherwise it waits for room. */
  recorded: boolean
}

export class Stalls {
  /** By STAG. As many as IDR5.STALL_MAX says. */
  readonly #slots: (Stalled | undefined)[]
  readonly #termModel: boolean
  readonly #events: EventQueue
  readonly #onResume: SoftSmmuOptions['onResume']
  readonly #retry: (t: Transaction) => Outcome
  #held = 0
  #unrecorded = 0

  constructor(
    features: Features,
    events: EventQueue,
    onResume: SoftSmmuOptions['onResume'],
    retry: (t: Transaction) => Outcome,
  ) {
    this.#slots = new Array<Stalled | undefined>(features.stallMax).fill(undefined)
    this.#termModel = features.termModel
    this.#events = events
    this.#onResume = onResume
    this.#retry = retry
  }

  /**
   * Holds a transaction whose fault stalls, and records the event as soon as the queue takes it.
   * @returns the fault with its STAG; not recorded when as many are held as can be: the device has to present it again
   */
  hold(t: Transaction, fault: Faulted): Faulted {
    const stag = this.#held < this.#slots.length ? this.#slots.indexOf(undefined) : -1
    if (stag < 0) return { ...fault, record: false }
    const event = { ...fault.event, stag }
    const stalled = { ...fault, event }
    const recorded = this.#events.recordStall(event)
    this.#slots[stag] = { transaction: { ...t }, fault: stalled, recorded }
    this.#held++
    if (!recorded) this.#unrecorded++
    return stalled
  }

  /** The event queue may have become writable. */
  flush(): void {
    if (this.#unrecorded === 0) return
    for (const stalled of this.#slots) {
      if (stalled === undefined || stalled.recorded) continue
      if (!this.#events.recordStall(stalled.fault.event)) return
      stalled.recorded = true
      this.#unrecorded--
    }
  }

  #release(stag: number): Stalled | undefined {
    const stalled = this.#slots[stag]
    if (stalled === undefined) return undefined
    this.#slots[stag] = undefined
    this.#held--
    if (!stalled.recorded) this.#unrecorded--
    return stalled
  }

  /** CMD_RESUME. A STAG that no transaction of the stream has is no error (IHI 0070 section 4.7.1). */
  resume(cmd: Uint32Array, base: number): void {
    const stag = getField(cmd, CMDQ_RESUME_1_STAG, base)
    const action = getField(cmd, CMDQ_RESUME_0_RESP, base)
    if (this.#slots[stag]?.transaction.sid !== getField(cmd, CMDQ_RESUME_0_SID, base)) return
    const stalled = this.#release(stag)
    if (stalled === undefined) return
    const { transaction } = stalled
    // With Action = 1 the Abort bit is ignored; with IDR0.TERM_MODEL = 1 everything that is terminated is aborted.
    if (action & CMDQ_RESUME_0_RESP_RETRY) this.#onResume?.(stag, transaction, this.#retry(transaction))
    else this.#terminate(stag, transaction, action === CMDQ_RESUME_0_RESP_ABORT || this.#termModel)
  }

  #terminate(stag: number, transaction: Transaction, abort: boolean): void {
    this.#onResume?.(stag, transaction, abort ? ABORTED : 'raz-wi')
  }

  /** CMD_STALL_TERM, and with `sid` undefined the end of translation (IHI 0070 section 6.3.9.6). Events that wait are dropped. */
  terminate(sid: number | undefined): void {
    if (this.#held === 0) return
    for (let stag = 0; stag < this.#slots.length; stag++) {
      const transaction = this.#slots[stag]?.transaction
      if (transaction === undefined || (sid !== undefined && transaction.sid !== sid)) continue
      this.#release(stag)
      this.#terminate(stag, transaction, true)
    }
  }

  reset(): void {
    this.#slots.fill(undefined)
    this.#held = this.#unrecorded = 0
  }
}
