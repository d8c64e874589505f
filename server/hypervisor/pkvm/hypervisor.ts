// SPDX-License-Identifier: Apache-2.0
/**
 * EL2: everything that the host must not reach or decide, put together. One instance for a machine; `reset` brings it to
 * the beginning as often as the machine restarts.
 */

import type { Machine } from '../../machine/ports.ts'
import type { StreamInfo } from '../../policy/inspect.ts'
import type { PopulateMode, PowerMode, Stage2Change, Trap } from '../../policy/policy.ts'
import { HypFatal, includesStep, type PolicyContext, type SeriesStep } from '../../policy/policy.ts'
import { type HypReport, PAGE_DONATE, PAGE_RECLAIM } from '../../policy/report.ts'
import { EIO, ENODEV, ENOMEM, OK } from '../../policy/result.ts'
import type { PowerState } from '../../smmu/hardware.ts'
import { POWER_STATES } from '../../smmu/hardware.ts'
import type { GuestMemory } from '../../smmu/memory.ts'
import { ARM_SMMU_CMDQ_CONS, ARM_SMMU_CR0, ARM_SMMU_CR0ACK, ARM_SMMU_CR1, CR0_SMMUEN } from '../../smmu/registers.ts'
import { CR1_REQUIRED } from '../common/cr1.ts'
import { HardwareWait } from '../common/wait.ts'
import { Checkpoint, CheckpointError } from './checkpoint.ts'
import { CHOICE_NAMES, type Choices, LINUX_ONLY } from './choices.ts'
import { type CommandOverrides, commandRules } from './commandRules.ts'
import { disableAcknowledged } from './cr0.ts'
import { Donations } from './donations.ts'
import { El2Follower } from './followEl2.ts'
import { frameRules, RegisterFrame, type RegisterOverrides } from './frame.ts'
import { Idmap, type IdmapInfo } from './idmap.ts'
import { idmapGeometry } from './idmapGeometry.ts'
import { expectKnown } from './known.ts'
import { PAGE_SIZE, PageOwnership, type PageRange, type Range } from './ownership.ts'
import { PagePool } from './pool.ts'
import { lookForLoss, makeUpForLoss, PUTS_TO_USE, resumePower, switchPower } from './power.ts'
import { type Quirks, quirksOf } from './quirks.ts'
import { SHADOW_CMDQ_BYTES } from './shadowCmdqSize.ts'
import { HostShare } from './share.ts'
import type { SharedInfo } from './sharedStage2.ts'
import { Smmu } from './smmu.ts'
import { buildStage2, MAX_BBM_LEVEL, type MachineContext, SPARE_PAGES, Stage2 } from './stage2.ts'
import { copyStream, nestStream, type StreamRule } from './steRules.ts'
import { HYP_POWERED_OFF } from './warnings.ts'

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

export class Hypervisor implements MachineContext {
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
  stage2: Stage2 | null = null
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

  readonly granule: number
  readonly blocks: boolean
  readonly bbm: number
  /** EL2's tables are the second stage; what becomes of what they do not map. Null: tables of the hypervisor's own are. */
  readonly populate: PopulateMode | null
  /** SMMUs may be switched off and on, by asking. */
  readonly powerMode: PowerMode | null
  readonly #requireIsolation: boolean
  readonly #poolPages: number | null
  readonly clock: () => number
  readonly #checkpoint: Checkpoint
  #guarded = false
  readonly #persist: () => void
  readonly #donations: Donations
  readonly #follower: El2Follower

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
    this.granule = options.granule ?? 4096
    this.blocks = options.blocks ?? false
    this.bbm = options.bbm ?? MAX_BBM_LEVEL
    this.populate = options.stage2 === 'shared' ? (options.populate ?? 'ahead') : null
    this.powerMode = options.power ?? null
    this.#requireIsolation = options.requireIsolation ?? false
    this.#poolPages = options.poolPages ?? null
    this.clock = context.clock ?? (() => performance.now())
    this.#persist = context.persist ?? (() => {})
    this.wait = new HardwareWait(this.clock, options.waitMs ?? 1000, options.waitPolls ?? 1_000_000)
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
    this.#donations = new Donations(this)
    this.#follower = new El2Follower(this)
    this.#checkpoint = new Checkpoint(machine, this.smmus, {
      ...{ upTo: this.upTo, granule: this.granule, blocks: this.blocks },
      ...{ power: this.powerMode !== null, shared: this.populate !== null, choices: this.choices },
    })
  }

  get idmap(): Idmap | null {
    return this.stage2?.idmap ?? null
  }

  /** Whether devices reach the host's pages only. */
  get isolates(): boolean {
    return this.isolated && this.stage2 !== null
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
    this.stage2 = null
    this.isolated = false
    const { carveout, guard } = this.machine
    for (const { base, size } of this.donated) guard.remove(base, size)
    if (this.#guarded) guard.remove(carveout.base, carveout.size)
    this.#donations.operation = null
    this.#follower.reset()
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
    if (!includesStep(upTo, 'nested')) {
      this.limitPool(SPARE_PAGES)
      return null
    }
    const stage2 = buildStage2(this)
    if (typeof stage2 === 'string') return stage2
    this.stage2 = stage2
    return null
  }

  limitPool(pages: number): void {
    this.pool.limit = this.pool.used + (this.#poolPages ?? pages)
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
    lookForLoss(smmu)
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
      lookForLoss(smmu)
    }
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
    const { stage2 } = this
    const { el2 } = this.machine
    if (stage2 === null || el2 === undefined) return true
    this.wait.begin()
    const followed = this.#follower.follow(stage2, el2, change)
    this.changed()
    return followed
  }

  /** EL2 says whose pages are. */
  get followed(): boolean {
    return this.#follower.host !== null || this.populate !== null
  }

  /** Gives pages of the host to a protected VM: neither vCPUs nor devices reach them afterwards. */
  donate(base: number, size: number, vm: number): number {
    const result = this.#donations.donate(base, size, vm)
    for (const smmu of this.smmus) lookForLoss(smmu)
    this.report.pages(PAGE_DONATE, base, size, vm, result)
    if (result === OK) this.changed()
    return result
  }

  /** Takes pages back from a protected VM, zeroed. */
  reclaim(base: number, size: number, vm: number): number {
    const result = this.#donations.reclaim(base, size, vm)
    this.report.pages(PAGE_RECLAIM, base, size, vm, result)
    if (result === OK) this.changed()
    return result
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
        operation: this.#donations.operation,
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
    this.#donations.operation = state.operation
    const geometry = state.idmap && idmapGeometry(this.granule, state.idmap.outputBits)
    const idmap = state.idmap && geometry && new Idmap(this.memory, this.pool, geometry, state.idmap)
    this.stage2 = idmap && new Stage2(this, idmap)
    this.changed()
  }

  /**
   * After `restore`: the former hypervisor may have died anywhere. The hardware's command queue is taken where it stands,
   * the stream table becomes what the state says, an operation that had begun is finished; a trap that was being decided
   * comes again.
   * @returns what was put right, in words. @throws CheckpointError when hardware and tables are not this state's.
   */
  resume(): string[] {
    const { guard, carveout, power } = this.machine
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
    changes.push(...resumePower(this.smmus, power, false))
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
    changes.push(...this.#donations.resume())
    changes.push(...this.#resumeHostStage2())
    changes.push(...resumePower(this.smmus, power, true))
    this.#expect(this.verify())
    return changes
  }

  /** A former hypervisor died: what EL2 changed since its checkpoint is found by reading all of EL2's tables. */
  #resumeHostStage2(): string[] {
    const registers = this.machine.el2?.hostStage2() ?? null
    const { stage2 } = this
    if (registers === null || stage2 === null) return []
    const before = this.ownership.generation
    stage2.claimTables()
    const followed = this.stage2Changed({ ...registers, cpu: 0, time: 0, all: true, pages: [] })
    this.#expect(followed ? [] : ["EL2's tables for its host cannot be followed"])
    if (stage2.shared !== null) stage2.keepTables()
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
    if (this.stage2 !== null) problems.push(...this.stage2.verify(this.#follower.host, limit))
    return problems.slice(0, limit)
  }

  /** What the second stage is made of, where it is EL2's, and how often hardware had to forget it. */
  get sharedInfo(): (SharedInfo & { readonly populate: PopulateMode; readonly forgotten: number }) | null {
    const { populate } = this
    const shared = this.stage2?.shared ?? null
    if (shared === null || populate === null) return null
    const { host, forgotten } = this.#follower
    return { populate, ...shared.info(host), forgotten }
  }

  get idmapInfo(): IdmapInfo | null {
    return this.idmap?.info ?? null
  }
}
