// SPDX-License-Identifier: Apache-2.0
import type { Policy, Stage2Change } from '../../policy/policy.ts'
import { hex } from '../../smmu/bits.ts'
import { counted } from '../../trace/words.ts'
import type { ArmedRule } from '../armed.ts'
import type { ArmedMachine } from '../armedMachine.ts'
import { changed } from '../change.ts'
import type { FreeActions } from '../freeActions.ts'

interface Late {
  /** Traps to come before the one at which the policy hears of it. */
  left: number
  readonly change: Stage2Change
}

/** EL2 has changed its host's tables and waits, before the policy hears of it. */
export class El2Point {
  readonly #machine: ArmedMachine
  readonly #actions: FreeActions
  readonly #rules: readonly ArmedRule<'el2'>[]
  #late: Late[] = []

  constructor(machine: ArmedMachine, actions: FreeActions, rules: readonly ArmedRule<'el2'>[]) {
    this.#machine = machine
    this.#actions = actions
    this.#rules = rules
  }

  reset(): void {
    this.#late = []
  }

  /** @returns false when devices may still reach what is not the host's; true also when the policy was not told at all */
  changed(policy: Policy, change: Stage2Change): boolean {
    let told: Stage2Change | undefined = change
    for (const armed of this.#rules) {
      const { where, what } = armed.rule
      if (where.cpu !== undefined && where.cpu !== change.cpu) continue
      if (!armed.trigger.match(this.#machine.time)) continue
      const pages = change.all ? 'all tables' : change.pages.map(hex).join(', ')
      switch (what.do) {
        case 'drop':
          told = undefined
          this.#machine.fired(armed, `EL2's change of ${pages} lost`, change.pages.length)
          break
        case 'postpone':
          told = undefined
          this.#late.push({ left: what.traps, change })
          this.#machine.fired(
            armed,
            `EL2's change of ${pages}: ${counted(what.traps, 'trap')} later`,
            change.pages.length,
          )
          break
        case 'change': {
          const wrong = change.pages.map(page => Number(changed(BigInt(page), what)))
          told = { ...change, pages: wrong }
          this.#machine.fired(armed, `EL2's change of ${pages} told as ${wrong.map(hex).join(', ')}`, wrong.length)
          break
        }
        default:
          this.#actions.act(armed, 0)
      }
    }
    return told === undefined || (policy.stage2Changed?.(told) ?? true)
  }

  /** A trap begins: changes whose time has come. */
  carryOutPostponed(policy: Policy): void {
    if (this.#late.length === 0) return
    for (const late of this.#late) late.left--
    const due = this.#late.filter(({ left }) => left <= 0)
    this.#late = this.#late.filter(({ left }) => left > 0)
    for (const { change } of due) policy.stage2Changed?.(change)
  }
}
