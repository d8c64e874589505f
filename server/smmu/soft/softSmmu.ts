// SPDX-License-Identifier: Apache-2.0
/**
 * An SMMUv3 in software behind the `SmmuHardware` port: the Non-secure programming interface of IHI 0070 chapter 6, the command
 * and event queues, GERROR, and translation of transactions through caches that forget only what commands name. Every write
 * takes effect before it returns.
 */

import type { Halves, SmmuHardware } from '../../machine/ports.ts'
import { addressOf, getField } from '../bits.ts'
import * as C from '../commands.ts'
import { EVTQ_ENT_WORDS, type EventRecord, encodeEvent } from '../events.ts'
import { decodeFeatures, type Features, type IdRegisters, QEMU_NESTED_ID_REGISTERS } from '../features.ts'
import type { GuestMemory } from '../memory.ts'
import * as Q from '../queue.ts'
import * as R from '../registers.ts'
import type { Outcome, Transaction, Translated } from '../transaction.ts'
import { Walker } from '../walker.ts'
import type { Recorder } from '../walkSteps.ts'
import { type Caching, SoftCaches } from './caches.ts'
import { execute } from './execute.ts'

/** Wired interrupts (IHI 0070 section 3.18.2). */
export type Irq = 'evtq' | 'priq' | 'gerror' | 'sync'

export interface SoftSmmuOptions {
  /** QEMU's with `stage=nested` unless given. The stall model and HTTU, among others, are not modelled. */
  readonly id?: IdRegisters
  readonly iidr?: number
  /** Version 3.1 unless given. */
  readonly aidr?: number
  /** GBPA after reset; incoming attributes and no abort unless given. */
  readonly gbpa?: number
  /** `architectural` unless given. */
  readonly caching?: Caching
  /** A wired interrupt was raised. */
  readonly onIrq?: (irq: Irq) => void
  /** CMD_ATC_INV was sent to a device; false makes it time out, which the next CMD_SYNC reports. */
  readonly onAtcInvalidate?: (cmd: Uint32Array) => boolean
}

/** Commands that are read from memory at once. */
const FETCH_ENTRIES = 64

const CR0_MASK = R.CR0_SMMUEN | R.CR0_EVTQEN | R.CR0_CMDQEN
const CR1_TABLE = R.CR1_TABLE_SH | R.CR1_TABLE_OC | R.CR1_TABLE_IC
const CR1_QUEUE = R.CR1_QUEUE_SH | R.CR1_QUEUE_OC | R.CR1_QUEUE_IC
const GBPA_MASK =
  R.GBPA_ABORT | R.GBPA_INSTCFG | R.GBPA_PRIVCFG | R.GBPA_SHCFG | R.GBPA_ALLOCCFG | R.GBPA_MTCFG | R.GBPA_MEMATTR
const GERROR_MASK =
  R.GERROR_CMDQ_ERR |
  R.GERROR_EVTQ_ABT_ERR |
  R.GERROR_PRIQ_ABT_ERR |
  R.GERROR_MSI_CMDQ_ABT_ERR |
  R.GERROR_MSI_EVTQ_ABT_ERR |
  R.GERROR_MSI_PRIQ_ABT_ERR |
  R.GERROR_MSI_GERROR_ABT_ERR |
  R.GERROR_SFM_ERR
const STRTAB_CFG_MASK = R.STRTAB_BASE_CFG_FMT | R.STRTAB_BASE_CFG_SPLIT | R.STRTAB_BASE_CFG_LOG2SIZE
/** Index and wrap bit of the largest queue. */
const Q_POINTER = 0xf_ffff

/** One queue: BASE, PROD and CONS as software sees them. */
class Queue {
  baseLo = 0
  baseHi = 0
  prod = 0
  cons = 0
  readonly #max: number
  readonly #entrySize: number

  constructor(max: number, entrySize: number) {
    this.#max = max
    this.#entrySize = entrySize
  }

  get log2size(): number {
    return Q.queueLog2Size(this.baseLo, this.#max)
  }

  address(pointer: number): number {
    const { log2size } = this
    const base = Q.queueBase(this.baseLo, this.baseHi, log2size, this.#entrySize)
    return base + Q.queueIndex(pointer, log2size) * this.#entrySize
  }

  /** PROD or CONS as it reads: index bits above the wrap bit are zero, flags stay. */
  visible(register: number): number {
    return ((register & ~Q_POINTER) | Q.queuePointer(register, this.log2size)) >>> 0
  }

  reset(): void {
    this.baseLo = this.baseHi = this.prod = this.cons = 0
  }
}

/** IRQ_CFG0 (two halves), IRQ_CFG1 and IRQ_CFG2 of one interrupt: the four words from its IRQ_CFG0 on. */
class MsiConfig {
  readonly words = new Uint32Array(4)
  readonly offset: number
  /** The bit of IRQ_CTRL that enables the interrupt, and guards the registers. */
  readonly enable: number
  readonly #masks: readonly number[]

  /** @param writable bits of IRQ_CFG2 */
  constructor(offset: number, enable: number, msi: boolean, writable: number) {
    this.offset = offset
    this.enable = enable
    this.#masks = msi ? [R.MSI_CFG0_LO_ADDR, R.MSI_CFG0_HI_ADDR, 0xffff_ffff, writable] : [0, 0, 0, writable]
  }

  covers(offset: number): boolean {
    return offset >= this.offset && offset < this.offset + 16
  }

  write(offset: number, value: number): void {
    const i = (offset - this.offset) / 4
    this.words[i] = value & this.#masks[i]
  }
}

export class SoftSmmu implements SmmuHardware {
  readonly features: Features
  readonly #id: IdRegisters
  readonly #options: SoftSmmuOptions
  readonly #memory: GuestMemory
  readonly #caching: Caching

  #caches: SoftCaches | undefined
  #walker: Walker
  #cr0 = 0
  #cr1 = 0
  #cr2 = 0
  #gbpa = 0
  #irqCtrl = 0
  #gerror = 0
  #gerrorn = 0
  #strtabLo = 0
  #strtabHi = 0
  #strtabCfg = 0
  readonly #cmdq: Queue
  readonly #evtq: Queue
  readonly #priq: Queue
  readonly #gerrorMsi: MsiConfig
  readonly #evtqMsi: MsiConfig
  readonly #priqMsi: MsiConfig
  /** A CMD_ATC_INV since the last CMD_SYNC timed out. */
  #atcTimeout = false

  readonly #cmdBytes = new Uint8Array(FETCH_ENTRIES * Q.CMDQ_ENTRY_SIZE)
  readonly #cmds = new Uint32Array(this.#cmdBytes.buffer)
  readonly #event = new Uint32Array(EVTQ_ENT_WORDS)
  readonly #eventBytes = new Uint8Array(this.#event.buffer)
  readonly #msi = new Uint32Array(1)
  readonly #msiBytes = new Uint8Array(this.#msi.buffer)

  /** @throws RangeError for ID registers that promise what is not modelled */
  constructor(memory: GuestMemory, options: SoftSmmuOptions = {}) {
    this.#id = options.id ?? QEMU_NESTED_ID_REGISTERS
    this.features = decodeFeatures(this.#id)
    if (this.features.stallModel !== R.IDR0_STALL_MODEL_NONE) throw new RangeError('the stall model is not modelled')
    this.#memory = memory
    this.#options = options
    this.#caching = options.caching ?? 'architectural'
    this.#cmdq = new Queue(this.features.cmdqs, Q.CMDQ_ENTRY_SIZE)
    this.#evtq = new Queue(this.features.evtqs, Q.EVTQ_ENTRY_SIZE)
    this.#priq = new Queue(this.features.priqs, Q.PRIQ_ENTRY_SIZE)
    const { msi, pri } = this.features
    const cfg2 = msi ? R.MSI_CFG2_SH | R.MSI_CFG2_MEMATTR : 0
    this.#gerrorMsi = new MsiConfig(R.ARM_SMMU_GERROR_IRQ_CFG0, R.IRQ_CTRL_GERROR_IRQEN, msi, cfg2)
    this.#evtqMsi = new MsiConfig(R.ARM_SMMU_EVTQ_IRQ_CFG0, R.IRQ_CTRL_EVTQ_IRQEN, msi, cfg2)
    const priqCfg2 = pri ? cfg2 | R.PRIQ_IRQ_CFG2_LO : 0
    this.#priqMsi = new MsiConfig(R.ARM_SMMU_PRIQ_IRQ_CFG0, R.IRQ_CTRL_PRIQ_IRQEN, msi && pri, priqCfg2)
    this.#walker = this.#newWalker()
    this.reset()
  }

  /** To the state after power-on; caches are empty. */
  reset(): void {
    this.#cr0 = this.#cr1 = this.#cr2 = this.#irqCtrl = this.#gerror = this.#gerrorn = 0
    this.#gbpa = this.#options.gbpa ?? 1 << 12
    this.#strtabLo = this.#strtabHi = this.#strtabCfg = 0
    for (const queue of [this.#cmdq, this.#evtq, this.#priq]) queue.reset()
    for (const msi of [this.#gerrorMsi, this.#evtqMsi, this.#priqMsi]) msi.words.fill(0)
    this.#atcTimeout = false
    this.#walker = this.#newWalker()
    this.#updateWalker()
  }

  #newWalker(): Walker {
    this.#caches = this.#caching === 'none' ? undefined : new SoftCaches(this.#caching)
    return new Walker(this.features, this.#memory, this.#caches)
  }

  // Transactions.

  /** Translates a transaction and records the event that it causes, if any. */
  translate(t: Transaction, recorder?: Recorder): Outcome {
    const outcome = this.#walker.translate(t, recorder)
    if (outcome.kind === 'fault' && outcome.record) this.#record(outcome.event)
    return outcome
  }

  /**
   * A DMA of `data.length` bytes: reads memory into `data`, or writes `data` to memory, page by page as translated.
   * @returns undefined if all of it was done, else the outcome that ended it; what came before stays done
   */
  dma(t: Transaction, data: Uint8Array): Exclude<Outcome, Translated> | undefined {
    let address = (BigInt(t.hi) << 32n) | BigInt(t.lo)
    for (let done = 0; done < data.length; ) {
      const at = { ...t, lo: Number(address & 0xffff_ffffn), hi: Number((address >> 32n) & 0xffff_ffffn) }
      const outcome = this.translate(at)
      if (outcome.kind !== 'translated') return outcome
      const length = Math.min(data.length - done, 4096 - (at.lo & 0xfff))
      const ok = t.write
        ? this.#memory.write(outcome.pa, data, done, length)
        : this.#memory.read(outcome.pa, data, done, length)
      if (!ok) return { kind: 'abort' }
      done += length
      address += BigInt(length)
    }
    return undefined
  }

  // Events (IHI 0070 sections 7.2, 7.4).

  #record(event: EventRecord): void {
    const queue = this.#evtq
    if (!(this.#cr0 & R.CR0_EVTQEN) || (this.#gerror ^ this.#gerrorn) & R.GERROR_EVTQ_ABT_ERR) return
    const { log2size } = queue
    // A PROD and CONS that describe no queue count as a full one (IHI 0070 section 3.5.1).
    if (Q.queueSpace(queue.prod, queue.cons, log2size) === 0) {
      if (((queue.prod ^ queue.cons) & R.Q_OVERFLOW_FLAG) === 0) queue.prod = (queue.prod ^ R.Q_OVERFLOW_FLAG) >>> 0
      return
    }
    encodeEvent(event, this.#event)
    if (!this.#memory.write(queue.address(queue.prod), this.#eventBytes, 0, Q.EVTQ_ENTRY_SIZE)) {
      this.#activate(R.GERROR_EVTQ_ABT_ERR)
      return
    }
    const wasEmpty = Q.queueEmpty(queue.prod, queue.cons, log2size)
    queue.prod = ((queue.prod & R.Q_OVERFLOW_FLAG) | Q.queueAdvance(queue.prod, log2size)) >>> 0
    if (wasEmpty && this.#irqCtrl & R.IRQ_CTRL_EVTQ_IRQEN) {
      this.#interrupt('evtq', this.#evtqMsi, R.GERROR_MSI_EVTQ_ABT_ERR)
    }
  }

  /** Activates global errors that are not active yet (IHI 0070 section 7.5). */
  #activate(errors: number): void {
    const inactive = ~(this.#gerror ^ this.#gerrorn) & errors
    if (!inactive) return
    this.#gerror = (this.#gerror ^ inactive) >>> 0
    if (this.#irqCtrl & R.IRQ_CTRL_GERROR_IRQEN && inactive !== R.GERROR_MSI_GERROR_ABT_ERR) {
      this.#interrupt('gerror', this.#gerrorMsi, R.GERROR_MSI_GERROR_ABT_ERR)
    }
  }

  #interrupt(irq: Irq, msi: MsiConfig, abortError: number): void {
    this.#options.onIrq?.(irq)
    const [lo, hi, data] = msi.words
    this.#sendMsi(addressOf(lo, hi), data, abortError)
  }

  /** An address of 0 disables the MSI. */
  #sendMsi(address: number, data: number, abortError: number): void {
    if (!this.features.msi || address === 0) return
    this.#msi[0] = data
    if (!this.#memory.write(address, this.#msiBytes, 0, 4)) this.#activate(abortError)
  }

  // Commands (IHI 0070 sections 4.1, 7.1).

  #consume(): void {
    const queue = this.#cmdq
    while (this.#cr0 & R.CR0_CMDQEN && !((this.#gerror ^ this.#gerrorn) & R.GERROR_CMDQ_ERR)) {
      const { log2size } = queue
      const entries = Q.queueEntries(queue.prod, queue.cons, log2size)
      // A PROD and CONS that describe no queue: nothing is consumed (IHI 0070 section 3.5.1).
      if (entries === 0 || entries > 1 << log2size) return
      const untilWrap = (1 << log2size) - Q.queueIndex(queue.cons, log2size)
      const fetched = this.#fetch(queue.address(queue.cons), Math.min(entries, untilWrap, FETCH_ENTRIES))
      if (fetched === 0) return this.#commandError(R.CMDQ_ERR_CERROR_ABT_IDX)
      for (let i = 0; i < fetched; i++) {
        const error = this.#command(i * C.CMDQ_ENT_WORDS)
        if (error) return this.#commandError(error)
        queue.cons = Q.queueAdvance(queue.cons, log2size)
      }
    }
  }

  /** Commands that could be read: all of `entries`, else those before the first that could not. */
  #fetch(address: number, entries: number): number {
    if (this.#memory.read(address, this.#cmdBytes, 0, entries * Q.CMDQ_ENTRY_SIZE)) return entries
    for (let i = 0; i < entries; i++) {
      const offset = i * Q.CMDQ_ENTRY_SIZE
      if (!this.#memory.read(address + offset, this.#cmdBytes, offset, Q.CMDQ_ENTRY_SIZE)) return i
    }
    return entries
  }

  /** CONS keeps pointing at the command; consumption goes on when software acknowledges the error. */
  #commandError(error: number): void {
    this.#cmdq.cons = Q.queuePointer(this.#cmdq.cons, this.#cmdq.log2size) | (error << 24)
    this.#activate(R.GERROR_CMDQ_ERR)
  }

  #command(base: number): number {
    const cmd = this.#cmds
    switch (getField(cmd, C.CMDQ_0_OP, base)) {
      case C.CMDQ_OP_CMD_SYNC:
        return this.#sync(base)
      case C.CMDQ_OP_ATC_INV:
        return this.#atcInvalidate(base)
      default:
        return execute(cmd, base, this.features, this.#caches, (this.#cr2 & R.CR2_E2H) !== 0)
    }
  }

  /** IHI 0070 section 4.7.3. All earlier commands are complete already. */
  #sync(base: number): number {
    const cs = getField(this.#cmds, C.CMDQ_SYNC_0_CS, base)
    if (cs > C.CMDQ_SYNC_0_CS_SEV) return R.CMDQ_ERR_CERROR_ILL_IDX
    if (this.#atcTimeout) {
      this.#atcTimeout = false
      return R.CMDQ_ERR_CERROR_ATC_INV_IDX
    }
    if (cs === C.CMDQ_SYNC_0_CS_IRQ) {
      this.#options.onIrq?.('sync')
      const data = getField(this.#cmds, C.CMDQ_SYNC_0_MSIDATA, base)
      this.#sendMsi(C.syncMsiAddress(this.#cmds, base), data, R.GERROR_MSI_CMDQ_ABT_ERR)
    }
    return R.CMDQ_ERR_CERROR_NONE_IDX
  }

  /** IHI 0070 section 4.5.1. */
  #atcInvalidate(base: number): number {
    if (!this.features.ats) return R.CMDQ_ERR_CERROR_ILL_IDX
    if (this.#cr0 & R.CR0_SMMUEN) {
      const cmd = this.#cmds.slice(base, base + C.CMDQ_ENT_WORDS)
      if (this.#options.onAtcInvalidate?.(cmd) === false) this.#atcTimeout = true
    }
    return R.CMDQ_ERR_CERROR_NONE_IDX
  }

  // Registers.

  #updateWalker(): void {
    this.#walker.setRegisters({
      cr0: this.#cr0,
      cr2: this.#cr2,
      gbpa: this.#gbpa,
      strtabBaseLo: this.#strtabLo,
      strtabBaseHi: this.#strtabHi,
      strtabBaseCfg: this.#strtabCfg,
    })
  }

  /** The frame is 128 KiB; only aligned accesses of 4 and 8 bytes are supported (IHI 0070 section 6.2). */
  #supported(offset: number, size: number): boolean {
    return (size === 4 || size === 8) && offset % size === 0 && offset >= 0 && offset + size <= R.ARM_SMMU_FRAME_SIZE
  }

  read(offset: number, size: number, into: Halves): boolean {
    into.lo = 0
    into.hi = 0
    if (!this.#supported(offset, size)) return false
    if (size === 4) {
      into.lo = this.#read32(offset)
      return true
    }
    // A 64-bit access to anything but a 64-bit register reads as zero.
    if (R.registerAt(offset)?.bits === 64) {
      into.lo = this.#read32(offset)
      into.hi = this.#read32(offset + 4)
    }
    return true
  }

  write(offset: number, size: number, lo: number, hi: number): boolean {
    if (!this.#supported(offset, size)) return false
    if (size === 4) this.#write32(offset, lo >>> 0)
    else if (R.registerAt(offset)?.bits === 64) {
      this.#write32(offset, lo >>> 0)
      this.#write32(offset + 4, hi >>> 0)
    }
    return true
  }

  #read32(offset: number): number {
    switch (offset) {
      case R.ARM_SMMU_IDR0:
        return this.#id.idr0
      case R.ARM_SMMU_IDR1:
        return this.#id.idr1
      case R.ARM_SMMU_IDR3:
        return this.#id.idr3
      case R.ARM_SMMU_IDR5:
        return this.#id.idr5
      case R.ARM_SMMU_IIDR:
        return this.#options.iidr ?? 0
      case R.ARM_SMMU_AIDR:
        return this.#options.aidr ?? 1
      case R.ARM_SMMU_CR0:
      case R.ARM_SMMU_CR0ACK:
        return this.#cr0
      case R.ARM_SMMU_CR1:
        return this.#cr1
      case R.ARM_SMMU_CR2:
        return this.#cr2
      case R.ARM_SMMU_GBPA:
        return this.#gbpa
      case R.ARM_SMMU_IRQ_CTRL:
      case R.ARM_SMMU_IRQ_CTRLACK:
        return this.#irqCtrl
      case R.ARM_SMMU_GERROR:
        return this.#gerror
      case R.ARM_SMMU_GERRORN:
        return this.#gerrorn
      case R.ARM_SMMU_STRTAB_BASE:
        return this.#strtabLo
      case R.ARM_SMMU_STRTAB_BASE + 4:
        return this.#strtabHi
      case R.ARM_SMMU_STRTAB_BASE_CFG:
        return this.#strtabCfg
      case R.ARM_SMMU_CMDQ_BASE:
        return this.#cmdq.baseLo
      case R.ARM_SMMU_CMDQ_BASE + 4:
        return this.#cmdq.baseHi
      case R.ARM_SMMU_CMDQ_PROD:
        return this.#cmdq.visible(this.#cmdq.prod)
      case R.ARM_SMMU_CMDQ_CONS:
        return this.#cmdq.visible(this.#cmdq.cons)
      case R.ARM_SMMU_EVTQ_BASE:
        return this.#evtq.baseLo
      case R.ARM_SMMU_EVTQ_BASE + 4:
        return this.#evtq.baseHi
      case R.ARM_SMMU_EVTQ_PROD:
        return this.#evtq.visible(this.#evtq.prod)
      case R.ARM_SMMU_EVTQ_CONS:
        return this.#evtq.visible(this.#evtq.cons)
      case R.ARM_SMMU_PRIQ_BASE:
        return this.#priq.baseLo
      case R.ARM_SMMU_PRIQ_BASE + 4:
        return this.#priq.baseHi
      case R.ARM_SMMU_PRIQ_PROD:
        return this.#priq.visible(this.#priq.prod)
      case R.ARM_SMMU_PRIQ_CONS:
        return this.#priq.visible(this.#priq.cons)
      default: {
        const msi = this.#msiAt(offset)
        return msi ? msi.words[(offset - msi.offset) / 4] : 0
      }
    }
  }

  #msiAt(offset: number): MsiConfig | undefined {
    return [this.#gerrorMsi, this.#evtqMsi, this.#priqMsi].find(msi => msi.covers(offset))
  }

  /** Writes to a register while the field that guards it is 1 are ignored, as from version 3.2 on (IHI 0070 section 6.2). */
  #write32(offset: number, value: number): void {
    const smmuOff = !(this.#cr0 & R.CR0_SMMUEN)
    const cmdqOff = !(this.#cr0 & R.CR0_CMDQEN)
    const evtqOff = !(this.#cr0 & R.CR0_EVTQEN)
    const pri = this.features.pri
    const priqOff = pri && !(this.#cr0 & R.CR0_PRIQEN)
    switch (offset) {
      case R.ARM_SMMU_CR0:
        this.#writeCr0(value)
        break
      case R.ARM_SMMU_CR1: {
        const queues = cmdqOff && evtqOff && (priqOff || !pri)
        const mask = (smmuOff ? CR1_TABLE : 0) | (queues ? CR1_QUEUE : 0)
        this.#cr1 = (this.#cr1 & ~mask) | (value & mask)
        break
      }
      case R.ARM_SMMU_CR2:
        if (smmuOff) this.#cr2 = value & (R.CR2_RECINVSID | (this.features.hyp ? R.CR2_E2H : 0))
        this.#updateWalker()
        break
      case R.ARM_SMMU_GBPA:
        if (value & R.GBPA_UPDATE) this.#gbpa = value & GBPA_MASK
        this.#updateWalker()
        break
      case R.ARM_SMMU_IRQ_CTRL:
        this.#irqCtrl = value & (R.IRQ_CTRL_GERROR_IRQEN | R.IRQ_CTRL_EVTQ_IRQEN | (pri ? R.IRQ_CTRL_PRIQ_IRQEN : 0))
        break
      case R.ARM_SMMU_GERRORN:
        this.#gerrorn = value & GERROR_MASK
        this.#consume()
        break
      case R.ARM_SMMU_STRTAB_BASE:
        if (smmuOff) this.#strtabLo = (value & R.STRTAB_BASE_LO_ADDR) >>> 0
        this.#updateWalker()
        break
      case R.ARM_SMMU_STRTAB_BASE + 4:
        if (smmuOff) this.#strtabHi = value & (R.STRTAB_BASE_HI_ADDR | R.STRTAB_BASE_HI_RA)
        this.#updateWalker()
        break
      case R.ARM_SMMU_STRTAB_BASE_CFG:
        if (smmuOff) this.#strtabCfg = value & STRTAB_CFG_MASK
        this.#updateWalker()
        break
      case R.ARM_SMMU_CMDQ_BASE:
        if (cmdqOff) this.#cmdq.baseLo = value
        break
      case R.ARM_SMMU_CMDQ_BASE + 4:
        if (cmdqOff) this.#cmdq.baseHi = value & (R.Q_BASE_HI_ADDR | R.Q_BASE_HI_RWA)
        break
      case R.ARM_SMMU_CMDQ_PROD:
        this.#cmdq.prod = value & Q_POINTER
        this.#consume()
        break
      case R.ARM_SMMU_CMDQ_CONS:
        if (cmdqOff) this.#cmdq.cons = value & (Q_POINTER | R.CMDQ_CONS_ERR)
        break
      case R.ARM_SMMU_EVTQ_BASE:
        if (evtqOff) this.#evtq.baseLo = value
        break
      case R.ARM_SMMU_EVTQ_BASE + 4:
        if (evtqOff) this.#evtq.baseHi = value & (R.Q_BASE_HI_ADDR | R.Q_BASE_HI_RWA)
        break
      case R.ARM_SMMU_EVTQ_PROD:
        if (evtqOff) this.#evtq.prod = (value & (Q_POINTER | R.Q_OVERFLOW_FLAG)) >>> 0
        break
      case R.ARM_SMMU_EVTQ_CONS:
        this.#evtq.cons = (value & (Q_POINTER | R.Q_OVERFLOW_FLAG)) >>> 0
        break
      case R.ARM_SMMU_PRIQ_BASE:
        if (priqOff) this.#priq.baseLo = value
        break
      case R.ARM_SMMU_PRIQ_BASE + 4:
        if (priqOff) this.#priq.baseHi = value & (R.Q_BASE_HI_ADDR | R.Q_BASE_HI_RWA)
        break
      case R.ARM_SMMU_PRIQ_PROD:
        if (priqOff) this.#priq.prod = (value & (Q_POINTER | R.Q_OVERFLOW_FLAG)) >>> 0
        break
      case R.ARM_SMMU_PRIQ_CONS:
        if (pri) this.#priq.cons = (value & (Q_POINTER | R.Q_OVERFLOW_FLAG)) >>> 0
        break
      default: {
        const msi = this.#msiAt(offset)
        if (msi && !(this.#irqCtrl & msi.enable)) msi.write(offset, value)
      }
    }
  }

  #writeCr0(value: number): void {
    const mask = CR0_MASK | (this.features.pri ? R.CR0_PRIQEN : 0) | (this.features.ats ? R.CR0_ATSCHK : 0)
    this.#cr0 = value & mask
    this.#updateWalker()
    this.#consume()
  }
}
