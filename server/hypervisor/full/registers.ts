// SPDX-License-Identifier: Apache-2.0
/**
 * Registers of a host that may use all that its SMMU has (server/hypervisor/README.md, section 18): what the ID registers do not
 * show is not there, and the rest is as IHI 0070 chapter 6 has it.
 */
import * as R from '../../smmu/registers.ts'
import { CR1_REQUIRED } from '../common/cr1.ts'
import type { RegisterAccess, RegisterOverrides, RegisterRule } from '../pkvm/frame.ts'
import type { Smmu } from '../pkvm/smmu.ts'

/** Of stage 2 and of features with registers, commands or fields that are not followed. */
const IDR0_ABSENT = R.IDR0_VATOS | R.IDR0_VMW | R.IDR0_ATOS | R.IDR0_NS1ATS
const IDR3_ABSENT =
  R.IDR3_MTEPERM |
  R.IDR3_THE |
  R.IDR3_S2PO |
  R.IDR3_S2PI |
  R.IDR3_S1PI |
  R.IDR3_DPT |
  R.IDR3_PTWNNC |
  R.IDR3_FWB |
  R.IDR3_MPAM |
  R.IDR3_XNX

const CR1_TABLE = R.CR1_TABLE_SH | R.CR1_TABLE_OC | R.CR1_TABLE_IC
const CR1_QUEUE = R.CR1_QUEUE_SH | R.CR1_QUEUE_OC | R.CR1_QUEUE_IC
const QUEUES = R.CR0_CMDQEN | R.CR0_EVTQEN | R.CR0_PRIQEN
const GBPA_FIELDS = R.GBPA_INSTCFG | R.GBPA_PRIVCFG | R.GBPA_SHCFG | R.GBPA_ALLOCCFG | R.GBPA_MTCFG | R.GBPA_MEMATTR

/** The register without some of its bits. */
const without =
  (bits: number) =>
  (rule: RegisterRule): RegisterRule => ({
    ...rule,
    read(smmu, trap) {
      rule.read?.(smmu, trap)
      trap.lo = (trap.lo & ~bits) >>> 0
    },
  })

/** One of the hardware's that can only be read. */
const readOnly = (): RegisterRule => ({
  bits: 32,
  read(smmu, trap) {
    if (!smmu.hardware.read(trap.offset, trap.size, trap)) trap.aborted = true
  },
})

const zero: RegisterAccess = (_smmu, trap) => {
  trap.lo = 0
  trap.hi = 0
}
const ignored: RegisterAccess = () => {}

/** Reads as zero and ignores writes. */
const absent = ({ bits }: RegisterRule): RegisterRule => ({ bits, read: zero, write: ignored })

const hasPri = ({ hyp, hardware }: Smmu): boolean => hyp.ats && (hardware.read32(R.ARM_SMMU_IDR0) & R.IDR0_PRI) !== 0

/** Of the PRI queue, which the host may not have. */
const ofPri = (rule: RegisterRule): RegisterRule => ({
  bits: rule.bits,
  read: (smmu, trap) => (hasPri(smmu) ? rule.read : zero)?.(smmu, trap),
  write: (smmu, trap) => (hasPri(smmu) ? rule.write : ignored)?.(smmu, trap),
})

/** Without IDR0.MSI all of it is RES0 but LO (IHI 0070 section 6.3.36). */
const priqIrqCfg2 = (): RegisterRule =>
  ofPri({
    bits: 32,
    read(smmu, trap) {
      trap.lo = (smmu.hardware.read32(R.ARM_SMMU_PRIQ_IRQ_CFG2) & R.PRIQ_IRQ_CFG2_LO) >>> 0
    },
    write(smmu, trap) {
      const value = (trap.lo & R.PRIQ_IRQ_CFG2_LO) >>> 0
      if (!smmu.hardware.write32(R.ARM_SMMU_PRIQ_IRQ_CFG2, value)) trap.aborted = true
    },
  })

/** What the host writes, it reads; the hardware fetches the hypervisor's tables and commands as these are written. */
const cr1 = (): RegisterRule => ({
  bits: 32,
  read({ state }, trap) {
    trap.lo = state.cr1
  },
  write({ state, hardware, hyp }, trap) {
    const open = ((state.cr0 & R.CR0_SMMUEN) === 0 ? CR1_TABLE : 0) | ((state.cr0 & QUEUES) === 0 ? CR1_QUEUE : 0)
    state.cr1 = (state.cr1 & ~open) | (trap.lo & open)
    hyp.changed()
    if (!hardware.write32(R.ARM_SMMU_CR1, CR1_REQUIRED)) trap.aborted = true
  },
})

/** CR2.E2H is RES0 without IDR0.HYP, REC_CFG_ATS without ATS. */
const cr2 = (rule: RegisterRule): RegisterRule => ({
  ...rule,
  write({ hardware, hyp, state }, trap) {
    if ((state.cr0 & R.CR0_SMMUEN) !== 0) return
    const value = (trap.lo & ~(R.CR2_E2H | (hyp.ats ? 0 : R.CR2_REC_CFG_ATS))) >>> 0
    if (!hardware.write32(R.ARM_SMMU_CR2, value)) trap.aborted = true
  },
})

/** Its attributes are the host's. ABORT is not: while SMMUEN is 0 nothing passes. */
const gbpa = (): RegisterRule => ({
  bits: 32,
  read({ hardware }, trap) {
    trap.lo = (hardware.read32(R.ARM_SMMU_GBPA) & (GBPA_FIELDS | R.GBPA_UPDATE | R.GBPA_ABORT)) >>> 0
  },
  write({ hardware }, trap) {
    const busy = (hardware.read32(R.ARM_SMMU_GBPA) & R.GBPA_UPDATE) !== 0
    if (busy || (trap.lo & R.GBPA_UPDATE) === 0) return
    const value = ((trap.lo & GBPA_FIELDS) | R.GBPA_ABORT | R.GBPA_UPDATE) >>> 0
    if (!hardware.write32(R.ARM_SMMU_GBPA, value)) trap.aborted = true
  },
})

/** Without MSIs these are RES0 (IHI 0070 section 6.3.18). */
const MSI = [
  R.ARM_SMMU_GERROR_IRQ_CFG0,
  R.ARM_SMMU_GERROR_IRQ_CFG1,
  R.ARM_SMMU_GERROR_IRQ_CFG2,
  R.ARM_SMMU_EVTQ_IRQ_CFG0,
  R.ARM_SMMU_EVTQ_IRQ_CFG1,
  R.ARM_SMMU_EVTQ_IRQ_CFG2,
  R.ARM_SMMU_PRIQ_IRQ_CFG0,
  R.ARM_SMMU_PRIQ_IRQ_CFG1,
] as const
const PRI = [R.ARM_SMMU_PRIQ_BASE, R.ARM_SMMU_PRIQ_PROD, R.ARM_SMMU_PRIQ_CONS] as const
/** Bytes of the identification registers, which end the first page. */
const ID_BYTES = 0x1000 - R.ARM_SMMU_ID_REGS

/** @param bypassIsOwn from `queues` on GBPA is the hypervisor's */
export function registers(bypassIsOwn: boolean): RegisterOverrides {
  const rules: Record<number, (rule: RegisterRule) => RegisterRule> = {
    [R.ARM_SMMU_IDR0]: without(IDR0_ABSENT),
    [R.ARM_SMMU_IDR1]: without(R.IDR1_ECMDQ),
    [R.ARM_SMMU_IDR2]: without(R.IDR2_BA_VATOS),
    [R.ARM_SMMU_IDR3]: without(IDR3_ABSENT),
    [R.ARM_SMMU_CR1]: cr1,
    [R.ARM_SMMU_CR2]: cr2,
    [R.ARM_SMMU_STATUSR]: readOnly,
    [R.ARM_SMMU_PRIQ_IRQ_CFG2]: priqIrqCfg2,
  }
  if (bypassIsOwn) rules[R.ARM_SMMU_GBPA] = gbpa
  for (const offset of MSI) rules[offset] = absent
  for (const offset of PRI) rules[offset] = ofPri
  for (let at = 0; at < ID_BYTES; at += 4) rules[R.ARM_SMMU_ID_REGS + at] = readOnly
  return rules
}
