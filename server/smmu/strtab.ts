// SPDX-License-Identifier: Apache-2.0
/** Stream table: STRTAB_BASE, STRTAB_BASE_CFG and the level 1 descriptor (IHI 0070 sections 3.3.1, 5.1, 6.3.24, 6.3.25). */
import { addressOf, exceeds, fieldGet, genmask, genmask64 } from './bits.ts'
import { type GuestMemory, inRam } from './memory.ts'
import {
  STRTAB_BASE_CFG_FMT,
  STRTAB_BASE_CFG_FMT_2LVL,
  STRTAB_BASE_CFG_LOG2SIZE,
  STRTAB_BASE_CFG_SPLIT,
  strtabBaseAddress,
} from './registers.ts'
import { STRTAB_STE_SIZE } from './ste.ts'

export const STRTAB_L1_DESC_SIZE = 8
export const STRTAB_L1_DESC_SPAN = genmask64(4, 0)
/** L2Ptr. Bits above the output address size are RES0. */
export const STRTAB_L1_DESC_L2PTR_MASK = genmask64(55, 6)
/** The largest Span that is not Reserved. */
export const STRTAB_L1_DESC_SPAN_MAX = 11

const L1_LO_SPAN = genmask(4, 0)
const L1_LO_L2PTR = genmask(31, 6)
const L1_HI_L2PTR = genmask(23, 0)

/** What STRTAB_BASE and STRTAB_BASE_CFG say. */
export interface StreamTable {
  readonly twoLevel: boolean
  /** Address of the L1 descriptors or of the STEs, aligned as the SMMU aligns it. */
  readonly base: number
  /** StreamIDs from `2^log2size` on are out of range: LOG2SIZE capped at IDR1.SIDSIZE. */
  readonly log2size: number
  /** StreamID bits that select the STE inside an L2 table; 0 for a linear table. */
  readonly split: number
}

/** The effective SPLIT: 6, 8 or 10; Reserved values behave as 6. */
export function effectiveSplit(cfg: number): number {
  const split = fieldGet(STRTAB_BASE_CFG_SPLIT, cfg)
  return split === 8 || split === 10 ? split : 6
}

/**
 * Decodes the two registers. The alignment of the base follows the LOG2SIZE that was written, not the capped one
 * (IHI 0070 section 6.3.24).
 * @param twoLevelSupported IDR0.ST_LEVEL is 1; otherwise FMT is RES0.
 */
export function decodeStreamTable(
  baseLo: number,
  baseHi: number,
  cfg: number,
  sidSize: number,
  twoLevelSupported: boolean,
): StreamTable {
  const size = fieldGet(STRTAB_BASE_CFG_LOG2SIZE, cfg)
  const twoLevel = twoLevelSupported && fieldGet(STRTAB_BASE_CFG_FMT, cfg) === STRTAB_BASE_CFG_FMT_2LVL
  const split = twoLevel ? effectiveSplit(cfg) : 0
  const alignment = twoLevel ? Math.max(64, STRTAB_L1_DESC_SIZE * 2 ** (size - split)) : STRTAB_STE_SIZE * 2 ** size
  const address = strtabBaseAddress(baseLo, baseHi)
  return { twoLevel, base: address - (address % alignment), log2size: Math.min(size, sidSize), split }
}

/** L1 descriptors of a 2-level table, or STEs of a linear one. */
export function streamTableEntries(table: StreamTable): number {
  return table.twoLevel ? Math.max(1, 2 ** (table.log2size - table.split)) : 2 ** table.log2size
}

/** Bytes of the L1 table of a 2-level table, or of the whole linear one. */
export function streamTableBytes(table: StreamTable): number {
  return streamTableEntries(table) * (table.twoLevel ? STRTAB_L1_DESC_SIZE : STRTAB_STE_SIZE)
}

/** Address of the L1 descriptor of a StreamID. */
export function l1DescriptorAddress(table: StreamTable, sid: number): number {
  return table.base + (sid >>> table.split) * STRTAB_L1_DESC_SIZE
}

/**
 * STEs in the L2 table of an L1 descriptor: `2^(Span - 1)`; 0 if Span is 0, Reserved, or larger than SPLIT + 1 allows
 * (IHI 0070 sections 5.1 and 7.3.3).
 */
export function l1DescriptorStes(lo: number, split: number): number {
  const span = fieldGet(L1_LO_SPAN, lo)
  return span === 0 || span > STRTAB_L1_DESC_SPAN_MAX || span > split + 1 ? 0 : 1 << (span - 1)
}

/** L2Ptr, aligned to the size of the L2 table as the SMMU does; `stes` from `l1DescriptorStes`, not 0. */
export function l1DescriptorL2Ptr(lo: number, hi: number, stes: number): number {
  const address = addressOf((lo & L1_LO_L2PTR) >>> 0, (hi & L1_HI_L2PTR) >>> 0)
  return address - (address % (stes * STRTAB_STE_SIZE))
}

/** No entry: the StreamID is beyond the table, or beyond what its L1 descriptor covers (C_BAD_STREAMID, IHI 0070 section 7.3.3). */
export const STE_ABSENT = -1
/** The L1 descriptor is not in RAM (F_STE_FETCH, IHI 0070 section 7.3.4). */
export const STE_UNREADABLE = -2

/** Address of the STE of a StreamID that an L1 descriptor leads to, or STE_ABSENT. */
export function l2SteAddress(lo: number, hi: number, sid: number, split: number): number {
  const stes = l1DescriptorStes(lo, split)
  const index = sid & ((1 << split) - 1)
  return index < stes ? l1DescriptorL2Ptr(lo, hi, stes) + index * STRTAB_STE_SIZE : STE_ABSENT
}

const descriptor = new Uint32Array(2)
const descriptorBytes = new Uint8Array(descriptor.buffer)

/** Address of the STE of a StreamID, or STE_ABSENT or STE_UNREADABLE; of a 2-level table the L1 descriptor is read. */
export function steAddress(table: StreamTable, sid: number, memory: GuestMemory): number {
  if (exceeds(sid, table.log2size)) return STE_ABSENT
  if (!table.twoLevel) return table.base + sid * STRTAB_STE_SIZE
  if (!memory.read(l1DescriptorAddress(table, sid), descriptorBytes, 0, STRTAB_L1_DESC_SIZE)) return STE_UNREADABLE
  return l2SteAddress(descriptor[0], descriptor[1], sid, table.split)
}

/** A table of STEs: a linear stream table, or an L2 table. */
export interface SteTable {
  readonly address: number
  /** StreamID of its first entry. */
  readonly sid: number
  readonly stes: number
}

/** L1 descriptors that are read at a time: a page. */
const L1_CHUNK = 512

/**
 * The tables of STEs of a stream table that hold StreamIDs from `from` on and below `to`, in order of their StreamIDs. L1 descriptors that
 * are not in RAM lead nowhere.
 */
export function* steTables(
  table: StreamTable,
  memory: GuestMemory,
  from = 0,
  to = Number.POSITIVE_INFINITY,
): Generator<SteTable> {
  const all = streamTableEntries(table)
  const entries = Math.min(all, Math.ceil(to / 2 ** table.split))
  if (!table.twoLevel) {
    yield { address: table.base, sid: 0, stes: all }
    return
  }
  const level1 = new Uint32Array(2 * Math.min(entries, L1_CHUNK))
  const bytes = new Uint8Array(level1.buffer)
  const start = Math.floor(from / 2 ** table.split)
  for (const run of inRam(memory, table.base, STRTAB_L1_DESC_SIZE, start, entries)) {
    const end = run.first + run.count
    for (let first = run.first; first < end; first += L1_CHUNK) {
      const count = Math.min(end - first, L1_CHUNK)
      if (!memory.read(table.base + first * STRTAB_L1_DESC_SIZE, bytes, 0, count * STRTAB_L1_DESC_SIZE)) continue
      for (let i = 0; i < 2 * count; i += 2) {
        const stes = l1DescriptorStes(level1[i], table.split)
        const sid = (first + i / 2) * 2 ** table.split
        if (stes > 0) yield { address: l1DescriptorL2Ptr(level1[i], level1[i + 1], stes), sid, stes }
      }
    }
  }
}

/** The entry at an address (`steAddress`), eight 64-bit words; undefined where it is none, or cannot be read. */
export function readSte(address: number, memory: GuestMemory): BigUint64Array | undefined {
  const ste = new BigUint64Array(STRTAB_STE_SIZE / 8)
  return address >= 0 && memory.read(address, new Uint8Array(ste.buffer), 0, STRTAB_STE_SIZE) ? ste : undefined
}
