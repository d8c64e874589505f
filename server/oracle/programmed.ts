// SPDX-License-Identifier: Apache-2.0
/** What an SMMU's registers say of where it reads and writes, as they are read from the hardware. */
import { decodeFeatures, type Features } from '../smmu/features.ts'
import { readRegister, type SmmuHardware } from '../smmu/hardware.ts'
import { EVTQ_ENTRY_SIZE, PRIQ_ENTRY_SIZE, queueExtent } from '../smmu/queue.ts'
import { type TableRegisters, tableRegisters } from '../smmu/reach.ts'
import * as R from '../smmu/registers.ts'
import type { WalkRegisters } from '../smmu/walker.ts'

/** Memory that an SMMU writes by itself. */
export interface WrittenRange {
  readonly name: 'event queue' | 'PRI queue'
  readonly base: number
  readonly size: number
}

export interface Programmed {
  readonly features: Features
  readonly registers: WalkRegisters
  readonly tables: TableRegisters
  readonly writes: readonly WrittenRange[]
}

/** ID registers never change. */
export function readFeatures(hardware: Pick<SmmuHardware, 'read'>): Features {
  const [idr0, idr1, idr3, idr5] = [R.ARM_SMMU_IDR0, R.ARM_SMMU_IDR1, R.ARM_SMMU_IDR3, R.ARM_SMMU_IDR5].map(
    offset => readRegister(hardware, offset).lo,
  )
  return decodeFeatures({ idr0, idr1, idr3, idr5 })
}

/** Half a dozen accesses to the hardware. */
export function readProgrammed(hardware: Pick<SmmuHardware, 'read'>, features: Features): Programmed {
  const word = (offset: number) => readRegister(hardware, offset).lo
  // What was acknowledged counts until the next acknowledgement (IHI 0070 section 6.3.10), what was asked for is about to.
  const cr0 = word(R.ARM_SMMU_CR0) | word(R.ARM_SMMU_CR0ACK)
  const strtab = readRegister(hardware, R.ARM_SMMU_STRTAB_BASE, 8)
  const registers: WalkRegisters = {
    ...{ cr0, cr2: 0, gbpa: word(R.ARM_SMMU_GBPA) },
    ...{ strtabBaseLo: strtab.lo, strtabBaseHi: strtab.hi, strtabBaseCfg: word(R.ARM_SMMU_STRTAB_BASE_CFG) },
  }
  const writes: WrittenRange[] = []
  const queue = (name: WrittenRange['name'], register: number, entry: number) => {
    const { lo, hi } = readRegister(hardware, register, 8)
    const { address, bytes } = queueExtent(lo, hi, entry)
    writes.push({ name, base: address, size: bytes })
  }
  if ((cr0 & R.CR0_EVTQEN) !== 0) queue('event queue', R.ARM_SMMU_EVTQ_BASE, EVTQ_ENTRY_SIZE)
  if ((cr0 & R.CR0_PRIQEN) !== 0) queue('PRI queue', R.ARM_SMMU_PRIQ_BASE, PRIQ_ENTRY_SIZE)
  return { features, registers, tables: tableRegisters(registers, features), writes }
}
