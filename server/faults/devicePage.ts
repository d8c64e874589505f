// SPDX-License-Identifier: Apache-2.0

import type { Halves } from '../smmu/bits.ts'
import { decodeFeatures } from '../smmu/features.ts'
import { readRegister, type SmmuHardware } from '../smmu/hardware.ts'
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
} from '../smmu/registers.ts'
import { NO_SSID } from '../smmu/transaction.ts'
import { Walker } from '../smmu/walker.ts'

/** The page that a device reaches at an input address, by the hardware's tables; undefined: none. */
export function devicePage(
  hardware: SmmuHardware,
  memory: GuestMemory,
  sid: number,
  { lo, hi }: Readonly<Halves>,
): number | undefined {
  const get = (offset: number) => readRegister(hardware, offset).lo
  const [idr0, idr1, idr3, idr5] = [get(ARM_SMMU_IDR0), get(ARM_SMMU_IDR1), get(ARM_SMMU_IDR3), get(ARM_SMMU_IDR5)]
  const walker = new Walker(decodeFeatures({ idr0, idr1, idr3, idr5 }), memory)
  walker.setRegisters({
    cr0: get(ARM_SMMU_CR0),
    cr2: get(ARM_SMMU_CR2),
    gbpa: get(ARM_SMMU_GBPA),
    strtabBaseLo: get(ARM_SMMU_STRTAB_BASE),
    strtabBaseHi: get(ARM_SMMU_STRTAB_BASE + 4),
    strtabBaseCfg: get(ARM_SMMU_STRTAB_BASE_CFG),
  })
  const transaction = { sid, ssid: NO_SSID, lo, hi, write: false, privileged: false, instruction: false }
  const outcome = walker.translate(transaction)
  return outcome.kind === 'translated' ? outcome.pa - (outcome.pa % 4096) : undefined
}
