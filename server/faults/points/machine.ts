// SPDX-License-Identifier: Apache-2.0
import type { ArmedRule } from '../armed.ts'
import type { FreeActions } from '../freeActions.ts'

/** No access: a console line, a moment or another rule is what these rules wait for. */
export class MachinePoint {
  readonly #actions: FreeActions
  readonly #rules: readonly ArmedRule<'machine'>[]

  constructor(actions: FreeActions, rules: readonly ArmedRule<'machine'>[]) {
    this.#actions = actions
    // Without a condition a rule is there to be fired by hand.
    this.#rules = rules.filter(({ rule: { when = {} } }) => {
      return when.console !== undefined || when.time !== undefined || when.after !== undefined
    })
  }

  /** Something happened: their time may have come. */
  look(): void {
    for (const armed of this.#rules) this.#actions.try(armed, 0)
  }
}
