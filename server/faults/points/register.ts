// SPDX-License-Identifier: Apache-2.0
import type { Policy, Trap } from '../../policy/policy.ts'
import { hex64 } from '../../smmu/bits.ts'
import { ARM_SMMU_CMDQ_PROD, registerName } from '../../smmu/registers.ts'
import type { ArmedRule } from '../armed.ts'
import { alter, alterRead } from '../change.ts'
import type { FreeActions } from '../freeActions.ts'
import { Places } from '../places.ts'
import type { Site } from '../site.ts'
import type { Unit } from '../unit.ts'

interface Postponed {
  /** Number of the trap before which it is carried out. */
  readonly due: number
  readonly trap: Trap
  readonly unit: Unit
}

/** Accesses of the guest to the register frame. */
export class RegisterPoint {
  readonly #site: Site
  readonly #actions: FreeActions
  readonly #rules: readonly ArmedRule<'register'>[]
  #postponed: Postponed[] = []

  constructor(site: Site, actions: FreeActions, rules: readonly ArmedRule<'register'>[]) {
    this.#site = site
    this.#actions = actions
    this.#rules = rules
  }

  reset(): void {
    this.#postponed = []
  }

  /** Decides a write. The trap has afterwards what the guest wrote. */
  write(policy: Policy, trap: Trap, unit: Unit): void {
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
          this.#site.fired(armed, `${write}: ${before} → ${hex64(trap.lo, trap.hi)}`, lo, trap.lo)
          break
        }
        case 'drop':
          lost = true
          this.#site.fired(armed, `${write} ${hex64(lo, hi)} lost`, lo)
          break
        case 'abort':
          lost = true
          trap.aborted = true
          this.#site.fired(armed, `${write} ${hex64(lo, hi)} aborted`, lo)
          break
        case 'postpone':
          lost = true
          this.#postponed.push({ due: trap.seq + what.traps, trap: { ...trap }, unit })
          this.#site.fired(armed, `${write} ${hex64(lo, hi)}: ${what.traps} traps later`, lo)
          break
        default:
          this.#actions.act(armed, trap.smmu)
      }
    }
    if (!lost) this.#decideWrite(policy, trap, unit)
    // The trace has what the guest wrote.
    trap.lo = lo
    trap.hi = hi
  }

  /** Writes whose time has come. */
  carryOutPostponed(policy: Policy): void {
    while (this.#postponed.length > 0 && (this.#postponed[0]?.due ?? 0) <= this.#site.trap) {
      const late = this.#postponed.shift()
      if (late !== undefined) this.#decideWrite(policy, late.trap, late.unit)
    }
  }

  #decideWrite(policy: Policy, trap: Trap, unit: Unit): void {
    unit.view.write(trap)
    if (Places.holds(trap.offset)) unit.host.set(trap.offset, trap.size, trap)
    this.#site.prod = trap.offset === ARM_SMMU_CMDQ_PROD ? trap.lo : -1
    policy.access(trap)
    this.#site.prod = -1
  }

  /** Decides a read. */
  read(policy: Policy, trap: Trap, unit: Unit): void {
    policy.access(trap)
    unit.view.read(trap)
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
        this.#site.fired(armed, text, beforeLo, trap.lo)
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
