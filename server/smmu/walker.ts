// SPDX-License-Identifier: Apache-2.0
/**
 * Translation of one transaction: configuration lookup, stage 1, stage 2 (IHI 0070 sections 3.3, 3.4, 7.3.22; DDI 0487 D8). The
 * walker holds no state between translations beyond the registers it is given. Whatever the tables hold, it makes at most two
 * fetches for each of STE and CD, and one fetch for each level of each stage: no loop depends on memory.
 *
 * Caches are somebody else's: a walker that is given `Caches` asks them before it fetches and tells them what it found.
 */

import { addressOf, alignDown, exceeds, hex, lowBits, shiftDown } from './bits.ts'
import { CTXDESC_L1_DESC_SIZE, describeCd } from './cd.ts'
import * as E from './events.ts'
import type { Features } from './features.ts'
import type { GuestMemory } from './memory.ts'
import * as P from './pagetable.ts'
import { PERM_ALL, PERM_UR, PERM_UW, PERM_UX, stage1Permissions, stage2Permissions } from './permissions.ts'
import { CR0_ATSCHK, CR0_SMMUEN, CR2_E2H, CR2_RECINVSID, GBPA_ABORT } from './registers.ts'
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
import { type Cd, decodeCd, decodeSte, type Stage1Table, type Stage2, type Ste, WORLD_EL2 } from './streamConfig.ts'
import {
  decodeStreamTable,
  l1DescriptorAddress,
  l1DescriptorL2Ptr,
  l1DescriptorStes,
  type StreamTable,
} from './strtab.ts'
import {
  ABORTED,
  type Faulted,
  NO_SSID,
  type Outcome,
  passed,
  type Response,
  type Transaction,
  type Translated,
} from './transaction.ts'
import type { Caches, Stage2Leaf, TlbEntry, TlbTags } from './translationCaches.ts'
import { describeLeaf, type Recorder, type WalkStep } from './walkSteps.ts'

/** The registers that translation depends on. */
export interface WalkRegisters {
  readonly cr0: number
  readonly cr2: number
  readonly gbpa: number
  readonly strtabBaseLo: number
  readonly strtabBaseHi: number
  readonly strtabBaseCfg: number
}

const CLASS_CD = E.EVTQ_1_CLASS_CD
const CLASS_TT = E.EVTQ_1_CLASS_TT
const CLASS_IN = E.EVTQ_1_CLASS_IN

/** Bits [63:12] of an address. */
function pageOf(lo: number, hi: number): number {
  return hi * 0x10_0000 + (lo >>> 12)
}

/** Translates transactions by reading tables through guest memory. */
export class Walker {
  readonly #f: Features
  readonly #memory: GuestMemory
  readonly #caches: Caches | undefined
  readonly #bytes = new Uint8Array(STRTAB_STE_SIZE)
  readonly #words = new Uint32Array(this.#bytes.buffer)

  #smmuEnabled = false
  #gbpaAbort = false
  #recordInvalidSid = false
  #e2h = false
  #atsChk = false
  #table: StreamTable

  // The transaction under translation, after the overrides of its STE.
  #t: Transaction = { sid: 0, ssid: NO_SSID, lo: 0, hi: 0, write: false, privileged: false, instruction: false }
  #privileged = false
  #instruction = false
  #recorder: Recorder | undefined
  /** The fault that the last step ended in. */
  #fault: Faulted | undefined
  // Low and high half of the last descriptor that was read.
  #lo = 0
  #hi = 0

  constructor(features: Features, memory: GuestMemory, caches?: Caches) {
    this.#f = features
    this.#memory = memory
    this.#caches = caches
    this.#table = decodeStreamTable(0, 0, 0, features.sidSize, features.twoLevelStreamTable)
  }

  setRegisters(r: WalkRegisters): void {
    this.#smmuEnabled = (r.cr0 & CR0_SMMUEN) !== 0
    this.#gbpaAbort = (r.gbpa & GBPA_ABORT) !== 0
    this.#recordInvalidSid = (r.cr2 & CR2_RECINVSID) !== 0
    this.#e2h = (r.cr2 & CR2_E2H) !== 0
    this.#atsChk = (r.cr0 & CR0_ATSCHK) !== 0
    this.#table = decodeStreamTable(
      r.strtabBaseLo,
      r.strtabBaseHi,
      r.strtabBaseCfg,
      this.#f.sidSize,
      this.#f.twoLevelStreamTable,
    )
  }

  #begin(t: Transaction, recorder?: Recorder): void {
    this.#t = t
    this.#recorder = recorder
    this.#fault = undefined
    this.#privileged = t.privileged
    this.#instruction = t.instruction && !t.write
  }

  /** Translates `t`. `recorder` is told every fetch; nothing is fetched that a cache answered. */
  translate(t: Transaction, recorder?: Recorder): Outcome {
    this.#begin(t, recorder)
    if (!this.#smmuEnabled) {
      return this.#gbpaAbort || !this.#inOutputRange() ? ABORTED : this.#bypass()
    }
    const ste = this.#ste()
    if (!ste) return this.#faulted()
    if (!(ste.config & 4)) return ABORTED
    this.#override(ste)
    const index = this.#cdIndex(ste)
    if (index === undefined) return this.#faulted()
    if (index < 0) return this.#withoutStage1(ste)
    const cd = this.#cd(ste, index)
    return cd ? this.#withStage1(ste, cd) : this.#faulted()
  }

  /** The STE of the stream, SMMUEN being 1, for requests that are no ordinary transactions; the fault if there is none. */
  configuration(t: Transaction): Ste | Faulted {
    this.#begin(t)
    return this.#ste() ?? this.#faulted()
  }

  /** Stage 2 of `ste` alone: a Translated transaction of split-stage ATS (IHI 0070 section 13.6.3). */
  translateStage2(t: Transaction, ste: Ste): Outcome {
    this.#begin(t)
    this.#override(ste)
    return this.#withoutStage1(ste)
  }

  /** Where the STE of a stream is in the table; undefined if nowhere. */
  steAddress(sid: number): number | undefined {
    this.#begin({ ...this.#t, sid })
    return this.#steAddress(sid)
  }

  // Outcomes.

  #faulted(): Faulted {
    // Every step that gives up has set the fault; without one the transaction would silently pass.
    if (!this.#fault) throw new Error('walk ended without a translation and without a fault')
    return this.#fault
  }

  /** Sets the fault and returns undefined, so that a step can end with it. */
  #fail(id: number, record: boolean, response: Response, s2 = false, cls = 0, ipa = 0, fetchAddr = 0): undefined {
    const t = this.#t
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
        ind: this.#instruction,
        pnu: this.#privileged,
        s2,
        class: cls,
        ttRead: id === E.EVT_ID_PERMISSION_FAULT && cls === CLASS_TT,
        inputLo: t.lo,
        inputHi: t.hi,
        ipa: alignDown(ipa, 12),
        fetchAddr,
      },
    }
    return undefined
  }

  /** A configuration error, or a fetch that was aborted: always recorded, always an abort. */
  #error(id: number, fetchAddr = 0): undefined {
    return this.#fail(id, true, 'abort', false, 0, 0, fetchAddr)
  }

  #walkAbort(s2: boolean, cls: number, fetchAddr: number): undefined {
    return this.#fail(E.EVT_ID_WALK_EABT, true, 'abort', s2, cls, 0, fetchAddr)
  }

  #fail1(id: number, cd: Cd): undefined {
    return this.#fail(id, cd.record, cd.stall ? 'stall' : cd.abort ? 'abort' : 'raz-wi', false, CLASS_IN)
  }

  #fail2(id: number, s2: Stage2, cls: number, ipa: number): undefined {
    return this.#fail(id, s2.record, s2.stall ? 'stall' : 'abort', true, cls, ipa)
  }

  #inOutputRange(): boolean {
    return !exceeds(addressOf(this.#t.lo, this.#t.hi), this.#f.oas)
  }

  #bypass(): Translated {
    return passed(addressOf(this.#t.lo, this.#t.hi), this.#f.oas)
  }

  /** The permissions of both stages for the transaction's privilege level, and the address itself. */
  #translated(entry: TlbEntry): Translated {
    const perm = (entry.s1Perm & entry.s2Perm) >>> (this.#privileged ? 3 : 0)
    const offset = (pageOf(this.#t.lo, this.#effectiveHi) - entry.page) * 4096 + (this.#t.lo & 0xfff)
    return {
      kind: 'translated',
      pa: entry.pa + offset,
      ipa: entry.ipa + offset,
      shift: entry.shift,
      read: (perm & PERM_UR) !== 0,
      write: (perm & PERM_UW) !== 0,
      execute: (perm & PERM_UX) !== 0,
      bypass: false,
      mair: entry.mair,
      memAttr: entry.memAttr,
    }
  }

  // Configuration lookup.

  /** STE.PRIVCFG and INSTCFG (IHI 0070 section 5.2). */
  #override(ste: Ste): void {
    if (ste.privCfg === STRTAB_STE_1_PRIVCFG_PRIV) this.#privileged = true
    else if (ste.privCfg === STRTAB_STE_1_PRIVCFG_UNPRIV) this.#privileged = false
    if (ste.instCfg > STRTAB_STE_1_INSTCFG_INCOMING + 1) {
      this.#instruction = ste.instCfg === STRTAB_STE_1_INSTCFG_INST && !this.#t.write
    }
  }

  /** C_BAD_STREAMID: recorded only if software asked for it. */
  #badStreamId(): undefined {
    return this.#fail(E.EVT_ID_BAD_STREAMID_CONFIG, this.#recordInvalidSid, 'abort')
  }

  /** IHI 0070 sections 3.3.1 and 5.1. */
  #ste(): Ste | undefined {
    const { sid } = this.#t
    const cached = this.#caches?.ste(sid)
    if (cached !== undefined) return cached ?? this.#error(E.EVT_ID_BAD_STE_CONFIG)
    const address = this.#steAddress(sid)
    if (address === undefined) return undefined
    if (!this.#fetch(address, STRTAB_STE_SIZE)) {
      this.#step('STE', address, undefined, undefined)
      return this.#error(E.EVT_ID_STE_FETCH_FAULT, address)
    }
    if (this.#recorder) this.#step('STE', address, undefined, describeSte(new BigUint64Array(this.#bytes.buffer)))
    const ste = decodeSte(this.#words, this.#f, this.#e2h, this.#atsChk)
    this.#caches?.putSte(sid, ste ?? null)
    return ste ?? this.#error(E.EVT_ID_BAD_STE_CONFIG)
  }

  #steAddress(sid: number): number | undefined {
    const table = this.#table
    if (exceeds(sid, table.log2size)) return this.#badStreamId()
    if (!table.twoLevel) return table.base + sid * STRTAB_STE_SIZE
    const l1 = this.#l1Std(sid)
    if (!l1) return undefined
    const stes = l1DescriptorStes(this.#lo, table.split)
    const offset = sid & ((1 << table.split) - 1)
    if (offset >= stes) return this.#badStreamId()
    return l1DescriptorL2Ptr(this.#lo, this.#hi, stes) + offset * STRTAB_STE_SIZE
  }

  /** Leaves the level 1 descriptor in #lo and #hi. */
  #l1Std(sid: number): boolean {
    const { split } = this.#table
    const cached = this.#caches?.l1Std(sid, split)
    if (cached) {
      this.#lo = cached[0]
      this.#hi = cached[1]
      return true
    }
    const address = l1DescriptorAddress(this.#table, sid)
    if (!this.#fetch(address, P.PTE_SIZE)) {
      this.#step('L1STD', address, undefined, undefined)
      this.#error(E.EVT_ID_STE_FETCH_FAULT, address)
      return false
    }
    this.#lo = this.#words[0]
    this.#hi = this.#words[1]
    if (this.#recorder) {
      const stes = l1DescriptorStes(this.#lo, split)
      const text = stes ? `${stes} STEs at ${hex(l1DescriptorL2Ptr(this.#lo, this.#hi, stes))}` : 'invalid'
      this.#step('L1STD', address, undefined, text)
    }
    this.#caches?.putL1Std(sid, split, [this.#lo, this.#hi])
    return true
  }

  /**
   * The index of the CD to use; -1 if stage 1 does not translate this transaction; undefined with a fault set
   * (IHI 0070 sections 5.2 S1CDMax and S1DSS, 7.3.7 and 7.3.9).
   */
  #cdIndex(ste: Ste): number | undefined {
    const { ssid } = this.#t
    const stage1 = (ste.config & 1) !== 0
    if (ssid === NO_SSID) {
      if (!stage1) return -1
      if (ste.s1CdMax === 0 || ste.s1Dss === STRTAB_STE_1_S1DSS_SSID0) return 0
      return ste.s1Dss === STRTAB_STE_1_S1DSS_BYPASS ? -1 : this.#error(E.EVT_ID_STREAM_DISABLED_FAULT)
    }
    if (!stage1 || ste.s1CdMax === 0 || exceeds(ssid, ste.s1CdMax)) return this.#error(E.EVT_ID_BAD_SUBSTREAMID_CONFIG)
    if (ssid === 0 && ste.s1Dss === STRTAB_STE_1_S1DSS_SSID0) return this.#error(E.EVT_ID_STREAM_DISABLED_FAULT)
    return ssid
  }

  /** IHI 0070 sections 5.2 S1Fmt, 5.3 and 5.4. */
  #cd(ste: Ste, index: number): Cd | undefined {
    const { sid } = this.#t
    const cached = this.#caches?.cd(sid, index)
    if (cached !== undefined) return cached ?? this.#error(E.EVT_ID_BAD_CD_CONFIG)
    const ipa = this.#cdAddress(ste, index)
    if (ipa === undefined) return undefined
    const address = this.#configurationAddress(ste, ipa)
    if (address === undefined) return undefined
    if (!this.#fetch(address, STRTAB_STE_SIZE)) {
      this.#step('CD', address, ste.stage2 && ipa, undefined)
      return this.#error(E.EVT_ID_CD_FETCH_FAULT, address)
    }
    if (this.#recorder) {
      this.#step('CD', address, ste.stage2 && ipa, describeCd(new BigUint64Array(this.#bytes.buffer)))
    }
    const cd = decodeCd(this.#words, ste, this.#f)
    this.#caches?.putCd(sid, index, cd ?? null)
    return cd ?? this.#error(E.EVT_ID_BAD_CD_CONFIG)
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
    const l2 = addressOf((this.#lo & (l2Bits === 6 ? 0xffff_f000 : 0xffff_0000)) >>> 0, this.#hi & 0xff_ffff)
    // With stage 2 the pointer is an IPA: out of range, it meets a stage 2 Translation fault (IHI 0070 section 3.4.3, note 4b).
    if (!(this.#lo & 1) || (!ste.stage2 && exceeds(l2, this.#f.oas))) {
      return this.#error(E.EVT_ID_BAD_SUBSTREAMID_CONFIG)
    }
    return l2 + (index & ((1 << l2Bits) - 1)) * STRTAB_STE_SIZE
  }

  /** Leaves the level 1 descriptor in #lo and #hi. */
  #l1Cd(ste: Ste, index: number, bits: number, ipa: number): boolean {
    const { sid } = this.#t
    const cached = this.#caches?.l1Cd(sid, index, bits)
    if (cached) {
      this.#lo = cached[0]
      this.#hi = cached[1]
      return true
    }
    const address = this.#configurationAddress(ste, ipa)
    if (address === undefined) return false
    if (!this.#fetch(address, P.PTE_SIZE)) {
      this.#step('L1CD', address, ste.stage2 && ipa, undefined)
      this.#error(E.EVT_ID_CD_FETCH_FAULT, address)
      return false
    }
    this.#lo = this.#words[0]
    this.#hi = this.#words[1]
    this.#step('L1CD', address, ste.stage2 && ipa, this.#lo & 1 ? 'valid' : 'invalid')
    this.#caches?.putL1Cd(sid, index, bits, [this.#lo, this.#hi])
    return true
  }

  /** Where a CD or an L1CD is: through stage 2 if there is one. */
  #configurationAddress(ste: Ste, ipa: number): number | undefined {
    return ste.stage2 ? this.#stage2Address(ste, ste.stage2, ipa, CLASS_CD) : ipa
  }

  // Translation lookup.

  /** High half of the input address as stage 1 sees it: sign-extended from bit 55 where the top byte is ignored. */
  #effectiveHi = 0

  #withoutStage1(ste: Ste): Outcome {
    this.#effectiveHi = this.#t.hi
    // A stage 1 that does not translate still checks the size of the address (IHI 0070 section 3.4); nothing suppresses
    // the record.
    if (exceeds(addressOf(this.#t.lo, this.#t.hi), this.#f.ias)) {
      this.#fail(E.EVT_ID_ADDR_SIZE_FAULT, true, 'abort', false, CLASS_IN)
      return this.#faulted()
    }
    const { stage2 } = ste
    if (!stage2) return this.#bypass()
    const tags = { world: ste.world, vmid: ste.vmid, ipa: true, asid: 0, aset: 0 }
    const page = pageOf(this.#t.lo, this.#t.hi)
    const cached = this.#caches?.tlb(tags, page)
    if (cached) return this.#allowed2(cached, stage2) ? this.#translated(cached) : this.#faulted()
    const leaf = this.#walk2(ste, stage2, addressOf(this.#t.lo, this.#t.hi), CLASS_IN)
    if (!leaf) return this.#faulted()
    const entry = {
      page: leaf.page,
      shift: leaf.shift,
      granuleShift: leaf.granuleShift,
      level: leaf.level,
      leafShift: leaf.leafShift,
      pa: leaf.pa,
      ipa: leaf.page * 4096,
      s1Perm: PERM_ALL,
      s2Perm: leaf.perm,
      mair: -1,
      memAttr: leaf.memAttr,
      global: false,
    }
    if (!this.#allowed2(entry, stage2)) return this.#faulted()
    this.#caches?.putTlb(tags, entry)
    return this.#translated(entry)
  }

  #withStage1(ste: Ste, cd: Cd): Outcome {
    const { lo, hi } = this.#t
    const upper = cd.twoRanges && (hi & 0x80_0000) !== 0
    const table = cd.tables[upper ? 1 : 0]
    this.#effectiveHi = table.tbi ? (upper ? (hi | 0xff00_0000) >>> 0 : hi & 0x00ff_ffff) : hi
    if (table.e0pd && !this.#privileged) {
      this.#fail1(E.EVT_ID_TRANSLATION_FAULT, cd)
      return this.#faulted()
    }
    const tags = { world: ste.world, vmid: ste.vmid, ipa: false, asid: cd.asid, aset: cd.aset }
    const page = pageOf(lo, this.#effectiveHi)
    const cached = this.#caches?.tlb(tags, page)
    if (cached && !this.#allowed1(cached.s1Perm, cd)) return this.#faulted()
    const entry = cached ?? this.#walk(ste, cd, table, upper, tags, page)
    if (!entry || (ste.stage2 && !this.#allowed2(entry, ste.stage2))) return this.#faulted()
    if (!cached) this.#caches?.putTlb(tags, entry)
    return this.#translated(entry)
  }

  /** The bit of PERM_* that the transaction needs. */
  #needed(): number {
    const bit = this.#instruction ? PERM_UX : this.#t.write ? PERM_UW : PERM_UR
    return this.#privileged ? bit << 3 : bit
  }

  #allowed1(perm: number, cd: Cd): boolean {
    if (perm & this.#needed()) return true
    this.#fail1(E.EVT_ID_PERMISSION_FAULT, cd)
    return false
  }

  #allowed2(entry: TlbEntry, stage2: Stage2): boolean {
    if (entry.s2Perm & this.#needed()) return true
    const offset = (pageOf(this.#t.lo, this.#effectiveHi) - entry.page) * 4096
    this.#fail2(E.EVT_ID_PERMISSION_FAULT, stage2, CLASS_IN, entry.ipa + offset)
    return false
  }

  /** Stage 1, its permissions, and stage 2 of its output, in the order of IHI 0070 section 7.3.22. */
  #walk(ste: Ste, cd: Cd, table: Stage1Table, upper: boolean, tags: TlbTags, page: number): TlbEntry | undefined {
    const { lo } = this.#t
    const hi = this.#effectiveHi
    // Bits [55 or 63:inputBits] must all equal bit 55, or be zero where there is only one range.
    const outside = upper ? 2 ** 52 - 1 - page : page
    if (!table.enabled || exceeds(outside, table.inputBits - 12)) return this.#fail1(E.EVT_ID_TRANSLATION_FAULT, cd)
    const offset = lowBits(addressOf(lo, hi & 0xf_ffff), table.inputBits)

    const { granuleShift } = table
    let level = table.startLevel
    let base = table.ttb
    let limits = 0
    const cached = this.#caches?.table(tags, page, granuleShift)
    if (cached) {
      level = cached.level + 1
      base = cached.next
      limits = cached.hi
    }
    for (; ; level++) {
      const shift = P.levelShift(level, granuleShift)
      const ipa = base + P.tableIndex(offset, level, table.startLevel, granuleShift) * P.PTE_SIZE
      const address = ste.stage2 ? this.#stage2Address(ste, ste.stage2, ipa, CLASS_TT) : ipa
      if (address === undefined) return undefined
      if (!this.#descriptor(address, cd.bigEndian)) {
        this.#step('S1', address, ste.stage2 && ipa, undefined, level)
        return this.#walkAbort(false, CLASS_TT, address)
      }
      const dlo = this.#lo
      const dhi = this.#hi
      const type = dlo & P.ARM_LPAE_PTE_TYPE_MASK
      const isTable = type === P.ARM_LPAE_PTE_TYPE_TABLE && level < P.LAST_LEVEL
      const isLeaf =
        level === P.LAST_LEVEL
          ? type === P.ARM_LPAE_PTE_TYPE_PAGE
          : type === P.ARM_LPAE_PTE_TYPE_BLOCK && P.blockAllowed(level, granuleShift, this.#f.oas)
      const out = P.descriptorAddress(dlo, dhi, isTable ? granuleShift : shift, granuleShift, this.#f.oas)
      if (this.#recorder) this.#descriptorStep('S1', address, ste.stage2 && ipa, level, isTable, isLeaf, out)
      if (!isTable && !isLeaf) return this.#fail1(E.EVT_ID_TRANSLATION_FAULT, cd)
      if (exceeds(out, cd.outputBits)) return this.#fail1(E.EVT_ID_ADDR_SIZE_FAULT, cd)
      if (isTable) {
        base = out
        if (!table.had) limits |= dhi
        this.#caches?.putTable(tags, page, granuleShift, { level, next: base, hi: limits })
        continue
      }
      if (!(dlo & P.ARM_LPAE_PTE_AF) && !cd.affd) return this.#fail1(E.EVT_ID_ACCESS_FAULT, cd)
      const perm = stage1Permissions(dlo, dhi, limits, ste.world === WORLD_EL2, cd)
      if (!this.#allowed1(perm, cd)) return undefined
      const leafShift = this.#leafShift(level, granuleShift, offset, out)
      return this.#combine(ste, cd, perm, leafShift, level, granuleShift, out, offset, page)
    }
  }

  /**
   * log2 of what the leaf descriptor in #hi maps for `input`: with its neighbours if caches follow the contiguous bit and
   * `out`, its own output address, fits that.
   */
  #leafShift(level: number, granuleShift: number, input: number, out: number): number {
    const shift = P.levelShift(level, granuleShift)
    if (!this.#caches?.contiguous || !(this.#hi & P.ARM_LPAE_PTE_HI_CONT)) return shift
    const range = shift + P.contiguousBits(level, granuleShift)
    return lowBits(out, range) === lowBits(input, range) - lowBits(input, shift) ? range : shift
  }

  /** Stage 2 of what stage 1 gave, if there is one, and the TLB entry of both. */
  #combine(
    ste: Ste,
    cd: Cd,
    s1Perm: number,
    s1Shift: number,
    level: number,
    granuleShift: number,
    s1Out: number,
    offset: number,
    page: number,
  ): TlbEntry | undefined {
    const attribute = (this.#lo >>> P.ARM_LPAE_PTE_ATTRINDX_SHIFT) & 7
    const mair = ((attribute < 4 ? cd.mairLo : cd.mairHi) >>> ((attribute & 3) * 8)) & 0xff
    const global = (this.#lo & P.ARM_LPAE_PTE_nG) === 0
    // The output address of the first byte that the leaf maps; `s1Out` is that of the descriptor itself.
    const first = s1Out - (lowBits(offset, s1Shift) - lowBits(offset, P.levelShift(level, granuleShift)))
    let shift = s1Shift
    let pa = first
    let ipa = first
    let s2Perm = PERM_ALL
    let memAttr = -1
    if (ste.stage2) {
      const inputIpa = first + lowBits(offset, s1Shift)
      const leaf = this.#walk2(ste, ste.stage2, inputIpa, CLASS_IN)
      if (!leaf) return undefined
      shift = Math.min(s1Shift, leaf.shift)
      ipa = alignDown(inputIpa, shift)
      pa = leaf.pa + (ipa - leaf.page * 4096)
      s2Perm = leaf.perm
      memAttr = leaf.memAttr
    }
    return {
      page: alignDown(page, shift - 12),
      shift,
      granuleShift,
      level,
      leafShift: s1Shift,
      pa,
      ipa,
      s1Perm,
      s2Perm,
      mair,
      memAttr,
      global: global && ste.world !== WORLD_EL2,
    }
  }

  /** Physical address of an IPA that the SMMU itself reads: a CD, an L1CD, a stage 1 descriptor. */
  #stage2Address(ste: Ste, s2: Stage2, ipa: number, cls: number): number | undefined {
    const leaf = this.#walk2(ste, s2, ipa, cls)
    if (!leaf) return undefined
    // The access is a read of data (IHI 0070 section 7.3.16); S2PTW refuses one to Device memory (IHI 0070 section 5.2).
    const device = (leaf.memAttr & (s2.fwb ? 4 : 0xc)) === 0
    if (!(leaf.perm & PERM_UR) || (s2.ptw && device)) return this.#fail2(E.EVT_ID_PERMISSION_FAULT, s2, cls, ipa)
    return leaf.pa + (ipa - leaf.page * 4096)
  }

  /** Stage 2 without the check of permissions. */
  #walk2(ste: Ste, s2: Stage2, ipa: number, cls: number): Stage2Leaf | undefined {
    const cached = this.#caches?.stage2(ste.vmid, shiftDown(ipa, 12))
    if (cached) return cached
    if (exceeds(ipa, s2.inputBits)) return this.#fail2(E.EVT_ID_TRANSLATION_FAULT, s2, cls, ipa)
    const { granuleShift } = s2
    const page = shiftDown(ipa, 12)
    let level = s2.startLevel
    let base = s2.ttb
    const tags = this.#caches ? { world: ste.world, vmid: ste.vmid, ipa: true, asid: 0, aset: 0 } : undefined
    const table = tags && this.#caches?.table(tags, page, granuleShift)
    if (table) {
      level = table.level + 1
      base = table.next
    }
    for (; ; level++) {
      const shift = P.levelShift(level, granuleShift)
      const address = base + P.tableIndex(ipa, level, s2.startLevel, granuleShift) * P.PTE_SIZE
      if (!this.#descriptor(address, s2.bigEndian)) {
        this.#step('S2', address, undefined, undefined, level, cls)
        return this.#walkAbort(true, cls, address)
      }
      const lo = this.#lo
      const hi = this.#hi
      const type = lo & P.ARM_LPAE_PTE_TYPE_MASK
      const isTable = type === P.ARM_LPAE_PTE_TYPE_TABLE && level < P.LAST_LEVEL
      const isLeaf =
        level === P.LAST_LEVEL
          ? type === P.ARM_LPAE_PTE_TYPE_PAGE
          : type === P.ARM_LPAE_PTE_TYPE_BLOCK && P.blockAllowed(level, granuleShift, this.#f.oas)
      const out = P.descriptorAddress(lo, hi, isTable ? granuleShift : shift, granuleShift, this.#f.oas)
      if (this.#recorder) this.#descriptorStep('S2', address, undefined, level, isTable, isLeaf, out, cls)
      if (!isTable && !isLeaf) return this.#fail2(E.EVT_ID_TRANSLATION_FAULT, s2, cls, ipa)
      if (exceeds(out, s2.outputBits)) return this.#fail2(E.EVT_ID_ADDR_SIZE_FAULT, s2, cls, ipa)
      if (isTable) {
        base = out
        if (tags) this.#caches?.putTable(tags, page, granuleShift, { level, next: base, hi: 0 })
        continue
      }
      if (!(lo & P.ARM_LPAE_PTE_AF) && !s2.affd) return this.#fail2(E.EVT_ID_ACCESS_FAULT, s2, cls, ipa)
      const leafShift = this.#leafShift(level, granuleShift, ipa, out)
      const leaf = {
        page: alignDown(page, leafShift - 12),
        shift: leafShift,
        granuleShift,
        level,
        leafShift,
        pa: out - (lowBits(ipa, leafShift) - lowBits(ipa, shift)),
        perm: stage2Permissions(lo, hi, this.#f.xnx),
        memAttr: (lo & P.ARM_LPAE_PTE_MEMATTR_MASK) >>> P.ARM_LPAE_PTE_MEMATTR_SHIFT,
      }
      this.#caches?.putStage2(ste.vmid, leaf)
      return leaf
    }
  }

  // Fetches.

  /** Reads a structure into #words; false for an external abort. */
  #fetch(address: number, length: number): boolean {
    return !exceeds(address, this.#f.oas) && this.#memory.read(address, this.#bytes, 0, length)
  }

  /** Reads a descriptor into #lo and #hi. */
  #descriptor(address: number, bigEndian: boolean): boolean {
    if (!this.#memory.read(address, this.#bytes, 0, P.PTE_SIZE)) return false
    if (bigEndian) this.#bytes.subarray(0, P.PTE_SIZE).reverse()
    this.#lo = this.#words[0]
    this.#hi = this.#words[1]
    return true
  }

  // Steps for people. Nothing here runs without a recorder.

  #step(
    what: WalkStep['what'],
    address: number,
    ipa: number | undefined,
    text: string | undefined,
    level?: number,
    cls?: number,
  ): void {
    if (!this.#recorder) return
    const length = what === 'STE' || what === 'CD' ? 8 : 1
    const words = text === undefined ? undefined : [...new BigUint64Array(this.#bytes.buffer, 0, length)]
    this.#recorder({ what, address, ipa, level, class: cls, words, text: text ?? 'external abort' })
  }

  #descriptorStep(
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
        ? `${kind} ${hex(out)} ${describeLeaf(what === 'S2', this.#lo, this.#hi)}`
        : 'invalid'
    this.#step(what, address, ipa, text, level, cls)
  }
}
