// SPDX-License-Identifier: Apache-2.0
/**
 * Configuration caches and TLBs of the software SMMU (IHI 0070 sections 3.17, 4.3, 4.4, 16.2). They never forget by
 * themselves: what is in them stays until a command names it, so that an invalidation that software forgot, or made too narrow,
 * shows as a translation by the old tables.
 */
import { type Cd, type Ste, WORLD_NS_EL1 } from '../streamConfig.ts'
import type {
  Caches,
  ConflictReport,
  Level1,
  Stage2Leaf,
  TableDescriptor,
  TlbEntry,
  TlbTags,
} from '../translationCaches.ts'
import { AddressSpace, type Scope } from './tlb.ts'

/**
 * - `none`: nothing is cached.
 * - `architectural`: valid STEs and CDs, and complete translations.
 * - `walks`: also table descriptors, and stage 2 translations of every IPA.
 * - `maximal`: also all else that an implementation may cache: invalid and ILLEGAL STEs and CDs, level 1 descriptors,
 *   contiguous ranges as one entry, and granules of blocks with nT.
 */
export type Caching = 'none' | 'architectural' | 'walks' | 'maximal'

/** What the addresses of an address space are. */
const VA = 0
/** VAs that every ASID shares: nG is 0. */
const GLOBAL_VA = 1
const IPA = 2

/** Translations under one set of tags. */
class Space extends AddressSpace<TlbEntry> {
  readonly world: number
  readonly kind: number
  readonly vmid: number
  readonly asid: number

  constructor(world: number, kind: number, vmid: number, asid: number) {
    super()
    this.world = world
    this.kind = kind
    this.vmid = vmid
    this.asid = asid
  }
}

function spaceKey(world: number, kind: number, vmid: number, low: number): number {
  return ((world * 4 + kind) * 0x1_0000 + vmid) * 0x1_0000 + low
}

function putNested<T>(map: Map<number, Map<number, T>>, outer: number, inner: number, value: T): void {
  let nested = map.get(outer)
  if (!nested) {
    nested = new Map()
    map.set(outer, nested)
  }
  nested.set(inner, value)
}

/** Which level 1 descriptor covers a StreamID or CD index: its number and how many bits it covers. */
function level1Key(index: number, bits: number): number {
  return (index >>> bits) * 16 + bits
}

/** Sizes of leaf tables that a level 1 descriptor can lead to: SPLIT of stream tables, S1Fmt of CD tables. */
const LEVEL1_BITS = [6, 8, 10] as const

export class SoftCaches implements Caches {
  readonly contiguous: boolean
  readonly onConflict: ConflictReport | undefined
  readonly #maximal: boolean
  readonly #walks: boolean
  readonly #stes = new Map<number, Ste | null>()
  readonly #cds = new Map<number, Map<number, Cd | null>>()
  readonly #l1Stds = new Map<number, Level1>()
  readonly #l1Cds = new Map<number, Map<number, Level1>>()
  readonly #spaces = new Map<number, Space>()
  /** Stage 2 translations by VMID; only when walks are cached. */
  readonly #stage2 = new Map<number, AddressSpace<Stage2Leaf>>()

  constructor(caching: Exclude<Caching, 'none'>, onConflict?: ConflictReport) {
    this.onConflict = onConflict
    this.#maximal = caching === 'maximal'
    this.#walks = caching !== 'architectural'
    this.contiguous = this.#maximal
  }

  /** Forgets everything, which caches may do at any time. */
  clear(): void {
    for (const map of [this.#stes, this.#cds, this.#l1Stds, this.#l1Cds, this.#spaces, this.#stage2]) map.clear()
  }

  // What the walker asks and tells.

  ste(sid: number): Ste | null | undefined {
    return this.#stes.get(sid)
  }

  putSte(sid: number, ste: Ste | null): void {
    if (ste || this.#maximal) this.#stes.set(sid, ste)
  }

  cd(sid: number, index: number): Cd | null | undefined {
    return this.#cds.get(sid)?.get(index)
  }

  putCd(sid: number, index: number, cd: Cd | null): void {
    if (cd || this.#maximal) putNested(this.#cds, sid, index, cd)
  }

  l1Std(sid: number, bits: number): Level1 | undefined {
    return this.#l1Stds.get(level1Key(sid, bits))
  }

  putL1Std(sid: number, bits: number, descriptor: Level1): void {
    if (this.#maximal) this.#l1Stds.set(level1Key(sid, bits), descriptor)
  }

  l1Cd(sid: number, index: number, bits: number): Level1 | undefined {
    return this.#l1Cds.get(sid)?.get(level1Key(index, bits))
  }

  putL1Cd(sid: number, index: number, bits: number, descriptor: Level1): void {
    if (this.#maximal) putNested(this.#l1Cds, sid, level1Key(index, bits), descriptor)
  }

  tlb(tags: TlbTags, page: number): TlbEntry | undefined {
    const { world, vmid } = tags
    if (tags.ipa) return this.#spaces.get(spaceKey(world, IPA, vmid, 0))?.leaves.get(page)
    return (
      this.#spaces.get(spaceKey(world, VA, vmid, tags.asid))?.leaves.get(page) ??
      this.#spaces.get(spaceKey(world, GLOBAL_VA, vmid, tags.aset))?.leaves.get(page)
    )
  }

  putTlb(tags: TlbTags, entry: TlbEntry): void {
    if (!entry.nt || this.#maximal) this.#space(tags, entry.global).leaves.put(entry)
  }

  table(tags: TlbTags, page: number, granuleShift: number): TableDescriptor | undefined {
    if (!this.#walks) return undefined
    return this.#spaces
      .get(spaceKey(tags.world, tags.ipa ? IPA : VA, tags.vmid, tags.asid))
      ?.tables.get(page, granuleShift)
  }

  putTable(tags: TlbTags, page: number, granuleShift: number, table: TableDescriptor): void {
    if (this.#walks) this.#space(tags, false).tables.put(page, granuleShift, table)
  }

  stage2(vmid: number, page: number): Stage2Leaf | undefined {
    return this.#walks ? this.#stage2.get(vmid)?.leaves.get(page) : undefined
  }

  putStage2(vmid: number, leaf: Stage2Leaf): void {
    if (!this.#walks || (leaf.nt && !this.#maximal)) return
    let space = this.#stage2.get(vmid)
    if (!space) {
      space = new AddressSpace()
      this.#stage2.set(vmid, space)
    }
    space.leaves.put(leaf)
  }

  #space(tags: TlbTags, global: boolean): Space {
    const kind = tags.ipa ? IPA : global ? GLOBAL_VA : VA
    const low = tags.ipa ? 0 : global ? tags.aset : tags.asid
    const key = spaceKey(tags.world, kind, tags.vmid, low)
    let space = this.#spaces.get(key)
    if (!space) {
      space = new Space(tags.world, kind, tags.vmid, tags.asid)
      this.#spaces.set(key, space)
    }
    return space
  }

  // Invalidation of configuration (IHI 0070 section 4.3).

  /** CMD_CFGI_STE: the STE and all that was fetched through it; the level 1 descriptor unless `leaf`. */
  removeSte(sid: number, leaf: boolean): void {
    this.#stes.delete(sid)
    this.removeCds(sid)
    if (!leaf) for (const bits of LEVEL1_BITS) this.#l1Stds.delete(level1Key(sid, bits))
  }

  /** CMD_CFGI_STE_RANGE: StreamIDs `first` to `last`, and the level 1 descriptors on the way to them. */
  removeStes(first: number, last: number): void {
    for (const map of [this.#stes, this.#cds, this.#l1Cds]) {
      for (const sid of map.keys()) if (sid >= first && sid <= last) map.delete(sid)
    }
    for (const key of this.#l1Stds.keys()) {
      const bits = key % 16
      const start = Math.floor(key / 16) * 2 ** bits
      if (start <= last && first < start + 2 ** bits) this.#l1Stds.delete(key)
    }
  }

  /** CMD_CFGI_CD. */
  removeCd(sid: number, index: number, leaf: boolean): void {
    this.#cds.get(sid)?.delete(index)
    if (!leaf) for (const bits of LEVEL1_BITS) this.#l1Cds.get(sid)?.delete(level1Key(index, bits))
  }

  /** CMD_CFGI_CD_ALL. */
  removeCds(sid: number): void {
    this.#cds.delete(sid)
    this.#l1Cds.delete(sid)
  }

  // Invalidation of translations (IHI 0070 section 4.4). `vmid` undefined: of all VMIDs.

  /** Everything of a StreamWorld, both stages. */
  removeWorld(world: number): void {
    this.#removeSpaces(space => space.world === world)
    if (world === WORLD_NS_EL1) this.#stage2.clear()
  }

  /** Stage 1, and both stages combined, of a VMID, global entries included. */
  removeStage1(world: number, vmid: number | undefined): void {
    this.#removeSpaces(
      space => space.world === world && space.kind !== IPA && (vmid === undefined || space.vmid === vmid),
    )
  }

  /** Both stages of a VMID. */
  removeVmid(world: number, vmid: number): void {
    this.#removeSpaces(space => space.world === world && space.vmid === vmid)
    this.#stage2.delete(vmid)
  }

  /** Non-global entries of an ASID. */
  removeAsid(world: number, vmid: number | undefined, asid: number): void {
    this.#removeSpaces(
      space =>
        space.world === world &&
        space.kind === VA &&
        space.asid === asid &&
        (vmid === undefined || space.vmid === vmid),
    )
  }

  /** VAs of an ASID, or of all if it is undefined, and global ones whatever their ASID was. */
  removeVa(world: number, vmid: number | undefined, asid: number | undefined, scope: Scope, leaf: boolean): void {
    for (const space of this.#spaces.values()) {
      if (space.world !== world || space.kind === IPA || (vmid !== undefined && space.vmid !== vmid)) continue
      if (space.kind === VA && asid !== undefined && space.asid !== asid) continue
      space.remove(scope, leaf)
    }
  }

  /** IPAs of a VMID. What combines both stages stays (IHI 0070 section 4.4.3.1). */
  removeIpa(vmid: number, scope: Scope, leaf: boolean): void {
    this.#spaces.get(spaceKey(WORLD_NS_EL1, IPA, vmid, 0))?.remove(scope, leaf)
    this.#stage2.get(vmid)?.remove(scope, leaf)
  }

  #removeSpaces(matches: (space: Space) => boolean): void {
    for (const [key, space] of this.#spaces) if (matches(space)) this.#spaces.delete(key)
  }
}
