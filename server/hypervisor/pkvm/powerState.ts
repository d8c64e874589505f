// SPDX-License-Identifier: Apache-2.0
/** Whether an SMMU is on, and what the hypervisor keeps of it while it is not (server/hypervisor/README.md, section 19). */
import {
  ARM_SMMU_CR1,
  ARM_SMMU_CR2,
  ARM_SMMU_EVTQ_BASE,
  ARM_SMMU_EVTQ_CONS,
  ARM_SMMU_EVTQ_PROD,
  ARM_SMMU_IRQ_CTRL,
  ARM_SMMU_PRIQ_BASE,
  ARM_SMMU_PRIQ_CONS,
  ARM_SMMU_PRIQ_PROD,
} from '../../smmu/registers.ts'
import { StateLayout } from './stateLayout.ts'

/** Registers that the host's writes reach, as the hardware had them. IRQ_CFG is not among them: it holds 0 but for a quirk. */
export interface HostRegisters {
  cr1: number
  cr2: number
  evtqBaseLo: number
  evtqBaseHi: number
  evtqProd: number
  evtqCons: number
  priqBaseLo: number
  priqBaseHi: number
  priqProd: number
  priqCons: number
  irqCtrl: number
}

/** In the order in which they are written: interrupts last. */
export const HOST_REGISTERS: readonly (readonly [name: keyof HostRegisters, offset: number])[] = [
  ['cr1', ARM_SMMU_CR1],
  ['cr2', ARM_SMMU_CR2],
  ['evtqBaseLo', ARM_SMMU_EVTQ_BASE],
  ['evtqBaseHi', ARM_SMMU_EVTQ_BASE + 4],
  ['evtqProd', ARM_SMMU_EVTQ_PROD],
  ['evtqCons', ARM_SMMU_EVTQ_CONS],
  ['priqBaseLo', ARM_SMMU_PRIQ_BASE],
  ['priqBaseHi', ARM_SMMU_PRIQ_BASE + 4],
  ['priqProd', ARM_SMMU_PRIQ_PROD],
  ['priqCons', ARM_SMMU_PRIQ_CONS],
  ['irqCtrl', ARM_SMMU_IRQ_CTRL],
]

/** What a checkpoint holds. */
export interface SmmuPower extends HostRegisters {
  /** Index in POWER_STATES. */
  now: number
  /** While it is being switched: index of the state that is to be, plus 1; else 0. */
  wanted: number
  /** The host is to find its registers as it left them: they are here. */
  saved: boolean
  /** GERRORN as the host had it: nobody can write GERROR, and what is lost comes back as 0 in both. */
  gerrorn: number
  /** Bits of GERROR and GERRORN that the host reads and writes the other way round. */
  gerrorFlip: number
}

export const POWERED_ON: Readonly<SmmuPower> = {
  ...{ now: 0, wanted: 0, saved: false, gerrorn: 0, gerrorFlip: 0 },
  ...{ cr1: 0, cr2: 0, irqCtrl: 0 },
  ...{ evtqBaseLo: 0, evtqBaseHi: 0, evtqProd: 0, evtqCons: 0 },
  ...{ priqBaseLo: 0, priqBaseHi: 0, priqProd: 0, priqCons: 0 },
}

export const SMMU_POWER = new StateLayout<SmmuPower>({
  now: 'u32',
  wanted: 'u32',
  saved: 'flag',
  gerrorn: 'u32',
  gerrorFlip: 'u32',
  cr1: 'u32',
  cr2: 'u32',
  evtqBaseLo: 'u32',
  evtqBaseHi: 'u32',
  evtqProd: 'u32',
  evtqCons: 'u32',
  priqBaseLo: 'u32',
  priqBaseHi: 'u32',
  priqProd: 'u32',
  priqCons: 'u32',
  irqCtrl: 'u32',
})
