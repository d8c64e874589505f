// SPDX-License-Identifier: Apache-2.0
/** Registers as the host wrote them. */
import * as R from '../smmu/registers.ts'

/** What the host wrote to one SMMU, whatever became of it. */
export class HostRegisters {
  cr0 = 0
  strtabBase = 0
  strtabCfg = 0
  cmdqBase = 0
  cmdqLog2size = 0
  cmdqProd = 0
  evtqBase = 0
  evtqLog2size = 0
  priqBase = 0
  priqLog2size = 0

  reset(): void {
    this.cr0 = this.strtabBase = this.strtabCfg = this.cmdqProd = 0
    this.cmdqBase = this.cmdqLog2size = this.evtqBase = this.evtqLog2size = this.priqBase = this.priqLog2size = 0
  }

  write(offset: number, lo: number, hi: number): void {
    const address = (hi & R.Q_BASE_HI_ADDR) * 2 ** 32 + ((lo & R.Q_BASE_LO_ADDR) >>> 0)
    switch (offset) {
      case R.ARM_SMMU_CR0:
        this.cr0 = lo
        break
      case R.ARM_SMMU_STRTAB_BASE:
        this.strtabBase = R.strtabBaseAddress(lo, hi)
        break
      case R.ARM_SMMU_STRTAB_BASE_CFG:
        this.strtabCfg = lo
        break
      case R.ARM_SMMU_CMDQ_BASE:
        this.cmdqBase = address
        this.cmdqLog2size = lo & R.Q_BASE_LOG2SIZE
        break
      case R.ARM_SMMU_CMDQ_PROD:
        this.cmdqProd = lo
        break
      case R.ARM_SMMU_EVTQ_BASE:
        this.evtqBase = address
        this.evtqLog2size = lo & R.Q_BASE_LOG2SIZE
        break
      case R.ARM_SMMU_PRIQ_BASE:
        this.priqBase = address
        this.priqLog2size = lo & R.Q_BASE_LOG2SIZE
        break
    }
  }
}
