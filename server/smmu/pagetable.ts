// SPDX-License-Identifier: Apache-2.0
/**
 * VMSAv8-64 translation tables (Arm ARM DDI 0487, chapter D8) of both stages, as far as an SMMU uses them: granules, levels,
 * start level, concatenation, descriptors. A granule is given as log2 of its bytes: 12, 14, 16. A descriptor is two unsigned 32-bit
 * halves; constants of the high half have `_HI_` in their name. Names are those of Linux's io-pgtable-arm.
 */
import { addressOf, alignDown, lowBits, shiftDown } from './bits.ts'

/** The leaf level; levels count up from 0 (or from the start level) to it. */
export const LAST_LEVEL = 3
/** Bytes of a descriptor. */
export const PTE_SIZE = 8

// Descriptor types (D8.3), low half.

export const ARM_LPAE_PTE_VALID = 1
export const ARM_LPAE_PTE_TYPE_MASK = 3
export const ARM_LPAE_PTE_TYPE_BLOCK = 1
export const ARM_LPAE_PTE_TYPE_TABLE = 3
export const ARM_LPAE_PTE_TYPE_PAGE = 3

// Attributes of block and page descriptors that both stages share.

export const ARM_LPAE_PTE_SH_NS = 0 << 8
export const ARM_LPAE_PTE_SH_OS = 2 << 8
export const ARM_LPAE_PTE_SH_IS = 3 << 8
export const ARM_LPAE_PTE_SH_MASK = 3 << 8
export const ARM_LPAE_PTE_AF = 1 << 10
/** nT, of a block: caches keep nothing of it that could conflict with another size. RES0 without BBM level 1 (IDR3.BBML). */
export const ARM_LPAE_PTE_NT = 1 << 16
/** Bit 52. */
export const ARM_LPAE_PTE_HI_CONT = 1 << 20

// Stage 1 block and page descriptors (D8.3, D8.4).

export const ARM_LPAE_PTE_ATTRINDX_SHIFT = 2
export const ARM_LPAE_PTE_ATTRINDX_MASK = 7 << 2
/** AP[1]: EL0 has access. */
export const ARM_LPAE_PTE_AP_UNPRIV = 1 << 6
/** AP[2]: nobody writes. */
export const ARM_LPAE_PTE_AP_RDONLY = 1 << 7
export const ARM_LPAE_PTE_nG = 1 << 11
/** Bit 53. */
export const ARM_LPAE_PTE_HI_PXN = 1 << 21
/** Bit 54; XN in a translation regime with one privilege level. */
export const ARM_LPAE_PTE_HI_UXN = 1 << 22

// Stage 1 table descriptors, high half: they limit everything below (D8.4).

/** Bit 59. */
export const ARM_LPAE_PTE_HI_PXNTABLE = 1 << 27
/** Bit 60; XNTable in a translation regime with one privilege level. */
export const ARM_LPAE_PTE_HI_UXNTABLE = 1 << 28
/** Bit 61, APTable[0]: EL0 has no access. */
export const ARM_LPAE_PTE_HI_APTABLE_PRIV = 1 << 29
/** Bit 62, APTable[1]: nobody writes. */
export const ARM_LPAE_PTE_HI_APTABLE_RDONLY = 1 << 30

// Stage 2 block and page descriptors (D8.3, D8.4, D8.6).

export const ARM_LPAE_PTE_MEMATTR_SHIFT = 2
export const ARM_LPAE_PTE_MEMATTR_MASK = 0xf << 2
/** Normal, outer and inner write-back. */
export const ARM_LPAE_PTE_MEMATTR_OIWB = 0xf << 2
/** Normal, outer and inner non-cacheable. */
export const ARM_LPAE_PTE_MEMATTR_NC = 0x5 << 2
/** Device-nGnRE. */
export const ARM_LPAE_PTE_MEMATTR_DEV = 0x1 << 2
export const ARM_LPAE_PTE_HAP_READ = 1 << 6
export const ARM_LPAE_PTE_HAP_WRITE = 2 << 6
/** XN[1:0], bits [54:53]; XN[0] is RES0 without IDR3.XNX. */
export const ARM_LPAE_PTE_HI_S2XN_SHIFT = 21
export const ARM_LPAE_PTE_HI_S2XN_MASK = 3 << 21
/** Nobody executes. */
export const ARM_LPAE_PTE_HI_S2XN_ALL = 2 << 21

/** Granule of TG0 and S2TG; 0 for the Reserved encoding. */
export function tg0GranuleShift(tg: number): number {
  return tg === 0 ? 12 : tg === 1 ? 16 : tg === 2 ? 14 : 0
}

/** Granule of TG1, which is encoded differently; 0 for the Reserved encoding. */
export function tg1GranuleShift(tg: number): number {
  return tg === 1 ? 14 : tg === 2 ? 12 : tg === 3 ? 16 : 0
}

/** Address bits that one full table resolves. */
export function tableBits(granuleShift: number): number {
  return granuleShift - 3
}

/** log2 of the bytes that a descriptor at `level` maps or leads to. */
export function levelShift(level: number, granuleShift: number): number {
  return granuleShift + (LAST_LEVEL - level) * (granuleShift - 3)
}

/**
 * Index of the descriptor for `input` in its table at `level`. At the start level it runs over the whole table, whatever its
 * size, and over all concatenated tables; `input` must be inside the input size.
 */
export function tableIndex(input: number, level: number, startLevel: number, granuleShift: number): number {
  const index = shiftDown(input, levelShift(level, granuleShift))
  return level === startLevel ? index : lowBits(index, granuleShift - 3)
}

/** The level at which a stage 1 walk of `inputBits` (64 - TxSZ) starts (D8.2). */
export function stage1StartLevel(inputBits: number, granuleShift: number): number {
  return LAST_LEVEL - Math.floor((inputBits - 1 - granuleShift) / (granuleShift - 3))
}

/**
 * The level at which SL0 lets a stage 2 walk start (VTCR_EL2.SL0), or -1 for an encoding that is Reserved or needs a larger
 * output address size than `oas` bits. `stt`: small translation tables (IDR3.STT).
 */
export function stage2StartLevel(sl0: number, granuleShift: number, oas: number, stt: boolean): number {
  if (sl0 === 3) return granuleShift === 12 && stt ? 3 : -1
  if (sl0 === 2 && oas < (granuleShift === 14 ? 42 : 44)) return -1
  return (granuleShift === 12 ? 2 : 3) - sl0
}

/** The SL0 that makes a stage 2 walk start at `level`, 0 to 3. */
export function stage2Sl0(level: number, granuleShift: number): number {
  return granuleShift === 12 ? (level === 3 ? 3 : 2 - level) : 3 - level
}

/** Tables that are concatenated at the start level of a stage 2 walk of `inputBits` (D8.2): 1 to 16 in a legal one. */
export function concatenatedTables(inputBits: number, startLevel: number, granuleShift: number): number {
  return 2 ** Math.max(0, inputBits - levelShift(startLevel - 1, granuleShift))
}

/**
 * The start level fits the input size: what is left to it is at least one bit, and at most a full table times sixteen
 * concatenated ones (D8.2; IHI 0070 section 5.2, S2SL0).
 */
export function stage2StartLevelFits(inputBits: number, startLevel: number, granuleShift: number): boolean {
  const resolved = levelShift(startLevel, granuleShift)
  return inputBits > resolved && inputBits <= resolved + tableBits(granuleShift) + 4
}

/**
 * The start level that needs the fewest levels for a stage 2 of `inputBits`: one less than without concatenation where that
 * makes at most sixteen tables.
 */
export function stage2ShortestStartLevel(inputBits: number, granuleShift: number): number {
  const level = stage1StartLevel(inputBits, granuleShift)
  return level < LAST_LEVEL && stage2StartLevelFits(inputBits, level + 1, granuleShift) ? level + 1 : level
}

/** Bytes of the table or of all concatenated tables at the start level; it is also their alignment. */
export function startTableBytes(inputBits: number, startLevel: number, granuleShift: number): number {
  return PTE_SIZE * 2 ** (inputBits - levelShift(startLevel, granuleShift))
}

/** A block descriptor may appear at `level` (D8.3). `oas`: implemented output address size, bits. */
export function blockAllowed(level: number, granuleShift: number, oas: number): boolean {
  return level === 2 || (level === 1 && (granuleShift === 12 || (granuleShift === 16 && oas >= 52)))
}

/** log2 of the number of entries that form one contiguous range at `level` when the contiguous bit is set (D8.7). */
export function contiguousBits(level: number, granuleShift: number): number {
  return granuleShift === 12 ? 4 : granuleShift === 16 ? 5 : level === 3 ? 7 : 5
}

/**
 * Address bits [51:48] of a descriptor: with the 64 KiB granule and a 52-bit output address size they are in bits [15:12], else
 * they are zero (D8.3).
 */
function addressTop(lo: number, granuleShift: number, oas: number): number {
  return granuleShift === 16 && oas >= 52 ? ((lo >>> 12) & 0xf) * 2 ** 48 : 0
}

/**
 * Output address of a block or page descriptor that maps `2^shift` bytes, or address of the next table with
 * `shift = granuleShift`. `oas`: implemented output address size, bits.
 */
export function descriptorAddress(lo: number, hi: number, shift: number, granuleShift: number, oas: number): number {
  return alignDown(addressOf(lo >>> 0, hi & 0xffff), shift) + addressTop(lo, granuleShift, oas)
}

/** Low half of a descriptor for `address`, which must be a multiple of the granule, with the bits of `attributes`. */
export function descriptorLo(address: number, attributes: number, granuleShift: number): number {
  const top = granuleShift === 16 ? Math.floor(address / 2 ** 48) << 12 : 0
  return ((address >>> 0) | top | attributes) >>> 0
}

/** High half of a descriptor for `address`, with the bits of `attributes`. */
export function descriptorHi(address: number, attributes: number): number {
  return ((Math.floor(address / 2 ** 32) & 0xffff) | attributes) >>> 0
}
