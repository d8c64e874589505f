// SPDX-License-Identifier: Apache-2.0
/**
 * The host's command queue (server/hypervisor/README.md, section 6.1): its entries are copied once and filtered, and what is kept
 * goes into the shadow queue. The hardware never reads it.
 *
 * Nothing is allocated in here while commands flow.
 */
import { COMMAND_DROPPED, COMMAND_KEPT, COMMAND_REWRITTEN } from '../../policy/report.ts'
import { EIO } from '../../policy/result.ts'
import { TWO_POW_32 } from '../../smmu/bits.ts'
import { CMDQ_ENT_WORDS } from '../../smmu/commands.ts'
import {
  CMDQ_ENTRY_SIZE,
  MAX_QUEUE_LOG2SIZE,
  queueAdvance,
  queueBase,
  queueEntries,
  queueIndex,
  queueLog2Size,
  queuePointer,
} from '../../smmu/queue.ts'
import { ARM_SMMU_CR0, CR0_CMDQEN } from '../../smmu/registers.ts'
import { commandPlaces } from './commandPlaces.ts'
import { type CommandContext, type CommandRule, ISSUING_OPCODES } from './commandRules.ts'
import type { SmmuContext } from './context.ts'
import type { SentCommands, ShadowCmdq } from './shadowCmdq.ts'
import { SHADOW_CMDQ_ENTRIES } from './shadowCmdqSize.ts'
import { StateLayout } from './stateLayout.ts'
import { HYP_CMDQ_FETCH, HYP_CMDQ_PROD } from './warnings.ts'

/** CMDQ_BASE, CMDQ_PROD and CMDQ_CONS as the host wrote them; what a checkpoint holds. */
export interface HostCmdqRegisters {
  baseLo: number
  baseHi: number
  prod: number
  /** Since CMDQEN: behind the last command that was copied. What the host reads is behind it while the hardware is. */
  cons: number
  /** Commands are left to copy: the hardware does not consume those before. */
  unfinished: boolean
}

const NO_REGISTERS: HostCmdqRegisters = { baseLo: 0, baseHi: 0, prod: 0, cons: 0, unfinished: false }

export const HOST_CMDQ_STATE = new StateLayout<HostCmdqRegisters>({
  baseLo: 'u32',
  baseHi: 'u32',
  prod: 'u32',
  cons: 'u32',
  unfinished: 'flag',
})

export class HostCmdq {
  readonly #smmu: SmmuContext
  readonly #shadow: ShadowCmdq
  readonly #rules: readonly (CommandRule | undefined)[]
  /** By opcode: 1 for those of ISSUING_OPCODES. */
  readonly #issuing = Uint8Array.from({ length: 256 }, (_, opcode) => (ISSUING_OPCODES.has(opcode) ? 1 : 0))
  readonly #context: CommandContext
  readonly #predictsCons: boolean
  readonly registers: HostCmdqRegisters = { ...NO_REGISTERS }
  /** The copy of at most a whole shadow queue. */
  readonly #words = new Uint32Array(CMDQ_ENT_WORDS * SHADOW_CMDQ_ENTRIES)
  readonly #bytes = new Uint8Array(this.#words.buffer)
  /** Of each command of the copy: its place in the host's queue. */
  readonly #origins = new Uint32Array(SHADOW_CMDQ_ENTRIES)
  /** Where the queue is while it is enabled. */
  #address = 0
  #log2size = 0
  /** After a take-over: commands of the trap that is repeated which the hardware has already and must not get twice. */
  #alreadyIssued: Uint32Array[] = []
  /** After a take-over: what the hardware has, until it is known which of the host's commands that is. */
  #sent: SentCommands | null = null

  /**
   * @param rules by opcode
   * @param context what the rules may use
   * @param predictsCons the host's CMDQ_CONS is what this class says, so that its reads may be predicted
   */
  constructor(
    smmu: SmmuContext,
    shadow: ShadowCmdq,
    rules: readonly (CommandRule | undefined)[],
    context: CommandContext,
    predictsCons: boolean,
  ) {
    this.#smmu = smmu
    this.#shadow = shadow
    this.#rules = rules
    this.#context = context
    this.#predictsCons = predictsCons
  }

  reset(): void {
    Object.assign(this.registers, NO_REGISTERS)
    this.#alreadyIssued = []
    this.#sent = null
  }

  get log2size(): number {
    return queueLog2Size(this.registers.baseLo, Math.min(this.#smmu.features.cmdqBits, MAX_QUEUE_LOG2SIZE))
  }

  /** By CMDQ_BASE. */
  get address(): number {
    return queueBase(this.registers.baseLo, this.registers.baseHi, this.log2size, CMDQ_ENTRY_SIZE)
  }

  get bytes(): number {
    return CMDQ_ENTRY_SIZE * 2 ** this.log2size
  }

  /** CMDQEN 0 → 1. */
  enable(): number {
    const { hyp, hardware } = this.#smmu
    // The hardware's queue may be on already: what is in it has to run, or to have stopped, before it is put aside.
    if (hyp.choices.independentEnables && (hardware.read32(ARM_SMMU_CR0) & CR0_CMDQEN) !== 0) {
      if (!this.#shadow.stands() && !this.#shadow.catchUp()) return EIO
    }
    this.#locate()
    this.#sent = null
    this.#shadow.discard(this.registers.cons)
    this.#shadow.origin = queuePointer(this.registers.cons, this.#log2size)
    return hyp.share.sharePinned(this.#address, this.bytes)
  }

  /**
   * CMDQEN 1 → 0. What is not copied yet is not any more: its memory is the host's to give away. CMDQ_CONS stays where the hardware is,
   * as without a hypervisor: from there on commands are copied when the queue is enabled again.
   */
  disable(): number {
    if (this.#sent !== null) this.#place(this.#sent)
    const { hardware } = this.#smmu
    const shadow = this.#shadow
    const reads = () => (hardware.read32(ARM_SMMU_CR0) & CR0_CMDQEN) !== 0 && !shadow.stands()
    if (!shadow.idle && !reads()) this.#takeBack()
    this.registers.unfinished = false
    this.#alreadyIssued = []
    return this.#smmu.hyp.share.unsharePinned(this.#address, this.bytes)
  }

  /** The base register cannot change while the queue is enabled. */
  #locate(): void {
    this.#log2size = this.log2size
    this.#address = this.address
  }

  /**
   * Everything up to CMDQ_PROD is filtered, and the hardware gets what is kept.
   * @param posts the host has written CMDQ_PROD and will look at CMDQ_CONS next: that read may be predicted
   */
  process(posts: boolean): void {
    const { registers } = this
    const log2size = this.#log2size
    const shadow = this.#shadow
    if (this.#sent !== null) this.#place(this.#sent)
    // Hardware that stopped at a command reads no other before the host has acknowledged that.
    if (shadow.stands()) return
    let left = queueEntries(registers.prod, registers.cons, log2size)
    if (left > 1 << log2size) {
      this.#smmu.warn(HYP_CMDQ_PROD, registers.prod, registers.cons, left, 0)
      return
    }
    shadow.begin()
    let held = false
    let cons = queuePointer(registers.cons, log2size)
    while (left > 0 && !held) {
      const count = this.#fetch(cons, left)
      // What cannot be read is not tried again.
      const done = count > 0 ? this.#filter(cons, count) : left
      cons = queueAdvance(cons, log2size, done)
      left -= done
      held = done < count
    }
    registers.cons = cons
    shadow.origin = cons
    registers.unfinished = left > 0
    if (left === 0 && this.#alreadyIssued.length > 0) this.#alreadyIssued = []
    // What is held back has been waited for.
    if (!held) shadow.submit(posts && this.#predictsCons && left === 0 ? cons : null)
  }

  /** Copies the commands from `cons` on, at most `left`, that lie behind one another. @returns how many; 0: memory cannot be read */
  #fetch(cons: number, left: number): number {
    const { hyp } = this.#smmu
    const log2size = this.#log2size
    const index = queueIndex(cons, log2size)
    const count = Math.min(left, SHADOW_CMDQ_ENTRIES, (1 << log2size) - index)
    const address = this.#address + index * CMDQ_ENTRY_SIZE
    if (hyp.memory.read(address, this.#bytes, 0, count * CMDQ_ENTRY_SIZE)) return count
    this.#smmu.warn(HYP_CMDQ_FETCH, address >>> 0, Math.floor(address / TWO_POW_32), left * CMDQ_ENTRY_SIZE, 0)
    return 0
  }

  /**
   * Filters the first `count` commands of the copy, which begins at `cons`. What is kept moves up, so that dropped commands
   * leave no hole.
   * @returns how many are done: all, or those before one that the hardware's consumption has to be waited for
   */
  #filter(cons: number, count: number): number {
    const words = this.#words
    const origins = this.#origins
    const rules = this.#rules
    const issuing = this.#issuing
    const shadow = this.#shadow
    const { index, hyp } = this.#smmu
    const { report } = hyp
    /** Kept commands that are not yet in the shadow queue. */
    let from = 0
    let to = 0
    for (let i = 0; i < count; i++) {
      const at = CMDQ_ENT_WORDS * i
      const opcode = words[at] & 0xff
      const rule = rules[opcode]
      let verdict: number = COMMAND_KEPT
      if (rule !== undefined) {
        if (issuing[opcode] === 1) {
          from += shadow.append(this.#bytes, origins, from, to - from)
          if (from < to) return origins[from] - cons
          // The hypervisor's commands for it would wait behind what the hardware does not consume.
          if (!shadow.catchUp()) return i
          shadow.origin = cons + i
        }
        verdict = rule(words, at, this.#context)
      }
      if (this.#alreadyIssued.length !== 0 && verdict !== COMMAND_DROPPED && this.#wasIssued(words, at)) {
        verdict = COMMAND_DROPPED
      }
      if (verdict === COMMAND_KEPT || verdict === COMMAND_REWRITTEN) {
        report.command(index, opcode, verdict)
        if (to !== i) words.copyWithin(CMDQ_ENT_WORDS * to, at, at + CMDQ_ENT_WORDS)
        origins[to++] = cons + i
      } else {
        // A policy file is not type-checked: what is no verdict must not pass.
        report.command(index, opcode, COMMAND_DROPPED)
      }
    }
    from += shadow.append(this.#bytes, origins, from, to - from)
    return from < to ? origins[from] - cons : count
  }

  /** CMDQ_CONS as the host reads it. */
  readCons(): number {
    if (!this.#smmu.enabled(CR0_CMDQEN)) return this.#shadow.withError(this.registers.cons)
    if (this.#sent !== null) this.#place(this.#sent)
    const moves = !this.#shadow.idle
    const cons = this.#shadow.hostCons(this.registers.cons)
    if (moves) this.#smmu.hyp.queueMoved()
    // It goes on as soon as the hardware does: the host may wait for that and write nothing.
    if (this.registers.unfinished && this.#shadow.idle) {
      this.process(false)
      return this.#shadow.hostCons(this.registers.cons)
    }
    return cons
  }

  /**
   * The host acknowledges CMDQ_ERR. It has replaced the command that the hardware stopped at, in its own queue: from there on
   * everything is copied again, by `process`, and what the hardware has of it does not run (IHI 0070 section 7.1).
   */
  acknowledge(): void {
    if (this.#sent !== null) this.#place(this.#sent)
    if (!this.#shadow.stands()) return
    // CMDQ_CONS of a queue that is disabled is what the host wrote.
    if (this.#smmu.enabled(CR0_CMDQEN)) this.#takeBack()
    else this.#shadow.discard(this.registers.cons)
  }

  /** What the hardware has not consumed does not run, and is copied again. The hardware reads no commands. */
  #takeBack(): void {
    const { registers } = this
    const cons = queuePointer(this.#shadow.hostCons(registers.cons), this.#log2size)
    // Those before it that a trap without an answer had sent, before a take-over, are copied again: their CFGI_STEs have been undone.
    if (queueEntries(registers.cons, cons, this.#log2size) <= 1 << this.#log2size) registers.cons = cons
    this.#shadow.origin = cons
    this.#shadow.discard(cons)
  }

  // Take-over.

  restore(registers: HostCmdqRegisters): void {
    Object.assign(this.registers, registers)
    this.#locate()
    this.#shadow.origin = registers.cons
  }

  /** After `restore`, with the hardware's queue where it stands. @returns false when it cannot be read */
  resume(): boolean {
    const { registers } = this
    const found = this.#shadow.resume(registers.cons)
    if (found === null) return false
    this.#alreadyIssued = found.issued
    if (!this.#smmu.enabled(CR0_CMDQEN)) return true
    this.#sent = this.#shadow.idle ? null : found.sent
    if (found.again === null) return true
    registers.cons = found.again
    registers.unfinished = true
    this.#shadow.origin = found.again
    return true
  }

  /**
   * The host changes no command before CMDQ_CONS is behind it, so what they say tells which of them the hardware has. Not before the
   * trap is repeated: it may be the one that writes CMDQ_PROD.
   */
  #place(sent: SentCommands): void {
    this.#sent = null
    const log2size = this.#log2size
    const first = queuePointer(sent.origin, log2size)
    const count = Math.min(queueEntries(this.registers.prod, first, log2size), 1 << log2size)
    const host = new Uint32Array(CMDQ_ENT_WORDS * count)
    const bytes = new Uint8Array(host.buffer)
    const { memory } = this.#smmu.hyp
    for (let done = 0; done < count; ) {
      const index = queueIndex(first + done, log2size)
      const run = Math.min(count - done, (1 << log2size) - index)
      const from = this.#address + index * CMDQ_ENTRY_SIZE
      if (!memory.read(from, bytes, done * CMDQ_ENTRY_SIZE, run * CMDQ_ENTRY_SIZE)) return
      done += run
    }
    const places = commandPlaces(sent.words, host, this.#rules).map(i => queueAdvance(first, log2size, i))
    if (sent.pinned && places.length > 0) places[0] = sent.origin
    this.#shadow.place(sent.at, places)
  }

  #wasIssued(words: Uint32Array, at: number): boolean {
    const found = this.#alreadyIssued.findIndex(command => command.every((word, i) => word === words[at + i]))
    if (found >= 0) this.#alreadyIssued.splice(found, 1)
    return found >= 0
  }
}
