// SPDX-License-Identifier: Apache-2.0
/** What the tables in memory let streams reach, enumerated from the registers that lead to them. */
import { addressOf, fieldGet64 } from './bits.ts'
import type { Features } from './features.ts'
import { type GuestMemory, inRam } from './memory.ts'
import { LAST_LEVEL, levelShift, stage2StartLevel, startTableBytes, tableBits } from './pagetable.ts'
import { CR0_SMMUEN, GBPA_ABORT } from './registers.ts'
import * as S from './ste.ts'
import { decodeStreamTable, steTables } from './strtab.ts'
import type { WalkRegisters } from './walker.ts'

/**
 * Tables that a second stage can have that maps all of RAM in pages of 4 KiB, and as many again, and what is no RAM. A damaged one may
 * lead into itself, and must have been looked at before anybody waits for it.
 */
export const tableLimit = ({ ram }: Pick<GuestMemory, 'ram'>): number =>
  4096 + Math.ceil(ram.reduce((bytes, { size }) => bytes + size, 0) / 2 ** 20)

/** Entries that are read at a time. */
const CHUNK = 256

/** There are tables that were not looked at: what they let through is not known. */
export class TooManyTables extends Error {
  /** @param limit so many were looked at */
  constructor(limit: number) {
    super(`the second stage has more than ${limit} tables, or leads into itself`)
  }
}

/** The registers of one SMMU that lead to its tables. */
export interface TableRegisters {
  readonly strtabBaseLo: number
  readonly strtabBaseHi: number
  readonly strtabBaseCfg: number
  /** IDR1.SIDSIZE, IDR0.ST_LEVEL, output address size in bits. */
  readonly sidSize: number
  readonly twoLevel: boolean
  readonly oas: number
  /** CR0.SMMUEN */
  readonly enabled: boolean
  /** GBPA.ABORT: what becomes of transactions while it is not (IHI 0070 section 3.11). */
  readonly aborts: boolean
}

export function tableRegisters(
  { cr0, gbpa, strtabBaseLo, strtabBaseHi, strtabBaseCfg }: Omit<WalkRegisters, 'cr2'>,
  { sidSize, twoLevelStreamTable, oas }: Pick<Features, 'sidSize' | 'twoLevelStreamTable' | 'oas'>,
): TableRegisters {
  return {
    ...{ strtabBaseLo, strtabBaseHi, strtabBaseCfg, sidSize, oas },
    twoLevel: twoLevelStreamTable,
    enabled: (cr0 & CR0_SMMUEN) !== 0,
    aborts: (gbpa & GBPA_ABORT) !== 0,
  }
}

const streamTableOf = ({ strtabBaseLo, strtabBaseHi, strtabBaseCfg, sidSize, twoLevel }: TableRegisters) =>
  decodeStreamTable(strtabBaseLo, strtabBaseHi, strtabBaseCfg, sidSize, twoLevel)

/** StreamIDs from here on are out of range. */
export const streamIds = (smmu: TableRegisters): number => 2 ** streamTableOf(smmu).log2size

/**
 * Entries of the stream table that the hardware uses, valid or not, of StreamIDs from `from` on and below `to`. Of a table that
 * leaves RAM, those that are in it.
 */
export function* streamTable(
  memory: GuestMemory,
  smmu: TableRegisters,
  from = 0,
  to = Number.POSITIVE_INFINITY,
): Generator<{ sid: number; ste: BigUint64Array }> {
  for (const { address, sid, stes } of steTables(streamTableOf(smmu), memory, from, to)) {
    for (const run of inRam(memory, address, S.STRTAB_STE_SIZE, Math.max(0, from - sid), Math.min(stes, to - sid))) {
      const end = run.first + run.count
      for (let first = run.first; first < end; first += CHUNK) {
        const count = Math.min(CHUNK, end - first)
        const bytes = new Uint8Array(count * S.STRTAB_STE_SIZE)
        if (!memory.read(address + first * S.STRTAB_STE_SIZE, bytes, 0, bytes.length)) continue
        const words = new BigUint64Array(bytes.buffer)
        for (let i = 0; i < count; i++) {
          yield { sid: sid + first + i, ste: words.subarray(S.STRTAB_STE_DWORDS * i, S.STRTAB_STE_DWORDS * (i + 1)) }
        }
      }
    }
  }
}

/** A way of its own in which streams reach memory. */
export interface Way {
  readonly smmu: number
  /** The first stream that goes this way; undefined: the SMMU is off and all of its devices do. */
  readonly sid: number | undefined
  readonly ste: BigUint64Array
  /** There is a second stage between them and memory. */
  readonly second: boolean
  /** Same for the same way, of whatever SMMU. */
  readonly key: string
}

const NO_STE = new BigUint64Array(S.STRTAB_STE_DWORDS)

/**
 * How streams reach memory, each way once. An SMMU that is off is one if it does not abort.
 * @param groupOf streams that are not of one group have each way once each
 * @param from, to StreamIDs that are looked at, below `to`
 */
export function* ways(
  memory: GuestMemory,
  smmus: readonly TableRegisters[],
  groupOf: (smmu: number, sid: number) => number | undefined = () => undefined,
  from = 0,
  to = Number.POSITIVE_INFINITY,
): Generator<Way> {
  const seen = new Set<string>()
  for (const [index, smmu] of smmus.entries()) {
    if (!smmu.enabled) {
      if (!smmu.aborts) yield { smmu: index, sid: undefined, ste: NO_STE, second: false, key: `off ${index}` }
      continue
    }
    for (const { sid, ste } of streamTable(memory, smmu, from, to)) {
      if (fieldGet64(S.STRTAB_STE_0_V, ste[0]) === 0) continue
      const config = fieldGet64(S.STRTAB_STE_0_CFG, ste[0])
      if ((config & 4) === 0) continue
      const second = config === S.STRTAB_STE_0_CFG_S2_TRANS || config === S.STRTAB_STE_0_CFG_NESTED
      const tables = second ? `${ste[2] & (S.STRTAB_STE_2_VTCR | S.STRTAB_STE_2_S2ENDI)} ${ste[3]}` : 'all'
      const group = groupOf(index, sid)
      const key = group === undefined ? tables : `${tables} ${group}`
      if (seen.has(key)) continue
      seen.add(key)
      yield { smmu: index, sid, ste: ste.slice(), second, key }
    }
  }
}

/** `target`: where the leaf leads, bytes. */
export type Leaf = (base: number, size: number, target: number, writable: boolean) => void

/** A part of a second stage: the leaves that lie in it, or reach into it. */
export interface Window {
  /** Input addresses, bytes. */
  readonly from: number
  readonly to: number
  /** Most descriptors that are looked at. */
  readonly limit: number
}

const ALL: Window = { from: 0, to: Number.POSITIVE_INFINITY, limit: Number.POSITIVE_INFINITY }

/**
 * Calls `leaf` for each leaf of an STE's second stage (VMSAv8-64, IHI 0070 section 3.4).
 * @returns input address to go on from, if the window's limit ended it
 * @throws TooManyTables
 */
export function stage2Leaves(
  memory: GuestMemory,
  ste: BigUint64Array,
  oas: number,
  leaf: Leaf,
  { from, to, limit }: Window = ALL,
): number | undefined {
  const vtcr = (ste[2] & S.STRTAB_STE_2_VTCR) >> 32n
  const granuleShift = [12, 16, 14, 12][fieldGet64(S.STRTAB_STE_2_VTCR_S2TG, vtcr)]
  const inputBits = 64 - fieldGet64(S.STRTAB_STE_2_VTCR_S2T0SZ, vtcr)
  const start = stage2StartLevel(fieldGet64(S.STRTAB_STE_2_VTCR_S2SL0, vtcr), granuleShift, oas, false)
  if (start < 0) return undefined
  const big = (ste[2] & S.STRTAB_STE_2_S2ENDI) !== 0n
  const root = Number(ste[3] & S.STRTAB_STE_3_S2TTB_MASK)
  const most = tableLimit(memory)
  let tables = 0
  let descriptors = 0
  let stopped: number | undefined
  const walk = (level: number, address: number, bytes: number, base: number): void => {
    if (++tables > most) throw new TooManyTables(most)
    const span = 2 ** levelShift(level, granuleShift)
    const wanted = Math.max(0, Math.floor((from - base) / span))
    const last = Math.min(bytes / 8, Math.ceil((to - base) / span))
    for (const { first, count } of inRam(memory, address, 8, wanted, last)) {
      const data = Buffer.alloc(8 * count)
      if (!memory.read(address + 8 * first, data, 0, data.length)) continue
      if (big) data.swap64()
      look(level, base, span, first, count, data)
    }
  }
  const look = (level: number, base: number, span: number, first: number, count: number, data: Buffer): void => {
    for (let i = 0; i < count && stopped === undefined; i++) {
      const input = base + (first + i) * span
      if (descriptors++ >= limit) {
        stopped = Math.max(from, input)
        return
      }
      const lo = data.readUInt32LE(8 * i)
      if ((lo & 1) === 0) continue
      const target = addressOf((lo & 0xffff_f000) >>> 0, data.readUInt32LE(8 * i + 4) & 0xffff)
      const table = (lo & 2) !== 0
      if (table && level < LAST_LEVEL) walk(level + 1, target, 8 * 2 ** tableBits(granuleShift), input)
      // HAP (S2AP) bits 6 and 7: without either it maps nothing.
      else if ((table || level < LAST_LEVEL) && (lo & 0xc0) !== 0)
        leaf(input, span, target - (target % span), (lo & 0x80) !== 0)
    }
  }
  walk(start, root, startTableBytes(inputBits, start, granuleShift), 0)
  return stopped
}
