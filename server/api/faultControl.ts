// SPDX-License-Identifier: Apache-2.0
/** Faults armed through the API, and their effect on the counters. They last as long as the machine. */
import { setTimeout as sleep } from 'node:timers/promises'
import { FaultController } from '../control/faultController.ts'
import type { Session } from '../control/session.ts'
import type { TrapThread } from '../control/trapThread.ts'
import type { FaultStatus } from '../faults/injector.ts'
import type { FaultRule } from '../faults/rule.ts'
import { Problem } from './problem.ts'
import type { FaultEffect } from './schemas/faults.ts'
import type { CountersView } from './schemas/lifecycle.ts'
import { disks, nothing, span, type Tally } from './tally.ts'

/** Time limit for the trap thread to get between two traps, ms. */
const SETTLE_MS = 1_000

const NOTHING: FaultStatus = { armed: false, seed: 0, plan: [], rules: [], firings: [] }

export class FaultControl {
  readonly #counters: () => CountersView
  readonly #blockStats: () => Promise<unknown>
  #session: Session | undefined
  /** Counters at the start of the comparison, when rules were armed, and when they were disarmed. */
  #marks: { readonly from: Tally; readonly armed?: Tally; readonly to?: Tally } = { from: nothing(Date.now()) }

  /** @param blockStats what QMP's `query-blockstats` answers */
  constructor(counters: () => CountersView, blockStats: () => Promise<unknown>) {
    this.#counters = counters
    this.#blockStats = blockStats
  }

  /** Called when a machine starts. */
  follow(session: Session): void {
    this.#session = session
    this.#marks = { from: nothing(Date.now()) }
  }

  /** Called when the machine has ended, while its counters still exist. */
  ended(): void {
    this.#marks = { to: { ...this.#counted(), disk: null }, ...this.#marks }
    this.#session = undefined
  }

  async status(): Promise<FaultStatus> {
    return (await this.#session?.thread?.call('faults').catch(() => NOTHING)) ?? NOTHING
  }

  async arm(rules: readonly FaultRule[], seed: number): Promise<void> {
    const { session, thread } = this.#armory
    await this.#settled()
    const [armed] = await Promise.all([this.#tally(), thread.call('armFaults', rules, seed)])
    FaultController.of(session).watch(rules)
    this.#marks = { from: this.#marks.to ?? this.#marks.armed ?? this.#marks.from, armed }
  }

  async disarm(): Promise<void> {
    const { session, thread } = this.#armory
    await this.#settled()
    const [to] = await Promise.all([this.#tally(), thread.call('disarmFaults')])
    FaultController.of(session).watch([])
    if (this.#marks.armed !== undefined) this.#marks = { to, ...this.#marks }
  }

  async fire(rule: string): Promise<void> {
    await this.#armory.thread.call('fireFault', rule)
  }

  /**
   * Counts before the rules were armed (from the start of the machine, or from the end of the rules before them), and from then
   * until they were disarmed. Null when no rules were armed.
   */
  async effect(): Promise<FaultEffect | null> {
    const { from, armed, to } = this.#marks
    if (armed === undefined) return null
    await this.#settled()
    return { before: span(from, armed), since: span(armed, to ?? (await this.#tally())), over: to !== undefined }
  }

  get #armory(): { readonly session: Session; readonly thread: TrapThread } {
    const session = this.#session
    if (session?.thread === undefined) throw new Problem(409, 'there is no machine with a server of its own')
    return { session, thread: session.thread }
  }

  /**
   * The trap thread counts a trap after answering it. When this resolves, all traps that the guest has seen answered are
   * counted. A trap thread that a fault delays is not waited for longer than SETTLE_MS.
   */
  async #settled(): Promise<void> {
    const settled = this.#session?.thread?.call('held').catch(() => {})
    await Promise.race([settled, sleep(SETTLE_MS, undefined, { ref: false })])
  }

  async #tally(): Promise<Tally> {
    const counted = this.#counted()
    return { ...counted, disk: disks(await this.#blockStats().catch(() => null)) }
  }

  #counted(): Omit<Tally, 'disk'> {
    const { traps, aborted, gerrors, guardFaults, warnings, events } = this.#counters()
    return { at: Date.now(), traps, aborted, gerrors, guardFaults, warnings, events }
  }
}
