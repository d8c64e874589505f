// SPDX-License-Identifier: Apache-2.0
/** Configuration lookup: the STE and the CD of a transaction (IHI 0070 sections 3.3, 5.1 to 5.4). */
import { addressOf, alignDown, exceeds, hex } from './bits.ts'
import { CTXDESC_L1_DESC_SIZE, describeCd } from './cd.ts'
import * as E from './events.ts'
import * as P from './pagetable.ts'
import { CR0_ATSCHK, CR2_E2H, CR2_RECINVSID } from './registers.ts'
import type { Stage2Walk } from './stage2Walk.ts'
import {
  describeSte,
  STRTAB_STE_0_S1FMT_4K_L2,
  STRTAB_STE_0_S1FMT_64K_L2,
  STRTAB_STE_1_INSTCFG_INCOMING,
  STRTAB_STE_1_INSTCFG_INST,
  STRTAB_STE_1_PRIVCFG_PRIV,
  STRTAB_STE_1_PRIVCFG_UNPRIV,
  STRTAB_STE_1_S1DSS_BYPASS,
  STRTAB_STE_1_S1DSS_SSID0,
  STRTAB_STE_SIZE,
} from './ste.ts'
import { type Cd, decodeCd, decodeSte, type Ste } from './streamConfig.ts'
import {
  decodeStreamTable,
  l1DescriptorAddress,
  l1DescriptorL2Ptr,
  l1DescriptorStes,
  l2SteAddress,
  STE_ABSENT,
  type StreamTable,
} from './strtab.ts'
import { NO_SSID } from './transaction.ts'
import type { Walk } from './walk.ts'

/** The registers that configuration depends on. */
export interface ConfigurationRegisters {
  readonly cr0: number
  readonly cr2: number
  readonly strtabBaseLo: number
  readonly strtabBaseHi: number
  readonly strtabBaseCfg: number
}

export class Configuration {
  readonly #walk: Walk
  readonly #stage2: Stage2Walk
  #recordInvalidSid = false
  #e2h = false
  #atsChk = false
  #table: StreamTable

  constructor(walk: Walk, stage2: Stage2Walk) {
    const { sidSize, twoLevelStreamTable } = walk.features
    this.#walk = walk
    this.#stage2 = stage2
    this.#table = decodeStreamTable(0, 0, 0, sidSize, twoLevelStreamTable)
  }

  setRegisters({ cr0, cr2, strtabBaseLo, strtabBaseHi, strtabBaseCfg }: ConfigurationRegisters): void {
    const { sidSize, twoLevelStreamTable } = this.#walk.features
    this.#recordInvalidSid = (cr2 & CR2_RECINVSID) !== 0
    this.#e2h = (cr2 & CR2_E2H) !== 0
    this.#atsChk = (cr0 & CR0_ATSCHK) !== 0
    this.#table = decodeStreamTable(strtabBaseLo, strtabBaseHi, strtabBaseCfg, sidSize, twoLevelStreamTable)
  }

  /** STE.PRIVCFG and INSTCFG (IHI 0070 section 5.2). */
  override(ste: Ste): void {
    if (ste.privCfg === STRTAB_STE_1_PRIVCFG_PRIV) this.#walk.privileged = true
    else if (ste.privCfg === STRTAB_STE_1_PRIVCFG_UNPRIV) this.#walk.privileged = false
    if (ste.instCfg > STRTAB_STE_1_INSTCFG_INCOMING + 1) {
      this.#walk.instruction = ste.instCfg === STRTAB_STE_1_INSTCFG_INST && !this.#walk.t.write
    }
  }

  /** C_BAD_STREAMID: recorded only if software asked for it. */
  #badStreamId(): undefined {
    return this.#walk.fail(E.EVT_ID_BAD_STREAMID_CONFIG, this.#recordInvalidSid, 'abort')
  }

  /** IHI 0070 sections 3.3.1 and 5.1. */
  ste(): Ste | undefined {
    const { sid } = this.#walk.t
    const cached = this.#walk.caches?.ste(sid)
    if (cached !== undefined) return cached ?? this.#walk.error(E.EVT_ID_BAD_STE_CONFIG)
    const address = this.steAddress(sid)
    if (address === undefined) return undefined
    if (!this.#walk.fetch(address, STRTAB_STE_SIZE)) {
      this.#walk.step('STE', address, undefined, undefined)
      return this.#walk.error(E.EVT_ID_STE_FETCH_FAULT, address)
    }
    if (this.#walk.recorder)
      this.#walk.step('STE', address, undefined, describeSte(new BigUint64Array(this.#walk.bytes.buffer)))
    const ste = decodeSte(this.#walk.words, this.#walk.features, this.#e2h, this.#atsChk)
    this.#walk.caches?.putSte(sid, ste ?? null)
    return ste ?? this.#walk.error(E.EVT_ID_BAD_STE_CONFIG)
  }

  /** Where the STE of a stream is; undefined with a fault set. */
  steAddress(sid: number): number | undefined {
    const table = this.#table
    if (exceeds(sid, table.log2size)) return this.#badStreamId()
    if (!table.twoLevel) return table.base + sid * STRTAB_STE_SIZE
    const l1 = this.#l1Std(sid)
    if (!l1) return undefined
    const address = l2SteAddress(this.#walk.lo, this.#walk.hi, sid, table.split)
    return address === STE_ABSENT ? this.#badStreamId() : address
  }

  /** Leaves the level 1 descriptor in the walk's `lo` and `hi`. */
  #l1Std(sid: number): boolean {
    const { split } = this.#table
    const cached = this.#walk.caches?.l1Std(sid, split)
    if (cached) {
      this.#walk.lo = cached[0]
      this.#walk.hi = cached[1]
      return true
    }
    const address = l1DescriptorAddress(this.#table, sid)
    if (!this.#walk.fetch(address, P.PTE_SIZE)) {
      this.#walk.step('L1STD', address, undefined, undefined)
      this.#walk.error(E.EVT_ID_STE_FETCH_FAULT, address)
      return false
    }
    this.#walk.lo = this.#walk.words[0]
    this.#walk.hi = this.#walk.words[1]
    if (this.#walk.recorder) {
      const stes = l1DescriptorStes(this.#walk.lo, split)
      const text = stes ? `${stes} STEs at ${hex(l1DescriptorL2Ptr(this.#walk.lo, this.#walk.hi, stes))}` : 'invalid'
      this.#walk.step('L1STD', address, undefined, text)
    }
    this.#walk.caches?.putL1Std(sid, split, [this.#walk.lo, this.#walk.hi])
    return true
  }

  /**
   * The index of the CD to use; -1 if stage 1 does not translate this transaction; undefined with a fault set
   * (IHI 0070 sections 5.2 S1CDMax and S1DSS, 7.3.7 and 7.3.9).
   */
  cdIndex(ste: Ste): number | undefined {
    const { ssid } = this.#walk.t
    const stage1 = (ste.config & 1) !== 0
    if (ssid === NO_SSID) {
      if (!stage1) return -1
      if (ste.s1CdMax === 0 || ste.s1Dss === STRTAB_STE_1_S1DSS_SSID0) return 0
      return ste.s1Dss === STRTAB_STE_1_S1DSS_BYPASS ? -1 : this.#walk.error(E.EVT_ID_STREAM_DISABLED_FAULT)
    }
    if (!stage1 || ste.s1CdMax === 0 || exceeds(ssid, ste.s1CdMax))
      return this.#walk.error(E.EVT_ID_BAD_SUBSTREAMID_CONFIG)
    if (ssid === 0 && ste.s1Dss === STRTAB_STE_1_S1DSS_SSID0) return this.#walk.error(E.EVT_ID_STREAM_DISABLED_FAULT)
    return ssid
  }

  /** IHI 0070 sections 5.2 S1Fmt, 5.3 and 5.4. */
  cd(ste: Ste, index: number): Cd | undefined {
    const { sid } = this.#walk.t
    const cached = this.#walk.caches?.cd(sid, index)
    if (cached !== undefined) return cached ?? this.#walk.error(E.EVT_ID_BAD_CD_CONFIG)
    const ipa = this.#cdAddress(ste, index)
    if (ipa === undefined) return undefined
    const address = this.#configurationAddress(ste, ipa)
    if (address === undefined) return undefined
    if (!this.#walk.fetch(address, STRTAB_STE_SIZE)) {
      this.#walk.step('CD', address, ste.stage2 && ipa, undefined)
      return this.#walk.error(E.EVT_ID_CD_FETCH_FAULT, address)
    }
    if (this.#walk.recorder) {
      this.#walk.step('CD', address, ste.stage2 && ipa, describeCd(new BigUint64Array(this.#walk.bytes.buffer)))
    }
    const cd = decodeCd(this.#walk.words, ste, this.#walk.features)
    this.#walk.caches?.putCd(sid, index, cd ?? null)
    return cd ?? this.#walk.error(E.EVT_ID_BAD_CD_CONFIG)
  }

  /** Address of the CD before stage 2. */
  #cdAddress(ste: Ste, index: number): number | undefined {
    const l2Bits = ste.s1Fmt === STRTAB_STE_0_S1FMT_4K_L2 ? 6 : ste.s1Fmt === STRTAB_STE_0_S1FMT_64K_L2 ? 10 : undefined
    if (ste.s1CdMax === 0 || l2Bits === undefined) {
      return alignDown(ste.s1ContextPtr, 6 + ste.s1CdMax) + index * STRTAB_STE_SIZE
    }
    const l1Index = index >>> l2Bits
    const l1 = alignDown(ste.s1ContextPtr, Math.max(6, 3 + ste.s1CdMax - l2Bits))
    if (!this.#l1Cd(ste, index, l2Bits, l1 + l1Index * CTXDESC_L1_DESC_SIZE)) return undefined
    const l2 = addressOf((this.#walk.lo & (l2Bits === 6 ? 0xffff_f000 : 0xffff_0000)) >>> 0, this.#walk.hi & 0xff_ffff)
    // With stage 2 the pointer is an IPA: out of range, it meets a stage 2 Translation fault (IHI 0070 section 3.4.3, note 4b).
    if (!(this.#walk.lo & 1) || (!ste.stage2 && exceeds(l2, this.#walk.features.oas))) {
      return this.#walk.error(E.EVT_ID_BAD_SUBSTREAMID_CONFIG)
    }
    return l2 + (index & ((1 << l2Bits) - 1)) * STRTAB_STE_SIZE
  }

  /** Leaves the level 1 descriptor in the walk's `lo` and `hi`. */
  #l1Cd(ste: Ste, index: number, bits: number, ipa: number): boolean {
    const { sid } = this.#walk.t
    const cached = this.#walk.caches?.l1Cd(sid, index, bits)
    if (cached) {
      this.#walk.lo = cached[0]
      this.#walk.hi = cached[1]
      return true
    }
    const address = this.#configurationAddress(ste, ipa)
    if (address === undefined) return false
    if (!this.#walk.fetch(address, P.PTE_SIZE)) {
      this.#walk.step('L1CD', address, ste.stage2 && ipa, undefined)
      this.#walk.error(E.EVT_ID_CD_FETCH_FAULT, address)
      return false
    }
    this.#walk.lo = this.#walk.words[0]
    this.#walk.hi = this.#walk.words[1]
    this.#walk.step('L1CD', address, ste.stage2 && ipa, this.#walk.lo & 1 ? 'valid' : 'invalid')
    this.#walk.caches?.putL1Cd(sid, index, bits, [this.#walk.lo, this.#walk.hi])
    return true
  }

  /** Where a CD or an L1CD is: through stage 2 if there is one. */
  #configurationAddress(ste: Ste, ipa: number): number | undefined {
    return ste.stage2 ? this.#stage2.address(ste, ste.stage2, ipa, E.EVTQ_1_CLASS_CD) : ipa
  }
}
