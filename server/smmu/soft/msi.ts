// SPDX-License-Identifier: Apache-2.0
/** Interrupts: IRQ_CTRL, the IRQ_CFG registers, wires and MSI writes (IHI 0070 sections 3.18, 6.3.16 to 6.3.36). */
import { addressOf, lowBits } from '../bits.ts'
import type { Features } from '../features.ts'
import type { GuestMemory } from '../memory.ts'
import * as R from '../registers.ts'
import type { Irq, SoftSmmuOptions } from './options.ts'
import { ControlRegister } from './update.ts'

/** One source of interrupts: IRQ_CFG0 (two halves), IRQ_CFG1 and IRQ_CFG2, the four words from its IRQ_CFG0 on. */
export class InterruptSource {
  readonly irq: Irq
  readonly words = new Uint32Array(4)
  readonly offset: number
  /** The bit of IRQ_CTRL that enables the interrupt, and guards the registers. */
  readonly enable: number
  /** The global error that an MSI write which was aborted activates. */
  readonly abortError: number
  readonly #masks: readonly number[]

  /** @param cfg2 writable bits of IRQ_CFG2 */
  constructor(irq: Irq, offset: number, enable: number, abortError: number, msi: boolean, cfg2: number) {
    this.irq = irq
    this.offset = offset
    this.enable = enable
    this.abortError = abortError
    this.#masks = msi ? [R.MSI_CFG0_LO_ADDR, R.MSI_CFG0_HI_ADDR, 0xffff_ffff, cfg2] : [0, 0, 0, cfg2]
  }

  write(offset: number, value: number): void {
    const i = (offset - this.offset) / 4
    this.words[i] = value & this.#masks[i]
  }
}

export class Interrupts {
  readonly control = new ControlRegister()
  readonly gerror: InterruptSource
  readonly evtq: InterruptSource
  readonly priq: InterruptSource
  readonly #features: Features
  readonly #memory: GuestMemory
  readonly #options: SoftSmmuOptions
  readonly #data = new Uint32Array(1)
  readonly #bytes = new Uint8Array(this.#data.buffer)

  constructor(features: Features, memory: GuestMemory, options: SoftSmmuOptions) {
    this.#features = features
    this.#memory = memory
    this.#options = options
    const { msi, pri } = features
    const cfg2 = msi ? R.MSI_CFG2_SH | R.MSI_CFG2_MEMATTR : 0
    this.gerror = new InterruptSource(
      'gerror',
      R.ARM_SMMU_GERROR_IRQ_CFG0,
      R.IRQ_CTRL_GERROR_IRQEN,
      R.GERROR_MSI_GERROR_ABT_ERR,
      msi,
      cfg2,
    )
    this.evtq = new InterruptSource(
      'evtq',
      R.ARM_SMMU_EVTQ_IRQ_CFG0,
      R.IRQ_CTRL_EVTQ_IRQEN,
      R.GERROR_MSI_EVTQ_ABT_ERR,
      msi,
      cfg2,
    )
    this.priq = new InterruptSource(
      'priq',
      R.ARM_SMMU_PRIQ_IRQ_CFG0,
      R.IRQ_CTRL_PRIQ_IRQEN,
      R.GERROR_MSI_PRIQ_ABT_ERR,
      msi && pri,
      // LO is there whether or not there are MSIs (IHI 0070 section 6.3.1, MSI).
      pri ? cfg2 | R.PRIQ_IRQ_CFG2_LO : 0,
    )
  }

  /** The source whose IRQ_CFG registers are at `offset`. */
  at(offset: number): InterruptSource | undefined {
    if (offset >= R.ARM_SMMU_PRIQ_IRQ_CFG0) return offset < R.ARM_SMMU_PRIQ_IRQ_CFG0 + 16 ? this.priq : undefined
    if (offset >= R.ARM_SMMU_EVTQ_IRQ_CFG0) return offset < R.ARM_SMMU_EVTQ_IRQ_CFG0 + 16 ? this.evtq : undefined
    return offset >= R.ARM_SMMU_GERROR_IRQ_CFG0 && offset < R.ARM_SMMU_GERROR_IRQ_CFG0 + 16 ? this.gerror : undefined
  }

  /** Whether only a page request with the Last flag interrupts (IHI 0070 section 6.3.36). */
  get lastOnly(): boolean {
    return (this.priq.words[3] & R.PRIQ_IRQ_CFG2_LO) !== 0
  }

  /** The source has something to tell. Returns false when its MSI was aborted. */
  raise(source: InterruptSource): boolean {
    if (!(this.control.value & source.enable)) return true
    this.#options.onIrq?.(source.irq)
    const { words } = source
    return this.#write(source.irq, addressOf(words[0], words[1]), words[2])
  }

  /**
   * CMD_SYNC with CS = SIG_IRQ (IHI 0070 section 4.7.3), which IRQ_CTRL does not concern.
   * @returns false when its MSI was aborted
   */
  complete(address: number, data: number): boolean {
    this.#options.onIrq?.('sync')
    return this.#write('sync', address, data)
  }

  /** An address of 0 disables the MSI; bits above the output address size are dropped (IHI 0070 section 3.4.3). */
  #write(irq: Irq, address: number, data: number): boolean {
    if (!this.#features.msi || address === 0) return true
    const target = lowBits(address, this.#features.oas)
    this.#options.onWrite?.(`msi-${irq}`, target, 4)
    this.#data[0] = data
    return this.#memory.write(target, this.#bytes, 0, 4)
  }

  reset(): void {
    this.control.reset()
    this.gerror.words.fill(0)
    this.evtq.words.fill(0)
    this.priq.words.fill(0)
  }
}
