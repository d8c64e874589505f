// SPDX-License-Identifier: Apache-2.0
import { newTrap, type Trap } from '../policy/policy.ts'
import type { Halves } from '../smmu/bits.ts'
import type { GuestMemory } from '../smmu/memory.ts'
import type { RingWriter } from '../trace/ring.ts'
import type { ArmedRule } from './armed.ts'
import type { FaultContext } from './faultContext.ts'
import type { Firing } from './rule.ts'
import { SmmuFaults } from './smmuFaults.ts'
import { TableLocator } from './tableLocator.ts'

/** Firings of one rule that are told one by one; the rest is counted. */
const MAX_REPORTED = 100
/** Firings that are kept for a report. */
const MAX_KEPT = 1000

/** A machine that rules are armed on: from arming to disarming, or to its end. */
export class ArmedMachine {
  readonly context: FaultContext
  readonly smmus: readonly SmmuFaults[]
  /** Without faults; accesses are recorded. */
  readonly memory: GuestMemory
  /** Trap that is decided, 0: none. */
  trap = 0
  /** Guest's clock, ns. */
  time: number
  /** CMDQ_PROD that the guest is writing. */
  prod = 0
  readonly #ring: Pick<RingWriter, 'fault'>
  readonly #post: (firing: Firing) => void
  readonly #firings: Firing[]

  /**
   * Before anything is interposed.
   * @param firings where they are kept
   */
  constructor(
    context: FaultContext,
    ring: Pick<RingWriter, 'fault'>,
    post: (firing: Firing) => void,
    firings: Firing[],
  ) {
    const { smmus, memory } = context.machine
    this.context = context
    this.smmus = smmus.map(({ hardware }, index) => new SmmuFaults(index, hardware))
    this.memory = { ram: memory.ram, read: memory.read.bind(memory), write: memory.write.bind(memory) }
    this.time = context.clock()
    this.#ring = ring
    this.#post = post
    this.#firings = firings
  }

  /** Where things stand in a machine that runs already. */
  learn(): void {
    const value: Halves = { lo: 0, hi: 0 }
    for (const { index, hardware, host, shadow } of this.smmus) {
      for (const [offset, size] of TableLocator.REGISTERS) {
        hardware.read(offset, size, value)
        shadow.set(offset, size, value)
        host.set(offset, size, this.readAsGuest(index, offset, size))
      }
      host.learnTables(this.context.memory)
      shadow.learnTables(this.context.memory)
    }
  }

  /** What the policy answers the guest, when no rule alters it. */
  readAsGuest(smmu: number, offset: number, size: number): Readonly<Halves> {
    const trap: Trap = { ...newTrap(), smmu, cpu: 0xffff, offset, size }
    this.context.policy.access(trap)
    return trap
  }

  /**
   * A rule did what it says.
   * @param text in words
   * @param v0 @param v1 for the trace
   * @param machine for the control thread to carry out
   */
  fired(armed: ArmedRule, text: string, v0 = 0, v1 = 0, machine?: Firing['action']): void {
    const { rule, number, action, trigger } = armed
    this.#ring.fault(number, action, v0, v1, trigger.fired, 0)
    if (trigger.fired > MAX_REPORTED && machine === undefined) return
    const firing: Firing = {
      rule: rule.name,
      n: trigger.fired,
      trap: this.trap,
      time: this.time,
      what: text,
      ...(machine && { action: machine }),
    }
    if (this.#firings.length < MAX_KEPT) this.#firings.push(firing)
    this.#post(firing)
  }
}
