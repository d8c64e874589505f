// SPDX-License-Identifier: Apache-2.0
/** One SMMU under partitions (README.md): the registers that the guest has, and the stream table that the hardware uses. */
import type { StreamInfo } from '../../policy/inspect.ts'
import type { Trap } from '../../policy/policy.ts'
import { COMMAND_KEPT, type HypReport, STE_INVALID } from '../../policy/report.ts'
import { defineWarning, type HypWarning } from '../../policy/warnings.ts'
import { fieldGet64, fieldPrep, fieldPrep64, getField, hex } from '../../smmu/bits.ts'
import { namesStream } from '../../smmu/commandFields.ts'
import * as C from '../../smmu/commands.ts'
import { readRegister, type SmmuHardware } from '../../smmu/hardware.ts'
import { type GuestMemory, within } from '../../smmu/memory.ts'
import { registerOffset } from '../../smmu/names.ts'
import * as Q from '../../smmu/queue.ts'
import * as R from '../../smmu/registers.ts'
import * as S from '../../smmu/ste.ts'
import * as T from '../../smmu/strtab.ts'

export const WARNINGS: HypWarning[] = []
const warning = (code: string, section: string, meaning: string, values: readonly string[]) =>
  defineWarning(WARNINGS, code, `server/hypervisor/partition/README.md#${section}`, meaning, values)
const ACCESS = 'The guest has no such register, or no memory there for a queue; nothing was done.'
const PART_REGISTER = warning('PART_REGISTER', 'registers', ACCESS, ['offset', 'size', 'valueLo', 'valueHi'])
const STREAM = 'The guest configured a stream that is not its own, has no entry, or as no guest can.'
const PART_STREAM = warning('PART_STREAM', 'streams', STREAM, ['sid', 'config'])

/** StreamID bits inside an L2 table. */
export const SPLIT = 8
const WORD = 2 ** 32

const valid = (config: number): bigint => S.STRTAB_STE_0_V | fieldPrep64(S.STRTAB_STE_0_CFG, config)
const configOf = (ste: BigUint64Array): number =>
  (ste[0] & S.STRTAB_STE_0_V) === 0n ? STE_INVALID : fieldGet64(S.STRTAB_STE_0_CFG, ste[0])
/** What of stage 1 is the guest's. */
const STAGE1_0 = S.STRTAB_STE_0_S1FMT | S.STRTAB_STE_0_S1CTXPTR_MASK | S.STRTAB_STE_0_S1CDMAX
const STAGE1_1 = S.STRTAB_STE_1_S1DSS | S.STRTAB_STE_1_S1CIR | S.STRTAB_STE_1_S1COR | S.STRTAB_STE_1_S1CSH
const INCOMING = fieldPrep64(S.STRTAB_STE_1_SHCFG, S.STRTAB_STE_1_SHCFG_INCOMING)

const IDR0_HIDDEN = R.IDR0_S2P | R.IDR0_HYP | R.IDR0_VMID16
const CR0_GUEST = R.CR0_CMDQEN | R.CR0_EVTQEN | R.CR0_SMMUEN
/** Registers that the guest has, in the architecture's widths and directions. */
const NAMES = `IDR0 IDR1 IDR3 IDR5 IIDR CR0 CR0ACK CR1 CR2 GBPA IRQ_CTRL IRQ_CTRLACK GERROR GERRORN GERROR_IRQ_CFG0 STRTAB_BASE
   STRTAB_BASE_CFG CMDQ_BASE CMDQ_PROD CMDQ_CONS EVTQ_BASE EVTQ_IRQ_CFG0 EVTQ_PROD EVTQ_CONS`
const GUEST = new Set(NAMES.split(/\s+/).map(registerOffset))

/** What the SMMUs of a machine share. */
export interface Common {
  readonly memory: GuestMemory
  /** The part of it that is the guest's. */
  readonly guest: GuestMemory
  readonly report: HypReport
  /** The trap at hand, 0: none. */
  trap: number
  /** Something that a checkpoint holds. */
  changed(): void
}

/** Whose a stream is. */
export interface Owner {
  /** The guest configures it; else it has its second stage from the beginning, and nothing more. */
  readonly guest: boolean
  /** Words 2 and 3 of its STE, whatever the guest configures. */
  readonly stage2: readonly [bigint, bigint]
}

export type PartitionedSmmu = ReturnType<typeof partitionedSmmu>

/**
 * @param owners by StreamID: all that are anybody's
 * @param take memory for tables, bytes; the same for the same streams
 */
export function partitionedSmmu(
  index: number,
  hardware: SmmuHardware,
  common: Common,
  owners: ReadonlyMap<number, Owner>,
  sidBits: number,
  take: (bytes: number) => number,
) {
  const { memory, guest, report } = common
  const base = take(2 ** (sidBits - SPLIT) * T.STRTAB_L1_DESC_SIZE)
  const shadow: T.StreamTable = { twoLevel: true, base, log2size: sidBits, split: SPLIT }
  /** Addresses of L2 tables by the number of their L1 descriptor: there are those of streams with an owner. */
  const l2 = new Map([...owners.keys()].map(sid => [sid >>> SPLIT, 0]))
  for (const block of l2.keys()) l2.set(block, take(2 ** SPLIT * S.STRTAB_STE_SIZE))
  const format =
    fieldPrep(R.STRTAB_BASE_CFG_FMT, R.STRTAB_BASE_CFG_FMT_2LVL) | fieldPrep(R.STRTAB_BASE_CFG_SPLIT, SPLIT)
  /** What leads the hardware to its table: offset, size, value. */
  const registers = [
    [R.ARM_SMMU_STRTAB_BASE, 8, base % WORD, (Math.floor(base / WORD) | R.STRTAB_BASE_HI_RA) >>> 0],
    [R.ARM_SMMU_STRTAB_BASE_CFG, 4, format | sidBits, 0],
  ] as const
  /** What the guest configured, and what became of it; its STRTAB_BASE, both halves, and STRTAB_BASE_CFG. */
  const streams = new Map<number, StreamInfo>()
  const table: [lo: number, hi: number, cfg: number] = [0, 0, 0]

  const put = (address: number, words: Uint32Array | BigUint64Array, from = 0, bytes = words.byteLength) =>
    memory.write(address, new Uint8Array(words.buffer), from, bytes)
  const warn = (warning: HypWarning, a: number, b: number, c = 0, d = 0) =>
    report.warn(warning, common.trap, index, a, b, c, d)

  /** After a reset: what nobody has configured aborts, in the table and without it. */
  function program(): void {
    const gbpa = readRegister(hardware, R.ARM_SMMU_GBPA).lo | R.GBPA_UPDATE | R.GBPA_ABORT
    hardware.write(R.ARM_SMMU_GBPA, 4, gbpa >>> 0, 0)
    for (const [offset, size, lo, hi] of registers) hardware.write(offset, size, lo, hi)
    put(base, new Uint32Array(T.streamTableBytes(shadow) / 4))
    for (const [block, address] of l2) {
      const stes = new BigUint64Array(2 ** SPLIT * S.STRTAB_STE_DWORDS)
      for (let i = 0; i < 2 ** SPLIT; i++) {
        const owner = owners.get(block * 2 ** SPLIT + i)
        const config = owner?.guest === false ? S.STRTAB_STE_0_CFG_S2_TRANS : S.STRTAB_STE_0_CFG_ABORT
        stes.set([valid(config), INCOMING, ...(owner?.stage2 ?? [])], S.STRTAB_STE_DWORDS * i)
      }
      put(address, stes)
      put(base + T.STRTAB_L1_DESC_SIZE * block, new Uint32Array([(address % WORD) + SPLIT + 1, address / WORD]))
    }
    report.probe(index, null)
  }

  function access(trap: Trap): void {
    const { offset, size, write } = trap
    const register = GUEST.has(offset) ? R.registerAt(offset) : undefined
    const known = register?.bits === 8 * size && !(write && register.access === 'RO')
    if (!known) warn(PART_REGISTER, offset, size, trap.lo, trap.hi)
    if (write) {
      if (known && passes(trap)) trap.aborted = !hardware.write(offset, size, trap.lo, trap.hi)
      return
    }
    const [lo, hi = 0] = known ? answer(offset) : [0]
    if (lo === undefined) trap.aborted = !hardware.read(offset, size, trap)
    else Object.assign(trap, { lo, hi })
  }

  /** What the guest reads, in halves; empty: as the hardware has it. */
  function answer(offset: number): readonly number[] {
    if (offset === R.ARM_SMMU_IDR0) return [(readRegister(hardware, offset).lo & ~IDR0_HIDDEN) >>> 0]
    if (offset === R.ARM_SMMU_GBPA) return [R.GBPA_ABORT]
    if (offset === R.ARM_SMMU_STRTAB_BASE) return table.slice(0, 2)
    return offset === R.ARM_SMMU_STRTAB_BASE_CFG ? table.slice(2) : []
  }

  /** A write of the guest. @returns whether the hardware gets it */
  function passes(trap: Trap): boolean {
    const { offset, size, lo, hi } = trap
    switch (offset) {
      case R.ARM_SMMU_STRTAB_BASE:
      case R.ARM_SMMU_STRTAB_BASE_CFG:
        table.splice(offset === R.ARM_SMMU_STRTAB_BASE ? 0 : 2, size / 4, ...[lo, hi].slice(0, size / 4))
        common.changed()
        return false
      // Nothing bypasses, and interrupts are wired.
      case R.ARM_SMMU_GBPA:
      case R.ARM_SMMU_GERROR_IRQ_CFG0:
      case R.ARM_SMMU_EVTQ_IRQ_CFG0:
        return false
      case R.ARM_SMMU_CR0:
        trap.lo = lo & CR0_GUEST
        return true
      case R.ARM_SMMU_CMDQ_PROD:
        takeOver(lo)
        return true
      case R.ARM_SMMU_CMDQ_BASE:
      case R.ARM_SMMU_EVTQ_BASE: {
        // The hardware reaches queues without any translation. One that is not aligned may start where it says.
        const entry = offset === R.ARM_SMMU_EVTQ_BASE ? Q.EVTQ_ENTRY_SIZE : Q.CMDQ_ENTRY_SIZE
        const log2size = Q.queueLog2Size(lo, Q.MAX_QUEUE_LOG2SIZE)
        const inside = within(guest.ram, Q.queueBase(lo, hi, log2size, entry), 2 * entry * 2 ** log2size)
        if (!inside) warn(PART_REGISTER, offset, size, lo, hi)
        return inside
      }
      default:
        return true
    }
  }

  /** The guest hands the hardware commands up to `prod`: entries that they are about are taken over first. */
  function takeOver(prod: number): void {
    const { lo, hi } = readRegister(hardware, R.ARM_SMMU_CMDQ_BASE, 8)
    const log2size = Q.queueLog2Size(lo, Q.MAX_QUEUE_LOG2SIZE)
    const queue = Q.queueBase(lo, hi, log2size, Q.CMDQ_ENTRY_SIZE)
    const before = readRegister(hardware, R.ARM_SMMU_CMDQ_PROD).lo
    const words = new Uint32Array(C.CMDQ_ENT_WORDS)
    const count = Math.min(Q.queueEntries(prod, before, log2size), 2 ** log2size)
    for (let i = 0; i < count; i++) {
      const at = Q.CMDQ_ENTRY_SIZE * Q.queueIndex(Q.queueAdvance(before, log2size, i), log2size)
      if (!guest.read(queue + at, new Uint8Array(words.buffer), 0, Q.CMDQ_ENTRY_SIZE)) return
      const opcode = getField(words, C.CMDQ_0_OP)
      report.command(index, opcode, COMMAND_KEPT)
      if (opcode === C.CMDQ_OP_CFGI_STE) configure(getField(words, C.CMDQ_CFGI_0_SID), true)
      if (opcode !== C.CMDQ_OP_CFGI_ALL) continue
      const all = getField(words, C.CMDQ_CFGI_1_RANGE) === C.CMDQ_CFGI_RANGE_ALL
      for (const sid of owners.keys()) if (all || namesStream(words, 0, sid)) configure(sid, false)
    }
  }

  /** @param named the guest names this stream: it should be its own, with an entry */
  function configure(sid: number, named: boolean): void {
    const owner = owners.get(sid)
    const theirs = T.decodeStreamTable(...table, sidBits, true)
    const host = owner?.guest ? T.readSte(T.steAddress(theirs, sid, guest), guest) : undefined
    if (owner === undefined || host === undefined) {
      if (named) warn(PART_STREAM, sid, 0)
      return
    }
    const config = configOf(host)
    const ste = new BigUint64Array([valid(S.STRTAB_STE_0_CFG_ABORT), INCOMING, ...owner.stage2, 0n, 0n, 0n, 0n])
    if (config === STE_INVALID) ste[0] = 0n
    else if (config === S.STRTAB_STE_0_CFG_BYPASS) ste[0] = valid(S.STRTAB_STE_0_CFG_S2_TRANS)
    else if (config === S.STRTAB_STE_0_CFG_S1_TRANS) {
      ste[0] = valid(S.STRTAB_STE_0_CFG_NESTED) | (host[0] & STAGE1_0)
      ste[1] |= host[1] & STAGE1_1
    } else if (config > S.STRTAB_STE_0_CFG_BYPASS) warn(PART_STREAM, sid, config)
    // Words 2 and 3 stay: whatever of this the hardware sees, it goes through this second stage or nowhere.
    const address = T.steAddress(shadow, sid, memory)
    if (T.readSte(address, memory)?.join() !== ste.join()) {
      put(address + 8, ste, 8, 8)
      put(address, ste, 0, 8)
    }
    streams.set(sid, { smmu: index, sid, host, shadow: ste, trap: common.trap })
    report.stream(index, sid, config, configOf(ste))
    common.changed()
  }

  /** What is not as it was programmed, or does not lead to its owner's second stage, in words. */
  function verify(): string[] {
    const entry = (sid: number) => T.readSte(T.steAddress(shadow, sid, memory), memory)
    const lost = [...owners].filter(([sid, { stage2 }]) => entry(sid)?.slice(2, 4).join() !== stage2.join())
    const changed = registers.filter(([offset, , lo]) => readRegister(hardware, offset).lo !== lo)
    const names = [...changed.map(([offset]) => R.registerName(offset)), ...lost.map(([sid]) => `stream ${hex(sid)}`)]
    return names.map(name => `SMMU ${index}: ${name} does not lead where it should`)
  }

  return { streams, table, program, access, verify }
}
