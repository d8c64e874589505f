// SPDX-License-Identifier: Apache-2.0
import { decodeFeatures, type Features } from '../smmu/features.ts'
import type { GuestMemory } from '../smmu/memory.ts'
import {
  ARM_SMMU_CR0,
  ARM_SMMU_CR2,
  ARM_SMMU_GBPA,
  ARM_SMMU_IDR0,
  ARM_SMMU_IDR1,
  ARM_SMMU_IDR3,
  ARM_SMMU_IDR5,
  ARM_SMMU_STRTAB_BASE,
  ARM_SMMU_STRTAB_BASE_CFG,
  CR2_E2H,
  GBPA_UPDATE,
} from '../smmu/registers.ts'
import { SoftCaches } from '../smmu/soft/caches.ts'
import { execute } from '../smmu/soft/execute.ts'
import type { Outcome, Transaction } from '../smmu/transaction.ts'
import { Walker } from '../smmu/walker.ts'
import type { Answer } from './answer.ts'
import { type Case, Examiner } from './differences.ts'
import type { CommandListener, TrackedHardware } from './trackedHardware.ts'

/** After so many walks the caches start anew: a guest that never invalidates does not fill the server's memory. */
const MAX_WALKS = 1 << 16

/**
 * One SMMU's walker, with caches of its own that only the commands empty which the hardware consumes: an invalidation that
 * the hypervisor swallowed shows as a translation by the old tables, as on hardware.
 */
export class SmmuTranslator implements CommandListener {
  readonly #hardware: TrackedHardware
  readonly #features: Features
  /**
   * Not `maximal`: a level 1 descriptor of the stream table becomes valid with CFGI_STE of a leaf, in Linux and in the series,
   * and the model does not know the contiguous bit.
   */
  readonly #caches = new SoftCaches('walks')
  readonly #walker: Walker
  readonly #examiner: Examiner
  #generation = -1
  #walks = 0
  #e2h = false

  /** @param traced guest memory, and whatever the walker reads of it is on the trace */
  constructor(hardware: TrackedHardware, memory: GuestMemory, traced: GuestMemory) {
    this.#hardware = hardware
    const [idr0, idr1, idr3, idr5] = [ARM_SMMU_IDR0, ARM_SMMU_IDR1, ARM_SMMU_IDR3, ARM_SMMU_IDR5].map(offset =>
      hardware.value(offset),
    )
    this.#features = decodeFeatures({ idr0, idr1, idr3, idr5 })
    this.#walker = new Walker(this.#features, traced, this.#caches)
    this.#examiner = new Examiner(this.#features, memory)
    hardware.listen(this.#features.cmdqs, this)
  }

  translate(transaction: Transaction): Outcome {
    if (this.#generation !== this.#hardware.generation) this.#load()
    if (++this.#walks > MAX_WALKS) this.lost()
    return this.#walker.translate(transaction)
  }

  /** The same without caches. */
  examine(transaction: Transaction, hardware: Answer): Case {
    return this.#examiner.examine(transaction, hardware)
  }

  command(words: Uint32Array, base: number): void {
    execute(words, base, this.#features, this.#caches, this.#e2h)
  }

  lost(): void {
    this.#caches.clear()
    this.#walks = 0
  }

  #load(): void {
    const hardware = this.#hardware
    const registers = {
      cr0: hardware.value(ARM_SMMU_CR0),
      cr2: hardware.value(ARM_SMMU_CR2),
      gbpa: hardware.value(ARM_SMMU_GBPA) & ~GBPA_UPDATE,
      strtabBaseLo: hardware.value(ARM_SMMU_STRTAB_BASE),
      strtabBaseHi: hardware.value(ARM_SMMU_STRTAB_BASE + 4),
      strtabBaseCfg: hardware.value(ARM_SMMU_STRTAB_BASE_CFG),
    }
    this.#walker.setRegisters(registers)
    this.#examiner.setRegisters(registers)
    this.#e2h = (registers.cr2 & CR2_E2H) !== 0
    this.#generation = hardware.generation
  }
}
