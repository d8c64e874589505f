// SPDX-License-Identifier: Apache-2.0
/**
 * The host's command queue (server/hypervisor/README.md, section 6.1): its entries are copied once and filtered, and what is kept
 * goes into the shadow queue. The hardware never reads it.
 *
 * Nothing is allocated in here while commands flow.
 */
import { COMMAND_DROPPED, COMMAND_KEPT, COMMAND_REWRITTEN } from '../../policy/report.ts'
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
import { CMDQ_CONS_ERR } from '../../smmu/registers.ts'
import { type CommandContext, type CommandRule, ISSUING_OPCODES } from './commandRules.ts'
import type { SmmuContext } from './context.ts'
import { SHADOW_CMDQ_ENTRIES, type ShadowCmdq } from './shadowCmdq.ts'
import { StateLayout } from './stateLayout.ts'
import { HYP_CMDQ_FETCH } from './warnings.ts'

/** CMDQ_BASE, CMDQ_PROD and CMDQ_CONS as the host wrote them, and as CONS has moved since; what a checkpoint holds. */
export interface HostCmdqRegisters {
  baseLo: number
  baseHi: number
  prod: number
  cons: number
}

export const HOST_CMDQ_STATE = new StateLayout<HostCmdqRegisters>({
  baseLo: 'u32',
  baseHi: 'u32',
  prod: 'u32',
  cons: 'u32',
})

export class HostCmdq {
  readonly #smmu: SmmuContext
  readonly #shadow: ShadowCmdq
  readonly #rules: readonly (CommandRule | undefined)[]
  /** By opcode: 1 for those of ISSUING_OPCODES. */
  readonly #issuing = Uint8Array.from({ length: 256 }, (_, opcode) => (ISSUING_OPCODES.has(opcode) ? 1 : 0))
  readonly #context: CommandContext
  readonly #predictsCons: boolean
  readonly registers: HostCmdqRegisters = { baseLo: 0, baseHi: 0, prod: 0, cons: 0 }
  /** The copy of at most a whole shadow queue. */
  readonly #words = new Uint32Array(CMDQ_ENT_WORDS * SHADOW_CMDQ_ENTRIES)
  readonly #bytes = new Uint8Array(this.#words.buffer)
  /** Where the queue is while it is enabled. */
  #address = 0
  #log2size = 0
  /** After a take-over: commands of the trap that is repeated which the hardware has already and must not get twice. */
  #alreadyIssued: Uint32Array[] = []

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
    Object.assign(this.registers, { baseLo: 0, baseHi: 0, prod: 0, cons: 0 } satisfies HostCmdqRegisters)
    this.#alreadyIssued = []
  }

  get log2size(): number {
    return queueLog2Size(this.registers.baseLo, MAX_QUEUE_LOG2SIZE)
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
    this.#locate()
    return this.#smmu.hyp.share.sharePinned(this.#address, this.bytes)
  }

  /** CMDQEN 1 → 0. */
  disable(): number {
    return this.#smmu.hyp.share.unsharePinned(this.#address, this.bytes)
  }

  /** The base register cannot change while the queue is enabled. */
  #locate(): void {
    this.#log2size = this.log2size
    this.#address = this.address
  }

  /** CMDQ_PROD was written with CMDQEN = 1: everything up to it is filtered, and the hardware gets what is kept. */
  process(): void {
    const { registers } = this
    const { hyp } = this.#smmu
    const log2size = this.#log2size
    this.#shadow.begin()
    let left = queueEntries(registers.prod, registers.cons, log2size)
    let cons = queuePointer(registers.cons, log2size)
    while (left > 0) {
      const index = queueIndex(cons, log2size)
      const count = Math.min(left, SHADOW_CMDQ_ENTRIES, (1 << log2size) - index)
      const address = this.#address + index * CMDQ_ENTRY_SIZE
      if (!hyp.memory.read(address, this.#bytes, 0, count * CMDQ_ENTRY_SIZE)) {
        const hi = Math.floor(address / TWO_POW_32)
        this.#smmu.warn(HYP_CMDQ_FETCH, address >>> 0, hi, left * CMDQ_ENTRY_SIZE, 0)
        break
      }
      this.#filter(count)
      cons = queueAdvance(cons, log2size, count)
      left -= count
    }
    registers.cons = queuePointer(registers.prod, log2size)
    this.#alreadyIssued = []
    this.#shadow.submit(this.#predictsCons ? registers.cons : null)
  }

  /** Filters the first `count` commands of the copy. What is kept moves up, so that dropped commands leave no hole. */
  #filter(count: number): void {
    const words = this.#words
    const rules = this.#rules
    const issuing = this.#issuing
    const shadow = this.#shadow
    const { index, hyp } = this.#smmu
    const { report } = hyp
    const end = CMDQ_ENT_WORDS * count
    /** Kept commands that are not yet in the shadow queue, by their first words. */
    let from = 0
    let to = 0
    for (let at = 0; at < end; at += CMDQ_ENT_WORDS) {
      const opcode = words[at] & 0xff
      const rule = rules[opcode]
      let verdict: number = COMMAND_KEPT
      if (rule !== undefined) {
        if (to > from && issuing[opcode] === 1) {
          shadow.append(this.#bytes, from / CMDQ_ENT_WORDS, (to - from) / CMDQ_ENT_WORDS)
          from = to
        }
        verdict = rule(words, at, this.#context)
      }
      if (this.#alreadyIssued.length > 0 && verdict !== COMMAND_DROPPED && this.#wasIssued(words, at)) {
        verdict = COMMAND_DROPPED
      }
      if (verdict === COMMAND_KEPT || verdict === COMMAND_REWRITTEN) {
        report.command(index, opcode, verdict)
        if (to !== at) {
          words[to] = words[at]
          words[to + 1] = words[at + 1]
          words[to + 2] = words[at + 2]
          words[to + 3] = words[at + 3]
        }
        to += CMDQ_ENT_WORDS
      } else {
        // A policy file is not type-checked: what is no verdict must not pass.
        report.command(index, opcode, COMMAND_DROPPED)
      }
    }
    if (to > from) shadow.append(this.#bytes, from / CMDQ_ENT_WORDS, (to - from) / CMDQ_ENT_WORDS)
  }

  /** CMDQ_CONS as the host reads it: its own index with the hardware's ERR. */
  readCons(): number {
    return ((this.registers.cons & ~CMDQ_CONS_ERR) | (this.#shadow.currentError() << 24)) >>> 0
  }

  // Take-over.

  restore(registers: HostCmdqRegisters): void {
    this.reset()
    Object.assign(this.registers, registers)
    this.#locate()
  }

  /** @param alreadyIssued from `ShadowCmdq.resume` */
  resume(alreadyIssued: Uint32Array[]): void {
    this.#alreadyIssued = alreadyIssued
  }

  #wasIssued(words: Uint32Array, at: number): boolean {
    const found = this.#alreadyIssued.findIndex(command => command.every((word, i) => word === words[at + i]))
    if (found >= 0) this.#alreadyIssued.splice(found, 1)
    return found >= 0
  }
}
