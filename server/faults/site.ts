// SPDX-License-Identifier: Apache-2.0
import type { Machine } from '../machine/ports.ts'
import { newTrap, type Policy, type Trap } from '../policy/policy.ts'
import type { HypWarning } from '../policy/warnings.ts'
import type { Halves } from '../smmu/bits.ts'
import type { GuestMemory } from '../smmu/memory.ts'
import type { RingWriter } from '../trace/ring.ts'
import type { ArmedRule, Device } from './armed.ts'
import { Places } from './places.ts'
import type { Firing } from './rule.ts'
import { Unit } from './unit.ts'

/** Firings of one rule that are told one by one; the rest is counted. */
const TOLD = 100
/** Firings that are kept for a report. */
const KEPT = 1000

/** What faults need of the dispatcher. */
export interface Surroundings {
  readonly machine: Machine
  readonly policy: Policy
  readonly devices: readonly Device[]
  /** Guest memory whose accesses nobody records. */
  readonly memory: GuestMemory
  /** Answers translate requests: faults of translations are possible. */
  readonly translates: boolean
  /** Guest's virtual clock at its last trap, ns. */
  clock(): number
  /** Raises an interrupt of an SMMU (a value of `irqLine`). */
  irq(smmu: number, line: number): void
  /** Drops what the hardware has cached. */
  invalidate(smmu: number): void
  warn(warning: HypWarning, trap: number, smmu: number): void
  donate(base: number, size: number, vm: number): number
  reclaim(base: number, size: number, vm: number): number
  /** Breaks the connection. @throws always */
  cut(): never
  /** Sends bytes that are no frame. */
  garble(): void
  /** Ends the trap thread. */
  die(): never
}

/** A machine that rules are armed on: from arming to disarming, or to its end. */
export class Site {
  readonly around: Surroundings
  readonly units: readonly Unit[]
  /** Without faults; accesses are recorded. */
  readonly memory: GuestMemory
  /** Trap that is decided, 0: none. */
  trap = 0
  /** Guest's clock, ns. */
  time: number
  /** CMDQ_PROD that the guest is writing. */
  prod = 0
  readonly #ring: RingWriter
  readonly #post: (firing: Firing) => void
  readonly #firings: Firing[]

  /**
   * Before anything is interposed.
   * @param firings where they are kept
   */
  constructor(around: Surroundings, ring: RingWriter, post: (firing: Firing) => void, firings: Firing[]) {
    const { smmus, memory } = around.machine
    this.around = around
    this.units = smmus.map(({ hardware }, index) => new Unit(index, hardware))
    this.memory = { ram: memory.ram, read: memory.read.bind(memory), write: memory.write.bind(memory) }
    this.time = around.clock()
    this.#ring = ring
    this.#post = post
    this.#firings = firings
  }

  /** Where things stand in a machine that runs already. */
  learn(): void {
    const value: Halves = { lo: 0, hi: 0 }
    for (const { index, hardware, host, shadow } of this.units) {
      for (const [offset, size] of Places.REGISTERS) {
        hardware.read(offset, size, value)
        shadow.set(offset, size, value)
        host.set(offset, size, this.readAsGuest(index, offset, size))
      }
      host.learnTables(this.around.memory)
      shadow.learnTables(this.around.memory)
    }
  }

  /** What the policy answers the guest, when no rule alters it. */
  readAsGuest(smmu: number, offset: number, size: number): Readonly<Halves> {
    const trap: Trap = { ...newTrap(), smmu, cpu: 0xffff, offset, size }
    this.around.policy.access(trap)
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
    if (trigger.fired > TOLD && machine === undefined) return
    const firing: Firing = {
      rule: rule.name,
      n: trigger.fired,
      trap: this.trap,
      time: this.time,
      what: text,
      ...(machine && { action: machine }),
    }
    if (this.#firings.length < KEPT) this.#firings.push(firing)
    this.#post(firing)
  }
}
