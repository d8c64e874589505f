// SPDX-License-Identifier: Apache-2.0
/** One SMMU: probe, initial programming, its register traps, CR0 (server/hypervisor/README.md, sections 2 to 5). */

import type { Trap } from '../../policy/policy.ts'
import { includesStep } from '../../policy/policy.ts'
import { EIO, ENODEV, OK } from '../../policy/result.ts'
import type { HypWarning } from '../../policy/warnings.ts'
import { fieldGet, type Halves } from '../../smmu/bits.ts'
import { tlbiNhAll, tlbiRangeScale, tlbiRangeUnits, tlbiS2Ipa, tlbiS2IpaRange } from '../../smmu/commands.ts'
import type { SmmuHardware } from '../../smmu/hardware.ts'
import { EVTQ_ENTRY_SIZE, PRIQ_ENTRY_SIZE } from '../../smmu/queue.ts'
import {
  ARM_SMMU_CMDQ_BASE,
  ARM_SMMU_CR0,
  ARM_SMMU_FRAME_SIZE,
  ARM_SMMU_GBPA,
  ARM_SMMU_IDR0,
  ARM_SMMU_IDR1,
  ARM_SMMU_IDR3,
  ARM_SMMU_IDR5,
  ARM_SMMU_IIDR,
  ARM_SMMU_STRTAB_BASE,
  CR0_CMDQEN,
  CR0_EVTQEN,
  CR0_PRIQEN,
  CR0_SMMUEN,
  GBPA_ABORT,
  GBPA_UPDATE,
  IDR0_COHACC,
  IDR0_S1P,
  IDR0_S2P,
  IDR0_ST_LVL,
  IDR0_ST_LVL_2LVL,
  IDR0_TTENDIAN,
  IDR0_TTENDIAN_BE,
  IDR0_TTENDIAN_LE,
  IDR0_TTENDIAN_MIXED,
  IDR1_CMDQS,
  IDR1_QUEUES_PRESET,
  IDR1_REL,
  IDR1_SIDSIZE,
  IDR1_TABLES_PRESET,
  IDR3_RIL,
  IDR5_GRAN4K,
  IDR5_GRAN16K,
  IDR5_GRAN64K,
  IDR5_OAS,
  IDR5_OAS_52_BIT,
  IIDR_IMPLEMENTER,
  IIDR_PRODUCTID,
  IIDR_REVISION,
  IIDR_VARIANT,
  oasBits,
  Q_BASE_HI_ADDR,
  STRTAB_BASE_HI_ADDR,
} from '../../smmu/registers.ts'
import { streamTableBytes } from '../../smmu/strtab.ts'
import { CommandQueue, type CommandRule, SHADOW_CMDQ_LOG2SIZE } from './cmdq.ts'
import type { RegisterRule } from './frame.ts'
import type { Hypervisor } from './hypervisor.ts'
import { HOST_VMID } from './idmap.ts'
import { HostQueue } from './queues.ts'
import { ShadowStreamTable, type StreamRule } from './strtab.ts'
import {
  HYP_ACCESS_DIRECTION,
  HYP_ACCESS_WIDTH,
  HYP_CMDQ_SHARE,
  HYP_CMDQ_UNSHARE,
  HYP_EVTQ_DISABLED,
  HYP_EVTQ_SHARE,
  HYP_PRIQ_DISABLED,
  HYP_PRIQ_SHARE,
  HYP_QUEUE_DISABLED_AT_SHUTDOWN,
  HYP_QUEUE_UNSHARE,
  HYP_SMMUEN_WITHOUT_CMDQ,
  HYP_STRTAB_FORMAT,
  HYP_STRTAB_SHARE,
  HYP_STRTAB_UNSHARE,
  HYP_UNKNOWN_REGISTER,
} from './warnings.ts'

const WORD = 2 ** 32

const IMPLEMENTER_ARM = 0x43b
const PRODUCT_MMU_600 = 0x483
const PRODUCT_MMU_700 = 0x487

const ENABLES = CR0_CMDQEN | CR0_EVTQEN | CR0_PRIQEN | CR0_SMMUEN

/** Why nesting cannot be used on this product and revision, or null. */
export function nestingErratum(iidr: number): string | null {
  if (fieldGet(IIDR_IMPLEMENTER, iidr) !== IMPLEMENTER_ARM) return null
  const product = fieldGet(IIDR_PRODUCTID, iidr)
  const variant = fieldGet(IIDR_VARIANT, iidr)
  const revision = fieldGet(IIDR_REVISION, iidr)
  if (product === PRODUCT_MMU_600 && variant < 2) return `nesting is broken on MMU-600 r${variant}p${revision}`
  if (product === PRODUCT_MMU_700 && (variant < 1 || (variant === 1 && revision < 1))) {
    return `nesting is broken on MMU-700 r${variant}p${revision}`
  }
  return null
}

export class Smmu {
  readonly hyp: Hypervisor
  readonly index: number
  readonly base: number
  readonly size: number
  readonly hardware: SmmuHardware
  readonly cmdq: CommandQueue
  readonly strtab: ShadowStreamTable
  readonly evtq: HostQueue
  readonly priq: HostQueue
  readonly #rules: readonly (RegisterRule | undefined)[]
  readonly #halves: Halves = { lo: 0, hi: 0 }

  /** CR0 as the hardware has it: what the host wrote, less what was refused. */
  cr0 = 0

  // What the probe found.
  twoLevel = false
  sidBits = 0
  rangeInvalidation = false
  /** Output address bits. */
  oas = 48
  granules = 0
  littleEndian = true
  bigEndian = false

  constructor(
    hyp: Hypervisor,
    index: number,
    machineSmmu: { readonly base: number; readonly size: number; readonly hardware: SmmuHardware },
    rules: {
      readonly registers: readonly (RegisterRule | undefined)[]
      readonly commands: readonly (CommandRule | undefined)[]
      readonly stream: StreamRule
      /** The host's CMDQ_CONS may be told ahead. */
      readonly posts: boolean
    },
  ) {
    this.hyp = hyp
    this.index = index
    this.base = machineSmmu.base
    this.size = machineSmmu.size
    this.hardware = machineSmmu.hardware
    this.#rules = rules.registers
    this.cmdq = new CommandQueue(hyp, this, rules.commands, rules.posts)
    this.strtab = new ShadowStreamTable(hyp, this, rules.stream)
    this.evtq = new HostQueue(hyp.share, EVTQ_ENTRY_SIZE)
    this.priq = new HostQueue(hyp.share, PRIQ_ENTRY_SIZE)
  }

  reset(): void {
    this.cr0 = 0
    this.cmdq.reset()
    this.strtab.reset()
    this.evtq.reset()
    this.priq.reset()
  }

  read32(offset: number): number {
    this.hardware.read(offset, 4, this.#halves)
    return this.#halves.lo
  }

  write32(offset: number, value: number): boolean {
    return this.hardware.write(offset, 4, value >>> 0, 0)
  }

  /** Writes one register, then reads another. */
  writeThenRead32(offset: number, value: number, readOffset: number): number {
    const { hardware } = this
    if (hardware.writeThenRead === undefined) {
      hardware.write(offset, 4, value >>> 0, 0)
      return this.read32(readOffset)
    }
    hardware.writeThenRead(offset, value >>> 0, readOffset, this.#halves)
    return this.#halves.lo
  }

  /** Writes an address with further bits of the high half. */
  write64(offset: number, address: number, hi = 0): boolean {
    return this.hardware.write(offset, 8, address % WORD, (Math.floor(address / WORD) | hi) >>> 0)
  }

  warn(warning: HypWarning, a: number, b: number, c: number, d: number): void {
    this.hyp.report.warn(warning, this.hyp.trap, this.index, a, b, c, d)
  }

  /** Reads the ID registers (server/hypervisor/README.md, section 2). Returns why this SMMU cannot isolate, or null. */
  probe(): string | null {
    if (this.size < ARM_SMMU_FRAME_SIZE) return 'the register frame is smaller than 128 KiB'
    if (this.base % 4096 !== 0 || this.size % 4096 !== 0) return 'the register frame is not page aligned'
    const idr0 = this.read32(ARM_SMMU_IDR0)
    const idr1 = this.read32(ARM_SMMU_IDR1)
    const idr3 = this.read32(ARM_SMMU_IDR3)
    const idr5 = this.read32(ARM_SMMU_IDR5)
    const iidr = this.read32(ARM_SMMU_IIDR)
    if ((idr0 & IDR0_S1P) === 0) return 'no stage 1 translation (IDR0.S1P)'
    if ((idr0 & IDR0_S2P) === 0) return 'no stage 2 translation (IDR0.S2P)'
    if ((idr0 & IDR0_COHACC) === 0) return 'table walks are not coherent (IDR0.COHACC)'
    const endian = fieldGet(IDR0_TTENDIAN, idr0)
    this.littleEndian = endian === IDR0_TTENDIAN_MIXED || endian === IDR0_TTENDIAN_LE
    this.bigEndian = endian === IDR0_TTENDIAN_MIXED || endian === IDR0_TTENDIAN_BE
    if (!this.littleEndian && !this.bigEndian) return 'reserved table endianness (IDR0.TTENDIAN)'
    if ((idr1 & IDR1_TABLES_PRESET) !== 0) return 'the stream table is preset (IDR1.TABLES_PRESET)'
    if ((idr1 & IDR1_QUEUES_PRESET) !== 0) return 'the queues are preset (IDR1.QUEUES_PRESET)'
    if ((idr1 & IDR1_REL) !== 0) return 'base addresses are relative (IDR1.REL)'
    if (includesStep(this.hyp.upTo, 'cmdq') && fieldGet(IDR1_CMDQS, idr1) < SHADOW_CMDQ_LOG2SIZE) {
      return `the command queue has less than ${2 ** SHADOW_CMDQ_LOG2SIZE} entries (IDR1.CMDQS)`
    }
    this.twoLevel = fieldGet(IDR0_ST_LVL, idr0) === IDR0_ST_LVL_2LVL
    this.sidBits = fieldGet(IDR1_SIDSIZE, idr1)
    if (this.sidBits > 32) return 'reserved StreamID size (IDR1.SIDSIZE)'
    this.rangeInvalidation = (idr3 & IDR3_RIL) !== 0
    const oas = fieldGet(IDR5_OAS, idr5)
    this.oas = oas <= IDR5_OAS_52_BIT ? oasBits(oas) : 48
    this.granules =
      ((idr5 & IDR5_GRAN4K) !== 0 ? 4096 : 0) |
      ((idr5 & IDR5_GRAN16K) !== 0 ? 16384 : 0) |
      ((idr5 & IDR5_GRAN64K) !== 0 ? 65536 : 0)
    this.strtab.shape()
    return includesStep(this.hyp.upTo, 'nested') ? nestingErratum(iidr) : null
  }

  /** GBPA := abort; false when the hardware does not take the update in time. */
  abortBypass(): boolean {
    const { wait } = this.hyp
    if (!wait.until(this.#gbpaIdle)) return false
    const gbpa = this.read32(ARM_SMMU_GBPA)
    this.write32(ARM_SMMU_GBPA, gbpa | GBPA_ABORT | GBPA_UPDATE)
    return wait.until(this.#gbpaIdle)
  }

  readonly #gbpaIdle = (): boolean => (this.read32(ARM_SMMU_GBPA) & GBPA_UPDATE) === 0

  /** A trap in the frame. */
  access(trap: Trap): void {
    const { offset } = trap
    const rule = (offset & 3) === 0 ? this.#rules[offset >>> 2] : undefined
    if (rule !== undefined && trap.size * 8 === rule.bits) {
      const act = trap.write ? rule.write : rule.read
      if (act !== undefined) {
        act(this, trap)
        return
      }
    }
    this.#unexpected(trap)
  }

  /** Not in the table: a write is dropped, a read answers 0. */
  #unexpected(trap: Trap): void {
    const { offset, size } = trap
    const whole = this.#rules[offset >>> 2]
    const half = this.#rules[(offset & ~7) >>> 2]
    const lo = trap.write ? trap.lo : 0
    const hi = trap.write ? trap.hi : 0
    const known = whole !== undefined || half?.bits === 64
    const exact = whole !== undefined && offset % 4 === 0 && size * 8 === whole.bits
    this.warn(exact ? HYP_ACCESS_DIRECTION : known ? HYP_ACCESS_WIDTH : HYP_UNKNOWN_REGISTER, offset, size, lo, hi)
    if (!trap.write) {
      trap.lo = 0
      trap.hi = 0
    }
  }

  /** What the host's CR0 changes, in order, before the hardware gets it (server/hypervisor/README.md, section 5). */
  writeCr0(trap: Trap): void {
    const before = this.cr0
    const written = trap.lo
    const changed = before ^ written
    const { upTo } = this.hyp
    let after = written
    if (includesStep(upTo, 'cmdq') && (changed & CR0_CMDQEN) !== 0) {
      const on = (written & CR0_CMDQEN) !== 0
      const { cmdq } = this
      const result = on ? cmdq.enable() : cmdq.disable()
      if (result !== OK) {
        this.#warnPages(on ? HYP_CMDQ_SHARE : HYP_CMDQ_UNSHARE, cmdq.hostAddress, cmdq.hostBytes, result)
        if (on) after &= ~CR0_CMDQEN
      }
    }
    if (includesStep(upTo, 'queues')) {
      const shutdown = (written & ENABLES) === 0
      if ((changed & CR0_EVTQEN) !== 0 && !this.#queueTransition(this.evtq, before, written, CR0_EVTQEN, shutdown)) {
        after &= ~CR0_EVTQEN
      }
      if ((changed & CR0_PRIQEN) !== 0 && !this.#queueTransition(this.priq, before, written, CR0_PRIQEN, shutdown)) {
        after &= ~CR0_PRIQEN
      }
    }
    if (includesStep(upTo, 'strtab') && (changed & CR0_SMMUEN) !== 0) {
      if ((written & CR0_SMMUEN) === 0) this.#disableSmmu()
      else if (!this.#enableSmmu(before, after)) after &= ~CR0_SMMUEN
    }
    this.cr0 = after >>> 0
    this.hyp.changed()
    if (!this.write32(ARM_SMMU_CR0, this.cr0)) trap.aborted = true
  }

  /** Event and PRI queue. Returns whether the bit may be as the host wrote it. */
  #queueTransition(queue: HostQueue, before: number, written: number, bit: number, shutdown: boolean): boolean {
    const { address, bytes } = queue
    const event = bit === CR0_EVTQEN
    if ((written & bit) !== 0) {
      const result = queue.enable()
      if (result !== OK) this.#warnPages(event ? HYP_EVTQ_SHARE : HYP_PRIQ_SHARE, address, bytes, result)
      return result === OK
    }
    const disabled = event ? HYP_EVTQ_DISABLED : HYP_PRIQ_DISABLED
    this.warn(shutdown ? HYP_QUEUE_DISABLED_AT_SHUTDOWN : disabled, before, written, 0, 0)
    const result = queue.disable()
    if (result !== OK) this.#warnPages(HYP_QUEUE_UNSHARE, address, bytes, result)
    return true
  }

  #enableSmmu(before: number, after: number): boolean {
    if ((after & CR0_CMDQEN) === 0) {
      this.warn(HYP_SMMUEN_WITHOUT_CMDQ, before, after, 0, 0)
      return false
    }
    const { strtab } = this
    const table = strtab.check()
    if (table === null) {
      this.warn(HYP_STRTAB_FORMAT, strtab.hostBaseLo, strtab.hostBaseHi, strtab.hostCfg, 0)
      return false
    }
    const result = strtab.enable(table)
    if (result !== OK) this.#warnPages(HYP_STRTAB_SHARE, table.base, streamTableBytes(table), result)
    return result === OK
  }

  #disableSmmu(): void {
    const table = this.strtab.hostTable
    const result = this.strtab.disable()
    if (result !== OK && table !== null) {
      this.#warnPages(HYP_STRTAB_UNSHARE, table.base, streamTableBytes(table), result)
    }
  }

  #warnPages(warning: HypWarning, address: number, bytes: number, result: number): void {
    this.warn(warning, address % WORD, Math.floor(address / WORD), bytes, result)
  }

  /** Nothing that was translated through these pages of the idmap stays cached (server/hypervisor/README.md, section 9.3). */
  invalidateStage2(base: number, size: number, granuleShift: number): number {
    if ((this.cr0 & CR0_SMMUEN) === 0) return OK
    if ((this.cr0 & CR0_CMDQEN) === 0) return ENODEV
    const { cmdq } = this
    const granule = 2 ** granuleShift
    cmdq.begin()
    let left = size / granule
    for (let at = base; left > 0; ) {
      let covered = 1
      if (this.rangeInvalidation) {
        const scale = tlbiRangeScale(left)
        const units = tlbiRangeUnits(left, scale)
        covered = units * 2 ** scale
        // Without a level hint a single granule is no range.
        if (covered > 1) {
          tlbiS2IpaRange(cmdq.ownWords, HOST_VMID, at, true, granuleShift, units - 1, scale, cmdq.issue())
        }
      }
      if (covered === 1) tlbiS2Ipa(cmdq.ownWords, HOST_VMID, at, true, cmdq.issue())
      at += covered * granule
      left -= covered
    }
    if (!cmdq.sync()) return EIO
    tlbiNhAll(cmdq.ownWords, HOST_VMID, cmdq.issue())
    return cmdq.sync() ? OK : EIO
  }

  /** The hardware's registers that hold what is the hypervisor's, and the live entries of the stream table. */
  verify(): string[] {
    const { upTo, idmap } = this.hyp
    const problems: string[] = []
    const expect = (name: string, offset: number, mask: number, value: number) => {
      const found = (this.read32(offset) & mask) >>> 0
      if (found !== value) {
        problems.push(`SMMU ${this.index}: ${name} is 0x${found.toString(16)} instead of 0x${value.toString(16)}`)
      }
    }
    if (includesStep(upTo, 'cmdq')) {
      expect('CMDQ_BASE', ARM_SMMU_CMDQ_BASE, 0xffff_ffff, (this.cmdq.base % WORD) + SHADOW_CMDQ_LOG2SIZE)
      expect('CMDQ_BASE, high half', ARM_SMMU_CMDQ_BASE + 4, Q_BASE_HI_ADDR, Math.floor(this.cmdq.base / WORD))
    }
    if (includesStep(upTo, 'strtab')) {
      expect('STRTAB_BASE', ARM_SMMU_STRTAB_BASE, 0xffff_ffff, this.strtab.base % WORD)
      expect(
        'STRTAB_BASE, high half',
        ARM_SMMU_STRTAB_BASE + 4,
        STRTAB_BASE_HI_ADDR,
        Math.floor(this.strtab.base / WORD),
      )
    }
    if (includesStep(upTo, 'queues')) expect('GBPA', ARM_SMMU_GBPA, GBPA_ABORT, GBPA_ABORT)
    if (idmap !== null) problems.push(...this.strtab.verify(idmap))
    return problems
  }

  /** For a checkpoint: what the probe found, and the registers that are not the command queue's or stream table's. */
  save(into: Uint32Array, at: number): number {
    into[at] = this.cr0
    into[at + 1] = this.evtq.baseLo
    into[at + 2] = this.evtq.baseHi
    into[at + 3] = this.priq.baseLo
    into[at + 4] = this.priq.baseHi
    into[at + 5] =
      (this.twoLevel ? 1 : 0) |
      (this.rangeInvalidation ? 2 : 0) |
      (this.littleEndian ? 4 : 0) |
      (this.bigEndian ? 8 : 0)
    into[at + 6] = this.sidBits
    into[at + 7] = this.oas
    into[at + 8] = this.granules
    return at + SMMU_STATE_WORDS
  }

  restore(from: Uint32Array, at: number): number {
    this.reset()
    this.cr0 = from[at]
    this.evtq.baseLo = from[at + 1]
    this.evtq.baseHi = from[at + 2]
    this.priq.baseLo = from[at + 3]
    this.priq.baseHi = from[at + 4]
    const flags = from[at + 5]
    this.twoLevel = (flags & 1) !== 0
    this.rangeInvalidation = (flags & 2) !== 0
    this.littleEndian = (flags & 4) !== 0
    this.bigEndian = (flags & 8) !== 0
    this.sidBits = Math.min(32, from[at + 6])
    this.oas = from[at + 7]
    this.granules = from[at + 8]
    return at + SMMU_STATE_WORDS
  }
}

/** 32-bit words that `save` writes. */
export const SMMU_STATE_WORDS = 9
