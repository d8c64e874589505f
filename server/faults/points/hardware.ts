// SPDX-License-Identifier: Apache-2.0

import { type Halves, hex, hex64 } from '../../smmu/bits.ts'
import type { SmmuHardware } from '../../smmu/hardware.ts'
import { ARM_SMMU_CMDQ_CONS, registerName } from '../../smmu/registers.ts'
import type { ArmedRule } from '../armed.ts'
import { alter, alterRead } from '../change.ts'
import type { FreeActions } from '../freeActions.ts'
import { interpose } from '../interpose.ts'
import { Places } from '../places.ts'
import type { Site } from '../site.ts'
import type { Unit } from '../unit.ts'

/** Accesses of the hypervisor to the hardware. */
export class HardwarePoint {
  readonly #site: Site
  readonly #actions: FreeActions
  readonly #rules: readonly ArmedRule<'hardware'>[]

  constructor(site: Site, actions: FreeActions, rules: readonly ArmedRule<'hardware'>[]) {
    this.#site = site
    this.#actions = actions
    this.#rules = rules
  }

  /** Stands in front of an SMMU's hardware. @returns takes it away. */
  interpose(unit: Unit): () => void {
    const read: SmmuHardware['read'] = (offset, size, into) => this.#read(unit, offset, size, into)
    const write: SmmuHardware['write'] = (offset, size, lo, hi) => this.#write(unit, offset, size, lo, hi)
    return interpose(
      unit.port,
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

  #read(unit: Unit, offset: number, size: number, into: Halves): boolean {
    let ok = unit.hardware.read(offset, size, into)
    const { hang } = unit
    if (hang !== undefined && offset === ARM_SMMU_CMDQ_CONS) {
      if (this.#site.time < hang.until) into.lo = hang.pointer
      else unit.hang = undefined
    }
    for (const armed of this.#rules) {
      if (!matches(armed, 'read', unit, offset, size)) continue
      const { what } = armed.rule
      if (armed.wants(into) && armed.trigger.match(this.#site.time)) {
        if (what.do === 'set' || what.do === 'change' || what.do === 'freeze' || what.do === 'abort') {
          const before = into.lo
          alterRead(armed, into, size)
          if (what.do === 'abort') ok = false
          const text = `hardware's ${registerName(offset)}: ${hex(before)} → ${ok ? hex(into.lo) : 'abort'}`
          this.#site.fired(armed, text, before, into.lo)
        } else this.#actions.act(armed, unit.index)
      }
      if (what.do === 'freeze') armed.last = { lo: into.lo, hi: into.hi }
    }
    return ok
  }

  #write(unit: Unit, offset: number, size: number, lo: number, hi: number): boolean {
    const value = { lo, hi }
    let lost = false
    let aborted = false
    for (const armed of this.#rules) {
      if (!matches(armed, 'write', unit, offset, size)) continue
      if (!armed.wants(value) || !armed.trigger.match(this.#site.time)) continue
      const { what } = armed.rule
      if (what.do === 'set' || what.do === 'change') alter(value, what, size)
      else if (what.do === 'drop' || what.do === 'abort') {
        lost = true
        aborted = what.do === 'abort'
      } else {
        this.#actions.act(armed, unit.index)
        continue
      }
      const after = lost ? (aborted ? 'aborted' : 'lost') : `→ ${hex64(value.lo, value.hi)}`
      const text = `hypervisor's write of ${registerName(offset)}: ${hex64(lo, hi)} ${after}`
      this.#site.fired(armed, text, lo, value.lo)
    }
    if (Places.holds(offset)) unit.shadow.set(offset, size, { lo, hi })
    return lost ? !aborted : unit.hardware.write(offset, size, value.lo, value.hi)
  }
}

/** Whether a rule is about the register that is accessed, whatever the value. */
function matches(
  armed: ArmedRule<'hardware'>,
  access: 'read' | 'write',
  { index }: Unit,
  offset: number,
  size: number,
): boolean {
  return armed.rule.where.access === access && armed.concerns(index) && armed.covers(offset, size)
}
