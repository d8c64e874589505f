// SPDX-License-Identifier: Apache-2.0
/**
 * The register frame as the host sees it (server/hypervisor/README.md, section 4): one rule for each register. What has no
 * rule, or not for this direction or width, is a hyp warning.
 */
import { includesStep, newTrap, type SeriesStep, type Trap } from '../../policy/policy.ts'
import type { HypWarning } from '../../policy/warnings.ts'
import {
  ARM_SMMU_AIDR,
  ARM_SMMU_CMDQ_BASE,
  ARM_SMMU_CMDQ_CONS,
  ARM_SMMU_CMDQ_PROD,
  ARM_SMMU_CR0,
  ARM_SMMU_CR0ACK,
  ARM_SMMU_CR1,
  ARM_SMMU_CR2,
  ARM_SMMU_EVTQ_BASE,
  ARM_SMMU_EVTQ_CONS,
  ARM_SMMU_EVTQ_IRQ_CFG0,
  ARM_SMMU_EVTQ_IRQ_CFG1,
  ARM_SMMU_EVTQ_IRQ_CFG2,
  ARM_SMMU_EVTQ_PROD,
  ARM_SMMU_FRAME_SIZE,
  ARM_SMMU_GBPA,
  ARM_SMMU_GERROR,
  ARM_SMMU_GERROR_IRQ_CFG0,
  ARM_SMMU_GERROR_IRQ_CFG1,
  ARM_SMMU_GERROR_IRQ_CFG2,
  ARM_SMMU_GERRORN,
  ARM_SMMU_IDR0,
  ARM_SMMU_IDR1,
  ARM_SMMU_IDR2,
  ARM_SMMU_IDR3,
  ARM_SMMU_IDR4,
  ARM_SMMU_IDR5,
  ARM_SMMU_IIDR,
  ARM_SMMU_IRQ_CTRL,
  ARM_SMMU_IRQ_CTRLACK,
  ARM_SMMU_PRIQ_BASE,
  ARM_SMMU_PRIQ_CONS,
  ARM_SMMU_PRIQ_IRQ_CFG0,
  ARM_SMMU_PRIQ_IRQ_CFG1,
  ARM_SMMU_PRIQ_IRQ_CFG2,
  ARM_SMMU_PRIQ_PROD,
  ARM_SMMU_STRTAB_BASE,
  ARM_SMMU_STRTAB_BASE_CFG,
  CR0_ATSCHK,
  CR0_CMDQEN,
  CR0_EVTQEN,
  CR0_PRIQEN,
  CR0_SMMUEN,
  GBPA_ABORT,
  GERROR_CMDQ_ERR,
  IDR0_ATS,
  IDR0_ATSRECERR,
  IDR0_HYP,
  IDR0_MSI,
  IDR0_PRI,
  IDR0_S2P,
  IDR0_VMID16,
  registerName,
} from '../../smmu/registers.ts'
import { CR1_REQUIRED } from '../common/cr1.ts'
import { disableAcknowledged, hostsCr0, writeCr0 } from './cr0.ts'
import { expectKnown } from './known.ts'
import type { Quirks } from './quirks.ts'
import type { Smmu } from './smmu.ts'
import {
  HYP_ACCESS_DIRECTION,
  HYP_ACCESS_WIDTH,
  HYP_CMDQ_BASE_LIVE,
  HYP_CMDQ_CONS_LIVE,
  HYP_CR1_VALUE,
  HYP_EVTQ_BASE_LIVE,
  HYP_GERRORN_INACTIVE,
  HYP_MSI_REGISTER,
  HYP_PRIQ_BASE_LIVE,
  HYP_STRTAB_BASE_CFG_LIVE,
  HYP_STRTAB_BASE_LIVE,
  HYP_UNKNOWN_REGISTER,
} from './warnings.ts'

/** Answers a read in the trap's `lo` and `hi`, or acts on a write. */
export type RegisterAccess = (smmu: Smmu, trap: Trap) => void

/** A register: its only width, and what a read and a write do; without one, that direction is a hyp warning. */
export interface RegisterRule {
  readonly bits: 32 | 64
  readonly read?: RegisterAccess
  readonly write?: RegisterAccess
}

/** A change of the rule at an offset, given the rule that stood there (32 bits, neither read nor write, if none). */
export type RegisterOverrides = Readonly<Record<number, (rule: RegisterRule) => RegisterRule>>

/** Features of the hardware that the host does not see. */
export const IDR0_HIDDEN = IDR0_S2P | IDR0_HYP | IDR0_MSI | IDR0_VMID16
/** Those that it does not see unless ATS is let through. */
export const IDR0_ATS_HIDDEN = IDR0_ATS | IDR0_PRI | IDR0_ATSRECERR

const hwRead: RegisterAccess = (smmu, trap) => {
  if (!smmu.hardware.read(trap.offset, trap.size, trap)) trap.aborted = true
}

const hwWrite: RegisterAccess = (smmu, trap) => {
  if (!smmu.hardware.write(trap.offset, trap.size, trap.lo, trap.hi)) trap.aborted = true
}

const RO: RegisterRule = { bits: 32, read: hwRead }
const RW: RegisterRule = { bits: 32, read: hwRead, write: hwWrite }
const RW64: RegisterRule = { bits: 64, read: hwRead, write: hwWrite }

/** `write` while an enable bit of CR0 is clear, else the warning. */
function whileOff(bit: number, warning: HypWarning, write: RegisterAccess): RegisterAccess {
  return (smmu, trap) => {
    if (smmu.enabled(bit)) smmu.warn(warning, trap.lo, trap.hi, 0, 0)
    else write(smmu, trap)
  }
}

function answer(trap: Trap, lo: number, hi = 0): void {
  trap.lo = lo
  trap.hi = hi
}

const IDR0: RegisterRule = {
  bits: 32,
  read(smmu, trap) {
    hwRead(smmu, trap)
    const { ats, quirks } = smmu.hyp
    trap.lo = (trap.lo & ~IDR0_HIDDEN & ~(ats || quirks.has('eats') ? 0 : IDR0_ATS_HIDDEN)) >>> 0
  },
}

/** As the hardware has it, but for what is the hypervisor's: CR0.ATSCHK is as the host wrote it. */
const readCr0: RegisterAccess = (smmu, trap) => {
  hwRead(smmu, trap)
  trap.lo = ((hostsCr0(smmu, trap.lo) & ~CR0_ATSCHK) | (smmu.state.cr0 & CR0_ATSCHK)) >>> 0
}

const CR0: RegisterRule = { bits: 32, read: readCr0, write: writeCr0 }

const CR0ACK: RegisterRule = {
  ...RW,
  read(smmu, trap) {
    readCr0(smmu, trap)
    disableAcknowledged(smmu, trap.lo)
  },
}

const CR1: RegisterRule = {
  bits: 32,
  read: hwRead,
  write(smmu, trap) {
    if (trap.lo !== CR1_REQUIRED) smmu.warn(HYP_CR1_VALUE, trap.lo, CR1_REQUIRED, 0, 0)
    if (!smmu.hardware.write(ARM_SMMU_CR1, 4, CR1_REQUIRED, 0)) trap.aborted = true
  },
}

const GBPA: RegisterRule = {
  bits: 32,
  read: (_smmu, trap) => answer(trap, GBPA_ABORT),
  write() {},
}

const STRTAB_BASE: RegisterRule = {
  bits: 64,
  read: (smmu, trap) => answer(trap, smmu.hostStrtab.state.baseLo, smmu.hostStrtab.state.baseHi),
  write: whileOff(CR0_SMMUEN, HYP_STRTAB_BASE_LIVE, (smmu, trap) => {
    smmu.hostStrtab.state.baseLo = trap.lo
    smmu.hostStrtab.state.baseHi = trap.hi
    smmu.hyp.changed()
  }),
}

const STRTAB_BASE_CFG: RegisterRule = {
  bits: 32,
  read: (smmu, trap) => answer(trap, smmu.hostStrtab.state.cfg),
  write: whileOff(CR0_SMMUEN, HYP_STRTAB_BASE_CFG_LIVE, (smmu, trap) => {
    smmu.hostStrtab.state.cfg = trap.lo
    smmu.hyp.changed()
  }),
}

const CMDQ_BASE: RegisterRule = {
  bits: 64,
  read: (smmu, trap) => answer(trap, smmu.hostCmdq.registers.baseLo, smmu.hostCmdq.registers.baseHi),
  write: whileOff(CR0_CMDQEN, HYP_CMDQ_BASE_LIVE, (smmu, trap) => {
    smmu.hostCmdq.registers.baseLo = trap.lo
    smmu.hostCmdq.registers.baseHi = trap.hi
    smmu.hyp.queueMoved()
  }),
}

const CMDQ_PROD: RegisterRule = {
  bits: 32,
  read: (smmu, trap) => answer(trap, smmu.hostCmdq.registers.prod),
  write(smmu, trap) {
    smmu.hostCmdq.registers.prod = trap.lo
    if (smmu.enabled(CR0_CMDQEN)) smmu.hostCmdq.process(true)
    smmu.hyp.queueMoved()
  },
}

const CMDQ_CONS: RegisterRule = {
  bits: 32,
  read: (smmu, trap) => answer(trap, smmu.hostCmdq.readCons()),
  write: whileOff(CR0_CMDQEN, HYP_CMDQ_CONS_LIVE, (smmu, trap) => {
    smmu.hostCmdq.registers.cons = trap.lo
    smmu.hyp.queueMoved()
  }),
}

const EVTQ_BASE: RegisterRule = {
  bits: 64,
  read: hwRead,
  write: whileOff(CR0_EVTQEN, HYP_EVTQ_BASE_LIVE, hwWrite),
}

const PRIQ_BASE: RegisterRule = {
  bits: 64,
  read: hwRead,
  write: whileOff(CR0_PRIQEN, HYP_PRIQ_BASE_LIVE, hwWrite),
}

/** What was lost with the power reads as it was (server/hypervisor/README.md, section 19). */
const readGerror: RegisterAccess = (smmu, trap) => {
  hwRead(smmu, trap)
  trap.lo = (trap.lo ^ smmu.power.gerrorFlip) >>> 0
}

const GERROR: RegisterRule = { bits: 32, read: readGerror }

/** Only what is active can be acknowledged: anything else has unpredictable effects (IHI 0070 section 7.5). */
const GERRORN: RegisterRule = {
  bits: 32,
  read: readGerror,
  write(smmu, trap) {
    const { hardware } = smmu
    const before = hardware.read32(ARM_SMMU_GERRORN)
    const gerror = hardware.read32(ARM_SMMU_GERROR)
    const active = gerror ^ before
    const toggled = trap.lo ^ smmu.power.gerrorFlip ^ before
    if ((toggled & ~active) !== 0) smmu.warn(HYP_GERRORN_INACTIVE, trap.lo, gerror, before, 0)
    const goesOn = (toggled & active & GERROR_CMDQ_ERR) !== 0
    if (goesOn) smmu.hostCmdq.acknowledge()
    if (!hardware.write32(ARM_SMMU_GERRORN, before ^ (toggled & active))) trap.aborted = true
    if (!goesOn) return
    if (smmu.sends) smmu.shadowStrtab.makeUp(smmu.enabled(CR0_SMMUEN))
    if (smmu.enabled(CR0_CMDQEN)) smmu.hostCmdq.process(false)
    smmu.hyp.queueMoved()
  },
}

/** The hardware would write its messages where the host says, past stage 2. With IDR0.MSI hidden the driver writes 0. */
function msiRegister(bits: 32 | 64): RegisterRule {
  return {
    bits,
    read: hwRead,
    write(smmu, trap) {
      if (trap.lo !== 0 || trap.hi !== 0) smmu.warn(HYP_MSI_REGISTER, trap.offset, trap.lo, trap.hi, 0)
      else hwWrite(smmu, trap)
    },
  }
}
const MSI = msiRegister(32)
const MSI64 = msiRegister(64)

const FRAME: readonly (readonly [offset: number, rule: RegisterRule])[] = [
  [ARM_SMMU_IDR0, IDR0],
  [ARM_SMMU_IDR1, RO],
  [ARM_SMMU_IDR2, RO],
  [ARM_SMMU_IDR3, RO],
  [ARM_SMMU_IDR4, RO],
  [ARM_SMMU_IDR5, RO],
  [ARM_SMMU_IIDR, RO],
  [ARM_SMMU_AIDR, RO],
  [ARM_SMMU_CR0, CR0],
  [ARM_SMMU_CR0ACK, CR0ACK],
  [ARM_SMMU_CR1, CR1],
  [ARM_SMMU_CR2, RW],
  [ARM_SMMU_GBPA, GBPA],
  [ARM_SMMU_IRQ_CTRL, RW],
  [ARM_SMMU_IRQ_CTRLACK, RW],
  [ARM_SMMU_GERROR, GERROR],
  [ARM_SMMU_GERRORN, GERRORN],
  [ARM_SMMU_GERROR_IRQ_CFG0, MSI64],
  [ARM_SMMU_GERROR_IRQ_CFG1, MSI],
  [ARM_SMMU_GERROR_IRQ_CFG2, MSI],
  [ARM_SMMU_STRTAB_BASE, STRTAB_BASE],
  [ARM_SMMU_STRTAB_BASE_CFG, STRTAB_BASE_CFG],
  [ARM_SMMU_CMDQ_BASE, CMDQ_BASE],
  [ARM_SMMU_CMDQ_PROD, CMDQ_PROD],
  [ARM_SMMU_CMDQ_CONS, CMDQ_CONS],
  [ARM_SMMU_EVTQ_BASE, EVTQ_BASE],
  [ARM_SMMU_EVTQ_IRQ_CFG0, MSI64],
  [ARM_SMMU_EVTQ_IRQ_CFG1, MSI],
  [ARM_SMMU_EVTQ_IRQ_CFG2, MSI],
  [ARM_SMMU_PRIQ_BASE, PRIQ_BASE],
  [ARM_SMMU_PRIQ_IRQ_CFG0, MSI64],
  [ARM_SMMU_PRIQ_IRQ_CFG1, MSI],
  [ARM_SMMU_PRIQ_IRQ_CFG2, MSI],
  [ARM_SMMU_EVTQ_PROD, RW],
  [ARM_SMMU_EVTQ_CONS, RW],
  [ARM_SMMU_PRIQ_PROD, RW],
  [ARM_SMMU_PRIQ_CONS, RW],
]

/** Rules that a prefix of the series has instead: the hardware's own queue, table and GBPA are the host's. */
const PREFIX_RULES: readonly (readonly [step: SeriesStep, offset: number, rule: RegisterRule])[] = [
  ['cmdq', ARM_SMMU_CMDQ_BASE, { ...RW64, write: whileOff(CR0_CMDQEN, HYP_CMDQ_BASE_LIVE, hwWrite) }],
  ['cmdq', ARM_SMMU_GERRORN, RW],
  ['cmdq', ARM_SMMU_CMDQ_PROD, RW],
  ['cmdq', ARM_SMMU_CMDQ_CONS, { ...RW, write: whileOff(CR0_CMDQEN, HYP_CMDQ_CONS_LIVE, hwWrite) }],
  ['strtab', ARM_SMMU_STRTAB_BASE, { ...RW64, write: whileOff(CR0_SMMUEN, HYP_STRTAB_BASE_LIVE, hwWrite) }],
  ['strtab', ARM_SMMU_STRTAB_BASE_CFG, { ...RW, write: whileOff(CR0_SMMUEN, HYP_STRTAB_BASE_CFG_LIVE, hwWrite) }],
  ['queues', ARM_SMMU_GBPA, RW],
]

/** Rules by offset. */
export function frameRules(
  upTo: SeriesStep,
  quirks: Quirks,
  overrides: RegisterOverrides = {},
): ReadonlyMap<number, RegisterRule> {
  const rules = new Map(FRAME)
  for (const [step, offset, rule] of PREFIX_RULES) if (!includesStep(upTo, step)) rules.set(offset, rule)
  if (quirks.has('irq-cfg-msi')) {
    for (const [offset, rule] of FRAME) if (rule === MSI || rule === MSI64) rules.set(offset, rule === MSI ? RW : RW64)
  }
  for (const [key, change] of Object.entries(overrides)) {
    const offset = Number(key)
    if (!Number.isInteger(offset) || offset % 4 !== 0 || offset < 0 || offset >= ARM_SMMU_FRAME_SIZE) {
      throw new RangeError(`no register can be at offset ${key}`)
    }
    const rule = change(rules.get(offset) ?? { bits: 32 })
    expectKnown(`the rule of ${registerName(offset)}`, rule, ['bits', 'read', 'write'])
    rules.set(offset, rule)
  }
  return rules
}

/** The frame of one SMMU. */
export class RegisterFrame {
  readonly #smmu: Smmu
  readonly #rules: ReadonlyMap<number, RegisterRule>
  readonly #whole: boolean
  /** A half of a 64-bit register, as an access to all of it. */
  readonly #wide = newTrap()

  /**
   * @param rules by offset
   * @param whole what the architecture allows besides is no mistake (`Choices.wholeFrame`)
   */
  constructor(smmu: Smmu, rules: ReadonlyMap<number, RegisterRule>, whole = false) {
    this.#smmu = smmu
    this.#rules = rules
    this.#whole = whole
  }

  /** Decides a trap in the frame. */
  access(trap: Trap): void {
    const rule = this.#rules.get(trap.offset)
    const act = rule === undefined || trap.size * 8 !== rule.bits ? undefined : trap.write ? rule.write : rule.read
    if (act !== undefined) act(this.#smmu, trap)
    else if (!this.#whole || !this.#accessBesides(trap)) this.#unhandledAccess(trap)
  }

  /**
   * What IHI 0070 section 6.2 defines and no rule is for.
   * @returns false: it does not say what such an access does
   */
  #accessBesides(trap: Trap): boolean {
    const { offset, size, write } = trap
    if ((size !== 4 && size !== 8) || offset % size !== 0 || offset + size > ARM_SMMU_FRAME_SIZE) return false
    const around = this.#rules.get(offset - (offset % 8))
    if (size === 4 && around?.bits === 64) {
      this.#accessHalf(trap, around)
      return true
    }
    // A 64-bit access to two 32-bit registers.
    if (size === 8 && (around !== undefined || this.#rules.has(offset + 4))) return false
    // Reserved, or the other direction of a register that has one.
    if (!write) answer(trap, 0)
    return true
  }

  #accessHalf(trap: Trap, rule: RegisterRule): void {
    const wide = this.#wide
    const high = trap.offset % 8 !== 0
    Object.assign(wide, trap, { write: false, offset: trap.offset - (high ? 4 : 0), size: 8, lo: 0, hi: 0 })
    rule.read?.(this.#smmu, wide)
    if (!trap.write) answer(trap, high ? wide.hi : wide.lo)
    else if (!wide.aborted) {
      wide.write = true
      if (high) wide.hi = trap.lo
      else wide.lo = trap.lo
      rule.write?.(this.#smmu, wide)
    }
    trap.aborted = wide.aborted
  }

  /** Not in the table: a write is dropped, a read answers 0. */
  #unhandledAccess(trap: Trap): void {
    const { offset, size } = trap
    const whole = this.#rules.get(offset & ~3)
    const half = this.#rules.get(offset & ~7)
    const lo = trap.write ? trap.lo : 0
    const hi = trap.write ? trap.hi : 0
    const known = whole !== undefined || half?.bits === 64
    const exact = whole !== undefined && offset % 4 === 0 && size * 8 === whole.bits
    const warning = exact ? HYP_ACCESS_DIRECTION : known ? HYP_ACCESS_WIDTH : HYP_UNKNOWN_REGISTER
    this.#smmu.warn(warning, offset, size, lo, hi)
    if (!trap.write) answer(trap, 0)
  }
}
