// SPDX-License-Identifier: Apache-2.0
/** Drives a SoftSmmu through its registers and queues, as a driver would, for tests. */

import type { Field } from '../../../server/smmu/bits.ts'
import { setField } from '../../../server/smmu/bits.ts'
import * as C from '../../../server/smmu/commands.ts'
import { decodeEvent, describeEvent } from '../../../server/smmu/events.ts'
import * as R from '../../../server/smmu/registers.ts'
import type { Irq, SoftSmmuOptions } from '../../../server/smmu/soft/options.ts'
import { SoftSmmu } from '../../../server/smmu/soft/softSmmu.ts'
import type { Outcome, Transaction } from '../../../server/smmu/transaction.ts'
import { Builder, transaction } from './support.ts'

export const LOG2_CMDS = 4
export const LOG2_EVENTS = 2

export class Driver extends Builder {
  readonly strtab = this.alloc(64 * 16)
  readonly cmdq = this.alloc(16 << LOG2_CMDS)
  readonly evtq = this.alloc(32 << LOG2_EVENTS)
  readonly irqs: Irq[] = []
  readonly smmu: SoftSmmu
  #prod = 0

  constructor(options: SoftSmmuOptions = {}) {
    super()
    this.smmu = new SoftSmmu(this.memory, { onIrq: irq => this.irqs.push(irq), ...options })
  }

  /** Queues and translation on, as a driver's reset does it. */
  on(cr0 = R.CR0_SMMUEN | R.CR0_CMDQEN | R.CR0_EVTQEN): this {
    this.write64(R.ARM_SMMU_STRTAB_BASE, this.strtab)
    this.write(R.ARM_SMMU_STRTAB_BASE_CFG, 4)
    this.write64(R.ARM_SMMU_CMDQ_BASE, this.cmdq + LOG2_CMDS)
    this.write64(R.ARM_SMMU_EVTQ_BASE, this.evtq + LOG2_EVENTS)
    this.write(R.ARM_SMMU_CR2, R.CR2_RECINVSID)
    this.write(R.ARM_SMMU_IRQ_CTRL, R.IRQ_CTRL_EVTQ_IRQEN | R.IRQ_CTRL_GERROR_IRQEN)
    this.write(R.ARM_SMMU_CR0, cr0)
    return this
  }

  read(offset: number): number {
    const into = { lo: 0, hi: 0 }
    if (!this.smmu.read(offset, 4, into)) throw new Error(`read of ${offset} aborted`)
    return into.lo
  }

  write(offset: number, value: number): void {
    if (!this.smmu.write(offset, 4, value, 0)) throw new Error(`write of ${offset} aborted`)
  }

  write64(offset: number, value: number): void {
    if (!this.smmu.write(offset, 8, value % 2 ** 32, Math.floor(value / 2 ** 32))) throw new Error('write aborted')
  }

  /** Puts a command into the queue. `fields` names words and fields of `commands.ts`. */
  post(opcode: number, ...fields: readonly [Field, number][]): this {
    return this.postRaw(opcode, 0, ...fields)
  }

  /** The same with an address, given in bytes. */
  postRaw(opcode: number, address: number, ...fields: readonly [Field, number][]): this {
    const cmd = new Uint32Array(4)
    cmd[0] = opcode
    cmd[2] = address % 2 ** 32
    cmd[3] = Math.floor(address / 2 ** 32)
    for (const [field, value] of fields) setField(cmd, field, value)
    const index = this.#prod % (1 << LOG2_CMDS)
    this.memory.write(this.cmdq + 16 * index, new Uint8Array(cmd.buffer), 0, 16)
    this.#prod = (this.#prod + 1) % (2 << LOG2_CMDS)
    return this
  }

  /** Rings the doorbell. */
  go(): this {
    this.write(R.ARM_SMMU_CMDQ_PROD, this.#prod)
    return this
  }

  command(opcode: number, ...fields: readonly [Field, number][]): this {
    return this.post(opcode, ...fields).go()
  }

  /** Takes the events out of the queue. */
  events(): string[] {
    const out: string[] = []
    const prod = this.read(R.ARM_SMMU_EVTQ_PROD)
    let cons = this.read(R.ARM_SMMU_EVTQ_CONS) & 0xf_ffff
    const words = new Uint32Array(8)
    while (cons !== (prod & 0xf_ffff)) {
      const index = cons % (1 << LOG2_EVENTS)
      this.memory.read(this.evtq + 32 * index, new Uint8Array(words.buffer), 0, 32)
      out.push(describeEvent(decodeEvent(words)))
      cons = (cons + 1) % (2 << LOG2_EVENTS)
    }
    this.write(R.ARM_SMMU_EVTQ_CONS, (cons | (prod & R.Q_OVERFLOW_FLAG)) >>> 0)
    return out
  }

  to(sid: number, address: bigint, more: Partial<Transaction> = {}): Outcome {
    return this.smmu.translate(transaction(sid, address, more))
  }

  /** The output address in hexadecimal, or what happened instead. */
  pa(sid: number, address: bigint, more: Partial<Transaction> = {}): string {
    const outcome = this.to(sid, address, more)
    if (outcome.kind === 'translated') return outcome.pa.toString(16)
    return outcome.kind === 'abort' ? 'abort' : describeEvent(outcome.event)
  }
}

export { C, R }
