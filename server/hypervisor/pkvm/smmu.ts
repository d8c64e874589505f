// SPDX-License-Identifier: Apache-2.0
/** One SMMU: its parts put together (server/hypervisor/README.md, sections 2 and 3), and what concerns all of them. */

import { includesStep } from '../../policy/policy.ts'
import { EIO, ENODEV, ETIMEDOUT, OK } from '../../policy/result.ts'
import type { HypWarning } from '../../policy/warnings.ts'
import { TWO_POW_32 } from '../../smmu/bits.ts'
import {
  cfgiAll,
  tlbiNhAll,
  tlbiNsnhAll,
  tlbiRangeScale,
  tlbiRangeUnits,
  tlbiS2Ipa,
  tlbiS2IpaRange,
  tlbiS12Vmall,
} from '../../smmu/commands.ts'
import type { SmmuHardware } from '../../smmu/hardware.ts'
import { EVTQ_ENTRY_SIZE, PRIQ_ENTRY_SIZE } from '../../smmu/queue.ts'
import {
  ARM_SMMU_CMDQ_BASE,
  ARM_SMMU_CR0,
  ARM_SMMU_CR1,
  ARM_SMMU_EVTQ_BASE,
  ARM_SMMU_EVTQ_IRQ_CFG1,
  ARM_SMMU_EVTQ_IRQ_CFG2,
  ARM_SMMU_GBPA,
  ARM_SMMU_GERROR_IRQ_CFG1,
  ARM_SMMU_GERROR_IRQ_CFG2,
  ARM_SMMU_PRIQ_BASE,
  ARM_SMMU_PRIQ_IRQ_CFG1,
  ARM_SMMU_PRIQ_IRQ_CFG2,
  ARM_SMMU_STRTAB_BASE,
  ARM_SMMU_STRTAB_BASE_CFG,
  CR0_CMDQEN,
  CR0_SMMUEN,
  GBPA_ABORT,
  Q_BASE_HI_ADDR,
  STRTAB_BASE_HI_ADDR,
} from '../../smmu/registers.ts'
import { CR1_REQUIRED } from '../common/cr1.ts'
import { abortBypass, stopSmmu } from '../common/formerOwner.ts'
import { HardwareFrame } from '../common/hardwareFrame.ts'
import { NO_FEATURES, probe, type SmmuFeatures } from '../common/probe.ts'
import type { CommandRule } from './commandRules.ts'
import type { HypContext, SmmuContext } from './context.ts'
import { HostCmdq } from './hostCmdq.ts'
import { HostStrtab } from './hostStrtab.ts'
import { HOST_VMID } from './idmap.ts'
import { POWERED_ON, type SmmuPower } from './powerState.ts'
import { HostQueue } from './queues.ts'
import { ShadowCmdq } from './shadowCmdq.ts'
import { SHADOW_CMDQ_BYTES, SHADOW_CMDQ_LOG2SIZE } from './shadowCmdqSize.ts'
import { ShadowStrtab } from './shadowStrtab.ts'
import { StateLayout } from './stateLayout.ts'
import type { StreamRule } from './steRules.ts'

/** What nobody writes after a power-on: a host that notices nothing had 0 there, and PRIQ_IRQ_CFG2 says when the PRI queue interrupts. */
const MSI_WORDS = [
  ARM_SMMU_GERROR_IRQ_CFG1,
  ARM_SMMU_GERROR_IRQ_CFG2,
  ARM_SMMU_EVTQ_IRQ_CFG1,
  ARM_SMMU_EVTQ_IRQ_CFG2,
  ARM_SMMU_PRIQ_IRQ_CFG1,
  ARM_SMMU_PRIQ_IRQ_CFG2,
]

/** What of an SMMU a checkpoint holds besides its parts. */
export interface SmmuState {
  /** CR0: what the host wrote, less what was refused. What is disabled is 1 until CR0ACK says so. */
  cr0: number
  /** CR1 as the host wrote it, where that is what it reads (`Choices.wholeFrame`). */
  cr1: number
}

/** What the probe found, in a checkpoint. */
export const SMMU_FEATURES = new StateLayout<SmmuFeatures>({
  twoLevel: 'flag',
  sidBits: 'u32',
  cmdqBits: 'u32',
  rangeInvalidation: 'flag',
  oas: 'u32',
  granules: 'u32',
  littleEndian: 'flag',
  bigEndian: 'flag',
})

export const SMMU_STATE = new StateLayout<SmmuState>({ cr0: 'u32', cr1: 'u32' })

/** The rules that a policy may change. */
export interface SmmuRules {
  readonly commands: readonly (CommandRule | undefined)[]
  readonly stream: StreamRule
  /** Nobody but the hypervisor answers the host's reads of CMDQ_CONS, so that they may be predicted. */
  readonly predictsCons: boolean
}

export class Smmu implements SmmuContext {
  readonly hyp: HypContext
  readonly index: number
  readonly base: number
  readonly size: number
  readonly hardware: HardwareFrame
  readonly shadowCmdq: ShadowCmdq
  readonly hostCmdq: HostCmdq
  readonly hostStrtab: HostStrtab
  readonly shadowStrtab: ShadowStrtab
  readonly evtq: HostQueue
  readonly priq: HostQueue
  readonly state: SmmuState = { cr0: 0, cr1: 0 }
  readonly power: SmmuPower = { ...POWERED_ON }
  readonly features: SmmuFeatures = { ...NO_FEATURES }

  constructor(
    hyp: HypContext,
    index: number,
    { base, size, hardware }: { readonly base: number; readonly size: number; readonly hardware: SmmuHardware },
    rules: SmmuRules,
  ) {
    this.hyp = hyp
    this.index = index
    this.base = base
    this.size = size
    this.hardware = new HardwareFrame(hardware)
    this.shadowCmdq = new ShadowCmdq(this)
    this.hostStrtab = new HostStrtab(this)
    this.shadowStrtab = new ShadowStrtab(this, this.hostStrtab, this.shadowCmdq, rules.stream)
    const context = {
      warn: (warning: HypWarning, a: number, b: number, c: number, d: number) => this.warn(warning, a, b, c, d),
      configureStream: (sid: number, leaf: boolean) => this.shadowStrtab.configure(sid, leaf),
      configureAll: () => this.shadowStrtab.configureAll(),
    }
    this.hostCmdq = new HostCmdq(this, this.shadowCmdq, rules.commands, context, rules.predictsCons)
    this.evtq = new HostQueue(hyp, this.hardware, ARM_SMMU_EVTQ_BASE, EVTQ_ENTRY_SIZE)
    this.priq = new HostQueue(hyp, this.hardware, ARM_SMMU_PRIQ_BASE, PRIQ_ENTRY_SIZE)
  }

  reset(): void {
    Object.assign(this.power, POWERED_ON)
    this.forgetHost()
    this.shadowCmdq.reset()
    this.shadowStrtab.reset()
  }

  /** To the host, the SMMU is as after a reset; what it had shared is not any more. */
  forgetHost(): void {
    Object.assign(this.state, { cr0: 0, cr1: 0 } satisfies SmmuState)
    this.hostCmdq.reset()
    this.hostStrtab.reset()
    this.evtq.reset()
    this.priq.reset()
  }

  get isOn(): boolean {
    return this.power.now === 0
  }

  warn(warning: HypWarning, a: number, b: number, c: number, d: number): void {
    this.hyp.report.warn(warning, this.hyp.trap, this.index, a, b, c, d)
  }

  /** Whether all bits of `enables` are set in CR0, or were and the hardware has not acknowledged that they are not. */
  enabled(enables: number): boolean {
    return (this.state.cr0 & enables) === enables
  }

  /** Whether the hardware takes commands, of the hypervisor at least. */
  get sends(): boolean {
    if (!this.hyp.choices.independentEnables) return this.enabled(CR0_CMDQEN)
    return (this.hardware.read32(ARM_SMMU_CR0) & CR0_CMDQEN) !== 0
  }

  /** Reads the ID registers. @returns why this SMMU cannot isolate, or null */
  probe(): string | null {
    const { memory, upTo, quirks } = this.hyp
    const found = probe(this.hardware, this, {
      ...(includesStep(upTo, 'cmdq') && !quirks.has('cmdqs-unchecked') && { cmdqLog2size: SHADOW_CMDQ_LOG2SIZE }),
      nesting: includesStep(upTo, 'nested'),
      cleans: memory.clean !== undefined,
    })
    if (typeof found === 'string') return found
    Object.assign(this.features, found)
    return null
  }

  /** Whatever a former owner left (common/formerOwner.ts), with DMA aborted from before on. @returns why that is not possible, or null */
  stop(): string | null {
    const { hardware, hyp } = this
    return stopSmmu(hardware, hyp.wait, () => !includesStep(hyp.upTo, 'queues') || this.abortBypass())
  }

  /** GBPA := abort; false when the hardware does not take the update in time. */
  abortBypass(): boolean {
    const { wait, quirks } = this.hyp
    return abortBypass(this.hardware, wait, !quirks.has('gbpa-attributes-lost'))
  }

  /**
   * After a power-on. First of all, what comes aborts; then the hardware is stopped, whatever it came back as, and gets again what is the
   * hypervisor's.
   */
  program(): number {
    if (!this.abortBypass()) return ETIMEDOUT
    if (this.stop() !== null) return EIO
    for (const offset of MSI_WORDS) this.hardware.write32(offset, 0)
    this.shadowCmdq.restart()
    this.shadowStrtab.program(this.shadowStrtab.state.base)
    if (this.hyp.choices.wholeFrame) this.hardware.write32(ARM_SMMU_CR1, CR1_REQUIRED)
    return this.verifyRegisters().length === 0 ? OK : EIO
  }

  /** Nothing that the hardware fetched or translated stays cached. For an SMMU whose command queue is enabled. */
  invalidateAll(): number {
    const { shadowCmdq } = this
    shadowCmdq.begin()
    cfgiAll(shadowCmdq.command)
    shadowCmdq.issue()
    tlbiNsnhAll(shadowCmdq.command)
    shadowCmdq.issue()
    return shadowCmdq.sync() ? OK : EIO
  }

  /**
   * Nothing that was translated through these pages of the idmap stays cached (server/hypervisor/README.md, section 9.3).
   * @param base @param size of the pages, bytes, multiples of the granule
   */
  invalidateStage2(base: number, size: number, granuleShift: number): number {
    if (!this.isOn || !this.enabled(CR0_SMMUEN)) return OK
    if (!this.sends) return ENODEV
    const { shadowCmdq } = this
    const granule = 2 ** granuleShift
    shadowCmdq.begin()
    let left = size / granule
    for (let at = base; left > 0; ) {
      const ranges = this.features.rangeInvalidation
      const scale = ranges ? tlbiRangeScale(left) : 0
      const units = ranges ? tlbiRangeUnits(left, scale) : 1
      const covered = units * 2 ** scale
      // Without a level hint a single granule is no range.
      if (covered === 1) tlbiS2Ipa(shadowCmdq.command, HOST_VMID, at, true)
      else tlbiS2IpaRange(shadowCmdq.command, HOST_VMID, at, true, granuleShift, units - 1, scale)
      shadowCmdq.issue()
      at += covered * granule
      left -= covered
    }
    if (!shadowCmdq.sync()) return EIO
    tlbiNhAll(shadowCmdq.command, HOST_VMID)
    shadowCmdq.issue()
    if (!shadowCmdq.sync()) return EIO
    // Only now: a device may ask again at once, and must not be answered by what was translated before.
    return !this.hyp.ats || this.shadowStrtab.emptyAtcs() ? OK : EIO
  }

  /** Nothing that was translated by the idmap stays cached, tables on the way included (server/hypervisor/README.md, section 9.4). */
  forgetStage2(): number {
    if (!this.isOn || !this.enabled(CR0_SMMUEN)) return OK
    if (!this.sends) return ENODEV
    const { shadowCmdq } = this
    shadowCmdq.begin()
    tlbiS12Vmall(shadowCmdq.command, HOST_VMID)
    shadowCmdq.issue()
    return shadowCmdq.sync() ? OK : EIO
  }

  /** Hypervisor memory that this SMMU uses: queue and stream table, as many as there are in this step of the series. */
  memory(): { readonly base: number; readonly size: number }[] {
    const { upTo } = this.hyp
    return [
      ...(includesStep(upTo, 'cmdq') ? [{ base: this.shadowCmdq.state.base, size: SHADOW_CMDQ_BYTES }] : []),
      ...(includesStep(upTo, 'strtab') ? this.shadowStrtab.memory() : []),
    ]
  }

  /** What is wrong with the hardware's registers that are the hypervisor's, and with live STEs, in words. */
  verify(): string[] {
    const { idmap } = this.hyp
    const problems = this.isOn ? this.verifyRegisters() : []
    return idmap === null ? problems : [...problems, ...this.shadowStrtab.verify(idmap)]
  }

  /** What is wrong with the hardware's registers that are the hypervisor's, in words. For an SMMU that is on. */
  verifyRegisters(): string[] {
    const { upTo } = this.hyp
    const problems: string[] = []
    const expect = (name: string, offset: number, mask: number, value: number) => {
      const found = (this.hardware.read32(offset) & mask) >>> 0
      if (found !== value) {
        problems.push(`SMMU ${this.index}: ${name} is 0x${found.toString(16)} instead of 0x${value.toString(16)}`)
      }
    }
    const expectAddress = (name: string, offset: number, address: number, low: number, mask: number) => {
      expect(name, offset, 0xffff_ffff, (address % TWO_POW_32) + low)
      expect(`${name}, high half`, offset + 4, mask, Math.floor(address / TWO_POW_32))
    }
    if (includesStep(upTo, 'cmdq')) {
      const { base } = this.shadowCmdq.state
      expectAddress('CMDQ_BASE', ARM_SMMU_CMDQ_BASE, base, SHADOW_CMDQ_LOG2SIZE, Q_BASE_HI_ADDR)
    }
    if (includesStep(upTo, 'strtab')) {
      expectAddress('STRTAB_BASE', ARM_SMMU_STRTAB_BASE, this.shadowStrtab.state.base, 0, STRTAB_BASE_HI_ADDR)
      expect('STRTAB_BASE_CFG', ARM_SMMU_STRTAB_BASE_CFG, 0xffff_ffff, this.shadowStrtab.cfg)
    }
    if (includesStep(upTo, 'queues')) expect('GBPA', ARM_SMMU_GBPA, GBPA_ABORT, GBPA_ABORT)
    return problems
  }
}
