// SPDX-License-Identifier: Apache-2.0
/**
 * What the guest is made to see of registers that really say something else: global errors that never were, a CONS that
 * stands still, interrupts that are said to be enabled. Acknowledgements of what never was do not reach the hardware.
 */

import type { Trap } from '../policy/policy.ts'
import type { Halves } from '../smmu/bits.ts'
import type { SmmuHardware } from '../smmu/hardware.ts'
import {
  ARM_SMMU_CMDQ_CONS,
  ARM_SMMU_GERROR,
  ARM_SMMU_GERRORN,
  ARM_SMMU_IRQ_CTRL,
  ARM_SMMU_IRQ_CTRLACK,
  CMDQ_ERR_CERROR_ABT_IDX,
  CMDQ_ERR_CERROR_ATC_INV_IDX,
  CMDQ_ERR_CERROR_ILL_IDX,
  GERROR_CMDQ_ERR,
} from '../smmu/registers.ts'

/** CMDQ_CONS.ERR of the errors that rules name. */
export const CERROR = {
  ILL: CMDQ_ERR_CERROR_ILL_IDX,
  ABT: CMDQ_ERR_CERROR_ABT_IDX,
  ATC_INV_SYNC: CMDQ_ERR_CERROR_ATC_INV_IDX,
} as const

/** A CONS that stands. */
interface Standing {
  readonly pointer: number
  /** CMDQ_CONS.ERR; above 0: until the guest acknowledges CMDQ_ERR. */
  readonly error: number
  /** Guest's clock, ns. */
  readonly until: number
}

export class HostView {
  readonly #hardware: SmmuHardware
  readonly #value: Halves = { lo: 0, hi: 0 }
  /** Bits in which the guest's GERROR and GERRORN differ from the hardware's. */
  #toggled = 0
  #acknowledged = 0
  #cons: Standing | undefined
  /** Interrupts that the guest believes to be enabled. */
  #masked = 0
  #irqCtrl = 0
  #maskedUntil = 0

  /** @param hardware without faults */
  constructor(hardware: SmmuHardware) {
    this.#hardware = hardware
  }

  reset(): void {
    this.#toggled = 0
    this.#acknowledged = 0
    this.#cons = undefined
    this.#masked = 0
  }

  /** Nothing is made up any more: the guest's interrupts are enabled as it wants them. */
  end(): void {
    this.#unmask()
    this.#cons = undefined
  }

  #read(offset: number): number {
    this.#hardware.read(offset, 4, this.#value)
    return this.#value.lo
  }

  /** Makes errors active that are not. */
  raise(bits: number): void {
    const active = this.#read(ARM_SMMU_GERROR) ^ this.#toggled ^ this.#read(ARM_SMMU_GERRORN) ^ this.#acknowledged
    this.#toggled = (this.#toggled ^ (bits & ~active)) >>> 0
  }

  /** @param error CMDQ_CONS.ERR @param until guest's clock, ns */
  stand(pointer: number, error: number, until: number): void {
    this.#cons = { pointer, error, until }
  }

  /** Interrupts of the hardware are disabled behind the guest's back. */
  mask(bits: number, until: number): void {
    if (this.#masked === 0) this.#irqCtrl = this.#read(ARM_SMMU_IRQ_CTRL)
    this.#masked |= bits
    this.#maskedUntil = until
    this.#hardware.write(ARM_SMMU_IRQ_CTRL, 4, (this.#irqCtrl & ~this.#masked) >>> 0, 0)
  }

  #unmask(): void {
    if (this.#masked === 0) return
    this.#masked = 0
    this.#hardware.write(ARM_SMMU_IRQ_CTRL, 4, this.#irqCtrl, 0)
  }

  /** A trap comes. */
  tick(time: number): void {
    if (this.#masked !== 0 && time >= this.#maskedUntil) this.#unmask()
    if (this.#cons !== undefined && time >= this.#cons.until) this.#cons = undefined
  }

  /** A write of the guest, before anybody decides it. */
  write(trap: Trap): void {
    if (trap.offset === ARM_SMMU_GERRORN && (this.#toggled | this.#acknowledged) !== 0) {
      const now = this.#read(ARM_SMMU_GERROR) ^ this.#toggled
      // CMDQ_ERR is acknowledged when the two agree.
      if (((trap.lo ^ now) & GERROR_CMDQ_ERR) === 0 && (this.#cons?.error ?? 0) > 0) this.#cons = undefined
      trap.lo = (trap.lo ^ this.#toggled) >>> 0
      this.#acknowledged = this.#toggled
    } else if (trap.offset === ARM_SMMU_IRQ_CTRL && this.#masked !== 0) {
      this.#irqCtrl = trap.lo
      trap.lo = (trap.lo & ~this.#masked) >>> 0
    }
  }

  /** A read of the guest, after it was answered. */
  read(trap: Trap): void {
    switch (trap.offset) {
      case ARM_SMMU_GERROR:
        trap.lo = (trap.lo ^ this.#toggled) >>> 0
        break
      case ARM_SMMU_GERRORN:
        trap.lo = (trap.lo ^ this.#acknowledged) >>> 0
        break
      case ARM_SMMU_CMDQ_CONS:
        if (this.#cons !== undefined) trap.lo = (this.#cons.pointer | (this.#cons.error << 24)) >>> 0
        break
      case ARM_SMMU_IRQ_CTRL:
      case ARM_SMMU_IRQ_CTRLACK:
        if (this.#masked !== 0) trap.lo = ((trap.lo & ~this.#masked) | (this.#irqCtrl & this.#masked)) >>> 0
        break
    }
  }
}
