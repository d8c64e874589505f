// SPDX-License-Identifier: Apache-2.0
/** A second stage that maps a list of ranges, each to itself: tables and the words of an STE, for memory that the caller has. */
import type { GuestMemory } from './memory.ts'
import * as P from './pagetable.ts'
import { ARM_SMMU_SH_ISH } from './registers.ts'
import * as S from './ste.ts'

/** Bytes, multiples of 4 KiB. */
export interface MappedRange {
  readonly base: number
  readonly size: number
  /** Registers, such as the page that interrupts are written to. */
  readonly device?: true
}

/** A granule of 4 KiB. */
const SHIFT = 12
const LEAF = P.ARM_LPAE_PTE_AF | P.ARM_LPAE_PTE_HAP_READ | P.ARM_LPAE_PTE_HAP_WRITE
const RAM_LEAF = LEAF | P.ARM_LPAE_PTE_SH_IS | P.ARM_LPAE_PTE_MEMATTR_OIWB
const DEVICE_LEAF = LEAF | P.ARM_LPAE_PTE_SH_OS | P.ARM_LPAE_PTE_MEMATTR_DEV
/** Output address bits by their encoding (IDR5.OAS, S2PS), as far as four levels of 4 KiB tables reach. */
const OUTPUT_BITS = [32, 36, 40, 42, 44, 48]

/** VMSAv8-64, little-endian, as few levels as possible, and the largest blocks that fit (DDI 0487 section D8). */
export class RangeMap {
  readonly granuleShift = SHIFT
  readonly bigEndian = false
  readonly outputBits: number
  readonly startLevel: number
  /** Address of the start level. */
  readonly root: number
  /** Words 2 and 3 of an STE that leads here (IHI 0070 section 5.2). */
  readonly ste: readonly [bigint, bigint]
  readonly #tables: { readonly address: number; readonly words: Uint32Array }[] = []
  readonly #ranges: readonly MappedRange[]
  readonly #take: (bytes: number) => number

  /**
   * @param ranges that do not overlap
   * @param oas IDR5.OAS
   * @param take memory for a table of so many bytes, aligned to them
   */
  constructor(ranges: readonly MappedRange[], vmid: number, oas: number, take: (bytes: number) => number) {
    this.#ranges = ranges
    this.#take = take
    const ps = Math.min(oas, OUTPUT_BITS.length - 1)
    this.outputBits = OUTPUT_BITS[ps]
    this.startLevel = P.stage2ShortestStartLevel(this.outputBits, SHIFT)
    this.root = this.#build(this.startLevel, 0, P.startTableBytes(this.outputBits, this.startLevel, SHIFT))
    const vtcr = S.vtcr({
      t0sz: 64 - this.outputBits,
      sl0: P.stage2Sl0(this.startLevel, SHIFT),
      ir0: S.STRTAB_STE_2_VTCR_RGN_WBWA,
      or0: S.STRTAB_STE_2_VTCR_RGN_WBWA,
      sh0: ARM_SMMU_SH_ISH,
      tg: S.STRTAB_STE_2_VTCR_S2TG_4K,
      ps,
    })
    const flags = S.STRTAB_STE_2_S2AA64 | S.STRTAB_STE_2_S2PTW | S.STRTAB_STE_2_S2R
    this.ste = [vtcr | flags | BigInt(vmid), BigInt(this.root)]
  }

  /** Addresses of tables that are not in memory as they should be. */
  damaged(memory: GuestMemory): number[] {
    return this.#tables.flatMap(({ address, words }) => {
      const found = Buffer.alloc(words.byteLength)
      const same = memory.read(address, found, 0, found.length) && found.equals(new Uint8Array(words.buffer))
      return same ? [] : [address]
    })
  }

  /** Puts the tables into memory. */
  write(memory: GuestMemory): void {
    for (const { address, words } of this.#tables)
      memory.write(address, new Uint8Array(words.buffer), 0, words.byteLength)
  }

  /** A table for the input addresses from `start` on. @returns its address */
  #build(level: number, start: number, bytes: number): number {
    const address = this.#take(bytes)
    const words = new Uint32Array(bytes / 4)
    this.#tables.push({ address, words })
    const span = 2 ** P.levelShift(level, SHIFT)
    for (let i = 0, at = start; i < words.length; i += 2, at += span) {
      const range = this.#ranges.find(({ base, size }) => base < at + span && at < base + size)
      if (range === undefined) continue
      const whole = range.base <= at && at + span <= range.base + range.size
      const leaf = level === P.LAST_LEVEL || (whole && P.blockAllowed(level, SHIFT, this.outputBits))
      const target = leaf ? at : this.#build(level + 1, at, 2 ** SHIFT)
      const type = leaf && level < P.LAST_LEVEL ? P.ARM_LPAE_PTE_TYPE_BLOCK : P.ARM_LPAE_PTE_TYPE_TABLE
      const attributes = leaf ? (range.device ? DEVICE_LEAF : RAM_LEAF) : 0
      words[i] = P.descriptorLo(target, attributes | type, SHIFT)
      words[i + 1] = P.descriptorHi(target, 0)
    }
    return address
  }
}
