// SPDX-License-Identifier: Apache-2.0
import { hex } from '../../smmu/bits.ts'
import { ARM_SMMU_EVTQ_PROD } from '../../smmu/registers.ts'
import type { ArmedRule } from '../armed.ts'
import type { ArmedMachine } from '../armedMachine.ts'
import { changeBytes } from '../change.ts'
import { eventQueue } from '../eventQueue.ts'
import type { FreeActions } from '../freeActions.ts'
import type { SmmuFaults } from '../smmuFaults.ts'

/** Event records, before the guest looks at the queue. */
export class EventPoint {
  readonly #machine: ArmedMachine
  readonly #actions: FreeActions
  readonly #rules: readonly ArmedRule<'event'>[]
  /** Entries of an SMMU's event queue before this one have been looked at. */
  readonly #seen = new Map<SmmuFaults, number>()

  constructor(machine: ArmedMachine, actions: FreeActions, rules: readonly ArmedRule<'event'>[]) {
    this.#machine = machine
    this.#actions = actions
    this.#rules = rules
  }

  reset(): void {
    this.#seen.clear()
  }

  /** The guest is about to read a register: with EVTQ_PROD it learns of records. */
  beforeRead(smmu: SmmuFaults, offset: number): void {
    if (offset === ARM_SMMU_EVTQ_PROD && this.#rules.length > 0) this.#look(smmu)
  }

  #look(smmu: SmmuFaults): void {
    const { memory } = this.#machine
    const queue = eventQueue(smmu.hardware)
    if (queue === undefined) return
    const { base, log2size, cons } = queue
    let { prod } = queue
    const mask = 2 * 2 ** log2size - 1
    const bytes = new Uint8Array(32)
    const words = new Uint32Array(bytes.buffer)
    const seen = this.#seen.get(smmu) ?? cons
    const behind = (seen - cons) & mask
    let at = behind <= ((prod - cons) & mask) ? (cons + behind) & mask : cons
    while (at !== (prod & mask)) {
      const address = base + 32 * (at & (2 ** log2size - 1))
      if (!memory.read(address, bytes, 0, 32)) return
      if (this.#drops(smmu, address, bytes, words)) {
        for (let from = (at + 1) & mask, to = at; from !== (prod & mask); to = from, from = (from + 1) & mask) {
          memory.read(base + 32 * (from & (2 ** log2size - 1)), bytes, 0, 32)
          memory.write(base + 32 * (to & (2 ** log2size - 1)), bytes, 0, 32)
        }
        prod = ((prod & 0x8000_0000) | ((prod - 1) & mask)) >>> 0
        smmu.hardware.write(ARM_SMMU_EVTQ_PROD, 4, prod, 0)
      } else at = (at + 1) & mask
    }
    this.#seen.set(smmu, at)
  }

  /** One record, as bytes and as the same words. @returns whether it is lost */
  #drops(smmu: SmmuFaults, address: number, bytes: Uint8Array, words: Uint32Array): boolean {
    const [word0 = 0, sid = 0] = words
    let gone = false
    for (const armed of this.#rules) {
      const { what } = armed.rule
      if (!armed.concerns(smmu.index) || (armed.event !== undefined && armed.event !== (word0 & 0xff))) continue
      if (armed.sid !== undefined && armed.sid !== sid) continue
      if (!armed.trigger.match(this.#machine.time)) continue
      if (what.do === 'change') {
        const text = changeBytes(bytes, what)
        this.#machine.memory.write(address, bytes, 0, 32)
        this.#machine.fired(armed, `event record at ${hex(address)}, word ${what.word ?? 0}: ${text}`, sid, word0)
      } else if (what.do === 'drop') {
        gone = true
        this.#machine.fired(armed, `event record at ${hex(address)} lost`, sid, word0)
      } else this.#actions.act(armed, smmu.index)
    }
    return gone
  }
}
