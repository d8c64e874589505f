// SPDX-License-Identifier: Apache-2.0
/** Where the queues and tables of an SMMU stand, as its registers say: the guest's and the hardware's. */

import { addressOf, type Halves } from '../smmu/bits.ts'
import type { GuestMemory } from '../smmu/memory.ts'
import { CMDQ_ENTRY_SIZE, MAX_QUEUE_LOG2SIZE, queueBase, queueLog2Size } from '../smmu/queue.ts'
import {
  ARM_SMMU_CMDQ_BASE,
  ARM_SMMU_STRTAB_BASE,
  ARM_SMMU_STRTAB_BASE_CFG,
  STRTAB_BASE_CFG_FMT,
  STRTAB_BASE_CFG_LOG2SIZE,
} from '../smmu/registers.ts'
import { STRTAB_STE_SIZE } from '../smmu/ste.ts'
import {
  decodeStreamTable,
  l1DescriptorL2Ptr,
  l1DescriptorStes,
  STE_ABSENT,
  STRTAB_L1_DESC_SIZE,
  type StreamTable,
  steAddress,
  steTables,
  streamTableBytes,
} from '../smmu/strtab.ts'

const MAX_SID_BITS = 32

/** One side of an SMMU: what the registers say that hold addresses. */
export class TableLocator {
  readonly #words = new Map<number, number>()
  #table: StreamTable | undefined
  queueBase = 0
  queueLog2size = 0
  /** L2 tables that were seen, and the first StreamID of each. */
  readonly #level2 = new Map<number, number>()

  /** A register was written, or read. */
  set(offset: number, size: number, { lo, hi }: Halves): void {
    this.#words.set(offset, lo)
    if (size === 8) this.#words.set(offset + 4, hi)
    if (offset === ARM_SMMU_CMDQ_BASE || offset === ARM_SMMU_CMDQ_BASE + 4) {
      this.queueLog2size = queueLog2Size(this.#word(ARM_SMMU_CMDQ_BASE), MAX_QUEUE_LOG2SIZE)
      this.queueBase = queueBase(
        this.#word(ARM_SMMU_CMDQ_BASE),
        this.#word(ARM_SMMU_CMDQ_BASE + 4),
        this.queueLog2size,
        CMDQ_ENTRY_SIZE,
      )
    } else {
      this.#table = undefined
      this.#level2.clear()
    }
  }

  /** Whether a write of this register has to be told. */
  static holds(offset: number): boolean {
    return (offset & ~4) === ARM_SMMU_CMDQ_BASE || (offset & ~0xf) === ARM_SMMU_STRTAB_BASE
  }

  /** The registers that `set` wants to know of. */
  static readonly REGISTERS = [
    [ARM_SMMU_CMDQ_BASE, 8],
    [ARM_SMMU_STRTAB_BASE, 8],
    [ARM_SMMU_STRTAB_BASE_CFG, 4],
  ] as const

  #word(offset: number): number {
    return this.#words.get(offset) ?? 0
  }

  inQueue(address: number, length: number): boolean {
    const base = this.queueBase
    return base > 0 && address >= base && address + length <= base + CMDQ_ENTRY_SIZE * 2 ** this.queueLog2size
  }

  get table(): StreamTable | undefined {
    if (this.#table !== undefined) return this.#table
    const cfg = this.#word(ARM_SMMU_STRTAB_BASE_CFG)
    const lo = this.#word(ARM_SMMU_STRTAB_BASE)
    const hi = this.#word(ARM_SMMU_STRTAB_BASE + 4)
    if ((cfg & STRTAB_BASE_CFG_LOG2SIZE) === 0 || addressOf(lo, hi & 0xff_ffff) === 0) return undefined
    this.#table = decodeStreamTable(lo, hi, cfg, MAX_SID_BITS, (cfg & STRTAB_BASE_CFG_FMT) !== 0)
    return this.#table
  }

  /** StreamIDs whose L1 descriptor stands at the address, the first one; undefined: none does. */
  l1Sid(address: number): number | undefined {
    const { table } = this
    if (table === undefined || !table.twoLevel) return undefined
    const at = address - table.base
    return at >= 0 && at < streamTableBytes(table) ? (at / STRTAB_L1_DESC_SIZE) * 2 ** table.split : undefined
  }

  /** Looks for the L2 tables that there are already. */
  learnTables(memory: GuestMemory): void {
    const { table } = this
    if (table === undefined || !table.twoLevel) return
    for (const { address, sid } of steTables(table, memory)) this.#level2.set(address, sid)
  }

  /** An L1 descriptor was read or written. */
  descriptor(address: number, lo: number, hi: number): void {
    const sid = this.l1Sid(address)
    const { table } = this
    if (sid === undefined || table === undefined) return
    const stes = l1DescriptorStes(lo, table.split)
    if (stes > 0) this.#level2.set(l1DescriptorL2Ptr(lo, hi, stes), sid)
  }

  /** The StreamID whose STE contains the address, with the offset in it. */
  ste(address: number): { readonly sid: number; readonly at: number } | undefined {
    const { table } = this
    if (table === undefined) return undefined
    if (!table.twoLevel) return inside(address, table.base, 0, 2 ** table.log2size)
    for (const [base, sid] of this.#level2) {
      const found = inside(address, base, sid, 2 ** table.split)
      if (found !== undefined) return found
    }
    return undefined
  }

  /** Address of the STE of a StreamID; undefined when there is none. */
  steAddress(sid: number, memory: GuestMemory): number | undefined {
    const address = this.table === undefined ? STE_ABSENT : steAddress(this.table, sid, memory)
    return address < 0 ? undefined : address
  }

  l1Address(sid: number): number | undefined {
    const { table } = this
    return table?.twoLevel ? table.base + Math.floor(sid / 2 ** table.split) * STRTAB_L1_DESC_SIZE : undefined
  }
}

function inside(address: number, base: number, sid: number, stes: number) {
  const at = address - base
  if (at < 0 || at >= stes * STRTAB_STE_SIZE) return undefined
  return { sid: sid + Math.floor(at / STRTAB_STE_SIZE), at: at % STRTAB_STE_SIZE }
}
