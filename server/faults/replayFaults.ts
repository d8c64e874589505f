// SPDX-License-Identifier: Apache-2.0
/**
 * The rules of a recording, injected again into its replay: between the recorded guest and the policy, and between the policy and
 * the recorded machine. What they are about, when they fire and what they alter is worked out anew. What the control thread did
 * for them, such as donations and resets, is in the recording by itself.
 */
import type { Machine } from '../machine/ports.ts'
import type { Policy, Stage2Change, Trap } from '../policy/policy.ts'
import type { HypReport } from '../policy/report.ts'
import { OK } from '../policy/result.ts'
import type { GuestMemory } from '../smmu/memory.ts'
import type { Device } from './armed.ts'
import { Injector } from './injector.ts'
import type { FaultPlan } from './rule.ts'

export class ReplayFaults {
  /** `rule N action N` of each that fired since it was emptied. */
  readonly fired: string[] = []
  /** Rules were armed by somebody while the machine ran: nothing is known of them. */
  lost = false
  readonly #plan: FaultPlan
  readonly #devices: readonly Device[]
  readonly #injector: Injector
  /** Guest's clock, ns. */
  #time = 0

  /** @param devices of the recorded machine */
  constructor(plan: FaultPlan, devices: readonly Device[]) {
    this.#plan = plan
    this.#devices = devices
    const fault = (rule: number, action: number) => void this.fired.push(`rule ${rule} action ${action}`)
    this.#injector = new Injector({ fault }, () => {})
    this.#injector.prepare(plan)
  }

  /**
   * Before the policy's first reset.
   * @param memory as the recording shows it, without being asked for by the policy
   * @throws OperationError when the machine has no place for a rule
   */
  connect(machine: Machine, policy: Policy, memory: GuestMemory, report: HypReport): void {
    const cut = (): never => {
      throw new Error('the fault cut the connection here')
    }
    this.#injector.connect(
      {
        machine,
        policy,
        memory,
        devices: this.#devices,
        translates: true,
        clock: () => this.#time,
        irq: () => {},
        invalidate: () => {},
        loseState: () => {},
        warn: (warning, trap, smmu) => report.warn(warning, trap, smmu, 0, 0, 0, 0),
        // These are requests of the recording.
        donate: () => OK,
        reclaim: () => OK,
        cut,
        garble: () => {},
        die: cut,
      },
      false,
    )
  }

  access(policy: Policy, trap: Trap): void {
    this.#time = trap.time
    this.#injector.access(policy, trap)
  }

  reset(policy: Policy): void {
    this.#injector.reset(policy)
  }

  stage2Changed(policy: Policy, change: Stage2Change): boolean {
    return this.#injector.stage2Changed(policy, change)
  }

  /** @param rules bit n: what rule n+1 waits for has come @param time of the moment that has come, guest's clock, ns; 0: none */
  open(rules: readonly [low: number, high: number], time: number): void {
    const named = this.#plan.rules.filter((_, i) => ((rules[i >> 5] ?? 0) >>> (i & 31)) & 1)
    this.#injector.open(
      named.map(({ name }) => name),
      time > 0 ? time : undefined,
    )
  }

  /** From here on other rules were armed, or none. */
  end(): void {
    this.lost = true
    this.#injector.disarm()
  }
}
