// SPDX-License-Identifier: Apache-2.0
import type { FaultPorts } from '../../policy/inspect.ts'
import { EBUSY, EFAULT, EINVAL, ENOMEM, EPERM, ERANGE } from '../../policy/result.ts'
import { hex } from '../../smmu/bits.ts'
import type { ArmedRule } from '../armed.ts'
import type { ArmedMachine } from '../armedMachine.ts'
import type { FreeActions } from '../freeActions.ts'
import { interpose } from '../interpose.ts'
import type { PageOperation, WhatOf } from '../rule.ts'

/** Changes of page ownership, and allocations of hypervisor memory. */
export class PagesPoint {
  readonly #machine: ArmedMachine
  readonly #actions: FreeActions
  readonly #rules: readonly ArmedRule<'pages'>[]

  constructor(machine: ArmedMachine, actions: FreeActions, rules: readonly ArmedRule<'pages'>[]) {
    this.#machine = machine
    this.#actions = actions
    this.#rules = rules
  }

  /** Stands in front of the hypervisor's ownership and pool, if a rule is about them. @returns what takes it away. */
  interpose({ ownership, pool }: FaultPorts): (() => void)[] {
    if (this.#rules.length === 0) return []
    const guarded =
      (operation: PageOperation, below: (base: number, size: number, vm: number) => number) =>
      (base: number, size: number, vm: number): number =>
        this.#fail(operation, base, size) ?? below(base, size, vm)
    const undo: (() => void)[] = []
    if (ownership !== undefined) {
      undo.push(
        interpose(
          ownership,
          below => ({
            share: guarded('share', below.share),
            unshare: guarded('unshare', below.unshare),
            pin: guarded('pin', below.pin),
            unpin: guarded('unpin', below.unpin),
            donate: guarded('donate', below.donate),
            reclaim: guarded('reclaim', below.reclaim),
            donateToHyp: guarded('donate-hyp', below.donateToHyp),
          }),
          { share: true, unshare: true, pin: true, unpin: true, donate: true, reclaim: true, donateToHyp: true },
        ),
      )
    }
    if (pool !== undefined) {
      undo.push(
        interpose(
          pool,
          below => ({
            allocate: (bytes, overwritten) => this.#fail('allocate', 0, bytes) ?? below.allocate(bytes, overwritten),
          }),
          { allocate: true },
        ),
      )
    }
    return undo
  }

  /** @returns an error that stands for the operation's result; undefined: it takes place. */
  #fail(operation: PageOperation, base: number, size: number): number | undefined {
    for (const armed of this.#rules) {
      const { where, what } = armed.rule
      if (where.operation !== operation || !armed.touches(base, size)) continue
      if (!armed.trigger.match(this.#machine.time)) continue
      if (what.do === 'fail') {
        const result = ERROR[what.error]
        this.#machine.fired(armed, `${operation} of ${size} bytes at ${hex(base)} fails: ${what.error}`, base, size)
        return result
      }
      this.#actions.act(armed, 0)
    }
    return undefined
  }
}

const ERROR: Readonly<Record<WhatOf['fail']['error'], number>> = { EPERM, EBUSY, ENOMEM, EFAULT, EINVAL, ERANGE }
