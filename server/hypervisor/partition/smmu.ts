// SPDX-License-Identifier: Apache-2.0
/** One SMMU under partitions (README.md): the registers that the guest has, and the stream table that the hardware uses. */
import type { StreamInfo } from '../../policy/inspect.ts'
import { HypFatal, type Trap } from '../../policy/policy.ts'
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
import { CR1_REQUIRED } from '../common/cr1.ts'
import { abortBypass, stopSmmu } from '../common/formerOwner.ts'
import { HardwareFrame } from '../common/hardwareFrame.ts'
import type { HardwareWait } from '../common/wait.ts'

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
const NAMES = `IDR0 IDR1 IDR2 IDR3 IDR4 IDR5 IIDR AIDR CR0 CR0ACK CR1 CR2 GBPA IRQ_CTRL IRQ_CTRLACK GERROR GERRORN GERROR_IRQ_CFG0 STRTAB_BASE
   STRTAB_BASE_CFG CMDQ_BASE CMDQ_PROD CMDQ_CONS EVTQ_BASE EVTQ_IRQ_CFG0 EVTQ_PROD EVTQ_CONS`
const GUEST = new Set(NAMES.split(/\s+/).map(registerOffset))
/** Queues that the hardware uses where the guest says: CR0's bit, BASE, bytes of an entry. */
const QUEUES = [
  [R.CR0_CMDQEN, R.ARM_SMMU_CMDQ_BASE, Q.CMDQ_ENTRY_SIZE],
  [R.CR0_EVTQEN, R.ARM_SMMU_EVTQ_BASE, Q.EVTQ_ENTRY_SIZE],
] as const
/** Commands that are read at a time. */
const CHUNK = 256
/** LOG2SIZE of the queue that is used at reset. */
const OWN_LOG2SIZE = 2

/** What the SMMUs of a machine share. */
export interface Common {
  readonly memory: GuestMemory
  /** The part of it that is the guest's. */
  readonly guest: GuestMemory
  readonly report: HypReport
  readonly wait: HardwareWait
  /** The trap at hand, 0: none. */
  trap: number
  /** Something that a checkpoint holds. */
  changed(): void
}

/** What the guest wrote, for nobody but the hypervisor: STRTAB_BASE in halves, STRTAB_BASE_CFG, CR0. */
export interface GuestRegisters {
  baseLo: number
  baseHi: number
  cfg: number
  cr0: number
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
  port: SmmuHardware,
  common: Common,
  owners: ReadonlyMap<number, Owner>,
  sidBits: number,
  take: (bytes: number) => number,
) {
  const { memory, guest, report, wait } = common
  const hardware = new HardwareFrame(port)
  const base = take(2 ** (sidBits - SPLIT) * T.STRTAB_L1_DESC_SIZE)
  const shadow: T.StreamTable = { twoLevel: true, base, log2size: sidBits, split: SPLIT }
  /** Addresses of L2 tables by the number of their L1 descriptor: there are those of streams with an owner. */
  const l2 = new Map([...owners.keys()].map(sid => [sid >>> SPLIT, 0]))
  for (const block of l2.keys()) l2.set(block, take(2 ** SPLIT * S.STRTAB_STE_SIZE))
  const ownQueue = take(Q.CMDQ_ENTRY_SIZE * 2 ** OWN_LOG2SIZE)
  const format =
    fieldPrep(R.STRTAB_BASE_CFG_FMT, R.STRTAB_BASE_CFG_FMT_2LVL) | fieldPrep(R.STRTAB_BASE_CFG_SPLIT, SPLIT)
  /** What leads the hardware to its table: offset, size, value. */
  const registers = [
    [R.ARM_SMMU_STRTAB_BASE, 8, base % WORD, (Math.floor(base / WORD) | R.STRTAB_BASE_HI_RA) >>> 0],
    [R.ARM_SMMU_STRTAB_BASE_CFG, 4, format | sidBits, 0],
  ] as const
  /** What the guest configured, and what became of it. */
  const streams = new Map<number, StreamInfo>()
  const own: GuestRegisters = { baseLo: 0, baseHi: 0, cfg: 0, cr0: 0 }
  const words = new Uint32Array(C.CMDQ_ENT_WORDS * CHUNK)
  const bytes = new Uint8Array(words.buffer)

  const put = (address: number, words: Uint32Array | BigUint64Array, from = 0, bytes = words.byteLength) =>
    memory.write(address, new Uint8Array(words.buffer), from, bytes)
  const warn = (warning: HypWarning, a: number, b: number, c = 0, d = 0) =>
    report.warn(warning, common.trap, index, a, b, c, d)

  /** At reset, before any table is written: whatever a former owner left running is off. @throws HypFatal */
  function stop(): void {
    const refused = abortBypass(hardware, wait)
      ? stopSmmu(hardware, wait, () => true)
      : 'GBPA was not updated in time (GBPA.UPDATE)'
    if (refused !== null) throw new HypFatal(`SMMU ${index} cannot be shared out: ${refused}`)
  }

  /** After `stop`: what nobody has configured aborts, in the table and without it. @throws HypFatal */
  function program(): void {
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
    if (!forget()) throw new HypFatal(`SMMU ${index} cannot be shared out: it does not empty its caches in time`)
    report.probe(index, null)
  }

  /**
   * Nothing that the hardware keeps of a former owner's tables is used: CFGI_ALL, TLBI_NSNH_ALL and CMD_SYNC by a queue of the
   * hypervisor's, while the SMMU is off. @returns whether the hardware has done it
   */
  function forget(): boolean {
    const own = new Uint32Array(C.CMDQ_ENT_WORDS * 2 ** OWN_LOG2SIZE)
    C.cfgiAll(own)
    C.tlbiNsnhAll(own, C.CMDQ_ENT_WORDS)
    C.cmdSync(own, C.CMDQ_SYNC_0_CS_NONE, 2 * C.CMDQ_ENT_WORDS)
    put(ownQueue, own)
    const place = (queue: number) => {
      hardware.write64(R.ARM_SMMU_CMDQ_BASE, queue)
      for (const offset of [R.ARM_SMMU_CMDQ_PROD, R.ARM_SMMU_CMDQ_CONS]) hardware.write32(offset, 0)
    }
    const enable = (cr0: number) => {
      hardware.write32(R.ARM_SMMU_CR0, cr0)
      return wait.until(() => hardware.read32(R.ARM_SMMU_CR0ACK) === cr0)
    }
    place(ownQueue + OWN_LOG2SIZE)
    const enabled = enable(R.CR0_CMDQEN)
    hardware.write32(R.ARM_SMMU_CMDQ_PROD, 3)
    // ERR is part of it: at an error it never has this value.
    const done = wait.until(() => hardware.read32(R.ARM_SMMU_CMDQ_CONS) === 3)
    const disabled = enable(0)
    place(0)
    return enabled && done && disabled
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
    if (offset === R.ARM_SMMU_IDR0) return [(hardware.read32(offset) & ~IDR0_HIDDEN) >>> 0]
    if (offset === R.ARM_SMMU_GBPA) return [R.GBPA_ABORT]
    if (offset === R.ARM_SMMU_STRTAB_BASE) return [own.baseLo, own.baseHi]
    return offset === R.ARM_SMMU_STRTAB_BASE_CFG ? [own.cfg] : []
  }

  /** A write of the guest, which may be changed. @returns whether the hardware gets it */
  function passes(trap: Trap): boolean {
    const { offset, size, lo, hi } = trap
    switch (offset) {
      case R.ARM_SMMU_STRTAB_BASE:
        Object.assign(own, { baseLo: lo, baseHi: hi })
        common.changed()
        return false
      case R.ARM_SMMU_STRTAB_BASE_CFG:
        own.cfg = lo
        common.changed()
        return false
      // Nothing bypasses, and interrupts are wired.
      case R.ARM_SMMU_GBPA:
      case R.ARM_SMMU_GERROR_IRQ_CFG0:
      case R.ARM_SMMU_EVTQ_IRQ_CFG0:
        return false
      case R.ARM_SMMU_CR0:
        trap.lo = enable(lo & CR0_GUEST)
        return true
      case R.ARM_SMMU_CR1:
        trap.lo = CR1_REQUIRED
        return true
      case R.ARM_SMMU_CMDQ_PROD:
        takeOver(hardware.read32(R.ARM_SMMU_CMDQ_PROD), lo)
        return true
      case R.ARM_SMMU_GERRORN:
        // The hardware reads again from the command on at which it stopped, and the guest may have changed them all.
        takeOver(hardware.read32(R.ARM_SMMU_CMDQ_CONS), hardware.read32(R.ARM_SMMU_CMDQ_PROD))
        return true
      case R.ARM_SMMU_CMDQ_BASE:
      case R.ARM_SMMU_EVTQ_BASE: {
        const entry = offset === R.ARM_SMMU_EVTQ_BASE ? Q.EVTQ_ENTRY_SIZE : Q.CMDQ_ENTRY_SIZE
        const inside = isGuests(lo, hi, entry)
        if (!inside) warn(PART_REGISTER, offset, size, lo, hi)
        return inside
      }
      default:
        return true
    }
  }

  /** Whether a queue lies in memory of the guest: the hardware reaches it without any translation. */
  function isGuests(lo: number, hi: number, entrySize: number): boolean {
    const { address, bytes } = Q.queueExtent(lo, hi, entrySize)
    return within(guest.ram, address, bytes)
  }

  /** The guest writes CR0. @returns what the hardware gets: without queues that are not in memory of the guest */
  function enable(cr0: number): number {
    for (const [bit, offset, entrySize] of QUEUES) {
      if ((cr0 & bit) === 0) continue
      // What the hardware has counts: nobody may have written it since the reset.
      const { lo, hi } = readRegister(hardware, offset, 8)
      if (isGuests(lo, hi, entrySize)) continue
      warn(PART_REGISTER, R.ARM_SMMU_CR0, 4, cr0)
      cr0 &= ~bit
    }
    own.cr0 = cr0
    common.changed()
    // It may be another table by now, and hardware may have read it anew.
    if ((cr0 & R.CR0_SMMUEN) !== 0) for (const sid of owners.keys()) configure(sid)
    return cr0
  }

  /**
   * The hardware gets the guest's commands from `cons` up to `prod`: entries that they are about are taken over first. While the SMMU is
   * off there is nothing to take over: that is done when it is enabled.
   */
  function takeOver(cons: number, prod: number): void {
    const needed = R.CR0_CMDQEN | R.CR0_SMMUEN
    if ((own.cr0 & needed) !== needed) return
    const { lo, hi } = readRegister(hardware, R.ARM_SMMU_CMDQ_BASE, 8)
    const log2size = Q.queueLog2Size(lo, Q.MAX_QUEUE_LOG2SIZE)
    const queue = Q.queueBase(lo, hi, log2size, Q.CMDQ_ENTRY_SIZE)
    const count = Math.min(Q.queueEntries(prod, cons, log2size), 2 ** log2size)
    /** Streams, each once however often it is named: those of the guest, those by ranges, and the first other one. */
    const named = new Set<number>()
    const ranged = new Set<number>()
    let foreign = -1
    for (let done = 0; done < count; ) {
      const at = Q.queueIndex(Q.queueAdvance(cons, log2size, done), log2size)
      const run = Math.min(count - done, 2 ** log2size - at, CHUNK)
      if (!guest.read(queue + Q.CMDQ_ENTRY_SIZE * at, bytes, 0, Q.CMDQ_ENTRY_SIZE * run)) break
      for (let i = 0; i < C.CMDQ_ENT_WORDS * run; i += C.CMDQ_ENT_WORDS) {
        const opcode = getField(words, C.CMDQ_0_OP, i)
        report.command(index, opcode, COMMAND_KEPT)
        if (opcode === C.CMDQ_OP_CFGI_STE) {
          const sid = getField(words, C.CMDQ_CFGI_0_SID, i)
          if (owners.get(sid)?.guest) named.add(sid)
          else if (foreign < 0) foreign = sid
        } else if (opcode === C.CMDQ_OP_CFGI_ALL) {
          const all = getField(words, C.CMDQ_CFGI_1_RANGE, i) === C.CMDQ_CFGI_RANGE_ALL
          for (const sid of owners.keys()) if (all || namesStream(words, i, sid)) ranged.add(sid)
        }
      }
      done += run
    }
    if (foreign >= 0) warn(PART_STREAM, foreign, 0)
    for (const sid of named) if (!configure(sid)) warn(PART_STREAM, sid, 0)
    for (const sid of ranged) if (!named.has(sid)) configure(sid)
  }

  /**
   * The entry of a stream of the guest becomes what the guest's table has now; one that is there no more is invalid, and of one that
   * never was nothing is known. Nothing happens to streams of others.
   * @returns whether the guest's table has an entry
   */
  function configure(sid: number): boolean {
    const owner = owners.get(sid)
    if (!owner?.guest) return false
    const theirs = T.decodeStreamTable(own.baseLo, own.baseHi, own.cfg, sidBits, true)
    const found = T.readSte(T.steAddress(theirs, sid, guest), guest)
    const before = streams.get(sid)
    const address = T.steAddress(shadow, sid, memory)
    const stands = T.readSte(address, memory)
    const unknown = before === undefined && stands !== undefined && configOf(stands) === S.STRTAB_STE_0_CFG_ABORT
    if (found === undefined && unknown) return false
    const host = found ?? new BigUint64Array(S.STRTAB_STE_DWORDS)
    const config = configOf(host)
    const ste = new BigUint64Array([valid(S.STRTAB_STE_0_CFG_ABORT), INCOMING, ...owner.stage2, 0n, 0n, 0n, 0n])
    if (config === STE_INVALID) ste[0] = 0n
    else if (config === S.STRTAB_STE_0_CFG_BYPASS) ste[0] = valid(S.STRTAB_STE_0_CFG_S2_TRANS)
    else if (config === S.STRTAB_STE_0_CFG_S1_TRANS) {
      ste[0] = valid(S.STRTAB_STE_0_CFG_NESTED) | (host[0] & STAGE1_0)
      ste[1] |= host[1] & STAGE1_1
    } else if (config > S.STRTAB_STE_0_CFG_BYPASS) warn(PART_STREAM, sid, config)
    // Words 2 and 3 stay: whatever of this the hardware sees, it goes through this second stage or nowhere.
    if (stands?.join() !== ste.join()) {
      put(address + 8, ste, 8, 8)
      put(address, ste, 0, 8)
    }
    if (found === undefined) streams.delete(sid)
    else if (before?.host.join() === host.join()) return true
    else streams.set(sid, { smmu: index, sid, host, shadow: ste, trap: common.trap })
    report.stream(index, sid, config, configOf(ste))
    common.changed()
    return found !== undefined
  }

  /** What is not as it was programmed, or does not lead to its owner's second stage, in words. */
  function verify(): string[] {
    const entry = (sid: number) => T.readSte(T.steAddress(shadow, sid, memory), memory)
    const lost = [...owners].filter(([sid, { stage2 }]) => entry(sid)?.slice(2, 4).join() !== stage2.join())
    const changed = registers.filter(([offset, size, lo, hi]) => {
      const found = readRegister(hardware, offset, size)
      return found.lo !== lo || (size === 8 && (found.hi ^ hi) & R.STRTAB_BASE_HI_ADDR)
    })
    const names = [...changed.map(([offset]) => R.registerName(offset)), ...lost.map(([sid]) => `stream ${hex(sid)}`)]
    const open = (hardware.read32(R.ARM_SMMU_GBPA) & R.GBPA_ABORT) === 0
    return [
      ...names.map(name => `SMMU ${index}: ${name} does not lead where it should`),
      ...(open ? [`SMMU ${index}: GBPA lets everything through while it is off`] : []),
    ]
  }

  return { streams, own, stop, program, access, verify }
}
