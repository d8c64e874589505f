// SPDX-License-Identifier: Apache-2.0

import { type Halves, hex, hex64 } from '../../smmu/bits.ts'
import type { SmmuHardware } from '../../smmu/hardware.ts'
import { ARM_SMMU_CMDQ_CONS, registerName } from '../../smmu/registers.ts'
import type { ArmedRule } from '../armed.ts'
import type { ArmedMachine } from '../armedMachine.ts'
import { alter, alterRead } from '../change.ts'
import type { FreeActions } from '../freeActions.ts'
import { interpose } from '../interpose.ts'
import type { SmmuFaults } from '../smmuFaults.ts'
import { TableLocator } from '../tableLocator.ts'

/** Accesses of the hypervisor to the hardware. */
export class HardwarePoint {
  readonly #machine: ArmedMachine
  readonly #actions: FreeActions
  readonly #rules: readonly ArmedRule<'hardware'>[]

  constructor(machine: ArmedMachine, actions: FreeActions, rules: readonly ArmedRule<'hardware'>[]) {
    this.#machine = machine
    this.#actions = actions
    this.#rules = rules
  }

  /** Stands in front of an SMMU's hardware. @returns takes it away. */
  interpose(smmu: SmmuFaults): () => void {
    const read: SmmuHardware['read'] = (offset, size, into) => this.#read(smmu, offset, size, into)
    const write: SmmuHardware['write'] = (offset, size, lo, hi) => this.#write(smmu, offset, size, lo, hi)
    return interpose(
      smmu.port,
      () => ({
        read,
        write,
        writeThenRead: (offset, value, readOffset, into) => {
          const written = write(offset, 4, value, 0)
          return read(readOffset, 4, into) && written
        },
        // Every access is to be seen: the guest's reads of CMDQ_CONS as well.
        post: () => false,
      }),
      { read: true, write: true, writeThenRead: true, post: true },
    )
  }

  #read(smmu: SmmuFaults, offset: number, size: number, into: Halves): boolean {
    let ok = smmu.hardware.read(offset, size, into)
    const { hang } = smmu
    if (hang !== undefined && offset === ARM_SMMU_CMDQ_CONS) {
      if (this.#machine.time < hang.until) into.lo = hang.pointer
      else smmu.hang = undefined
    }
    for (const armed of this.#rules) {
      if (!matches(armed, 'read', smmu, offset, size)) continue
      const { what } = armed.rule
      if (armed.wants(into) && armed.trigger.match(this.#machine.time)) {
        if (what.do === 'set' || what.do === 'change' || what.do === 'freeze' || what.do === 'abort') {
          const before = into.lo
          alterRead(armed, into, size)
          if (what.do === 'abort') ok = false
          const text = `hardware's ${registerName(offset)}: ${hex(before)} → ${ok ? hex(into.lo) : 'abort'}`
          this.#machine.fired(armed, text, before, into.lo)
        } else this.#actions.act(armed, smmu.index)
      }
      if (what.do === 'freeze') armed.last = { lo: into.lo, hi: into.hi }
    }
    return ok
  }

  #write(smmu: SmmuFaults, offset: number, size: number, lo: number, hi: number): boolean {
    const value = { lo, hi }
    let lost = false
    let aborted = false
    for (const armed of this.#rules) {
      if (!matches(armed, 'write', smmu, offset, size)) continue
      if (!armed.wants(value) || !armed.trigger.match(this.#machine.time)) continue
      const { what } = armed.rule
      if (what.do === 'set' || what.do === 'change') alter(value, what, size)
      else if (what.do === 'drop' || what.do === 'abort') {
        lost = true
        aborted = what.do === 'abort'
      } else {
        this.#actions.act(armed, smmu.index)
        continue
      }
      const after = lost ? (aborted ? 'aborted' : 'lost') : `→ ${hex64(value.lo, value.hi)}`
      const text = `hypervisor's write of ${registerName(offset)}: ${hex64(lo, hi)} ${after}`
      this.#machine.fired(armed, text, lo, value.lo)
    }
    if (TableLocator.holds(offset)) smmu.shadow.set(offset, size, { lo, hi })
    return lost ? !aborted : smmu.hardware.write(offset, size, value.lo, value.hi)
  }
}

/** Whether a rule is about the register that is accessed, whatever the value. */
function matches(
  armed: ArmedRule<'hardware'>,
  access: 'read' | 'write',
  { index }: SmmuFaults,
  offset: number,
  size: number,
): boolean {
  return armed.rule.where.access === access && armed.concerns(index) && armed.covers(offset, size)
}
