// SPDX-License-Identifier: Apache-2.0
/**
 * A PCIe endpoint with an Address Translation Cache (IHI 0070 section 3.9.1): what it was told once it uses until it is told to
 * forget.
 */
import { alignDown, getField } from '../bits.ts'
import {
  ATC_INV_SIZE_ALL,
  CMDQ_0_SSV,
  CMDQ_ATC_0_GLOBAL,
  CMDQ_ATC_0_SID,
  CMDQ_ATC_0_SSID,
  CMDQ_ATC_1_SIZE,
  commandPage,
} from '../commands.ts'
import { ABORTED, NO_SSID, type Outcome, type Transaction } from '../transaction.ts'
import type { Completion, TranslatedTransaction, TranslationRequest } from './ats.ts'

/** The side of the SMMU that the Root Complex talks to. */
export interface AtsInterface {
  translationRequest(request: TranslationRequest): Completion
  translatedTransaction(t: TranslatedTransaction): Outcome
}

/** A translation that was granted. Pages are 4 KiB, 52 bits. */
interface Entry {
  readonly ssid: number
  readonly page: number
  readonly pages: number
  readonly address: number
  readonly read: boolean
  readonly write: boolean
}

export class Atc {
  readonly sid: number
  readonly #smmu: AtsInterface
  readonly #entries = new Map<string, Entry>()
  /** False: invalidations are not answered, and time out. */
  answers = true

  constructor(smmu: AtsInterface, sid: number) {
    this.#smmu = smmu
    this.sid = sid
  }

  get size(): number {
    return this.#entries.size
  }

  /** An access that goes out as a Translated transaction; ABORTED when no translation was granted. */
  access(t: Transaction): Outcome {
    const page = t.hi * 0x10_0000 + (t.lo >>> 12)
    const entry = this.#find(t.ssid, page, t.write) ?? this.#request(t, page)
    if (entry === undefined) return ABORTED
    const address = entry.address + (page - entry.page) * 4096 + (t.lo & 0xfff)
    return this.#smmu.translatedTransaction({
      sid: this.sid,
      lo: address % 2 ** 32,
      hi: Math.floor(address / 2 ** 32),
      write: t.write,
    })
  }

  #find(ssid: number, page: number, write: boolean): Entry | undefined {
    for (const entry of this.#entries.values()) {
      const inside = entry.ssid === ssid && page >= entry.page && page < entry.page + entry.pages
      if (inside && (write ? entry.write : entry.read)) return entry
    }
    return undefined
  }

  #request(t: Transaction, page: number): Entry | undefined {
    const { ssid, lo, hi, write, privileged } = t
    const completion = this.#smmu.translationRequest({
      sid: this.sid,
      ssid,
      lo,
      hi,
      noWrite: !write,
      execute: false,
      privileged,
    })
    if (completion.status !== 'success' || !(write ? completion.write : completion.read)) return undefined
    const bits = completion.shift - 12
    const first = alignDown(page, bits)
    const entry = {
      ssid,
      page: first,
      pages: 2 ** bits,
      address: completion.address - (page - first) * 4096,
      read: completion.read,
      write: completion.write,
    }
    this.#entries.set(`${ssid} ${first} ${write}`, entry)
    return entry
  }

  /** CMD_ATC_INV as it arrives (IHI 0070 section 4.5.1). Returns false when it will not be answered. */
  invalidate(cmd: Uint32Array, base = 0): boolean {
    if (getField(cmd, CMDQ_ATC_0_SID, base) !== this.sid) return true
    if (!this.answers) return false
    const pasid = getField(cmd, CMDQ_0_SSV, base) === 1
    const global = pasid && getField(cmd, CMDQ_ATC_0_GLOBAL, base) === 1
    const ssid = pasid ? getField(cmd, CMDQ_ATC_0_SSID, base) : NO_SSID
    const size = Math.min(getField(cmd, CMDQ_ATC_1_SIZE, base), ATC_INV_SIZE_ALL)
    const first = alignDown(commandPage(cmd, base), size)
    const end = first + 2 ** size
    for (const [key, entry] of this.#entries) {
      const named = global ? entry.ssid !== NO_SSID : entry.ssid === ssid
      if (named && entry.page < end && first < entry.page + entry.pages) this.#entries.delete(key)
    }
    return true
  }

  /** A function level reset. */
  clear(): void {
    this.#entries.clear()
  }
}
