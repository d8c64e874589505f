// SPDX-License-Identifier: Apache-2.0
/** A flat memory and a builder of SMMU structures in it, for tests. Written from the specification, not from the walker. */

import { fieldPrep64 } from '../../../server/smmu/bits.ts'
import * as C from '../../../server/smmu/cd.ts'
import { type IdRegisters, QEMU_NESTED_ID_REGISTERS } from '../../../server/smmu/features.ts'
import type { GuestMemory } from '../../../server/smmu/memory.ts'
import * as P from '../../../server/smmu/pagetable.ts'
import * as R from '../../../server/smmu/registers.ts'
import * as S from '../../../server/smmu/ste.ts'
import { NO_SSID, type Transaction } from '../../../server/smmu/transaction.ts'
import type { WalkRegisters } from '../../../server/smmu/walker.ts'
import * as Named from './fields.ts'

export const RAM_BASE = 0x4000_0000

/** RAM at RAM_BASE. Counts reads. */
export class FlatMemory implements GuestMemory {
  readonly ram: readonly { base: number; size: number }[]
  readonly bytes: Uint8Array
  readonly #view: DataView
  reads = 0

  constructor(size = 0x20_0000) {
    this.ram = [{ base: RAM_BASE, size }]
    this.bytes = new Uint8Array(size)
    this.#view = new DataView(this.bytes.buffer)
  }

  read(address: number, target: Uint8Array, targetOffset: number, length: number): boolean {
    this.reads++
    const at = address - RAM_BASE
    if (!(at >= 0) || at + length > this.bytes.length) return false
    for (let i = 0; i < length; i++) target[targetOffset + i] = this.bytes[at + i]
    return true
  }

  write(address: number, source: Uint8Array, sourceOffset: number, length: number): boolean {
    const at = address - RAM_BASE
    if (!(at >= 0) || at + length > this.bytes.length) return false
    this.bytes.set(source.subarray(sourceOffset, sourceOffset + length), at)
    return true
  }

  get64(address: number): bigint {
    return this.#view.getBigUint64(address - RAM_BASE, true)
  }

  set64(address: number, value: bigint): void {
    this.#view.setBigUint64(address - RAM_BASE, BigInt.asUintN(64, value), true)
  }
}

export interface Stage {
  /** Stage 2 tables, otherwise stage 1. */
  stage2: boolean
  root: number
  inputBits: number
  granule: number
  startLevel: number
}

export interface CdFields {
  asid?: number
  ips?: number
  t0?: Stage
  t1?: Stage
  /** In place of what the others make. */
  fields?: Named.CdFields
  /** Cleared from, then or'ed into, 64-bit words of the CD. */
  set?: Partial<Record<number, bigint>>
  clear?: Partial<Record<number, bigint>>
}

export interface SteFields {
  config: number
  cd?: number
  stage2?: Stage
  vmid?: number
  ps?: number
  /** In place of what the others make. */
  fields?: Named.SteFields
  set?: Partial<Record<number, bigint>>
  clear?: Partial<Record<number, bigint>>
}

/** Leaf attributes: accessible by all, AF set, non-global. */
export const S1_RW = BigInt(P.ARM_LPAE_PTE_AF | P.ARM_LPAE_PTE_AP_UNPRIV | P.ARM_LPAE_PTE_SH_IS | P.ARM_LPAE_PTE_nG)
export const S2_RW = BigInt(
  P.ARM_LPAE_PTE_AF |
    P.ARM_LPAE_PTE_HAP_READ |
    P.ARM_LPAE_PTE_HAP_WRITE |
    P.ARM_LPAE_PTE_MEMATTR_OIWB |
    P.ARM_LPAE_PTE_SH_IS,
)

const TG0: Readonly<Record<number, number>> = { 12: 0, 14: 2, 16: 1 }
const TG1: Readonly<Record<number, number>> = { 12: 2, 14: 1, 16: 3 }

export class Builder {
  readonly memory: FlatMemory
  #next = RAM_BASE

  constructor(memory = new FlatMemory()) {
    this.memory = memory
  }

  alloc(bytes: number, align = bytes): number {
    this.#next = Math.ceil(this.#next / align) * align
    const address = this.#next
    this.#next += bytes
    if (this.#next > RAM_BASE + this.memory.bytes.length) throw new Error('out of test memory')
    return address
  }

  /** Tables for one stage; `startLevel` of stage 2 may be later than needed: the tables are then concatenated. */
  stage(stage2: boolean, inputBits: number, granule = 12, startLevel = P.stage1StartLevel(inputBits, granule)): Stage {
    const bytes = Math.max(64, P.startTableBytes(inputBits, startLevel, granule))
    return { stage2, root: this.alloc(bytes), inputBits, granule, startLevel }
  }

  /** Address of the descriptor for `input` at `level`, making tables on the way. */
  entry(stage: Stage, input: bigint, level = 3, tableAttributes = 0n): number {
    const offset = Number(BigInt.asUintN(stage.inputBits, input))
    let base = stage.root
    for (let l = stage.startLevel; ; l++) {
      const shift = P.levelShift(l, stage.granule)
      const index = Math.floor(offset / 2 ** shift) % (l === stage.startLevel ? 2 ** 40 : 2 ** (stage.granule - 3))
      const address = base + index * 8
      if (l === level) return address
      if ((this.memory.get64(address) & 3n) !== 3n) {
        this.memory.set64(address, BigInt(this.alloc(2 ** stage.granule)) | tableAttributes | 3n)
      }
      base = Number(this.memory.get64(address) & 0xffff_ffff_f000n)
    }
  }

  /** Maps `input` to `output` by a leaf at `level`. */
  map(stage: Stage, input: bigint, output: bigint, attributes = stage.stage2 ? S2_RW : S1_RW, level = 3): number {
    const address = this.entry(stage, input, level)
    this.memory.set64(address, output | attributes | (level === 3 ? 3n : 1n))
    return address
  }

  #apply(address: number, words: BigUint64Array, fields: Pick<SteFields, 'set' | 'clear'>): number {
    for (const [i, mask] of Object.entries(fields.clear ?? {})) words[Number(i)] &= ~(mask ?? 0n)
    for (const [i, mask] of Object.entries(fields.set ?? {})) words[Number(i)] |= mask ?? 0n
    words.forEach((word, i) => {
      this.memory.set64(address + 8 * i, word)
    })
    return address
  }

  cd(fields: CdFields, address = this.alloc(64)): number {
    const w = new BigUint64Array(8)
    w[0] =
      C.CTXDESC_CD_0_V |
      C.CTXDESC_CD_0_AA64 |
      C.CTXDESC_CD_0_R |
      C.CTXDESC_CD_0_A |
      fieldPrep64(C.CTXDESC_CD_0_ASID, fields.asid ?? 0) |
      fieldPrep64(C.CTXDESC_CD_0_TCR_IPS, fields.ips ?? R.IDR5_OAS_44_BIT)
    const { t0, t1 } = fields
    w[0] |= t0
      ? fieldPrep64(C.CTXDESC_CD_0_TCR_T0SZ, 64 - t0.inputBits) | fieldPrep64(C.CTXDESC_CD_0_TCR_TG0, TG0[t0.granule])
      : C.CTXDESC_CD_0_TCR_EPD0
    w[0] |= t1
      ? fieldPrep64(C.CTXDESC_CD_0_TCR_T1SZ, 64 - t1.inputBits) | fieldPrep64(C.CTXDESC_CD_0_TCR_TG1, TG1[t1.granule])
      : C.CTXDESC_CD_0_TCR_EPD1
    w[1] = BigInt(t0?.root ?? 0)
    w[2] = BigInt(t1?.root ?? 0)
    w[3] = 0x00ff_4404n
    Named.setCd(w, fields.fields ?? {})
    return this.#apply(address, w, fields)
  }

  ste(fields: SteFields, address: number): number {
    const w = new BigUint64Array(8)
    w[0] = S.STRTAB_STE_0_V | fieldPrep64(S.STRTAB_STE_0_CFG, fields.config) | BigInt(fields.cd ?? 0)
    w[1] = fieldPrep64(S.STRTAB_STE_1_SHCFG, S.STRTAB_STE_1_SHCFG_INCOMING)
    w[2] = BigInt(fields.vmid ?? 0)
    const { stage2 } = fields
    if (stage2) {
      w[2] |=
        S.vtcr({
          t0sz: 64 - stage2.inputBits,
          sl0: P.stage2Sl0(stage2.startLevel, stage2.granule),
          ir0: 1,
          or0: 1,
          sh0: 3,
          tg: TG0[stage2.granule],
          ps: fields.ps ?? R.IDR5_OAS_44_BIT,
        }) |
        S.STRTAB_STE_2_S2AA64 |
        S.STRTAB_STE_2_S2R |
        S.STRTAB_STE_2_S2PTW
      w[3] = BigInt(stage2.root)
    }
    Named.setSte(w, fields.fields ?? {})
    return this.#apply(address, w, fields)
  }
}

/** Registers of an SMMU that is on, with a linear stream table of 2^log2size entries. */
export function linearRegisters(table: number, log2size: number, extra: Partial<WalkRegisters> = {}): WalkRegisters {
  return {
    cr0: R.CR0_SMMUEN,
    cr2: R.CR2_RECINVSID,
    gbpa: 0,
    strtabBaseLo: table % 2 ** 32,
    strtabBaseHi: Math.floor(table / 2 ** 32),
    strtabBaseCfg: log2size,
    ...extra,
  }
}

export function transaction(sid: number, address: bigint, more: Partial<Transaction> = {}): Transaction {
  return {
    sid,
    ssid: NO_SSID,
    lo: Number(address & 0xffff_ffffn),
    hi: Number((address >> 32n) & 0xffff_ffffn),
    write: false,
    privileged: false,
    instruction: false,
    ...more,
  }
}

/** The ID registers of QEMU with bits set or cleared. */
export function idRegisters(set: Partial<IdRegisters> = {}, clear: Partial<IdRegisters> = {}): IdRegisters {
  const id = { ...QEMU_NESTED_ID_REGISTERS }
  for (const key of ['idr0', 'idr1', 'idr3', 'idr5'] as const)
    id[key] = ((id[key] & ~(clear[key] ?? 0)) | (set[key] ?? 0)) >>> 0
  return id
}
