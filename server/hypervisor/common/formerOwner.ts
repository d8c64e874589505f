// SPDX-License-Identifier: Apache-2.0
/** What a former owner left in an SMMU (server/hypervisor/README.md, sections 3 and 3.3): the same for any hypervisor that takes it. */
import {
  ARM_SMMU_CR0,
  ARM_SMMU_CR0ACK,
  ARM_SMMU_EVTQ_IRQ_CFG0,
  ARM_SMMU_GBPA,
  ARM_SMMU_GERROR,
  ARM_SMMU_GERROR_IRQ_CFG0,
  ARM_SMMU_GERRORN,
  ARM_SMMU_IDR0,
  ARM_SMMU_IRQ_CTRL,
  ARM_SMMU_IRQ_CTRLACK,
  ARM_SMMU_PRIQ_IRQ_CFG0,
  GBPA_ABORT,
  GBPA_UPDATE,
  IDR0_MSI,
} from '../../smmu/registers.ts'
import type { HardwareFrame } from './hardwareFrame.ts'
import type { HardwareWait } from './wait.ts'

const MSI_ADDRESSES = [ARM_SMMU_GERROR_IRQ_CFG0, ARM_SMMU_EVTQ_IRQ_CFG0, ARM_SMMU_PRIQ_IRQ_CFG0]

/**
 * GBPA := abort, with its other fields as they are.
 * @param kept whether they are
 * @returns false when the hardware does not take the update in time
 */
export function abortBypass(hardware: HardwareFrame, wait: HardwareWait, kept = true): boolean {
  const idle = () => (hardware.read32(ARM_SMMU_GBPA) & GBPA_UPDATE) === 0
  if (!wait.until(idle)) return false
  hardware.write32(ARM_SMMU_GBPA, (kept ? hardware.read32(ARM_SMMU_GBPA) : 0) | GBPA_ABORT | GBPA_UPDATE)
  return wait.until(idle)
}

/**
 * The SMMU is off, so that it takes new base registers; it sends no interrupts as messages, which would be written past stage 2; and
 * no error that nobody acknowledged keeps a new command queue from starting.
 * @param abort makes what comes while it is off abort, before it is off; false: that was not possible
 * @returns why that is not possible, or null
 */
export function stopSmmu(hardware: HardwareFrame, wait: HardwareWait, abort: () => boolean): string | null {
  if (hardware.read32(ARM_SMMU_CR0) !== 0) {
    if (!abort()) return 'GBPA was not updated in time'
    hardware.write32(ARM_SMMU_CR0, 0)
  }
  if (!wait.until(() => hardware.read32(ARM_SMMU_CR0ACK) === 0)) return 'it could not be disabled in time (CR0ACK)'
  if (hardware.read32(ARM_SMMU_IRQ_CTRL) !== 0) hardware.write32(ARM_SMMU_IRQ_CTRL, 0)
  if (!wait.until(() => hardware.read32(ARM_SMMU_IRQ_CTRLACK) === 0)) {
    return 'interrupts were not disabled in time (IRQ_CTRLACK)'
  }
  if ((hardware.read32(ARM_SMMU_IDR0) & IDR0_MSI) !== 0) {
    for (const offset of MSI_ADDRESSES) hardware.write64(offset, 0)
  }
  const gerror = hardware.read32(ARM_SMMU_GERROR)
  if (hardware.read32(ARM_SMMU_GERRORN) !== gerror) hardware.write32(ARM_SMMU_GERRORN, gerror)
  return null
}
