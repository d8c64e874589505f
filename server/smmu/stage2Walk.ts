// SPDX-License-Identifier: Apache-2.0
/** Stage 2 of a translation (IHI 0070 section 3.4; DDI 0487 D8). */
import { alignDown, exceeds, lowBits, shiftDown } from './bits.ts'
import * as E from './events.ts'
import * as P from './pagetable.ts'
import { PERM_UR, stage2Permissions } from './permissions.ts'
import type { Stage2, Ste } from './streamConfig.ts'
import type { Matched, Stage2Leaf } from './translationCaches.ts'
import type { Walk } from './walk.ts'

export class Stage2Walk {
  readonly #walk: Walk

  constructor(walk: Walk) {
    this.#walk = walk
  }

  /** Physical address of an IPA that the SMMU itself reads: a CD, an L1CD, a stage 1 descriptor. */
  address(ste: Ste, s2: Stage2, ipa: number, cls: number): number | undefined {
    const leaf = this.leaf(ste, s2, ipa, cls)
    if (!leaf) return undefined
    // The access is a read of data (IHI 0070 section 7.3.16); S2PTW refuses one to Device memory (IHI 0070 section 5.2).
    const device = (leaf.memAttr & (s2.fwb ? 4 : 0xc)) === 0
    if (!(leaf.perm & PERM_UR) || (s2.ptw && device)) return this.#walk.fail2(E.EVT_ID_PERMISSION_FAULT, s2, cls, ipa)
    return leaf.pa + (ipa - leaf.page * 4096)
  }

  /** Stage 2 without the check of permissions. */
  leaf(ste: Ste, s2: Stage2, ipa: number, cls: number): Stage2Leaf | undefined {
    const cached = this.#walk.caches?.stage2(ste.vmid, shiftDown(ipa, 12))
    if (cached) {
      this.compare(s2, ipa, cached)
      return cached
    }
    if (exceeds(ipa, s2.inputBits)) return this.#walk.fail2(E.EVT_ID_TRANSLATION_FAULT, s2, cls, ipa)
    const { granuleShift } = s2
    const page = shiftDown(ipa, 12)
    let level = s2.startLevel
    let base = s2.ttb
    const tags = this.#walk.caches ? { world: ste.world, vmid: ste.vmid, ipa: true, asid: 0, aset: 0 } : undefined
    const table = tags && this.#walk.caches?.table(tags, page, granuleShift)
    if (table) {
      level = table.level + 1
      base = table.next
    }
    for (; ; level++) {
      const shift = P.levelShift(level, granuleShift)
      const address = base + P.tableIndex(ipa, level, s2.startLevel, granuleShift) * P.PTE_SIZE
      if (!this.#walk.descriptor(address, s2.bigEndian)) {
        this.#walk.step('S2', address, undefined, undefined, level, cls)
        return this.#walk.walkAbort(true, cls, address)
      }
      const lo = this.#walk.lo
      const hi = this.#walk.hi
      const type = lo & P.ARM_LPAE_PTE_TYPE_MASK
      const isTable = type === P.ARM_LPAE_PTE_TYPE_TABLE && level < P.LAST_LEVEL
      const isLeaf =
        level === P.LAST_LEVEL
          ? type === P.ARM_LPAE_PTE_TYPE_PAGE
          : type === P.ARM_LPAE_PTE_TYPE_BLOCK && P.blockAllowed(level, granuleShift, this.#walk.features.oas)
      const out = P.descriptorAddress(lo, hi, isTable ? granuleShift : shift, granuleShift, this.#walk.features.oas)
      if (this.#walk.recorder) this.#walk.descriptorStep('S2', address, undefined, level, isTable, isLeaf, out, cls)
      if (!isTable && !isLeaf) return this.#walk.fail2(E.EVT_ID_TRANSLATION_FAULT, s2, cls, ipa)
      if (exceeds(out, s2.outputBits)) return this.#walk.fail2(E.EVT_ID_ADDR_SIZE_FAULT, s2, cls, ipa)
      if (isTable) {
        base = out
        if (tags) this.#walk.caches?.putTable(tags, page, granuleShift, { level, next: base, hi: 0 })
        continue
      }
      if (!(lo & P.ARM_LPAE_PTE_AF) && !s2.affd) return this.#walk.fail2(E.EVT_ID_ACCESS_FAULT, s2, cls, ipa)
      const leafShift = mappedShift(this.#walk, level, granuleShift, ipa, out)
      const nt = hasNt(this.#walk, level, lo)
      const keptShift = nt ? granuleShift : leafShift
      const leaf = {
        page: alignDown(page, keptShift - 12),
        shift: keptShift,
        granuleShift,
        level,
        leafShift,
        pa: out + lowBits(ipa, shift) - lowBits(ipa, keptShift),
        perm: stage2Permissions(lo, hi, this.#walk.features.xnx),
        memAttr: (lo & P.ARM_LPAE_PTE_MEMATTR_MASK) >>> P.ARM_LPAE_PTE_MEMATTR_SHIFT,
        nt,
      }
      if (table) this.compare(s2, ipa, leaf)
      this.#walk.caches?.putStage2(ste.vmid, leaf)
      return leaf
    }
  }

  /** A leaf was found in a cache, or by a table descriptor that was in one: do tables in memory have another size? */
  compare(s2: Stage2, ipa: number, cached: Matched): void {
    const walk = this.#walk
    const { bbml } = walk.features
    if (walk.caches?.onConflict === undefined || bbml === 2 || cached.nt) return
    const { lo, hi } = walk
    let base = s2.ttb
    for (let level = s2.startLevel; ; level++) {
      const address = base + P.tableIndex(ipa, level, s2.startLevel, s2.granuleShift) * P.PTE_SIZE
      if (!walk.descriptor(address, s2.bigEndian) || !(walk.lo & P.ARM_LPAE_PTE_VALID)) break
      if (level < P.LAST_LEVEL && (walk.lo & P.ARM_LPAE_PTE_TYPE_MASK) === P.ARM_LPAE_PTE_TYPE_TABLE) {
        base = P.descriptorAddress(walk.lo, walk.hi, s2.granuleShift, s2.granuleShift, walk.features.oas)
        continue
      }
      if (level !== cached.level && !hasNt(walk, level, walk.lo)) walk.caches.onConflict(ipa, cached.level, level)
      break
    }
    walk.lo = lo
    walk.hi = hi
  }
}

/** A block whose nT caches follow. */
export function hasNt(walk: Walk, level: number, lo: number): boolean {
  return walk.caches !== undefined && walk.features.bbml > 0 && level < P.LAST_LEVEL && (lo & P.ARM_LPAE_PTE_NT) !== 0
}

/**
 * log2 of what the leaf descriptor in `walk.hi` maps for `input`: with its neighbours if caches follow the contiguous bit and
 * `out`, its own output address, fits that.
 */
export function mappedShift(walk: Walk, level: number, granuleShift: number, input: number, out: number): number {
  const shift = P.levelShift(level, granuleShift)
  if (!walk.caches?.contiguous || !(walk.hi & P.ARM_LPAE_PTE_HI_CONT)) return shift
  const range = shift + P.contiguousBits(level, granuleShift)
  return lowBits(out, range) === lowBits(input, range) - lowBits(input, shift) ? range : shift
}
