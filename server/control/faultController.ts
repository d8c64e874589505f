// SPDX-License-Identifier: Apache-2.0
/** What of fault injection happens outside of the trap thread: console lines, moments, and what is done to the machine. */

import { LinePattern } from '../faults/linePattern.ts'
import type { FaultRule, Firing } from '../faults/rule.ts'
import type { Session } from './session.ts'

/** Resets and pauses go through QMP, which QEMU answers at once. */
const QMP_MS = 10_000
/** A rule for a moment is looked at with every trap; without traps, so much later at the latest. */
const LATE_MS = 500

/** Firings that are kept for a report. */
const MAX_KEPT = 1000

const controllers = new WeakMap<Session, FaultController>()

/** Watches a session on behalf of rules, from now until it ends. */
export class FaultController {
  readonly #session: Session
  #moments: readonly number[] = []
  readonly #signal = new AbortController()
  #waiting: { readonly name: string; readonly pattern: LinePattern }[] = []
  #clock: NodeJS.Timeout[] = []
  /** Ends of pauses, which no other rules and no reset take away. */
  #pauses: NodeJS.Timeout[] = []
  /** The first of what fired, for a report when the trap thread can tell no more. */
  readonly firings: Firing[] = []
  /** What went wrong while carrying out an action, in words. */
  readonly problems: string[] = []

  constructor(session: Session, rules: readonly FaultRule[] = []) {
    this.#session = session
    session.console.on('line', line => this.#line(line))
    session.on('reset', () => this.#startClock())
    session.thread?.on('fired', firing => this.#fired(firing))
    void session.ended.finally(() => this.#end()).catch(() => {})
    controllers.set(session, this)
    this.watch(rules)
  }

  /** The one of a session: whoever arms rules tells it. */
  static of(session: Session): FaultController {
    return controllers.get(session) ?? new FaultController(session)
  }

  /** Rules that are armed instead of the former ones. */
  watch(rules: readonly FaultRule[]): void {
    this.#waiting = rules.flatMap(({ name, when }) =>
      when?.console === undefined ? [] : [{ name, pattern: new LinePattern(when.console) }],
    )
    this.#moments = rules.flatMap(({ where, when }) =>
      where.at === 'machine' && when?.time !== undefined ? [when.time] : [],
    )
    this.#startClock()
  }

  #line(line: string): void {
    const found = this.#waiting.filter(({ pattern }) => pattern.test(line)).map(({ name }) => name)
    if (found.length === 0) return
    this.#waiting = this.#waiting.filter(({ name }) => !found.includes(name))
    this.#open(found)
  }

  #startClock(): void {
    for (const timer of this.#clock.splice(0)) clearTimeout(timer)
    for (const time of this.#moments) {
      this.#clock.push(setTimeout(() => this.#open([], time * 1e6), time + LATE_MS))
    }
  }

  /** A session that has ended has nothing to open. */
  #open(names: readonly string[], time?: number): void {
    this.#session.thread?.call('openFaults', names, time).catch(() => {})
  }

  #fired(firing: Firing): void {
    const { rule, action } = firing
    if (this.firings.length < MAX_KEPT) this.firings.push(firing)
    if (action === undefined) return
    this.#carryOut(action).catch(error => this.problems.push(`rule ${rule}: ${(error as Error).message}`))
  }

  async #carryOut(action: NonNullable<Firing['action']>): Promise<void> {
    const signal = AbortSignal.any([this.#signal.signal, AbortSignal.timeout(QMP_MS)])
    if (action.do === 'reset') return this.#session.reset(signal)
    const qmp = await this.#session.qmp(signal)
    await qmp.execute('stop')
    this.#pauses.push(setTimeout(() => void qmp.execute('cont').catch(() => {}), action.ms))
  }

  #end(): void {
    this.#signal.abort()
    for (const timer of [...this.#clock.splice(0), ...this.#pauses.splice(0)]) clearTimeout(timer)
  }
}
