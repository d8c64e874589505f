// SPDX-License-Identifier: Apache-2.0
import { closeSync, openSync, readSync, writeSync } from 'node:fs'
import { isDeepStrictEqual } from 'node:util'
import { fieldPrep64 as prep } from '../../server/smmu/bits.ts'
import {
  CTXDESC_CD_0_A,
  CTXDESC_CD_0_AA64,
  CTXDESC_CD_0_ASET,
  CTXDESC_CD_0_ASID,
  CTXDESC_CD_0_R,
  CTXDESC_CD_0_TCR_EPD1,
  CTXDESC_CD_0_TCR_IPS,
  CTXDESC_CD_0_TCR_T0SZ,
  CTXDESC_CD_0_V,
} from '../../server/smmu/cd.ts'
import { cfgiAll, cfgiSte, cmdSync, tlbiNsnhAll } from '../../server/smmu/commands.ts'
import { decodeEvent, type EventRecord } from '../../server/smmu/events.ts'
import {
  ARM_SMMU_CMDQ_BASE,
  ARM_SMMU_CMDQ_CONS,
  ARM_SMMU_CMDQ_PROD,
  ARM_SMMU_CR0,
  ARM_SMMU_CR1,
  ARM_SMMU_EVTQ_BASE,
  ARM_SMMU_EVTQ_CONS,
  ARM_SMMU_EVTQ_PROD,
  ARM_SMMU_STRTAB_BASE,
  ARM_SMMU_STRTAB_BASE_CFG,
} from '../../server/smmu/registers.ts'
import {
  STRTAB_STE_0_CFG,
  STRTAB_STE_0_CFG_ABORT,
  STRTAB_STE_0_CFG_BYPASS,
  STRTAB_STE_0_CFG_S1_TRANS,
  STRTAB_STE_0_V,
  STRTAB_STE_1_SHCFG,
  STRTAB_STE_1_SHCFG_INCOMING,
} from '../../server/smmu/ste.ts'
import { type QtestMachine, RAM, SMMU } from './machine.ts'

const CMDQ_LOG2 = 8
const EVTQ_LOG2 = 7
/** Where the driver keeps its structures. */
const CMDQ = RAM + 0x10_0000
const EVTQ = RAM + 0x11_0000
const L1 = RAM + 0x12_0000
const L2 = RAM + 0x13_0000
const CD = RAM + 0x14_0000
const S1_TABLES = RAM + 0x15_0000
const SPLIT = 8

/** An STE of the host: words 0 and 1 are all that a host without stage 2 uses. */
export const STE = {
  invalid: [0n, 0n],
  abort: [STRTAB_STE_0_V | prep(STRTAB_STE_0_CFG, STRTAB_STE_0_CFG_ABORT), 0n],
  bypass: [
    STRTAB_STE_0_V | prep(STRTAB_STE_0_CFG, STRTAB_STE_0_CFG_BYPASS),
    prep(STRTAB_STE_1_SHCFG, STRTAB_STE_1_SHCFG_INCOMING),
  ],
  stage1: [STRTAB_STE_0_V | prep(STRTAB_STE_0_CFG, STRTAB_STE_0_CFG_S1_TRANS) | BigInt(CD), 0n],
} as const

/** A record without the place in the page. */
const pageOf = (event: EventRecord | undefined) => event && { ...event, inputLo: event.inputLo & ~0xfff }

/** What Linux's driver does with the SMMU, in the same order, for tests without a Linux. */
export class HostDriver {
  readonly #machine: QtestMachine
  readonly #fd: number
  #prod = 0
  #eventCons = 0
  #nextTable = S1_TABLES + 0x1000

  private constructor(machine: QtestMachine) {
    this.#machine = machine
    this.#fd = openSync(machine.ramFile, 'r+')
  }

  /** Resets and enables the SMMU: queues, a 2-level stream table with one L2 table, everything in abort. */
  static async probe(machine: QtestMachine): Promise<HostDriver> {
    const driver = new HostDriver(machine)
    driver.writeMemory(L2, Buffer.alloc(64 << SPLIT))
    driver.writeWords(L1, [BigInt(L2) | BigInt(SPLIT + 1)])
    const { qtest } = machine
    await driver.write32(ARM_SMMU_CR0, 0)
    await driver.write32(ARM_SMMU_CR1, 0xd75)
    await qtest.write(SMMU + ARM_SMMU_STRTAB_BASE, 8, BigInt(L1) | (1n << 62n))
    await driver.write32(ARM_SMMU_STRTAB_BASE_CFG, (1 << 16) | (SPLIT << 6) | 16)
    await qtest.write(SMMU + ARM_SMMU_CMDQ_BASE, 8, BigInt(CMDQ) | (1n << 62n) | BigInt(CMDQ_LOG2))
    await driver.write32(ARM_SMMU_CMDQ_PROD, 0)
    await driver.write32(ARM_SMMU_CMDQ_CONS, 0)
    await driver.write32(ARM_SMMU_CR0, 0x8)
    const command = new Uint32Array(4)
    cfgiAll(command)
    await driver.command(command)
    tlbiNsnhAll(command)
    await driver.command(command)
    await qtest.write(SMMU + ARM_SMMU_EVTQ_BASE, 8, BigInt(EVTQ) | (1n << 62n) | BigInt(EVTQ_LOG2))
    await driver.write32(ARM_SMMU_EVTQ_PROD, 0)
    await driver.write32(ARM_SMMU_EVTQ_CONS, 0)
    await driver.write32(ARM_SMMU_CR0, 0xc)
    await driver.write32(ARM_SMMU_CR0, 0xd)
    return driver
  }

  read32(offset: number): Promise<bigint> {
    return this.#machine.qtest.read(SMMU + offset, 4)
  }

  write32(offset: number, value: number): Promise<void> {
    return this.#machine.qtest.write(SMMU + offset, 4, value)
  }

  /** Guest memory behind the back of everybody, through the file. */
  readMemory(address: number, length: number): Buffer {
    const bytes = Buffer.alloc(length)
    readSync(this.#fd, bytes, 0, length, address - RAM)
    return bytes
  }

  writeMemory(address: number, bytes: Uint8Array): void {
    writeSync(this.#fd, bytes, 0, bytes.length, address - RAM)
  }

  writeWords(address: number, words: readonly bigint[]): void {
    this.writeMemory(address, new Uint8Array(BigUint64Array.from(words).buffer))
  }

  /** Issues commands of four words each, followed by CMD_SYNC. */
  async command(...commands: readonly Uint32Array[]): Promise<void> {
    const sync = new Uint32Array(4)
    cmdSync(sync)
    for (const command of [...commands, sync]) {
      const slot = this.#prod & ((1 << CMDQ_LOG2) - 1)
      this.writeMemory(CMDQ + slot * 16, new Uint8Array(command.buffer, command.byteOffset, 16))
      this.#prod = (this.#prod + 1) & ((2 << CMDQ_LOG2) - 1)
    }
    await this.write32(ARM_SMMU_CMDQ_PROD, this.#prod)
    const cons = Number(await this.read32(ARM_SMMU_CMDQ_CONS))
    if (cons !== this.#prod)
      throw new Error(`CMDQ_CONS is 0x${cons.toString(16)}, expected 0x${this.#prod.toString(16)}`)
  }

  /** Writes words 0 and 1 of a stream's STE and makes them known. */
  async attach(sid: number, ste: readonly [bigint, bigint] | readonly bigint[]): Promise<void> {
    this.writeWords(L2 + sid * 64, [...ste, 0n, 0n, 0n, 0n, 0n, 0n])
    const command = new Uint32Array(4)
    cfgiSte(command, sid, true)
    await this.command(command)
  }

  /** The CD of `STE.stage1`: 39-bit input, 4 KiB granule, 40-bit output, ASID 1. */
  writeCd(): void {
    const word0 =
      prep(CTXDESC_CD_0_TCR_T0SZ, 25) |
      CTXDESC_CD_0_TCR_EPD1 |
      CTXDESC_CD_0_V |
      prep(CTXDESC_CD_0_TCR_IPS, 2) |
      CTXDESC_CD_0_AA64 |
      CTXDESC_CD_0_R |
      CTXDESC_CD_0_A |
      CTXDESC_CD_0_ASET |
      prep(CTXDESC_CD_0_ASID, 1)
    this.writeWords(CD, [word0, BigInt(S1_TABLES), 0n, 0xffn, 0n, 0n, 0n, 0n])
    this.writeMemory(S1_TABLES, Buffer.alloc(0x4_0000))
    this.#nextTable = S1_TABLES + 0x1000
  }

  /** Maps one 4 KiB page in stage 1. */
  map(iova: number, ipa: number, writable = true): void {
    let table = S1_TABLES
    for (const shift of [30, 21]) {
      const slot = table + (Math.floor(iova / 2 ** shift) % 512) * 8
      const entry = this.readMemory(slot, 8).readBigUInt64LE()
      if (entry === 0n) {
        this.writeWords(slot, [BigInt(this.#nextTable) | 3n])
        table = this.#nextTable
        this.#nextTable += 0x1000
      } else table = Number(entry & ~0xfffn)
    }
    // Non-global, AF, inner shareable, EL0 access, and read-only where asked.
    const attributes = 0xf43n | (writable ? 0n : 0x80n)
    this.writeWords(table + (Math.floor(iova / 4096) % 512) * 8, [BigInt(ipa) | attributes])
  }

  /**
   * Events since the last call, oldest first, repetitions left out: QEMU cuts an access of a device that faults into many
   * small ones, each with an event of its own. The slots are given back.
   */
  async events(): Promise<EventRecord[]> {
    // Without the overflow flag.
    const prod = Number(await this.read32(ARM_SMMU_EVTQ_PROD)) & ((2 << EVTQ_LOG2) - 1)
    const records: EventRecord[] = []
    while (this.#eventCons !== prod) {
      const slot = this.#eventCons & ((1 << EVTQ_LOG2) - 1)
      const bytes = this.readMemory(EVTQ + slot * 32, 32)
      const record = decodeEvent(new Uint32Array(bytes.buffer, bytes.byteOffset, 8))
      if (!isDeepStrictEqual(pageOf(record), pageOf(records.at(-1)))) records.push(record)
      this.#eventCons = (this.#eventCons + 1) & ((2 << EVTQ_LOG2) - 1)
    }
    await this.write32(ARM_SMMU_EVTQ_CONS, this.#eventCons)
    return records
  }

  dispose(): void {
    closeSync(this.#fd)
  }
}
