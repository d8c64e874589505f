// SPDX-License-Identifier: Apache-2.0
import type { ArmedRule } from '../armed.ts'
import type { FreeActions } from '../freeActions.ts'
import type { WhereOf } from '../rule.ts'

/** Requests of QEMU, before they are answered. */
export class TransportPoint {
  readonly #actions: FreeActions
  readonly #rules: readonly ArmedRule<'transport'>[]

  constructor(actions: FreeActions, rules: readonly ArmedRule<'transport'>[]) {
    this.#actions = actions
    this.#rules = rules
  }

  /** @param smmu that the request is about */
  request(message: WhereOf['transport']['message'], smmu: number): void {
    for (const armed of this.#rules) if (armed.rule.where.message === message) this.#actions.try(armed, smmu)
  }
}
