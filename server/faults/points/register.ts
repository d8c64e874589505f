// SPDX-License-Identifier: Apache-2.0
import type { Policy, Trap } from '../../policy/policy.ts'
import { hex64 } from '../../smmu/bits.ts'
import { ARM_SMMU_CMDQ_PROD, registerName } from '../../smmu/registers.ts'
import { counted } from '../../trace/words.ts'
import type { ArmedRule } from '../armed.ts'
import type { ArmedMachine } from '../armedMachine.ts'
import { alter, alterRead } from '../change.ts'
import type { FreeActions } from '../freeActions.ts'
import type { SmmuFaults } from '../smmuFaults.ts'
import { TableLocator } from '../tableLocator.ts'

interface Postponed {
  /** Number of the trap before which it is carried out. */
  readonly due: number
  readonly trap: Trap
  readonly smmu: SmmuFaults
}

/** Accesses of the guest to the register frame. */
export class RegisterPoint {
  readonly #machine: ArmedMachine
  readonly #actions: FreeActions
  readonly #rules: readonly ArmedRule<'register'>[]
  #postponed: Postponed[] = []

  constructor(machine: ArmedMachine, actions: FreeActions, rules: readonly ArmedRule<'register'>[]) {
    this.#machine = machine
    this.#actions = actions
    this.#rules = rules
  }

  reset(): void {
    this.#postponed = []
  }

  /** Decides a write. The trap has afterwards what the guest wrote. */
  write(policy: Policy, trap: Trap, smmu: SmmuFaults): void {
    const { lo, hi } = trap
    let lost = false
    for (const armed of this.#rules) {
      if (!matches(armed, 'write', trap) || !armed.wants(trap) || !armed.trigger.match(trap.time)) continue
      const { what } = armed.rule
      const write = `write of ${registerName(trap.offset)}`
      switch (what.do) {
        case 'set':
        case 'change': {
          const before = hex64(trap.lo, trap.hi)
          alter(trap, what, trap.size)
          this.#machine.fired(armed, `${write}: ${before} → ${hex64(trap.lo, trap.hi)}`, lo, trap.lo)
          break
        }
        case 'drop':
          lost = true
          this.#machine.fired(armed, `${write} ${hex64(lo, hi)} lost`, lo)
          break
        case 'abort':
          lost = true
          trap.aborted = true
          this.#machine.fired(armed, `${write} ${hex64(lo, hi)} aborted`, lo)
          break
        case 'postpone':
          lost = true
          this.#postponed.push({ due: trap.seq + what.traps, trap: { ...trap }, smmu })
          this.#machine.fired(armed, `${write} ${hex64(lo, hi)}: ${counted(what.traps, 'trap')} later`, lo)
          break
        default:
          this.#actions.act(armed, trap.smmu)
      }
    }
    if (!lost) this.#decideWrite(policy, trap, smmu)
    // The trace has what the guest wrote.
    trap.lo = lo
    trap.hi = hi
  }

  /** Writes whose time has come. */
  carryOutPostponed(policy: Policy): void {
    while (this.#postponed.length > 0 && (this.#postponed[0]?.due ?? 0) <= this.#machine.trap) {
      const late = this.#postponed.shift()
      if (late !== undefined) this.#decideWrite(policy, late.trap, late.smmu)
    }
  }

  #decideWrite(policy: Policy, trap: Trap, smmu: SmmuFaults): void {
    smmu.view.write(trap)
    if (TableLocator.holds(trap.offset)) smmu.host.set(trap.offset, trap.size, trap)
    this.#machine.prod = trap.offset === ARM_SMMU_CMDQ_PROD ? trap.lo : -1
    policy.access(trap)
    this.#machine.prod = -1
  }

  /** Decides a read. */
  read(policy: Policy, trap: Trap, smmu: SmmuFaults): void {
    policy.access(trap)
    smmu.view.read(trap)
    for (const armed of this.#rules) {
      if (!matches(armed, 'read', trap)) continue
      const { what } = armed.rule
      const fires = armed.wants(trap) && armed.trigger.match(trap.time)
      if (fires && (what.do === 'set' || what.do === 'change' || what.do === 'freeze' || what.do === 'abort')) {
        const before = hex64(trap.lo, trap.hi)
        const beforeLo = trap.lo
        alterRead(armed, trap, trap.size)
        if (what.do === 'abort') trap.aborted = true
        const name = registerName(trap.offset)
        const text =
          what.do === 'abort' ? `read of ${name} aborted` : `read of ${name}: ${before} → ${hex64(trap.lo, trap.hi)}`
        this.#machine.fired(armed, text, beforeLo, trap.lo)
      } else if (fires) this.#actions.act(armed, trap.smmu)
      if (what.do === 'freeze') armed.last = { lo: trap.lo, hi: trap.hi }
    }
  }
}

/** Whether a rule is about the register that is accessed, whatever the value. */
function matches(armed: ArmedRule<'register'>, access: 'read' | 'write', trap: Readonly<Trap>): boolean {
  const { where } = armed.rule
  if (where.access !== access || !armed.concerns(trap.smmu) || !armed.covers(trap.offset, trap.size)) return false
  return where.cpu === undefined || where.cpu === trap.cpu
}
