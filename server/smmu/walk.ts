// SPDX-License-Identifier: Apache-2.0
/** One translation under way: what it fetches, and the fault that it ends in. */
import { alignDown, exceeds, hex } from './bits.ts'
import * as E from './events.ts'
import type { Features } from './features.ts'
import type { GuestMemory } from './memory.ts'
import * as P from './pagetable.ts'
import { STRTAB_STE_SIZE } from './ste.ts'
import type { Cd, Stage2 } from './streamConfig.ts'
import { type Faulted, NO_SSID, type Response, type Transaction } from './transaction.ts'
import type { Caches } from './translationCaches.ts'
import { describeLeaf, type Recorder, type WalkStep } from './walkSteps.ts'

/** Bits [63:12] of an address. */
export function pageOf(lo: number, hi: number): number {
  return hi * 0x10_0000 + (lo >>> 12)
}

export class Walk {
  readonly features: Features
  readonly caches: Caches | undefined
  readonly #memory: GuestMemory
  /** The structure that was fetched last. */
  readonly bytes = new Uint8Array(STRTAB_STE_SIZE)
  readonly words = new Uint32Array(this.bytes.buffer)
  /** Low and high half of the descriptor that was read last. */
  lo = 0
  hi = 0

  /** The transaction, and its attributes after the overrides of its STE. */
  t: Transaction = { sid: 0, ssid: NO_SSID, lo: 0, hi: 0, write: false, privileged: false, instruction: false }
  privileged = false
  instruction = false
  recorder: Recorder | undefined
  /** That the last step ended in. */
  #fault: Faulted | undefined

  constructor(features: Features, memory: GuestMemory, caches?: Caches) {
    this.features = features
    this.#memory = memory
    this.caches = caches
  }

  begin(t: Transaction, recorder?: Recorder): void {
    this.t = t
    this.recorder = recorder
    this.#fault = undefined
    this.privileged = t.privileged
    this.instruction = t.instruction && !t.write
  }

  faulted(): Faulted {
    // Every step that gives up has set the fault; without one the transaction would silently pass.
    if (!this.#fault) throw new Error('walk ended without a translation and without a fault')
    return this.#fault
  }

  /** Sets the fault and returns undefined, so that a step can end with it. */
  fail(id: number, record: boolean, response: Response, s2 = false, cls = 0, ipa = 0, fetchAddr = 0): undefined {
    const t = this.t
    const stalls = response === 'stall'
    this.#fault = {
      kind: 'fault',
      record: record || stalls,
      response,
      event: {
        id,
        streamId: t.sid,
        ssv: t.ssid !== NO_SSID,
        substreamId: t.ssid === NO_SSID ? 0 : t.ssid,
        stall: stalls,
        stag: 0,
        reason: 0,
        rnw: !t.write,
        ind: this.instruction,
        pnu: this.privileged,
        s2,
        class: cls,
        ttRead: id === E.EVT_ID_PERMISSION_FAULT && cls === E.EVTQ_1_CLASS_TT,
        inputLo: t.lo,
        inputHi: t.hi,
        ipa: alignDown(ipa, 12),
        fetchAddr,
      },
    }
    return undefined
  }

  /** A configuration error, or a fetch that was aborted: always recorded, always an abort. */
  error(id: number, fetchAddr = 0): undefined {
    return this.fail(id, true, 'abort', false, 0, 0, fetchAddr)
  }

  walkAbort(s2: boolean, cls: number, fetchAddr: number): undefined {
    return this.fail(E.EVT_ID_WALK_EABT, true, 'abort', s2, cls, 0, fetchAddr)
  }

  fail1(id: number, cd: Cd): undefined {
    return this.fail(id, cd.record, cd.stall ? 'stall' : cd.abort ? 'abort' : 'raz-wi', false, E.EVTQ_1_CLASS_IN)
  }

  fail2(id: number, s2: Stage2, cls: number, ipa: number): undefined {
    return this.fail(id, s2.record, s2.stall ? 'stall' : 'abort', true, cls, ipa)
  }

  // Fetches.

  /** Reads a structure into words; false for an external abort. */
  fetch(address: number, length: number): boolean {
    return !exceeds(address, this.features.oas) && this.#memory.read(address, this.bytes, 0, length)
  }

  /** Reads a descriptor into lo and hi. */
  descriptor(address: number, bigEndian: boolean): boolean {
    if (!this.#memory.read(address, this.bytes, 0, P.PTE_SIZE)) return false
    if (bigEndian) this.bytes.subarray(0, P.PTE_SIZE).reverse()
    this.lo = this.words[0]
    this.hi = this.words[1]
    return true
  }

  // Steps for people. Nothing here runs without a recorder.

  step(
    what: WalkStep['what'],
    address: number,
    ipa: number | undefined,
    text: string | undefined,
    level?: number,
    cls?: number,
  ): void {
    if (!this.recorder) return
    const length = what === 'STE' || what === 'CD' ? 8 : 1
    const words = text === undefined ? undefined : [...new BigUint64Array(this.bytes.buffer, 0, length)]
    this.recorder({ what, address, ipa, level, class: cls, words, text: text ?? 'external abort' })
  }

  descriptorStep(
    what: 'S1' | 'S2',
    address: number,
    ipa: number | undefined,
    level: number,
    isTable: boolean,
    isLeaf: boolean,
    out: number,
    cls?: number,
  ): void {
    const kind = level === P.LAST_LEVEL ? 'page' : 'block'
    const text = isTable
      ? `table ${hex(out)}`
      : isLeaf
        ? `${kind} ${hex(out)} ${describeLeaf(what === 'S2', this.lo, this.hi)}`
        : 'invalid'
    this.step(what, address, ipa, text, level, cls)
  }
}
