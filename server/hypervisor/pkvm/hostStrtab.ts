// SPDX-License-Identifier: Apache-2.0
/** The host's stream table (server/hypervisor/README.md, sections 5.2 and 7.1): its registers, and one copy of an entry. */
import { STE_INVALID } from '../../policy/report.ts'
import { EFAULT, EINVAL, ENODEV, ENOENT, ERANGE, OK } from '../../policy/result.ts'
import { fieldGet } from '../../smmu/bits.ts'
import {
  STRTAB_BASE_CFG_FMT,
  STRTAB_BASE_CFG_FMT_2LVL,
  STRTAB_BASE_CFG_FMT_LINEAR,
  STRTAB_BASE_CFG_LOG2SIZE,
  STRTAB_BASE_CFG_SPLIT,
} from '../../smmu/registers.ts'
import {
  STRTAB_STE_0_CFG_BYPASS,
  STRTAB_STE_0_CFG_S1_TRANS,
  STRTAB_STE_DWORDS,
  STRTAB_STE_SIZE,
} from '../../smmu/ste.ts'
import {
  decodeStreamTable,
  l1DescriptorAddress,
  l1DescriptorL2Ptr,
  l1DescriptorStes,
  STRTAB_L1_DESC_SIZE,
  type StreamTable,
  steTables,
  streamTableBytes,
} from '../../smmu/strtab.ts'
import type { SmmuContext } from './context.ts'
import { StateLayout } from './stateLayout.ts'
import { steConfig, translates } from './steRules.ts'
import { STRTAB_MAX_L1_ENTRIES, STRTAB_SPLIT, strtabShape } from './strtabShape.ts'

/** What a checkpoint holds. */
export interface HostStrtabState {
  /** STRTAB_BASE and STRTAB_BASE_CFG as the host wrote them. */
  baseLo: number
  baseHi: number
  cfg: number
  /** SMMUEN is set: the table is the one that the registers say, shared and pinned. */
  enabled: boolean
}

export const HOST_STRTAB_STATE = new StateLayout<HostStrtabState>({
  baseLo: 'u32',
  baseHi: 'u32',
  cfg: 'u32',
  enabled: 'flag',
})

/** Entries that are looked at for those that no CFGI_STE has told of: 4 MiB. */
const MAX_SCANNED = 2 ** 16
/** A table of so many StreamIDs at most is small. */
const SMALL_LOG2SIZE = 10

export class HostStrtab {
  readonly #smmu: SmmuContext
  readonly state: HostStrtabState = { baseLo: 0, baseHi: 0, cfg: 0, enabled: false }
  /** While SMMUEN is set. */
  #table: StreamTable | null = null
  readonly #descriptor = new Uint32Array(2)
  readonly #descriptorBytes = new Uint8Array(this.#descriptor.buffer)

  constructor(smmu: SmmuContext) {
    this.#smmu = smmu
  }

  reset(): void {
    Object.assign(this.state, { baseLo: 0, baseHi: 0, cfg: 0, enabled: false } satisfies HostStrtabState)
    this.#table = null
  }

  /** The table while SMMUEN is set. */
  get table(): StreamTable | null {
    return this.#table
  }

  /** The table by the registers; null when the shadow cannot follow its format or size. */
  check(): StreamTable | null {
    const { baseLo, baseHi, cfg } = this.state
    const { features, hyp } = this.#smmu
    const { sidBits } = features
    if (hyp.choices.anyStreamTable) return decodeStreamTable(baseLo, baseHi, cfg, sidBits, features.twoLevel)
    const { twoLevel } = strtabShape(features)
    const format = fieldGet(STRTAB_BASE_CFG_FMT, cfg)
    const split = fieldGet(STRTAB_BASE_CFG_SPLIT, cfg)
    const log2size = fieldGet(STRTAB_BASE_CFG_LOG2SIZE, cfg)
    if (twoLevel) {
      if (format !== STRTAB_BASE_CFG_FMT_2LVL || split !== STRTAB_SPLIT) return null
      if (log2size <= STRTAB_SPLIT || 2 ** (log2size - STRTAB_SPLIT) > STRTAB_MAX_L1_ENTRIES) return null
    } else if (format !== STRTAB_BASE_CFG_FMT_LINEAR || log2size > sidBits) {
      return null
    }
    return decodeStreamTable(baseLo, baseHi, cfg, sidBits, twoLevel)
  }

  /** SMMUEN 0 → 1, after `check`. */
  enable(table: StreamTable): number {
    const result = this.#smmu.hyp.share.sharePinned(table.base, streamTableBytes(table))
    if (result === OK) {
      this.#table = table
      this.state.enabled = true
    }
    return result
  }

  /** SMMUEN 1 → 0. */
  disable(): number {
    const table = this.#table
    this.#table = null
    this.state.enabled = false
    return table === null ? OK : this.#smmu.hyp.share.unsharePinned(table.base, streamTableBytes(table))
  }

  /**
   * Copies an entry, once.
   * @param leaf Leaf of the CFGI_STE
   * @param into 64 bytes
   */
  fetch(sid: number, leaf: boolean, into: Uint8Array): number {
    const table = this.#table
    if (table === null) return ENODEV
    if (!leaf && !this.#smmu.hyp.choices.anyInvalidation) return EINVAL
    if (sid >= 2 ** table.log2size) return ERANGE
    return table.twoLevel ? this.#fetchTwoLevel(table, sid, into) : this.#fetchLinear(table, sid, into)
  }

  #fetchLinear(table: StreamTable, sid: number, into: Uint8Array): number {
    const { memory } = this.#smmu.hyp
    return memory.read(table.base + sid * STRTAB_STE_SIZE, into, 0, STRTAB_STE_SIZE) ? OK : EFAULT
  }

  #fetchTwoLevel(table: StreamTable, sid: number, into: Uint8Array): number {
    const { memory, share, quirks } = this.#smmu.hyp
    const descriptor = l1DescriptorAddress(table, sid)
    const spanless = quirks.has('span-ignored')
    const index = sid & (2 ** table.split - 1)
    if (!memory.read(descriptor, this.#descriptorBytes, 0, STRTAB_L1_DESC_SIZE)) return EFAULT
    const [lo, hi] = this.#descriptor
    const stes = spanless ? 2 ** table.split : l1DescriptorStes(lo, table.split)
    let l2 = index < stes ? l1DescriptorL2Ptr(lo, hi, spanless ? 1 : stes) : 0
    if (l2 === 0 && (spanless || index >= stes)) return ENOENT
    const shared = share.share(l2, stes * STRTAB_STE_SIZE)
    if (shared !== OK && !quirks.has('l2-share-unchecked')) return shared
    const taken = l2
    if (quirks.has('l1-double-fetch') && memory.read(descriptor, this.#descriptorBytes, 0, STRTAB_L1_DESC_SIZE)) {
      l2 = l1DescriptorL2Ptr(this.#descriptor[0], this.#descriptor[1], stes)
    }
    const read = memory.read(l2 + index * STRTAB_STE_SIZE, into, 0, STRTAB_STE_SIZE)
    const unshared = shared === OK ? share.unshare(taken, stes * STRTAB_STE_SIZE) : OK
    return read ? unshared : EFAULT
  }

  /**
   * Entries of the host's that the shadow may have to have, while SMMUEN is set: bypass and stage 1, and of a small table those that
   * abort, which differ from no entry by an event. The first MAX_SCANNED of the table are looked at.
   * @param limit StreamIDs from there on are of no interest
   * @param visit called with each StreamID; false ends it
   * @returns the first StreamID that was not looked at because there are too many; null: there is none
   */
  forEachEntry(limit: number, visit: (sid: number) => boolean): number | null {
    const table = this.#table
    if (table === null) return null
    const { memory, share, choices } = this.#smmu.hyp
    const aborts = choices.anyInvalidation && table.log2size <= SMALL_LOG2SIZE
    let left = MAX_SCANNED
    for (const { address, sid, stes } of steTables(table, memory, 0, limit)) {
      const all = Math.min(stes, limit - sid)
      const count = Math.min(all, left)
      if (count === 0) return sid
      left -= count
      const ste = new BigUint64Array(STRTAB_STE_DWORDS * count)
      // A linear table is shared all the time.
      if (table.twoLevel && share.share(address, stes * STRTAB_STE_SIZE) !== OK) continue
      const read = memory.read(address, new Uint8Array(ste.buffer), 0, ste.byteLength)
      if (table.twoLevel) share.unshare(address, stes * STRTAB_STE_SIZE)
      if (!read) continue
      for (let at = 0; at < ste.length; at += STRTAB_STE_DWORDS) {
        const config = steConfig(ste, at)
        const passes = config === STRTAB_STE_0_CFG_BYPASS || config === STRTAB_STE_0_CFG_S1_TRANS
        if (!passes && !(aborts && config !== STE_INVALID && !translates(config))) continue
        if (!visit(sid + at / STRTAB_STE_DWORDS)) return null
      }
      if (count < all) return sid + count
    }
    return null
  }

  /** After the SMMU's features are known again. */
  restore(state: HostStrtabState): void {
    this.reset()
    Object.assign(this.state, state)
    if (state.enabled) this.#table = this.check()
  }
}
