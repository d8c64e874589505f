// SPDX-License-Identifier: Apache-2.0
/**
 * Translation of one transaction: configuration lookup, stage 1, stage 2 (IHI 0070 sections 3.3, 3.4, 7.3.22; DDI 0487 D8). The
 * walker holds no state between translations beyond the registers it is given. Whatever the tables hold, it makes at most two
 * fetches for each of STE and CD, and one fetch for each level of each stage: no loop depends on memory.
 *
 * Caches are somebody else's: a walker that is given `Caches` asks them before it fetches and tells them what it found.
 */

import { addressOf, alignDown, exceeds, lowBits } from './bits.ts'
import { Configuration, type ConfigurationRegisters } from './configuration.ts'
import * as E from './events.ts'
import type { Features } from './features.ts'
import type { GuestMemory } from './memory.ts'
import * as P from './pagetable.ts'
import { PERM_ALL, PERM_UR, PERM_UW, PERM_UX, stage1Permissions } from './permissions.ts'
import { CR0_SMMUEN, GBPA_ABORT } from './registers.ts'
import { hasNt, mappedShift, Stage2Walk } from './stage2Walk.ts'
import { type Cd, type Stage1Table, type Stage2, type Ste, WORLD_EL2 } from './streamConfig.ts'
import { ABORTED, type Faulted, type Outcome, passed, type Transaction, type Translated } from './transaction.ts'
import type { Caches, TlbEntry, TlbTags } from './translationCaches.ts'
import { pageOf, Walk } from './walk.ts'
import type { Recorder } from './walkSteps.ts'

/** The registers that translation depends on. */
export interface WalkRegisters extends ConfigurationRegisters {
  readonly gbpa: number
}

const CLASS_TT = E.EVTQ_1_CLASS_TT
const CLASS_IN = E.EVTQ_1_CLASS_IN

/** Translates transactions by reading tables through guest memory. */
export class Walker {
  readonly #walk: Walk
  readonly #configuration: Configuration
  readonly #stage2: Stage2Walk
  #smmuEnabled = false
  #gbpaAbort = false

  constructor(features: Features, memory: GuestMemory, caches?: Caches) {
    this.#walk = new Walk(features, memory, caches)
    this.#stage2 = new Stage2Walk(this.#walk)
    this.#configuration = new Configuration(this.#walk, this.#stage2)
  }

  setRegisters(r: WalkRegisters): void {
    this.#smmuEnabled = (r.cr0 & CR0_SMMUEN) !== 0
    this.#gbpaAbort = (r.gbpa & GBPA_ABORT) !== 0
    this.#configuration.setRegisters(r)
  }

  /** Translates `t`. `recorder` is told every fetch; nothing is fetched that a cache answered. */
  translate(t: Transaction, recorder?: Recorder): Outcome {
    this.#walk.begin(t, recorder)
    if (!this.#smmuEnabled) {
      return this.#gbpaAbort || !this.#inOutputRange() ? ABORTED : this.#bypass()
    }
    const ste = this.#configuration.ste()
    if (!ste) return this.#walk.faulted()
    if (!(ste.config & 4)) return ABORTED
    this.#configuration.override(ste)
    const index = this.#configuration.cdIndex(ste)
    if (index === undefined) return this.#walk.faulted()
    if (index < 0) return this.#withoutStage1(ste)
    const cd = this.#configuration.cd(ste, index)
    return cd ? this.#withStage1(ste, cd) : this.#walk.faulted()
  }

  /** The STE of the stream, SMMUEN being 1, for requests that are no ordinary transactions; the fault if there is none. */
  configuration(t: Transaction, recorder?: Recorder): Ste | Faulted {
    this.#walk.begin(t, recorder)
    return this.#configuration.ste() ?? this.#walk.faulted()
  }

  /** Stage 2 of `ste` alone: a Translated transaction of split-stage ATS (IHI 0070 section 13.6.3). */
  translateStage2(t: Transaction, ste: Ste, recorder?: Recorder): Outcome {
    this.#walk.begin(t, recorder)
    this.#configuration.override(ste)
    return this.#withoutStage1(ste)
  }

  /** Where the STE of a stream is in the table; undefined if nowhere. */
  steAddress(sid: number): number | undefined {
    this.#walk.begin({ ...this.#walk.t, sid })
    return this.#configuration.steAddress(sid)
  }

  // Outcomes.

  #inOutputRange(): boolean {
    return !exceeds(addressOf(this.#walk.t.lo, this.#walk.t.hi), this.#walk.features.oas)
  }

  #bypass(): Translated {
    return passed(addressOf(this.#walk.t.lo, this.#walk.t.hi), this.#walk.features.oas)
  }

  /** The permissions of both stages for the transaction's privilege level, and the address itself. */
  #translated(entry: TlbEntry): Translated {
    const perm = (entry.s1Perm & entry.s2Perm) >>> (this.#walk.privileged ? 3 : 0)
    const offset = (pageOf(this.#walk.t.lo, this.#effectiveHi) - entry.page) * 4096 + (this.#walk.t.lo & 0xfff)
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

  // Translation lookup.

  /** High half of the input address as stage 1 sees it: sign-extended from bit 55 where the top byte is ignored. */
  #effectiveHi = 0

  #withoutStage1(ste: Ste): Outcome {
    this.#effectiveHi = this.#walk.t.hi
    // A stage 1 that does not translate still checks the size of the address (IHI 0070 section 3.4); nothing suppresses
    // the record.
    if (exceeds(addressOf(this.#walk.t.lo, this.#walk.t.hi), this.#walk.features.ias)) {
      this.#walk.fail(E.EVT_ID_ADDR_SIZE_FAULT, true, 'abort', false, CLASS_IN)
      return this.#walk.faulted()
    }
    const { stage2 } = ste
    if (!stage2) return this.#bypass()
    const tags = { world: ste.world, vmid: ste.vmid, ipa: true, asid: 0, aset: 0 }
    const page = pageOf(this.#walk.t.lo, this.#walk.t.hi)
    const cached = this.#walk.caches?.tlb(tags, page)
    if (cached) {
      this.#stage2.compare(stage2, addressOf(this.#walk.t.lo, this.#walk.t.hi), cached)
      return this.#allowed2(cached, stage2) ? this.#translated(cached) : this.#walk.faulted()
    }
    const leaf = this.#stage2.leaf(ste, stage2, addressOf(this.#walk.t.lo, this.#walk.t.hi), CLASS_IN)
    if (!leaf) return this.#walk.faulted()
    const entry = {
      page: leaf.page,
      shift: leaf.shift,
      granuleShift: leaf.granuleShift,
      level: leaf.level,
      leafShift: leaf.leafShift,
      nt: leaf.nt,
      pa: leaf.pa,
      ipa: leaf.page * 4096,
      s1Perm: PERM_ALL,
      s2Perm: leaf.perm,
      mair: -1,
      memAttr: leaf.memAttr,
      global: false,
    }
    if (!this.#allowed2(entry, stage2)) return this.#walk.faulted()
    this.#walk.caches?.putTlb(tags, entry)
    return this.#translated(entry)
  }

  #withStage1(ste: Ste, cd: Cd): Outcome {
    const { lo, hi } = this.#walk.t
    const upper = cd.twoRanges && (hi & 0x80_0000) !== 0
    const table = cd.tables[upper ? 1 : 0]
    this.#effectiveHi = table.tbi ? (upper ? (hi | 0xff00_0000) >>> 0 : hi & 0x00ff_ffff) : hi
    if (table.e0pd && !this.#walk.privileged) {
      this.#walk.fail1(E.EVT_ID_TRANSLATION_FAULT, cd)
      return this.#walk.faulted()
    }
    const tags = { world: ste.world, vmid: ste.vmid, ipa: false, asid: cd.asid, aset: cd.aset }
    const page = pageOf(lo, this.#effectiveHi)
    const cached = this.#walk.caches?.tlb(tags, page)
    if (cached && !this.#allowed1(cached.s1Perm, cd)) return this.#walk.faulted()
    const entry = cached ?? this.#stage1(ste, cd, table, upper, tags, page)
    if (!entry || (ste.stage2 && !this.#allowed2(entry, ste.stage2))) return this.#walk.faulted()
    if (!cached) this.#walk.caches?.putTlb(tags, entry)
    return this.#translated(entry)
  }

  /** The bit of PERM_* that the transaction needs. */
  #needed(): number {
    const bit = this.#walk.instruction ? PERM_UX : this.#walk.t.write ? PERM_UW : PERM_UR
    return this.#walk.privileged ? bit << 3 : bit
  }

  #allowed1(perm: number, cd: Cd): boolean {
    if (perm & this.#needed()) return true
    this.#walk.fail1(E.EVT_ID_PERMISSION_FAULT, cd)
    return false
  }

  #allowed2(entry: TlbEntry, stage2: Stage2): boolean {
    if (entry.s2Perm & this.#needed()) return true
    const offset = (pageOf(this.#walk.t.lo, this.#effectiveHi) - entry.page) * 4096
    this.#walk.fail2(E.EVT_ID_PERMISSION_FAULT, stage2, CLASS_IN, entry.ipa + offset)
    return false
  }

  /** Stage 1, its permissions, and stage 2 of its output, in the order of IHI 0070 section 7.3.22. */
  #stage1(ste: Ste, cd: Cd, table: Stage1Table, upper: boolean, tags: TlbTags, page: number): TlbEntry | undefined {
    const { lo } = this.#walk.t
    const hi = this.#effectiveHi
    // Bits [55 or 63:inputBits] must all equal bit 55, or be zero where there is only one range.
    const outside = upper ? 2 ** 52 - 1 - page : page
    if (!table.enabled || exceeds(outside, table.inputBits - 12))
      return this.#walk.fail1(E.EVT_ID_TRANSLATION_FAULT, cd)
    const offset = lowBits(addressOf(lo, hi & 0xf_ffff), table.inputBits)

    const { granuleShift } = table
    let level = table.startLevel
    let base = table.ttb
    let limits = 0
    const cached = this.#walk.caches?.table(tags, page, granuleShift)
    if (cached) {
      level = cached.level + 1
      base = cached.next
      limits = cached.hi
    }
    for (; ; level++) {
      const shift = P.levelShift(level, granuleShift)
      const ipa = base + P.tableIndex(offset, level, table.startLevel, granuleShift) * P.PTE_SIZE
      const address = ste.stage2 ? this.#stage2.address(ste, ste.stage2, ipa, CLASS_TT) : ipa
      if (address === undefined) return undefined
      if (!this.#walk.descriptor(address, cd.bigEndian)) {
        this.#walk.step('S1', address, ste.stage2 && ipa, undefined, level)
        return this.#walk.walkAbort(false, CLASS_TT, address)
      }
      const dlo = this.#walk.lo
      const dhi = this.#walk.hi
      const type = dlo & P.ARM_LPAE_PTE_TYPE_MASK
      const isTable = type === P.ARM_LPAE_PTE_TYPE_TABLE && level < P.LAST_LEVEL
      const isLeaf =
        level === P.LAST_LEVEL
          ? type === P.ARM_LPAE_PTE_TYPE_PAGE
          : type === P.ARM_LPAE_PTE_TYPE_BLOCK && P.blockAllowed(level, granuleShift, this.#walk.features.oas)
      const out = P.descriptorAddress(dlo, dhi, isTable ? granuleShift : shift, granuleShift, this.#walk.features.oas)
      if (this.#walk.recorder) this.#walk.descriptorStep('S1', address, ste.stage2 && ipa, level, isTable, isLeaf, out)
      if (!isTable && !isLeaf) return this.#walk.fail1(E.EVT_ID_TRANSLATION_FAULT, cd)
      if (exceeds(out, cd.outputBits)) return this.#walk.fail1(E.EVT_ID_ADDR_SIZE_FAULT, cd)
      if (isTable) {
        base = out
        if (!table.had) limits |= dhi
        this.#walk.caches?.putTable(tags, page, granuleShift, { level, next: base, hi: limits })
        continue
      }
      if (!(dlo & P.ARM_LPAE_PTE_AF) && !cd.affd) return this.#walk.fail1(E.EVT_ID_ACCESS_FAULT, cd)
      const perm = stage1Permissions(dlo, dhi, limits, ste.world === WORLD_EL2, cd)
      if (!this.#allowed1(perm, cd)) return undefined
      const leafShift = mappedShift(this.#walk, level, granuleShift, offset, out)
      return this.#combine(ste, cd, perm, leafShift, level, granuleShift, out, offset, page)
    }
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
    const attribute = (this.#walk.lo >>> P.ARM_LPAE_PTE_ATTRINDX_SHIFT) & 7
    const mair = ((attribute < 4 ? cd.mairLo : cd.mairHi) >>> ((attribute & 3) * 8)) & 0xff
    const global = (this.#walk.lo & P.ARM_LPAE_PTE_nG) === 0
    let nt = hasNt(this.#walk, level, this.#walk.lo)
    // The output address of the first byte that the leaf maps; `s1Out` is that of the descriptor itself.
    const first = s1Out - (lowBits(offset, s1Shift) - lowBits(offset, P.levelShift(level, granuleShift)))
    let shift = nt ? granuleShift : s1Shift
    let pa = first + alignDown(lowBits(offset, s1Shift), shift)
    let ipa = pa
    let s2Perm = PERM_ALL
    let memAttr = -1
    if (ste.stage2) {
      const inputIpa = first + lowBits(offset, s1Shift)
      const leaf = this.#stage2.leaf(ste, ste.stage2, inputIpa, CLASS_IN)
      if (!leaf) return undefined
      shift = Math.min(shift, leaf.shift)
      ipa = alignDown(inputIpa, shift)
      pa = leaf.pa + (ipa - leaf.page * 4096)
      s2Perm = leaf.perm
      nt ||= leaf.nt
      memAttr = leaf.memAttr
    }
    return {
      page: alignDown(page, shift - 12),
      shift,
      granuleShift,
      level,
      leafShift: s1Shift,
      nt,
      pa,
      ipa,
      s1Perm,
      s2Perm,
      mair,
      memAttr,
      global: global && ste.world !== WORLD_EL2,
    }
  }
}
