// SPDX-License-Identifier: Apache-2.0
/** What the tables in memory let streams reach, enumerated from the registers that lead to them. */
import { addressOf, fieldGet64 } from './bits.ts'
import type { GuestMemory } from './memory.ts'
import { LAST_LEVEL, levelShift, stage2StartLevel, startTableBytes, tableBits } from './pagetable.ts'
import * as S from './ste.ts'
import { decodeStreamTable, steTables } from './strtab.ts'

/** A damaged table may lead into itself. */
const MAX_TABLES = 1 << 17

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

/** Entries of the stream table that the hardware uses, valid or not. */
export function* streamTable(
  memory: GuestMemory,
  smmu: TableRegisters,
): Generator<{ sid: number; ste: BigUint64Array }> {
  const { strtabBaseLo, strtabBaseHi, strtabBaseCfg, sidSize, twoLevel } = smmu
  const table = decodeStreamTable(strtabBaseLo, strtabBaseHi, strtabBaseCfg, sidSize, twoLevel)
  const read = (base: number, count: number) => {
    const bytes = new Uint8Array(count * S.STRTAB_STE_SIZE)
    return memory.read(base, bytes, 0, bytes.length) ? new BigUint64Array(bytes.buffer) : undefined
  }
  const entries = function* (first: number, all: BigUint64Array | undefined) {
    for (let i = 0; all !== undefined && i < all.length / S.STRTAB_STE_DWORDS; i++) {
      yield { sid: first + i, ste: all.subarray(S.STRTAB_STE_DWORDS * i, S.STRTAB_STE_DWORDS * (i + 1)) }
    }
  }
  for (const { address, sid, stes } of steTables(table, memory)) yield* entries(sid, read(address, stes))
}

/** `target`: where the leaf leads, bytes. */
export type Leaf = (base: number, size: number, target: number, writable: boolean) => void

/** Calls `leaf` for each leaf of an STE's second stage (VMSAv8-64, IHI 0070 section 3.4). */
export function stage2Leaves(memory: GuestMemory, ste: BigUint64Array, oas: number, leaf: Leaf): void {
  const vtcr = (ste[2] & S.STRTAB_STE_2_VTCR) >> 32n
  const granuleShift = [12, 16, 14, 12][fieldGet64(S.STRTAB_STE_2_VTCR_S2TG, vtcr)]
  const inputBits = 64 - fieldGet64(S.STRTAB_STE_2_VTCR_S2T0SZ, vtcr)
  const start = stage2StartLevel(fieldGet64(S.STRTAB_STE_2_VTCR_S2SL0, vtcr), granuleShift, oas, false)
  if (start < 0) return
  const big = (ste[2] & S.STRTAB_STE_2_S2ENDI) !== 0n
  const root = Number(ste[3] & S.STRTAB_STE_3_S2TTB_MASK)
  let tables = 0
  const walk = (level: number, address: number, bytes: number, base: number): void => {
    if (++tables > MAX_TABLES) return
    const data = Buffer.alloc(bytes)
    if (!memory.read(address, data, 0, bytes)) return
    if (big) data.swap64()
    const span = 2 ** levelShift(level, granuleShift)
    for (let at = 0; at < bytes; at += 8) {
      const lo = data.readUInt32LE(at)
      if ((lo & 1) === 0) continue
      const target = addressOf((lo & 0xffff_f000) >>> 0, data.readUInt32LE(at + 4) & 0xffff)
      const input = base + (at / 8) * span
      const table = (lo & 2) !== 0
      if (table && level < LAST_LEVEL) walk(level + 1, target, 8 * 2 ** tableBits(granuleShift), input)
      // HAP (S2AP) bits 6 and 7: without either it maps nothing.
      else if ((table || level < LAST_LEVEL) && (lo & 0xc0) !== 0)
        leaf(input, span, target - (target % span), (lo & 0x80) !== 0)
    }
  }
  walk(start, root, startTableBytes(inputBits, start, granuleShift), 0)
}
