// SPDX-License-Identifier: Apache-2.0
/**
 * An SMMUv3 in software behind the `SmmuHardware` port: the Non-secure programming interface of IHI 0070 chapter 6, put together from
 * the parts beside this file, and translation of transactions through caches that forget only what commands name. Every write takes
 * effect before it returns, unless the options make it late.
 */

import { getField, type Halves } from '../bits.ts'
import * as C from '../commands.ts'
import { decodeFeatures, type Features, type IdRegisters, QEMU_NESTED_ID_REGISTERS } from '../features.ts'
import type { PowerState, SmmuHardware } from '../hardware.ts'
import type { GuestMemory } from '../memory.ts'
import type { PageRequest } from '../pageRequest.ts'
import { CMDQ_ENTRY_SIZE, EVTQ_ENTRY_SIZE, PRIQ_ENTRY_SIZE } from '../queue.ts'
import * as R from '../registers.ts'
import { ABORTED, type Outcome, type Transaction, type Translated } from '../transaction.ts'
import { Walker, type WalkRegisters } from '../walker.ts'
import type { Recorder } from '../walkSteps.ts'
import { Ats, type Completion, type TranslatedTransaction, type TranslationRequest } from './ats.ts'
import { SoftCaches } from './caches.ts'
import { CommandQueue } from './cmdq.ts'
import { EventQueue } from './evtq.ts'
import { execute } from './execute.ts'
import { GlobalErrors } from './gerror.ts'
import { Interrupts } from './msi.ts'
import type { SoftSmmuOptions } from './options.ts'
import { PriQueue } from './pri.ts'
import { Q_POINTER, QueueRegisters } from './queueRegisters.ts'
import { Stalls } from './stall.ts'
import type { TornFetches } from './tearing.ts'
import { ControlRegister } from './update.ts'

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
/** Index, wrap bit and overflow flag. */
const Q_POINTER_AND_FLAG = Q_POINTER + R.Q_OVERFLOW_FLAG

export class SoftSmmu implements SmmuHardware {
  readonly features: Features
  readonly #id: IdRegisters
  readonly #options: SoftSmmuOptions
  readonly #memory: GuestMemory
  readonly #caches: SoftCaches | undefined
  readonly #walker: Walker

  readonly #cr0 = new ControlRegister()
  #cr1 = 0
  readonly #cr2 = { value: 0 }
  #gbpa = 0
  /** What GBPA will be; the two differ while GBPA.UPDATE is 1. */
  #gbpaWritten = 0
  #strtabLo = 0
  #strtabHi = 0
  #strtabCfg = 0
  readonly #cmdq: QueueRegisters
  readonly #evtq: QueueRegisters
  readonly #priq: QueueRegisters
  readonly #interrupts: Interrupts
  readonly #errors: GlobalErrors
  readonly #commands: CommandQueue
  readonly #events: EventQueue
  readonly #pri: PriQueue
  readonly #ats: Ats
  readonly #stalls: Stalls
  #power: PowerState = 'on'
  /** A CMD_ATC_INV since the last CMD_SYNC timed out. */
  #atcTimeout = false
  /** Structures that were invalidated since the last CMD_SYNC; undefined: all. Only where fetches are torn. */
  #invalidated: number[] | undefined = []

  // Accesses until what is late happens; 0: nothing is. Only with options.lag.
  #updateDue = 0
  #commandDue = 0

  /** @throws RangeError for ID registers that promise what is not modelled */
  constructor(memory: GuestMemory, options: SoftSmmuOptions = {}) {
    this.#id = options.id ?? QEMU_NESTED_ID_REGISTERS
    const features = decodeFeatures(this.#id)
    this.features = features
    if (features.stallModel > R.IDR0_STALL_MODEL_FORCE) throw new RangeError('IDR0.STALL_MODEL is Reserved')
    if (features.stallModel !== R.IDR0_STALL_MODEL_NONE && features.stallMax === 0) {
      throw new RangeError('IDR0.STALL_MODEL promises stalls and IDR5.STALL_MAX none')
    }
    this.#memory = memory
    this.#options = options
    const fetches = watched(memory, options.onRead)
    const caching = options.caching ?? 'architectural'
    this.#caches = caching === 'none' ? undefined : new SoftCaches(caching, options.onConflict)
    this.#walker = new Walker(features, torn(fetches, options.torn), this.#caches)
    const aligned = !options.unalignedQueues
    this.#cmdq = new QueueRegisters(features.cmdqs, CMDQ_ENTRY_SIZE, aligned)
    this.#evtq = new QueueRegisters(features.evtqs, EVTQ_ENTRY_SIZE, aligned)
    this.#priq = new QueueRegisters(features.priqs, PRIQ_ENTRY_SIZE, aligned)
    const cr0 = this.#cr0
    this.#interrupts = new Interrupts(features, memory, options)
    this.#errors = new GlobalErrors(this.#interrupts)
    this.#events = new EventQueue(this.#evtq, cr0, this.#errors, this.#interrupts.evtq, memory, options.onWrite)
    this.#commands = new CommandQueue(this.#cmdq, cr0, this.#errors, fetches, this.#command, options.lag)
    this.#ats = new Ats(features, this.#walker, cr0, this.#cr2, this.#events)
    this.#stalls = new Stalls(features, this.#events, options.onResume, t => this.translate(t))
    this.#pri = new PriQueue(
      features,
      this.#priq,
      cr0,
      this.#errors,
      this.#interrupts,
      memory,
      options,
      // A requester's STE is looked up only where translation is enabled.
      request => this.#ats.ppar(request),
    )
    this.reset()
  }

  /** To the state after a reset, on; caches are empty. */
  reset(): void {
    this.#power = 'on'
    this.#cr0.reset()
    this.#cr1 = this.#cr2.value = 0
    this.#gbpa = this.#gbpaWritten = this.#options.gbpa ?? 1 << 12
    this.#strtabLo = this.#strtabHi = this.#strtabCfg = 0
    for (const queue of [this.#cmdq, this.#evtq, this.#priq]) queue.reset()
    this.#interrupts.reset()
    this.#errors.reset()
    this.#commands.reset()
    this.#stalls.reset()
    this.#caches?.clear()
    this.#options.torn?.settleAll()
    this.#atcTimeout = false
    this.#invalidated = []
    this.#updateDue = this.#commandDue = 0
    this.#updateWalker()
  }

  // Power.

  /**
   * Switches it off or on. Off, it takes no access to its frame and lets no transaction pass; those that it held are gone. On again, it
   * is as it was, caches included, or as after a reset, with values in its base registers that nobody wrote.
   */
  power(state: PowerState): void {
    if (state === this.#power) return
    if (state === 'off') this.#lose()
    this.#power = state
    this.#stalls.reset()
    this.#updateWalker()
  }

  #lose(): void {
    this.reset()
    const { unknown } = this.#options
    if (unknown === undefined) return
    const strtab = unknown()
    this.#strtabLo = (strtab & R.STRTAB_BASE_LO_ADDR) >>> 0
    this.#strtabHi = Math.floor(strtab / 2 ** 32) & R.STRTAB_BASE_HI_ADDR
    this.#strtabCfg = unknown() & STRTAB_CFG_MASK
    for (const queue of [this.#cmdq, this.#evtq, this.#priq]) {
      const base = unknown()
      queue.baseLo = base >>> 0
      queue.baseHi = Math.floor(base / 2 ** 32) & R.Q_BASE_HI_ADDR
      queue.prod = unknown() & Q_POINTER
      queue.cons = unknown() & Q_POINTER
    }
    const { gerror, evtq, priq } = this.#interrupts
    for (const source of [gerror, evtq, priq]) {
      const address = unknown()
      source.write(source.offset, address >>> 0)
      source.write(source.offset + 4, Math.floor(address / 2 ** 32))
    }
  }

  // Transactions.

  /** Translates a transaction and records the event that it causes, if any. A fault that stalls holds it. */
  translate(t: Transaction, recorder?: Recorder): Outcome {
    const outcome = this.#walker.translate(t, recorder)
    if (outcome.kind === 'fault' && outcome.record) {
      if (outcome.response === 'stall') return this.#stalls.hold(t, outcome)
      this.#events.record(outcome.event)
    }
    return outcome
  }

  /**
   * What registers and tables make of a transaction now, whatever is cached. Nothing is recorded, held, or kept.
   * @param recorder is told every fetch
   */
  walk(t: Transaction, recorder?: Recorder): Outcome {
    const walker = new Walker(this.features, this.#memory)
    walker.setRegisters(this.walkRegisters)
    return walker.translate(t, recorder)
  }

  /** A PCIe ATS Translation Request (IHI 0070 section 3.9.1.2). */
  translationRequest(request: TranslationRequest): Completion {
    return this.#power === 'on' ? this.#ats.request(request) : { status: 'unsupported-request' }
  }

  /** A transaction that a device marks as Translated (IHI 0070 section 3.9.1.3). */
  translatedTransaction(t: TranslatedTransaction): Outcome {
    return this.#power === 'on' ? this.#ats.translated(t) : ABORTED
  }

  /** A PRI page request (chapter 8); ignored without IDR0.PRI, and while it is off. */
  pageRequest(request: PageRequest): void {
    if (this.features.pri && this.#power === 'on') this.#pri.request(request)
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

  // Time.

  /** Lets everything happen that is late: acknowledgements, and the consumption of commands. */
  step(): void {
    if (this.#power !== 'on') return
    if (this.#updateDue > 0) this.#completeUpdates()
    this.#commandDue = 0
    this.#commands.finish()
  }

  /** An access takes time. */
  #elapse(): void {
    if (this.#updateDue > 0 && --this.#updateDue === 0) this.#completeUpdates()
    if (this.#commandDue > 0 && --this.#commandDue === 0) this.#consume()
  }

  /** A write of CR0, IRQ_CTRL or GBPA is under way; `early` puts it to use before it is acknowledged. */
  #startUpdate(early: () => void): void {
    const { lag } = this.#options
    const due = lag?.update() ?? 0
    if (lag === undefined || due === 0) {
      this.#completeUpdates()
      return
    }
    this.#updateDue = Math.max(this.#updateDue, due)
    if (lag.early()) early()
  }

  #completeUpdates(): void {
    this.#updateDue = 0
    const before = this.#cr0.value | this.#cr0.acknowledged
    this.#cr0.complete()
    this.#interrupts.control.complete()
    this.#gbpa = this.#gbpaWritten
    if (before & ~this.#cr0.value & R.CR0_SMMUEN) this.#stalls.terminate(undefined)
    this.#controlChanged()
  }

  /** Something that the SMMU acts on has changed. */
  #controlChanged(): void {
    this.#updateWalker()
    this.#stalls.flush()
    this.#consume()
  }

  // Commands (chapter 4).

  #consume(): void {
    if (this.#commandDue === 0) this.#commandDue = this.#commands.consume()
  }

  readonly #command = (cmd: Uint32Array, base: number): number => {
    const opcode = getField(cmd, C.CMDQ_0_OP, base)
    if (opcode === C.CMDQ_OP_CMD_SYNC) return this.#sync(cmd, base)
    if (opcode === C.CMDQ_OP_ATC_INV) return this.#atcInvalidate(cmd, base)
    const error = execute(cmd, base, this.features, this.#caches, (this.#cr2.value & R.CR2_E2H) !== 0)
    if (error) return error
    switch (opcode) {
      case C.CMDQ_OP_PRI_RESP:
        this.#pri.respond(cmd, base)
        break
      case C.CMDQ_OP_RESUME:
        this.#stalls.resume(cmd, base)
        break
      case C.CMDQ_OP_STALL_TERM:
        this.#stalls.terminate(getField(cmd, C.CMDQ_RESUME_0_SID, base))
        break
      default:
        if (this.#options.torn !== undefined) this.#invalidate(opcode, cmd, base)
    }
    return R.CMDQ_ERR_CERROR_NONE_IDX
  }

  /** IHI 0070 section 4.7.3. All earlier commands are complete already. */
  #sync(cmd: Uint32Array, base: number): number {
    const cs = getField(cmd, C.CMDQ_SYNC_0_CS, base)
    if (cs > C.CMDQ_SYNC_0_CS_SEV) return R.CMDQ_ERR_CERROR_ILL_IDX
    if (this.#atcTimeout) {
      this.#atcTimeout = false
      return R.CMDQ_ERR_CERROR_ATC_INV_IDX
    }
    if (this.#options.torn !== undefined) this.#settle()
    if (cs === C.CMDQ_SYNC_0_CS_IRQ) {
      const data = getField(cmd, C.CMDQ_SYNC_0_MSIDATA, base)
      if (!this.#interrupts.complete(C.syncMsiAddress(cmd, base), data)) {
        this.#errors.activate(R.GERROR_MSI_CMDQ_ABT_ERR)
      }
    }
    return R.CMDQ_ERR_CERROR_NONE_IDX
  }

  /** IHI 0070 section 4.5.1. */
  #atcInvalidate(cmd: Uint32Array, base: number): number {
    if (!this.features.ats) return R.CMDQ_ERR_CERROR_ILL_IDX
    const { onAtcInvalidate } = this.#options
    if (onAtcInvalidate !== undefined && this.#cr0.value & R.CR0_SMMUEN) {
      if (!onAtcInvalidate(cmd.slice(base, base + C.CMDQ_ENT_WORDS))) this.#atcTimeout = true
    }
    return R.CMDQ_ERR_CERROR_NONE_IDX
  }

  /** Structures that no fetch may be under way for after the next CMD_SYNC. A CD is found by its STE alone: all are. */
  #invalidate(opcode: number, cmd: Uint32Array, base: number): void {
    const sid = getField(cmd, C.CMDQ_CFGI_0_SID, base)
    switch (opcode) {
      case C.CMDQ_OP_CFGI_STE: {
        const address = this.#walker.steAddress(sid)
        if (address !== undefined) this.#invalidated?.push(address)
        break
      }
      case C.CMDQ_OP_CFGI_ALL:
      case C.CMDQ_OP_CFGI_CD:
      case C.CMDQ_OP_CFGI_CD_ALL:
        this.#invalidated = undefined
    }
  }

  #settle(): void {
    const { torn } = this.#options
    if (this.#invalidated === undefined) torn?.settleAll()
    else for (const address of this.#invalidated) torn?.settle(address)
    this.#invalidated = []
  }

  // Registers.

  /** The registers that translation depends on, as they are in use. Off, it is as one that aborts. */
  get walkRegisters(): WalkRegisters {
    const off = this.#power !== 'on'
    return {
      cr0: off ? 0 : this.#cr0.value,
      cr2: this.#cr2.value,
      gbpa: off ? R.GBPA_ABORT : this.#gbpa,
      strtabBaseLo: this.#strtabLo,
      strtabBaseHi: this.#strtabHi,
      strtabBaseCfg: this.#strtabCfg,
    }
  }

  #updateWalker(): void {
    this.#walker.setRegisters(this.walkRegisters)
  }

  /** The frame is 128 KiB; only aligned accesses of 4 and 8 bytes are supported (IHI 0070 section 6.2), and only while it is on. */
  #supported(offset: number, size: number): boolean {
    if (this.#power !== 'on') return false
    return (size === 4 || size === 8) && offset % size === 0 && offset >= 0 && offset + size <= R.ARM_SMMU_FRAME_SIZE
  }

  read(offset: number, size: number, into: Halves): boolean {
    into.lo = 0
    into.hi = 0
    if (!this.#supported(offset, size)) return false
    if (this.#updateDue + this.#commandDue > 0) this.#elapse()
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
    if (this.#updateDue + this.#commandDue > 0) this.#elapse()
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
        return this.#cr0.written
      case R.ARM_SMMU_CR0ACK:
        return this.#cr0.acknowledged
      case R.ARM_SMMU_CR1:
        return this.#cr1
      case R.ARM_SMMU_CR2:
        return this.#cr2.value
      case R.ARM_SMMU_GBPA:
        return this.#gbpa === this.#gbpaWritten ? this.#gbpa : (this.#gbpa | R.GBPA_UPDATE) >>> 0
      case R.ARM_SMMU_IRQ_CTRL:
        return this.#interrupts.control.written
      case R.ARM_SMMU_IRQ_CTRLACK:
        return this.#interrupts.control.acknowledged
      case R.ARM_SMMU_GERROR:
        return this.#errors.gerror
      case R.ARM_SMMU_GERRORN:
        return this.#errors.gerrorn
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
        const source = this.#interrupts.at(offset)
        return source ? source.words[(offset - source.offset) / 4] : 0
      }
    }
  }

  /** A register that `bit` of CR0 guards takes a write; otherwise it is ignored, as from version 3.2 on (IHI 0070 section 6.2). */
  #writable(bit: number): boolean {
    return this.#options.unguarded === true || !this.#cr0.guards(bit)
  }

  #write32(offset: number, value: number): void {
    const { pri } = this.features
    switch (offset) {
      case R.ARM_SMMU_CR0:
        this.#writeCr0(value)
        break
      case R.ARM_SMMU_CR1: {
        const queues = R.CR0_CMDQEN | R.CR0_EVTQEN | R.CR0_PRIQEN
        const mask = (this.#writable(R.CR0_SMMUEN) ? CR1_TABLE : 0) | (this.#writable(queues) ? CR1_QUEUE : 0)
        this.#cr1 = (this.#cr1 & ~mask) | (value & mask)
        break
      }
      case R.ARM_SMMU_CR2:
        if (this.#writable(R.CR0_SMMUEN)) this.#writeCr2(value)
        break
      case R.ARM_SMMU_GBPA:
        // Behaviour while an Update is under way is unpredictable (IHI 0070 section 6.3.14): ignored.
        if (!(value & R.GBPA_UPDATE) || this.#gbpa !== this.#gbpaWritten) break
        this.#gbpaWritten = value & GBPA_MASK
        this.#startUpdate(() => {})
        break
      case R.ARM_SMMU_IRQ_CTRL: {
        const mask = R.IRQ_CTRL_GERROR_IRQEN | R.IRQ_CTRL_EVTQ_IRQEN | (pri ? R.IRQ_CTRL_PRIQ_IRQEN : 0)
        const { control } = this.#interrupts
        if (control.write(value & mask)) this.#startUpdate(() => control.takeEffect())
        break
      }
      case R.ARM_SMMU_GERRORN:
        this.#errors.gerrorn = value & GERROR_MASK
        this.#stalls.flush()
        this.#consume()
        break
      case R.ARM_SMMU_STRTAB_BASE:
        if (this.#writable(R.CR0_SMMUEN)) this.#strtabLo = (value & R.STRTAB_BASE_LO_ADDR) >>> 0
        this.#updateWalker()
        break
      case R.ARM_SMMU_STRTAB_BASE + 4:
        if (this.#writable(R.CR0_SMMUEN)) this.#strtabHi = value & (R.STRTAB_BASE_HI_ADDR | R.STRTAB_BASE_HI_RA)
        this.#updateWalker()
        break
      case R.ARM_SMMU_STRTAB_BASE_CFG:
        if (this.#writable(R.CR0_SMMUEN)) this.#strtabCfg = value & STRTAB_CFG_MASK
        this.#updateWalker()
        break
      case R.ARM_SMMU_CMDQ_BASE:
        if (this.#writable(R.CR0_CMDQEN)) this.#cmdq.baseLo = value
        break
      case R.ARM_SMMU_CMDQ_BASE + 4:
        if (this.#writable(R.CR0_CMDQEN)) this.#cmdq.baseHi = value & (R.Q_BASE_HI_ADDR | R.Q_BASE_HI_RWA)
        break
      case R.ARM_SMMU_CMDQ_PROD:
        this.#cmdq.prod = value & Q_POINTER
        this.#consume()
        break
      case R.ARM_SMMU_CMDQ_CONS:
        if (this.#writable(R.CR0_CMDQEN)) this.#cmdq.cons = value & (Q_POINTER | R.CMDQ_CONS_ERR)
        break
      case R.ARM_SMMU_EVTQ_BASE:
        if (this.#writable(R.CR0_EVTQEN)) this.#evtq.baseLo = value
        break
      case R.ARM_SMMU_EVTQ_BASE + 4:
        if (this.#writable(R.CR0_EVTQEN)) this.#evtq.baseHi = value & (R.Q_BASE_HI_ADDR | R.Q_BASE_HI_RWA)
        break
      case R.ARM_SMMU_EVTQ_PROD:
        if (this.#writable(R.CR0_EVTQEN)) this.#evtq.prod = (value & Q_POINTER_AND_FLAG) >>> 0
        break
      case R.ARM_SMMU_EVTQ_CONS:
        this.#evtq.cons = (value & Q_POINTER_AND_FLAG) >>> 0
        this.#stalls.flush()
        break
      case R.ARM_SMMU_PRIQ_BASE:
        if (pri && this.#writable(R.CR0_PRIQEN)) this.#priq.baseLo = value
        break
      case R.ARM_SMMU_PRIQ_BASE + 4:
        if (pri && this.#writable(R.CR0_PRIQEN)) this.#priq.baseHi = value & (R.Q_BASE_HI_ADDR | R.Q_BASE_HI_RWA)
        break
      case R.ARM_SMMU_PRIQ_PROD:
        if (pri && this.#writable(R.CR0_PRIQEN)) this.#priq.prod = (value & Q_POINTER_AND_FLAG) >>> 0
        break
      case R.ARM_SMMU_PRIQ_CONS:
        if (pri) this.#priq.cons = (value & Q_POINTER_AND_FLAG) >>> 0
        break
      default: {
        const source = this.#interrupts.at(offset)
        const open = this.#options.unguarded || (source && !this.#interrupts.control.guards(source.enable))
        if (open) source?.write(offset, value)
      }
    }
  }

  #writeCr0(value: number): void {
    const mask = CR0_MASK | (this.features.pri ? R.CR0_PRIQEN : 0) | (this.features.ats ? R.CR0_ATSCHK : 0)
    if (this.#cr0.write(value & mask)) this.#startUpdate(this.#earlyCr0)
  }

  readonly #earlyCr0 = (): void => {
    this.#cr0.takeEffect()
    this.#controlChanged()
  }

  #writeCr2(value: number): void {
    const { hyp, atsRecErr } = this.features
    this.#cr2.value = value & (R.CR2_RECINVSID | (hyp ? R.CR2_E2H : 0) | (atsRecErr ? R.CR2_REC_CFG_ATS : 0))
    this.#updateWalker()
  }
}

/** Memory whose reads somebody is told of. */
function watched(memory: GuestMemory, onRead: SoftSmmuOptions['onRead']): GuestMemory {
  if (onRead === undefined) return memory
  return {
    ram: memory.ram,
    read(address, target, offset, length) {
      onRead(address, length)
      return memory.read(address, target, offset, length)
    },
    write: (address, source, offset, length) => memory.write(address, source, offset, length),
  }
}

/** Memory as a walker reads it: structures may be torn. Commands are not: PROD is written behind them. */
function torn(memory: GuestMemory, fetches: TornFetches | undefined): GuestMemory {
  if (fetches === undefined) return memory
  return {
    ram: memory.ram,
    read(address, target, offset, length) {
      if (!memory.read(address, target, offset, length)) return false
      fetches.tear(address, target, offset, length)
      return true
    },
    write: (address, source, offset, length) => memory.write(address, source, offset, length),
  }
}
