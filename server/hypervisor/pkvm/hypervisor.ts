// SPDX-License-Identifier: Apache-2.0
/**
 * EL2: everything that the host must not reach or decide, put together. One instance for a machine; `reset` brings it to
 * the beginning as often as the machine restarts.
 */

import type { El2, Machine } from '../../machine/ports.ts'
import type { StreamInfo } from '../../policy/inspect.ts'
import type { PopulateMode, PowerMode, Stage2Change, Trap } from '../../policy/policy.ts'
import { HypFatal, includesStep, type PolicyContext, type SeriesStep } from '../../policy/policy.ts'
import { type HypReport, PAGE_DONATE, PAGE_RECLAIM } from '../../policy/report.ts'
import { EBUSY, EFAULT, EINVAL, EIO, ENODEV, ENOMEM, EPERM, OK, resultName } from '../../policy/result.ts'
import { fieldGet, TWO_POW_32 } from '../../smmu/bits.ts'
import type { PowerState } from '../../smmu/hardware.ts'
import { POWER_STATES } from '../../smmu/hardware.ts'
import type { GuestMemory } from '../../smmu/memory.ts'
import {
  ARM_SMMU_CMDQ_CONS,
  ARM_SMMU_CR0,
  ARM_SMMU_CR0ACK,
  ARM_SMMU_CR1,
  ARM_SMMU_IDR0,
  ARM_SMMU_IDR1,
  ARM_SMMU_IDR3,
  ARM_SMMU_IDR5,
  CR0_SMMUEN,
  IDR0_STALL_MODEL,
  IDR0_STALL_MODEL_NONE,
  IDR3_BBML,
} from '../../smmu/registers.ts'
import { tableProblems } from '../../smmu/sharedStage2.ts'
import { CR1_REQUIRED } from '../common/cr1.ts'
import { HardwareWait } from '../common/wait.ts'
import { Checkpoint, CheckpointError, type PageOperation } from './checkpoint.ts'
import { CHOICE_NAMES, type Choices, LINUX_ONLY } from './choices.ts'
import { type CommandOverrides, commandRules } from './commandRules.ts'
import type { HypContext } from './context.ts'
import { disableAcknowledged } from './cr0.ts'
import { frameRules, RegisterFrame, type RegisterOverrides } from './frame.ts'
import { HostStage2, HostStage2Error, type OwnerChange } from './hostStage2.ts'
import { Idmap, type IdmapInfo, newIdmapState } from './idmap.ts'
import { IdmapBlocks } from './idmapBlocks.ts'
import { buildIdmap } from './idmapBuild.ts'
import { idmapGeometry, stage2Pages } from './idmapGeometry.ts'
import { verifyIdmap } from './idmapVerify.ts'
import { expectKnown } from './known.ts'
import { PAGE_SIZE, PageOwnership, type PageRange } from './ownership.ts'
import { PagePool, zero } from './pool.ts'
import { makeUpForLoss, PUTS_TO_USE, stepBack, switchPower } from './power.ts'
import { type Quirks, quirksOf } from './quirks.ts'
import { SHADOW_CMDQ_BYTES } from './shadowCmdqSize.ts'
import { HostShare } from './share.ts'
import { type SharedInfo, SharedStage2 } from './sharedStage2.ts'
import { Smmu } from './smmu.ts'
import { copyStream, nestStream, type StreamRule } from './steRules.ts'
import { HYP_EL2_TABLES, HYP_EL2_TOOK_SHARED, HYP_POWERED_OFF, HYP_UNMAP } from './warnings.ts'

/** Pages, of the size of the granule, that the pool has beyond what the host's stage 2 can need. */
const SPARE_PAGES = 500

/** Highest BBM level that there is; what is beyond is Reserved. */
const MAX_BBM_LEVEL = 2

/** Changes of single decisions, each given the decision that stood there. What is absent costs nothing. */
export interface HypervisorOverrides {
  /** By offset in the frame. */
  readonly registers?: RegisterOverrides
  /** By opcode. */
  readonly commands?: CommandOverrides
  /** How an entry of the stream table is shadowed. */
  readonly stream?: (rule: StreamRule) => StreamRule
  /** What the host may do besides what Linux does; default: nothing. */
  readonly choices?: Partial<Choices>
}

/** A range of bytes. */
export interface Range {
  readonly base: number
  readonly size: number
}

export class Hypervisor implements HypContext {
  readonly machine: Machine
  readonly memory: GuestMemory
  readonly report: HypReport
  readonly upTo: SeriesStep
  readonly ats: boolean
  readonly quirks: Quirks
  readonly choices: Choices
  readonly wait: HardwareWait
  readonly ownership: PageOwnership
  readonly share: HostShare
  readonly pool: PagePool
  readonly smmus: readonly Smmu[]
  readonly #frames: readonly RegisterFrame[]
  /** null unless the step is nested and the machine is isolated. */
  idmap: Idmap | null = null
  /** Whether the hypervisor is between the host and the SMMUs; false when a probe failed. */
  isolated = false
  /** Why not, by SMMU; null where the probe succeeded. */
  readonly refusals: (string | null)[] = []
  /** Trap that is being decided, 0 outside of traps. */
  trap = 0
  /** Counts changes of state that a checkpoint holds: while it stays the same, so does the checkpoint. */
  generation = 0
  /** Whether anything but command queue pointers changed since the last checkpoint. */
  #changed = true

  readonly #granule: number
  /** RAM is mapped in blocks where it can be, with this BBM level at most. */
  readonly #blocks: boolean
  readonly #bbm: number
  /** Of the idmap, with `#blocks`. */
  #idmapBlocks: IdmapBlocks | null = null
  /** EL2's tables are the second stage; what becomes of what they do not map. Null: tables of the hypervisor's own are. */
  readonly populate: PopulateMode | null
  /** Of the idmap, with `populate`. */
  #sharedStage2: SharedStage2 | null = null
  /** How often hardware had to forget all that it had of EL2's tables. */
  #forgotten = 0
  /** SMMUs may be switched off and on, by asking. */
  readonly powerMode: PowerMode | null
  readonly #requireIsolation: boolean
  readonly #poolPages: number | null
  readonly #clock: () => number
  readonly #checkpoint: Checkpoint
  #guarded = false
  /** What has begun: should the server die, the next one finishes it. */
  #operation: PageOperation | null = null
  readonly #persist: () => void
  /** The tables of a hypervisor at EL2, once it has some. */
  #hostStage2: HostStage2 | null = null

  constructor(machine: Machine, context: PolicyContext, overrides: HypervisorOverrides = {}) {
    const { options } = context
    this.machine = machine
    this.memory = machine.memory
    this.report = context.report
    this.upTo = options.until ?? 'nested'
    this.quirks = quirksOf(options.quirks)
    expectKnown('the choices of a policy', overrides.choices ?? {}, CHOICE_NAMES)
    this.choices = { ...LINUX_ONLY, ...overrides.choices }
    this.ats = options.ats ?? false
    this.#granule = options.granule ?? 4096
    this.#blocks = options.blocks ?? false
    this.#bbm = options.bbm ?? MAX_BBM_LEVEL
    this.populate = options.stage2 === 'shared' ? (options.populate ?? 'ahead') : null
    this.powerMode = options.power ?? null
    this.#requireIsolation = options.requireIsolation ?? false
    this.#poolPages = options.poolPages ?? null
    this.#clock = context.clock ?? (() => performance.now())
    this.#persist = context.persist ?? (() => {})
    this.wait = new HardwareWait(this.#clock, options.waitMs ?? 1000, options.waitPolls ?? 1_000_000)
    this.ownership = new PageOwnership(machine.memory.ram)
    this.share = new HostShare(this.ownership, this.report, this.choices.commonPages)
    this.pool = new PagePool(machine.memory, machine.carveout)
    const stream = includesStep(this.upTo, 'nested') ? nestStream : copyStream
    const rules = {
      predictsCons: overrides.registers?.[ARM_SMMU_CMDQ_CONS] === undefined,
      commands: commandRules(includesStep(this.upTo, 'strtab'), this.quirks, overrides.commands),
      stream: overrides.stream === undefined ? stream : overrides.stream(stream),
    }
    this.smmus = machine.smmus.map((smmu, index) => new Smmu(this, index, smmu, rules))
    const registers = frameRules(this.upTo, this.quirks, overrides.registers)
    const { wholeFrame } = this.choices
    this.#frames = this.smmus.map(smmu => new RegisterFrame(smmu, registers, wholeFrame))
    this.#checkpoint = new Checkpoint(machine, this.smmus, {
      ...{ upTo: this.upTo, granule: this.#granule, blocks: this.#blocks },
      ...{ power: this.powerMode !== null, shared: this.populate !== null, choices: this.choices },
    })
  }

  /** Whether devices reach the host's pages only. */
  get isolates(): boolean {
    return this.isolated && this.idmap !== null
  }

  /** State that a checkpoint holds has changed. */
  changed(): void {
    this.#changed = true
    this.generation++
  }

  /** Nothing but pointers of a command queue has changed. */
  queueMoved(): void {
    this.generation++
  }

  /**
   * The machine was reset: probe, program and map from the beginning.
   * @throws HypFatal when the machine cannot be isolated and the options demand it.
   */
  reset(): void {
    this.trap = 0
    this.wait.begin()
    this.#useIdmap(null)
    this.isolated = false
    const { carveout, guard } = this.machine
    for (const { base, size } of this.donated) guard.remove(base, size)
    if (this.#guarded) guard.remove(carveout.base, carveout.size)
    this.#operation = null
    this.#hostStage2 = null
    this.#forgotten = 0
    this.ownership.reset()
    for (const smmu of this.smmus) smmu.reset()
    this.#guarded = carveout.size > 0
    const hidden = !this.#guarded || guard.add(carveout.base, carveout.size)
    const refusal = hidden ? this.#initialise() : 'hypervisor memory cannot be kept from the vCPUs'
    for (const [index, smmu] of this.smmus.entries()) this.report.probe(smmu.index, this.refusals[index] ?? refusal)
    this.isolated = refusal === null
    this.changed()
    if (this.isolates || !(this.#requireIsolation || this.populate !== null)) return
    throw new HypFatal(`no DMA isolation: ${refusal ?? `--until ${this.upTo} attaches no second stage`}`)
  }

  /** Returns why the machine cannot be isolated, or null. */
  #initialise(): string | null {
    this.refusals.length = 0
    let refusal: string | null = null
    for (const smmu of this.smmus) {
      const own = smmu.probe()
      this.refusals.push(own)
      if (own !== null) refusal ??= `SMMU ${smmu.index}: ${own}`
    }
    return refusal ?? this.#program()
  }

  #program(): string | null {
    const { pool, upTo } = this
    if (!includesStep(upTo, 'cmdq')) return null
    if (pool.capacity === 0) return 'the machine has no hypervisor memory'
    if (!pool.reset()) return 'hypervisor memory cannot be written'
    if (this.ownership.donateToHyp(pool.base, pool.capacity * 4096) !== OK) return 'hypervisor memory is not RAM'
    for (const smmu of this.smmus) {
      const refusal = smmu.stop()
      if (refusal !== null) return `SMMU ${smmu.index}: ${refusal}`
      if (this.choices.wholeFrame) smmu.hardware.write32(ARM_SMMU_CR1, CR1_REQUIRED)
    }
    for (const smmu of this.smmus) {
      const queue = pool.allocate(SHADOW_CMDQ_BYTES)
      if (queue === ENOMEM) return 'hypervisor memory is too small for the shadow command queue'
      smmu.shadowCmdq.program(queue)
    }
    if (includesStep(upTo, 'strtab')) {
      for (const smmu of this.smmus) {
        const table = pool.allocate(smmu.shadowStrtab.bytes)
        if (table === ENOMEM) return 'hypervisor memory is too small for the shadow stream table'
        smmu.shadowStrtab.program(table)
      }
    }
    if (includesStep(upTo, 'queues')) {
      for (const smmu of this.smmus) if (!smmu.abortBypass()) return `SMMU ${smmu.index}: GBPA was not updated in time`
    }
    for (const smmu of this.smmus) {
      const [problem] = smmu.verify()
      if (problem !== undefined) return problem
    }
    return includesStep(upTo, 'nested') ? this.#buildIdmap() : this.#limitPool(SPARE_PAGES)
  }

  #limitPool(pages: number): null {
    this.pool.limit = this.pool.used + (this.#poolPages ?? pages)
    return null
  }

  /** The output size that all SMMUs have, and whether tables are big-endian; or why there is no common ground. */
  #common(): { readonly oas: number; readonly bigEndian: boolean } | string {
    let oas = 52
    let little = true
    let big = true
    for (const smmu of this.smmus) {
      const { granules, oas: own, littleEndian, bigEndian } = smmu.features
      if ((granules & this.#granule) === 0) return `SMMU ${smmu.index}: no ${this.#granule / 1024} KiB granule`
      oas = Math.min(oas, own)
      little &&= littleEndian
      big &&= bigEndian
    }
    return little || big ? { oas, bigEndian: !little } : 'the SMMUs have no table endianness in common'
  }

  #buildIdmap(): string | null {
    const start = this.#clock()
    const common = this.#common()
    if (typeof common === 'string') return common
    const unshared = this.#cannotShare(common.bigEndian)
    if (unshared !== null) return unshared
    const geometry = idmapGeometry(this.#granule, common.oas)
    this.#limitPool(stage2Pages(geometry, this.memory.ram) + SPARE_PAGES * (this.#granule / 4096))
    const root = this.pool.allocate(geometry.rootBytes, true)
    if (root === ENOMEM) return 'hypervisor memory is too small for the stage-2 idmap'
    const idmap = new Idmap(this.memory, this.pool, geometry, newIdmapState(root, common.oas, common.bigEndian))
    if (this.populate !== null) {
      // Until EL2 has tables, devices reach nothing.
      if (!zero(this.memory, root, geometry.rootBytes)) return 'hypervisor memory cannot be written'
      this.#useIdmap(idmap)
      return null
    }
    const reserve = Math.min(SPARE_PAGES, Math.floor(this.pool.limit / 4))
    const built = buildIdmap(idmap, this.pool, this.ownership, this.smmus, reserve, this.#blocks)
    if (!built) return 'hypervisor memory cannot be written'
    idmap.state.buildUs = Math.round((this.#clock() - start) * 1000)
    this.#useIdmap(idmap)
    return null
  }

  /** Why the second stage cannot be EL2's tables, whatever these are; null: it can, or is not to be. */
  #cannotShare(bigEndian: boolean): string | null {
    if (this.populate === null) return null
    if (this.machine.el2 === undefined) return 'there is no EL2 whose tables could be shared'
    if (this.#granule !== 4096) return 'EL2 gives and takes pages of 4 KiB'
    if (bigEndian) return "EL2's tables are little-endian"
    if (this.populate !== 'stall') return null
    for (const { index, hardware } of this.smmus) {
      const model = fieldGet(IDR0_STALL_MODEL, hardware.read32(ARM_SMMU_IDR0))
      if (model === IDR0_STALL_MODEL_NONE) return `SMMU ${index}: no stalls (IDR0.STALL_MODEL)`
    }
    return null
  }

  #useIdmap(idmap: Idmap | null): void {
    this.idmap = idmap
    const { memory, pool, smmus, populate, machine } = this
    const hidden = [machine.carveout, ...smmus]
    this.#sharedStage2 =
      idmap !== null && populate !== null
        ? new SharedStage2(idmap, pool, memory, machine.carveout, hidden, populate === 'ahead')
        : null
    this.#idmapBlocks =
      idmap !== null && this.#blocks
        ? new IdmapBlocks(
            idmap,
            this.pool,
            this.ownership,
            () => this.#bbmLevel(),
            () => this.#forgetStage2(),
          )
        : null
  }

  /** BBM level that all SMMUs have, as far as it is to be made use of. */
  #bbmLevel(): number {
    let level = this.#bbm
    for (const { hardware, isOn } of this.smmus) {
      // One that is off has nothing cached, and does not tell.
      if (!isOn) continue
      const own = fieldGet(IDR3_BBML, hardware.read32(ARM_SMMU_IDR3))
      level = Math.min(level, own <= MAX_BBM_LEVEL ? own : 0)
    }
    return level
  }

  /** Decides a trap. */
  access(trap: Trap): void {
    const smmu = this.smmus[trap.smmu]
    if (smmu === undefined) {
      trap.aborted = true
    } else if (this.isolated) {
      this.trap = trap.seq
      this.wait.begin()
      if (this.powerMode === null) this.#frames[trap.smmu].access(trap)
      else this.#accessPowered(smmu, trap)
      this.trap = 0
    } else if (trap.write) {
      trap.aborted = !smmu.hardware.write(trap.offset, trap.size, trap.lo, trap.hi)
    } else {
      trap.aborted = !smmu.hardware.read(trap.offset, trap.size, trap)
    }
  }

  /** The hardware has not consumed the commands that were posted to it. */
  postMismatch(index: number): void {
    const smmu = this.smmus[index]
    if (smmu === undefined || !this.isolated || !smmu.isOn) return
    this.wait.begin()
    smmu.shadowCmdq.settle()
    this.#lookForLoss(smmu)
    this.changed()
  }

  // Power (server/hypervisor/README.md, section 19).

  /** As any access to a frame, of an SMMU that may be off, or have lost its state. */
  #accessPowered(smmu: Smmu, trap: Trap): void {
    if (!smmu.isOn) {
      smmu.warn(HYP_POWERED_OFF, trap.offset, trap.size, trap.write ? trap.lo : 0, trap.write ? trap.hi : 0)
      trap.aborted = true
    } else if (trap.write && PUTS_TO_USE.has(trap.offset) && !makeUpForLoss(smmu)) {
      trap.aborted = true
    } else {
      this.#frames[trap.smmu].access(trap)
      this.#lookForLoss(smmu)
    }
  }

  /** Hardware that consumes no commands may have lost its queue. */
  #lookForLoss(smmu: Smmu): void {
    // One that is off must not be touched.
    if (this.powerMode === null || !smmu.isOn || !smmu.shadowCmdq.timedOut) return
    smmu.shadowCmdq.timedOut = false
    makeUpForLoss(smmu)
    this.changed()
  }

  /**
   * The host asks for an SMMU to be switched off or on, and finds that done when this is OK.
   * @returns ENODEV: SMMUs are not switched here. EPERM: with its state lost it would let devices through. EBUSY: it is not idle, or off
   *   in another way. EIO: the controller refused, or the hardware did not come back as it should
   */
  power(index: number, state: PowerState): number {
    const control = this.machine.power
    const smmu = this.smmus[index]
    const mode = this.powerMode
    if (control === undefined || mode === null || smmu === undefined || !this.isolated) return ENODEV
    if (this.quirks.has('power-unowned')) return control.set(index, state) ? OK : EIO
    // Until then GBPA is the host's.
    if (!includesStep(this.upTo, 'queues')) return ENODEV
    this.wait.begin()
    smmu.power.wanted = POWER_STATES.indexOf(state) + 1
    this.keepState()
    try {
      return switchPower(smmu, control, state, mode === 'keep')
    } finally {
      smmu.power.wanted = 0
      this.changed()
    }
  }

  /** Whether SMMUs can be switched at all. */
  get switches(): boolean {
    return this.powerMode !== null && this.machine.power !== undefined
  }

  powerState(index: number): PowerState | null {
    const smmu = this.smmus[index]
    return smmu === undefined ? null : (POWER_STATES[smmu.power.now] ?? null)
  }

  keepState(): void {
    this.changed()
    this.#persist()
  }

  /**
   * EL2 has stored to its host's tables (server/hypervisor/README.md, section 17): what it took from the host is unmapped
   * for devices, and what it gave back is mapped, before this returns.
   * @returns false when devices may still reach what is not the host's
   */
  stage2Changed(change: Stage2Change): boolean {
    const { idmap } = this
    if (idmap === null || this.machine.el2 === undefined) return true
    this.wait.begin()
    const changes = this.#readHostStage2(this.machine.el2, change)
    const shared = this.#sharedStage2
    const host = this.#hostStage2
    let ok = changes !== null
    if (changes !== null && shared !== null && host !== null) {
      this.#expectSharable(host, change)
      const { tookShared } = this.#account(changes)
      ok = this.#share(shared, host) && !tookShared
    } else if (changes !== null) ok = this.#follow(idmap, changes)
    this.changed()
    return ok
  }

  /** @throws HypFatal when the SMMUs cannot walk EL2's tables */
  #expectSharable({ geometry, forcesWriteBack }: HostStage2, change: Stage2Change): void {
    const problems: string[] = []
    if (geometry?.granuleShift !== 12) problems.push("EL2's granule is not 4 KiB (VTCR_EL2.TG0)")
    if (geometry?.lpa2 === true) problems.push("EL2's descriptors are those of 52-bit addresses (VTCR_EL2.DS)")
    if (forcesWriteBack) problems.push("EL2's descriptors have attributes that only HCR_EL2.FWB gives a meaning")
    if (change.all && problems.length === 0) {
      for (const { index, hardware } of this.smmus) {
        const [idr0, idr1, idr3, idr5] = [ARM_SMMU_IDR0, ARM_SMMU_IDR1, ARM_SMMU_IDR3, ARM_SMMU_IDR5].map(offset =>
          hardware.read32(offset),
        )
        problems.push(...tableProblems(change, { idr0, idr1, idr3, idr5 }).map(problem => `SMMU ${index}: ${problem}`))
      }
    }
    if (problems.length > 0) throw new HypFatal(`EL2's tables cannot be the second stage: ${problems.join('; ')}`)
  }

  /** Where EL2 has stored, tables of ours become what they make of it; then hardware forgets what it may have kept of what is no more. */
  #share(shared: SharedStage2, host: HostStage2): boolean {
    for (const { from, to } of host.touched) {
      if (!shared.follow(host, from, to)) return this.#isRevoked(from, to - from, EFAULT)
    }
    if (shared.stale || host.mayHaveTaken) {
      const result = this.#forgetStage2()
      const [first] = host.touched
      if (result !== OK)
        return this.#isRevoked(first?.from ?? 0, first === undefined ? 0 : first.to - first.from, result)
      this.#forgotten++
    }
    shared.release()
    return true
  }

  #readHostStage2({ watch }: El2, change: Stage2Change): OwnerChange[] | null {
    this.#hostStage2 ??= new HostStage2(this.memory, watch)
    try {
      const known = !change.all && this.#hostStage2.geometry !== undefined
      return known ? this.#hostStage2.readPages(change.pages) : this.#hostStage2.readAll(change)
    } catch (error) {
      if (!(error instanceof HostStage2Error)) throw error
      this.report.warn(HYP_EL2_TABLES, 0, 0, change.vttbrLo, change.vttbrHi, change.vtcrLo, change.vtcrHi)
      return null
    }
  }

  /** The pages have the owners that EL2 says. @returns what was the host's and is not any more, the reverse, and whether SMMUs go on using any of it */
  #account(changes: readonly OwnerChange[]): {
    readonly revoked: PageRange[]
    readonly returned: PageRange[]
    readonly tookShared: boolean
  } {
    const { ownership, report } = this
    const revoked: PageRange[] = []
    const returned: PageRange[] = []
    let tookShared = false
    for (const { base, size, vm } of changes) {
      for (const run of this.ranges(base, base + size)) {
        if (run.state === 'not RAM' || this.#isCarveout(run.base)) continue
        const host = run.state === 'owned' || run.state === 'shared'
        if (host !== vm < 0) (host ? revoked : returned).push(run)
        if (run.state === 'shared' && vm >= 0) {
          tookShared = true
          report.warn(
            HYP_EL2_TOOK_SHARED,
            0,
            0,
            run.base % TWO_POW_32,
            Math.floor(run.base / TWO_POW_32),
            run.size / 4096,
            run.pins,
          )
        }
        if (host !== vm < 0 || (!host && run.vm !== vm)) {
          ownership.assign(run.base, run.size, vm)
          report.pages(vm < 0 ? PAGE_RECLAIM : PAGE_DONATE, run.base, run.size, vm < 0 ? run.vm : vm, OK)
        }
      }
    }
    return { revoked, returned, tookShared }
  }

  /** Unmaps first, then invalidates once, then maps what came back. */
  #follow(idmap: Idmap, changes: readonly OwnerChange[]): boolean {
    const { revoked, returned, tookShared } = this.#account(changes)
    if (this.#idmapBlocks !== null) {
      for (const { base, size } of revoked) {
        if (!this.#isRevoked(base, size, this.#take(idmap, base, size))) return false
      }
    } else {
      for (const { base, size } of revoked) if (!this.#isRevoked(base, size, idmap.unmap(base, size))) return false
      for (const { base, size } of revoked) {
        if (!this.#isRevoked(base, size, this.#invalidate(idmap, base, size))) return false
      }
    }
    for (const { base, size } of returned) this.#give(idmap, base, size)
    return !tookShared
  }

  /** @param result of what took pages from devices */
  #isRevoked(base: number, size: number, result: number): boolean {
    if (result === OK) return true
    const pages = Math.min(size / 4096, TWO_POW_32 - 1)
    this.report.warn(HYP_UNMAP, this.trap, 0, base % TWO_POW_32, Math.floor(base / TWO_POW_32), pages, result)
    return false
  }

  #isCarveout(address: number): boolean {
    const { base, size } = this.machine.carveout
    return address >= base && address < base + size
  }

  /** EL2 says whose pages are. */
  get followed(): boolean {
    return this.#hostStage2 !== null || this.populate !== null
  }

  /** Gives pages of the host to a protected VM: neither vCPUs nor devices reach them afterwards. */
  donate(base: number, size: number, vm: number): number {
    const result = this.#donate(base, size, vm)
    for (const smmu of this.smmus) this.#lookForLoss(smmu)
    this.report.pages(PAGE_DONATE, base, size, vm, result)
    if (result === OK) this.changed()
    return result
  }

  #donate(base: number, size: number, vm: number): number {
    const { idmap, ownership } = this
    if (idmap === null) return ENODEV
    if (this.followed) return EPERM
    if (base % this.#granule !== 0 || size % this.#granule !== 0) return EINVAL
    const donated = ownership.donate(base, size, vm)
    if (donated !== OK) return donated
    return this.#finish({ operation: PAGE_DONATE, base, size, vm }, () => this.#revoke(idmap, base, size, vm))
  }

  /** Does what must not be left undone once it has begun. */
  #finish(operation: PageOperation, act: () => number): number {
    this.#operation = operation
    this.changed()
    this.#persist()
    try {
      return act()
    } finally {
      this.#operation = null
      this.changed()
    }
  }

  /** Of a donation, all but the ownership; may be done twice. */
  #revoke(idmap: Idmap, base: number, size: number, vm: number): number {
    const { ownership } = this
    this.wait.begin()
    const result = this.#take(idmap, base, size)
    if (this.#isRevoked(base, size, result) && this.machine.guard.add(base, size)) return OK
    ownership.reclaim(base, size, vm)
    if (this.#idmapBlocks !== null) this.#idmapBlocks.give(base, size)
    else idmap.map(base, size)
    // A hypervisor that took over in the middle has guarded it already.
    this.machine.guard.remove(base, size)
    return result === OK ? ENOMEM : result
  }

  /** Takes pages, which are not the host's any more, from devices: unmapped, and nowhere cached. */
  #take(idmap: Idmap, base: number, size: number): number {
    const invalidate = () => this.#invalidate(idmap, base, size)
    if (this.quirks.has('idmap-never-initialised')) return invalidate()
    if (this.#idmapBlocks !== null) return this.#idmapBlocks.take(base, size, invalidate)
    const unmapped = idmap.unmap(base, size)
    return unmapped === OK ? invalidate() : unmapped
  }

  /** Pages that are the host's again: devices reach them. One that cannot be mapped is one that they do not reach: tolerated. */
  #give(idmap: Idmap, base: number, size: number): void {
    if (this.#idmapBlocks === null) {
      idmap.map(base, size)
      return
    }
    this.#idmapBlocks.merge(base, size)
    this.#idmapBlocks.give(base, size)
  }

  #forgetStage2(): number {
    for (const smmu of this.smmus) {
      const result = smmu.forgetStage2()
      if (result !== OK) return result
    }
    return OK
  }

  #invalidate({ geometry }: Idmap, base: number, size: number): number {
    for (const smmu of this.smmus) {
      const result = smmu.invalidateStage2(base, size, geometry.granuleShift)
      if (result !== OK) return result
    }
    return OK
  }

  /** Takes pages back from a protected VM, zeroed. */
  reclaim(base: number, size: number, vm: number): number {
    const result = this.#reclaim(base, size, vm)
    this.report.pages(PAGE_RECLAIM, base, size, vm, result)
    if (result === OK) this.changed()
    return result
  }

  #reclaim(base: number, size: number, vm: number): number {
    const { idmap, ownership } = this
    if (idmap === null) return ENODEV
    if (this.followed) return EPERM
    if (base % this.#granule !== 0 || size % this.#granule !== 0) return EINVAL
    const owned = ownership.checkVm(base, size, vm)
    if (owned !== OK) return owned
    return this.#finish({ operation: PAGE_RECLAIM, base, size, vm }, () => this.#returnToHost(idmap, base, size, vm))
  }

  /** Of a reclaim, all but the checks; may be done twice. */
  #returnToHost(idmap: Idmap, base: number, size: number, vm: number): number {
    const { ownership } = this
    if (!zero(this.memory, base, size)) return EFAULT
    if (!this.machine.guard.remove(base, size)) return ENOMEM
    const reclaimed = ownership.reclaim(base, size, vm)
    if (reclaimed === OK) this.#give(idmap, base, size)
    return reclaimed
  }

  /** Runs of pages that belong to a VM: vCPUs are kept from them, where no EL2 does so. */
  get donated(): Range[] {
    if ((this.machine.el2?.hostStage2() ?? null) !== null) return []
    return this.ranges()
      .filter(({ state }) => state === 'vm')
      .map(({ base, size }) => ({ base, size }))
  }

  /** How many streams were shadowed, of all SMMUs. */
  streamCount(): number {
    return this.smmus.reduce((count, { shadowStrtab }) => count + shadowStrtab.streams.size, 0)
  }

  /** The streams that were shadowed, by SMMU and StreamID. */
  streams(): StreamInfo[] {
    const all: StreamInfo[] = []
    for (const smmu of this.smmus) {
      for (const { sid, host, shadow, trap } of smmu.shadowStrtab.streams.values()) {
        all.push({ smmu: smmu.index, sid, host, shadow: smmu.shadowStrtab.read(sid) ?? shadow, trap })
      }
    }
    return all.sort((a, b) => a.smmu - b.smmu || a.sid - b.sid)
  }

  /** All RAM, or the part of it between two addresses, as runs of pages in the same state. */
  ranges(from?: number, to?: number): PageRange[] {
    return [...this.ownership.ranges(from, to)]
  }

  /** The state in a few hundred bytes, good until the next call. Cheap while only commands flow. */
  checkpoint(): Uint8Array {
    if (this.#changed) {
      const { limit, peak, failures } = this.pool
      this.#checkpoint.encode({
        isolated: this.isolated,
        guarded: this.#guarded,
        operation: this.#operation,
        idmap: this.idmap?.state ?? null,
        pool: { limit, peak, failures, runs: this.pool.runs() },
        ranges: this.ranges().filter(({ state }) => state !== 'owned'),
      })
      this.#changed = false
    }
    return this.#checkpoint.finish()
  }

  /**
   * Of a new hypervisor: goes on from a checkpoint of a former one on the same machine, instead of `reset`: hardware, guards and the
   * tables in memory are as that one left them.
   * @throws CheckpointError when that is not possible; only `reset` makes the hypervisor usable then.
   */
  restore(checkpoint: Uint8Array): void {
    const state = this.#checkpoint.decode(checkpoint)
    const { limit, peak, failures, runs } = state.pool
    this.ownership.reset()
    for (const range of state.ranges) {
      if (this.ownership.restore(range) !== OK) throw new CheckpointError('the checkpoint has pages that are no RAM')
    }
    if (this.pool.restore(runs, limit, peak, failures) !== OK) {
      throw new CheckpointError('the checkpoint has pages that are not hypervisor memory')
    }
    this.isolated = state.isolated
    this.#guarded = state.guarded
    this.#operation = state.operation
    const geometry = state.idmap && idmapGeometry(this.#granule, state.idmap.outputBits)
    this.#useIdmap(state.idmap && geometry && new Idmap(this.memory, this.pool, geometry, state.idmap))
    this.changed()
  }

  /**
   * After `restore`: the former hypervisor may have died anywhere. The hardware's command queue is taken where it stands,
   * the stream table becomes what the state says, an operation that had begun is finished; a trap that was being decided
   * comes again.
   * @returns what was put right, in words. @throws CheckpointError when hardware and tables are not this state's.
   */
  resume(): string[] {
    const { guard, carveout } = this.machine
    const changes: string[] = []
    const hidden = [...(this.#guarded ? [carveout] : []), ...this.donated]
    this.#expect(
      hidden
        .filter(({ base, size }) => !guard.add(base, size))
        .map(({ base }) => `0x${base.toString(16)} cannot be guarded`),
    )
    if (!this.isolated) return changes
    // The former hypervisor may have died between a store and its clean.
    this.memory.clean?.(this.pool.base, this.pool.capacity * PAGE_SIZE)
    changes.push(...this.#resumePower(false))
    // Or in a write of CR0: an SMMU whose queue is off by now executes no command, and caches nothing that is in use.
    for (const smmu of this.smmus) {
      if (smmu.isOn) disableAcknowledged(smmu, smmu.hardware.read32(ARM_SMMU_CR0ACK))
    }
    for (const smmu of this.smmus) this.#expect(smmu.verify())
    for (const smmu of this.smmus) {
      const { index, hardware, hostCmdq, shadowStrtab } = smmu
      if (includesStep(this.upTo, 'cmdq') && smmu.isOn) {
        this.#expect(hostCmdq.resume() ? [] : [`SMMU ${index}: its queue cannot be read`])
      }
      if (!includesStep(this.upTo, 'strtab')) continue
      const enabled = hardware.read32(ARM_SMMU_CR0) | hardware.read32(ARM_SMMU_CR0ACK)
      const { changes: done, problem } = shadowStrtab.resume((enabled & CR0_SMMUEN) !== 0)
      this.#expect(problem === null ? [] : [`SMMU ${index}: ${problem}`])
      changes.push(...done)
    }
    const { idmap } = this
    if (idmap !== null && this.#operation !== null) {
      const { operation, base, size, vm } = this.#operation
      const donation = operation === PAGE_DONATE
      this.#idmapBlocks?.adopt(base, size)
      const result = donation ? this.#revoke(idmap, base, size, vm) : this.#returnToHost(idmap, base, size, vm)
      this.report.pages(operation, base, size, vm, result)
      changes.push(`the ${donation ? 'donation' : 'reclaim'} of ${size} bytes at 0x${base.toString(16)} was finished`)
      this.#sweep(idmap)
      this.#operation = null
      this.changed()
      // Or the next one would finish it again: a page that was given back would be zeroed once more.
      this.#persist()
    }
    changes.push(...this.#resumeHostStage2())
    changes.push(...this.#resumePower(true))
    this.#expect(this.verify())
    return changes
  }

  /**
   * What was being switched when a former hypervisor died: off at once, since the hardware may be off already; on when the tables are what
   * the state says, from the state before.
   * @param on what was to be on; else what was to be off
   */
  #resumePower(on: boolean): string[] {
    const changes: string[] = []
    const control = this.machine.power
    for (const smmu of this.smmus) {
      const { index, power } = smmu
      const state = POWER_STATES[power.wanted - 1]
      if (state === undefined || control === undefined || this.powerMode === null) continue
      const keeps = this.powerMode === 'keep'
      if (on || smmu.isOn) {
        // Until the host's registers are kept, nothing has begun.
        const begun = on || power.saved || !(keeps || state === 'retained')
        const result = begun ? switchPower(smmu, control, state, keeps) : EBUSY
        changes.push(`SMMU ${index}: to be switched ${state === 'on' ? 'on' : 'off'}: ${resultName(result)}`)
        power.wanted = 0
        this.keepState()
      } else stepBack(smmu, control)
    }
    return changes
  }

  /** Tables that a former hypervisor had taken and not linked, or unlinked and not given back. */
  #sweep(idmap: Idmap): void {
    if (this.#idmapBlocks === null) return
    const { granule, rootBytes } = idmap.geometry
    const tables = this.#idmapBlocks.tables().map(base => ({ base, size: granule }))
    this.pool.keep([...this.smmus.flatMap(smmu => smmu.memory()), { base: idmap.root, size: rootBytes }, ...tables])
  }

  /** A former hypervisor died: what EL2 changed since its checkpoint is found by reading all of EL2's tables. */
  #resumeHostStage2(): string[] {
    const registers = this.machine.el2?.hostStage2() ?? null
    if (registers === null || this.idmap === null) return []
    const before = this.ownership.generation
    // Tables that the former hypervisor has taken and linked, and not lived to say so, are not to be given to anybody.
    const shared = this.#sharedStage2
    const { granule, rootBytes } = this.idmap.geometry
    for (const table of shared?.tables() ?? []) this.pool.claim(table, granule)
    const followed = this.stage2Changed({ ...registers, cpu: 0, time: 0, all: true, pages: [] })
    this.#expect(followed ? [] : ["EL2's tables for its host cannot be followed"])
    const tables = shared?.tables()
    if (tables !== undefined) {
      this.idmap.state.tables = tables.length + 1
      const kept = tables.map(base => ({ base, size: granule }))
      this.pool.keep([
        ...this.smmus.flatMap(smmu => smmu.memory()),
        { base: this.idmap.root, size: rootBytes },
        ...kept,
      ])
    }
    return this.ownership.generation === before ? [] : ['pages that EL2 took or gave back meanwhile were followed']
  }

  #expect(problems: readonly string[]): void {
    if (problems.length > 0) throw new CheckpointError(problems.join('; '))
  }

  /** What is not as it should be in hypervisor memory and the hardware's registers, in words; at most `limit`. */
  verify(limit = 16): string[] {
    const problems: string[] = []
    if (!this.isolated) return problems
    for (const smmu of this.smmus) problems.push(...smmu.verify())
    if (this.#sharedStage2 !== null) problems.push(...this.#sharedStage2.verify(this.#hostStage2, limit))
    else if (this.idmap !== null) {
      const differences = verifyIdmap(this.idmap, this.pool, this.ownership, this.smmus, limit, this.#blocks)
      for (const { base, size, level, found, expected } of differences) {
        const should = expected === null ? 'a table' : `0x${expected.toString(16)}`
        const range = `0x${base.toString(16)} to 0x${(base + size).toString(16)}`
        problems.push(`idmap, level ${level}, ${range}: 0x${found.toString(16)} instead of ${should}`)
      }
    }
    return problems.slice(0, limit)
  }

  /** What the second stage is made of, where it is EL2's, and how often hardware had to forget it. */
  get sharedInfo(): (SharedInfo & { readonly populate: PopulateMode; readonly forgotten: number }) | null {
    const { populate } = this
    if (this.#sharedStage2 === null || populate === null) return null
    return { populate, ...this.#sharedStage2.info(this.#hostStage2), forgotten: this.#forgotten }
  }

  get idmapInfo(): IdmapInfo | null {
    return this.idmap?.info ?? null
  }
}
