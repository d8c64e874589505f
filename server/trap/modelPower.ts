// SPDX-License-Identifier: Apache-2.0
/**
 * The power of QEMU's SMMUs, which the model does not have: off is a model that aborts and takes no access, and what is lost with the power is
 * taken from the model here (server/hypervisor/README.md, section 19). Nothing of it is on the trace: it is the world, not the hypervisor.
 */
import { encodeHwRead, encodeHwWrite, encodeInvalidate, Id } from '../../protocol/generated/messages.ts'
import { enums } from '../../protocol/messages.ts'
import type { PowerControl } from '../machine/ports.ts'
import type { PowerState } from '../smmu/hardware.ts'
import * as R from '../smmu/registers.ts'
import type { Link } from './link.ts'

/** GBPA after a power-on: abort, attributes as they come in. */
const GBPA_RESET = R.GBPA_ABORT | (1 << 12)

/** Registers whose value after a power-on is UNKNOWN: all bits set, which leads nowhere. */
const UNKNOWN_AFTER = [
  ...[R.ARM_SMMU_CR2, R.ARM_SMMU_STRTAB_BASE, R.ARM_SMMU_STRTAB_BASE + 4, R.ARM_SMMU_STRTAB_BASE_CFG],
  ...[R.ARM_SMMU_CMDQ_BASE, R.ARM_SMMU_CMDQ_BASE + 4, R.ARM_SMMU_CMDQ_PROD, R.ARM_SMMU_CMDQ_CONS],
  ...[R.ARM_SMMU_EVTQ_BASE, R.ARM_SMMU_EVTQ_BASE + 4, R.ARM_SMMU_EVTQ_PROD, R.ARM_SMMU_EVTQ_CONS],
]

/** Of an SMMU that keeps its registers while it is off. */
interface Kept {
  readonly cr0: number
  readonly gbpa: number
}

export class ModelPower implements PowerControl {
  readonly resetsToAbort = true
  readonly #link: Link
  readonly #changed: (offset: number) => void
  readonly #states: PowerState[]
  readonly #kept: (Kept | undefined)[]

  /** @param changed hears of registers that are another value than before */
  constructor(link: Link, smmus: number, changed: (offset: number) => void) {
    this.#link = link
    this.#changed = changed
    this.#states = new Array<PowerState>(smmus).fill('on')
    this.#kept = new Array<Kept | undefined>(smmus).fill(undefined)
  }

  isOn(smmu: number): boolean {
    return this.#states[smmu] === 'on'
  }

  /** The machine was reset. */
  reset(): void {
    this.#states.fill('on')
    this.#kept.fill(undefined)
  }

  set(smmu: number, state: PowerState): boolean {
    const before = this.#states[smmu]
    if (before === undefined) return false
    if (before === state) return true
    this.#states[smmu] = state
    const { cr0, gbpa } = this.#kept[smmu] ?? { cr0: 0, gbpa: GBPA_RESET }
    if (state === 'on') {
      this.#write(smmu, R.ARM_SMMU_GBPA, gbpa | R.GBPA_UPDATE)
      this.#write(smmu, R.ARM_SMMU_CR0, cr0)
      return true
    }
    if (before === 'on') {
      this.#kept[smmu] = { cr0: this.#read(smmu, R.ARM_SMMU_CR0), gbpa: this.#read(smmu, R.ARM_SMMU_GBPA) }
      this.#write(smmu, R.ARM_SMMU_GBPA, R.GBPA_ABORT | R.GBPA_UPDATE)
      this.#write(smmu, R.ARM_SMMU_CR0, 0)
    }
    if (state === 'off') this.#lose(smmu)
    return true
  }

  /** Loses its state and goes on, though nobody has switched it. */
  lose(smmu: number): void {
    this.#write(smmu, R.ARM_SMMU_GBPA, GBPA_RESET | R.GBPA_UPDATE)
    this.#write(smmu, R.ARM_SMMU_CR0, 0)
    this.#lose(smmu)
  }

  #lose(smmu: number): void {
    this.#kept[smmu] = undefined
    this.#write(smmu, R.ARM_SMMU_IRQ_CTRL, 0)
    // The model's GERROR cannot be cleared: no error is active, as after a reset.
    this.#write(smmu, R.ARM_SMMU_GERRORN, this.#read(smmu, R.ARM_SMMU_GERROR))
    for (const offset of UNKNOWN_AFTER) this.#write(smmu, offset, 0xffff_ffff)
    const link = this.#link
    const seq = link.nextSeq()
    encodeInvalidate(link.out, seq, smmu, enums.invalidateScope.all[0], 0)
    link.call(seq)
  }

  #write(smmu: number, offset: number, value: number): void {
    const link = this.#link
    const seq = link.nextSeq()
    encodeHwWrite(link.out, seq, smmu, offset, 4, 0, value >>> 0)
    link.call(seq)
    this.#changed(offset)
  }

  #read(smmu: number, offset: number): number {
    const link = this.#link
    const seq = link.nextSeq()
    encodeHwRead(link.out, seq, smmu, offset, 4)
    const answer = link.call(seq)
    return answer.type === Id.done ? answer.valueLo : 0
  }
}
