// SPDX-License-Identifier: Apache-2.0
/** The port through which a walker uses configuration caches and TLBs, and what is kept in them (IHI 0070 sections 3.17, 16.2). */
import type { Cd, Ste } from './streamConfig.ts'

/** What TLB invalidations match a cached translation by, besides its tags. */
export interface Matched {
  /** First input address: VA or IPA, in units of 4 KiB, 52 bits. */
  readonly page: number
  /** log2 of the bytes that it maps linearly. */
  readonly shift: number
  /** Of the descriptor of the first stage that translated: granule, level, log2 of the bytes that it maps. */
  readonly granuleShift: number
  readonly level: number
  readonly leafShift: number
  /** A leaf on the way has nT, and the SMMU follows it (IDR3.BBML): to be kept for one granule, or not at all. */
  readonly nt: boolean
}

/**
 * Tables say another size of an address than what is cached of it, at stage 2, and the SMMU's BBM level does not let software do that
 * (IDR3.BBML): hardware may answer with either, with both, or with F_TLB_CONFLICT. Levels of both leaves.
 */
export type ConflictReport = (ipa: number, cached: number, found: number) => void

/** A translation by one or both stages, as a TLB holds it. For stage 2 only the input address is an IPA. */
export interface TlbEntry extends Matched {
  readonly pa: number
  /** Intermediate address of `page`; equals `pa` without stage 2. */
  readonly ipa: number
  /** PERM_*; all of them where the stage did not translate. */
  readonly s1Perm: number
  readonly s2Perm: number
  readonly mair: number
  readonly memAttr: number
  /** nG is 0: any ASID uses it. False for stage 2 only. */
  readonly global: boolean
}

/** Result of a stage 2 walk. */
export interface Stage2Leaf extends Matched {
  readonly pa: number
  readonly perm: number
  readonly memAttr: number
}

/** A table descriptor: where the next level is, and what it forbids. */
export interface TableDescriptor {
  readonly level: number
  readonly next: number
  /** High half, for the APTable, UXNTable and PXNTable bits. */
  readonly hi: number
}

/** A level 1 descriptor in halves. */
export type Level1 = readonly [lo: number, hi: number]

/** What a TLB entry is looked up by, besides the address (IHI 0070 section 3.17). */
export interface TlbTags {
  readonly world: number
  readonly vmid: number
  /** Addresses are IPAs: stage 2 only. Then `asid` and `aset` are 0. */
  readonly ipa: boolean
  readonly asid: number
  readonly aset: number
}

/** Caches that a walker may be given. Lookups return undefined for a miss. */
export interface Caches {
  /** The contiguous bit makes one entry of all descriptors that it ties together. */
  readonly contiguous: boolean
  /** Absent: sizes are not compared. */
  readonly onConflict?: ConflictReport | undefined
  /** null: an STE that is invalid or ILLEGAL is cached. */
  ste(sid: number): Ste | null | undefined
  putSte(sid: number, ste: Ste | null): void
  /** `index` into the CD table. null as for STEs. */
  cd(sid: number, index: number): Cd | null | undefined
  putCd(sid: number, index: number, cd: Cd | null): void
  /** Level 1 descriptors of the stream table and of CD tables, each for `1 << bits` StreamIDs or CD indices. */
  l1Std(sid: number, bits: number): Level1 | undefined
  putL1Std(sid: number, bits: number, descriptor: Level1): void
  l1Cd(sid: number, index: number, bits: number): Level1 | undefined
  putL1Cd(sid: number, index: number, bits: number, descriptor: Level1): void
  tlb(tags: TlbTags, page: number): TlbEntry | undefined
  putTlb(tags: TlbTags, entry: TlbEntry): void
  /** The deepest cached table descriptor on the way to `page` (an IPA in stage 2 of any configuration). */
  table(tags: TlbTags, page: number, granuleShift: number): TableDescriptor | undefined
  putTable(tags: TlbTags, page: number, granuleShift: number, table: TableDescriptor): void
  /** Stage 2 translations of IPAs: of stage 1 descriptors, of CDs, and of the output of stage 1. */
  stage2(vmid: number, page: number): Stage2Leaf | undefined
  putStage2(vmid: number, leaf: Stage2Leaf): void
}
