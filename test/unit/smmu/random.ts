// SPDX-License-Identifier: Apache-2.0
/** Random, mostly sensible SMMU memory from a seed: dense enough that walks get to the end, odd enough that they rarely succeed twice. */
import { fieldPrep64 } from '../../../server/smmu/bits.ts'
import * as C from '../../../server/smmu/cd.ts'
import { stage2ShortestStartLevel, stage2Sl0 } from '../../../server/smmu/pagetable.ts'
import * as S from '../../../server/smmu/ste.ts'
import { FlatMemory, RAM_BASE } from './support.ts'

/** xorshift32. */
export class Random {
  #state: number
  constructor(seed: number) {
    this.#state = seed | 1
  }
  /** 0 to n - 1. */
  below(n: number): number {
    let x = this.#state
    x ^= x << 13
    x ^= x >>> 17
    x ^= x << 5
    this.#state = x
    return (x >>> 0) % n
  }
  chance(percent: number): boolean {
    return this.below(100) < percent
  }
  pick<T>(values: readonly T[]): T {
    return values[this.below(values.length)]
  }
  word(): bigint {
    return (BigInt(this.below(2 ** 32)) << 32n) | BigInt(this.below(2 ** 32))
  }
}

/** Pages that hold tables; also where leaves of tables lead, so that everything can be anything. */
const SIZE = 0x10_0000

const page = (r: Random) =>
  BigInt(RAM_BASE + r.below(SIZE / 0x10000) * 0x10000 + (r.chance(50) ? 0 : r.below(16) * 4096))

function descriptor(r: Random): bigint {
  const kind = r.below(100)
  if (kind < 4) return r.word()
  if (kind < 6) return 0n
  // Mostly permissive attributes, so that walks go on.
  const attributes = r.chance(75) ? 0x7fcn : r.word() & 0xffcn
  const upper = r.chance(80) ? 0n : r.word() & 0xfff0_0000_0000_0000n
  const far = r.chance(3) ? 1n << BigInt(30 + r.below(18)) : 0n
  return page(r) | attributes | upper | far | (r.chance(10) ? 1n : 3n)
}

/** Contents of the tables: a few, because filling a megabyte takes longer than walking it. */
const images = new Map<number, Uint8Array>()

function image(seed: number): Uint8Array {
  const known = images.get(seed)
  if (known) return known
  const r = new Random(seed + 1)
  const memory = new FlatMemory(SIZE + 0x3000)
  for (let at = 0; at < SIZE; at += 8) memory.set64(RAM_BASE + at, descriptor(r))
  // Behind it a stage 2 that maps the random part to itself, mostly: otherwise no nested walk finds its CD.
  const l1 = RAM_BASE + SIZE
  memory.set64(l1 + 8, BigInt(l1 + 0x1000) | 3n)
  memory.set64(l1 + 0x1000, BigInt(l1 + 0x2000) | 3n)
  for (let i = 0; i < SIZE / 4096; i++) {
    const attributes = r.chance(85) ? 0x7fcn : r.word() & 0x0060_0000_0000_0ffcn
    memory.set64(l1 + 0x2000 + 8 * i, BigInt(RAM_BASE + 4096 * i) | attributes | 3n)
  }
  images.set(seed, memory.bytes)
  return memory.bytes
}

/** Random memory with a linear stream table of four streams at its start, and CDs behind it. */
export function randomMemory(seed: number): { memory: FlatMemory; strtab: number; inputBits: bigint } {
  const r = new Random(seed)
  const memory = new FlatMemory(SIZE + 0x3000)
  memory.bytes.set(image(seed % 16))
  const inputBits = BigInt(r.pick([25, 30, 32, 36, 39, 40, 42, 44, 47, 48]))
  for (let sid = 0; sid < 4; sid++) {
    const ste = RAM_BASE + 64 * sid
    const cd = RAM_BASE + 0x400 + 64 * sid
    const identity = r.chance(50)
    const tg = identity ? 0 : r.below(3)
    const s2bits = identity ? 39 : r.pick([30, 32, 36, 40, 40, 42, 44, 44, 44])
    const sl0 = r.chance(10)
      ? r.below(4)
      : stage2Sl0(stage2ShortestStartLevel(s2bits, [12, 16, 14][tg]), [12, 16, 14][tg])
    const words = new BigUint64Array(8)
    words[0] =
      1n | fieldPrep64(S.STRTAB_STE_0_CFG, r.pick([4, 5, 5, 6, 6, 7, 7, 7, 0])) | (r.chance(90) ? BigInt(cd) : page(r))
    words[2] =
      S.vtcr({ t0sz: 64 - s2bits, sl0, ir0: 1, or0: 1, sh0: 3, tg, ps: r.pick([4, 4, 5, 6, 2, 0]) }) |
      S.STRTAB_STE_2_S2AA64 |
      (r.chance(80) ? S.STRTAB_STE_2_S2R : 0n) |
      (r.chance(30) ? S.STRTAB_STE_2_S2PTW : 0n) |
      (r.chance(10) ? S.STRTAB_STE_2_S2AFFD : 0n)
    words[3] = identity ? BigInt(RAM_BASE + SIZE) : page(r)
    if (r.chance(5)) words[r.below(4)] ^= 1n << BigInt(r.below(64))
    words.forEach((word, i) => {
      memory.set64(ste + 8 * i, word)
    })
    words.fill(0n)
    words[0] =
      C.CTXDESC_CD_0_V |
      C.CTXDESC_CD_0_AA64 |
      C.CTXDESC_CD_0_A |
      (r.chance(80) ? C.CTXDESC_CD_0_R : 0n) |
      (r.chance(10) ? C.CTXDESC_CD_0_AFFD : 0n) |
      (r.chance(10) ? C.CTXDESC_CD_0_WXN : 0n) |
      (r.chance(10) ? C.CTXDESC_CD_0_PAN : 0n) |
      (r.chance(20) ? C.CTXDESC_CD_0_TCR_TBI0 : 0n) |
      (r.chance(20) ? C.CTXDESC_CD_0_TCR_TBI1 : 0n) |
      (r.chance(5) ? C.CTXDESC_CD_0_TCR_EPD0 : 0n) |
      (r.chance(20) ? C.CTXDESC_CD_0_TCR_EPD1 : 0n) |
      fieldPrep64(C.CTXDESC_CD_0_TCR_T0SZ, 64 - Number(inputBits)) |
      fieldPrep64(C.CTXDESC_CD_0_TCR_T1SZ, 64 - Number(inputBits)) |
      fieldPrep64(C.CTXDESC_CD_0_TCR_TG0, r.below(3)) |
      fieldPrep64(C.CTXDESC_CD_0_TCR_TG1, 1 + r.below(3)) |
      fieldPrep64(C.CTXDESC_CD_0_TCR_IPS, r.pick([4, 4, 5, 6, 2, 0])) |
      fieldPrep64(C.CTXDESC_CD_0_ASID, r.below(4))
    words[1] = page(r) | (r.chance(20) ? C.CTXDESC_CD_1_HAD0 : 0n)
    words[2] = page(r) | (r.chance(20) ? C.CTXDESC_CD_2_HAD1 : 0n)
    words[3] = r.word()
    if (r.chance(5)) words[r.below(4)] ^= 1n << BigInt(r.below(64))
    words.forEach((word, i) => {
      memory.set64(cd + 8 * i, word)
    })
  }
  return { memory, strtab: RAM_BASE, inputBits }
}

/** An address that is mostly inside the ranges of the CD and of stage 2. */
export function randomAddress(r: Random, inputBits: bigint): bigint {
  const low = r.word() & ((1n << inputBits) - 1n)
  switch (r.below(10)) {
    case 0:
      return r.word()
    case 1:
      return low | (r.word() & 0xff00_0000_0000_0000n)
    case 2:
      return low & 0xfff_ffff_ffffn
    case 3:
    case 4:
      return BigInt.asUintN(64, -1n << inputBits) | low
    case 5:
    case 6:
      return r.word() & 0x3fff_ffffn
    default:
      return low
  }
}
