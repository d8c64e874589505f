// SPDX-License-Identifier: Apache-2.0
/**
 * Fault injection in the trap thread: between guest and policy (traps), and between policy and machine (its ports). While
 * no rule is armed nothing of it stands in the way of an access but one look at `armed`.
 */
import type { Translate } from '../../protocol/generated/messages.ts'
import { enums } from '../../protocol/messages.ts'
import type { Answer } from '../cosim/answer.ts'
import { OperationError } from '../cosim/operations.ts'
import { Hypervisor } from '../hypervisor/hypervisor.ts'
import { EBUSY, EFAULT, EINVAL, ENOMEM, EPERM, ERANGE, resultName } from '../hypervisor/result.ts'
import { HYP_WARNINGS, type HypWarning } from '../hypervisor/warnings.ts'
import type { GuestMemory, Halves, Machine, Policy, SmmuHardware, Trap } from '../machine/ports.ts'
import { addressOf, hex, hex64 } from '../smmu/bits.ts'
import { describeCommand } from '../smmu/commands.ts'
import { EVTQ_1_CLASS_IN, emptyEvent, encodeEvent } from '../smmu/events.ts'
import {
  ARM_LPAE_PTE_AF,
  ARM_LPAE_PTE_HAP_READ,
  ARM_LPAE_PTE_HAP_WRITE,
  ARM_LPAE_PTE_TYPE_PAGE,
} from '../smmu/pagetable.ts'
import * as r from '../smmu/registers.ts'
import { registerName } from '../smmu/registers.ts'
import { STRTAB_STE_SIZE } from '../smmu/ste.ts'
import { STRTAB_L1_DESC_SIZE } from '../smmu/strtab.ts'
import type { RingWriter } from '../trace/ring.ts'
import { ArmedRule, alter, changed, type Device, resolveSid } from './armed.ts'
import { FaultyQueue, type QueueEffects } from './commands.ts'
import { devicePage } from './devicePage.ts'
import { eventQueue, produceEvents } from './eventQueue.ts'
import { HostView } from './hostView.ts'
import { interpose } from './interpose.ts'
import { big, event as eventId, halvesOf, rangeOf, warning as warningId } from './names.ts'
import { Places } from './places.ts'
import {
  type FaultPlan,
  type FaultRule,
  type Firing,
  type GERROR_BITS,
  type PAGE_ERRORS,
  type PageOperation,
  POINTS,
  type Point,
  type Table,
  type WhatOf,
} from './rule.ts'
import { stage2Descriptor } from './stage2.ts'
import type { TriggerState } from './trigger.ts'

const { mapped: MAPPED, fault: FAULT, silent: SILENT } = enums.translation
/** Firings of one rule that are told one by one; the rest is counted. */
const TOLD = 100
/** Firings that are kept for a report. */
const KEPT = 1000
/** Leaves that one write of stage-2 descriptors is searched for. */
const MAX_LEAVES = 1 << 16

/** What the injector needs of the dispatcher. */
export interface Surroundings {
  readonly machine: Machine
  readonly policy: Policy
  readonly devices: readonly Device[]
  /** Guest memory whose accesses nobody records. */
  readonly memory: GuestMemory
  /** Answers translate requests: faults of translations are possible. */
  readonly translates: boolean
  /** Guest's virtual clock at its last trap, ns. */
  clock(): number
  /** Raises an interrupt of an SMMU (a value of `irqLine`). */
  irq(smmu: number, line: number): void
  /** Drops what the hardware has cached. */
  invalidate(smmu: number): void
  warn(warning: HypWarning, trap: number, smmu: number): void
  donate(base: number, size: number, vm: number): number
  reclaim(base: number, size: number, vm: number): number
  /** Breaks the connection. @throws always */
  cut(): never
  /** Sends bytes that are no frame. */
  garble(): void
}

/** How many times a rule fired. */
export interface RuleCount {
  readonly rule: string
  readonly matches: number
  readonly fired: number
}

/** What is armed, and what came of it. */
export interface FaultStatus {
  readonly armed: boolean
  readonly seed: number
  readonly plan: readonly FaultRule[]
  readonly rules: readonly RuleCount[]
  /** The first of them. */
  readonly firings: readonly Firing[]
}

/** For the thread that goes on. */
export interface InjectorState {
  readonly plan: FaultPlan
  readonly triggers: readonly TriggerState[]
  readonly firings: readonly Firing[]
}

interface Postponed {
  readonly due: number
  readonly trap: Trap
}

/** One SMMU's part. */
class Unit {
  readonly index: number
  /** Without faults. */
  readonly hardware: SmmuHardware
  readonly host = new Places()
  readonly shadow = new Places()
  readonly hostQueue = new FaultyQueue(true)
  readonly shadowQueue = new FaultyQueue(false)
  readonly view: HostView
  /** CMDQ_CONS as the hypervisor is to see it. */
  hang: { readonly pointer: number; readonly until: number } | undefined
  /** Entries of the event queue before this one have been looked at. */
  eventsSeen = -1

  constructor(index: number, hardware: SmmuHardware) {
    this.index = index
    this.hardware = hardware
    this.view = new HostView(hardware)
  }

  reset(): void {
    this.view.reset()
    this.hang = undefined
    this.eventsSeen = -1
  }
}

export class Injector {
  /** Rules are armed: accesses have to be looked at. */
  armed = false
  readonly #ring: RingWriter
  readonly #post: (firing: Firing) => void
  #plan: FaultPlan | undefined
  #rules: ArmedRule[] = []
  #at: Readonly<Record<Point, readonly ArmedRule[]>> = byPoint([])
  /** States of triggers that go on from another thread's. */
  #states: readonly TriggerState[] = []
  #firings: Firing[] = []
  #around: Surroundings | undefined
  #units: Unit[] = []
  /** Takes what stands in front of the ports away, last first. */
  #undo: (() => void)[] = []
  #memory: GuestMemory | undefined
  #postponed: Postponed[] = []
  /** Actions that wait until the hypervisor is done. */
  #later: (() => void)[] = []
  #inside = false
  #translating = false
  /** Trap that is decided, 0: none. */
  #seq = 0
  #time = 0
  /** CMDQ_PROD that is being written. */
  #prod = 0
  /** The table entry whose update is being dropped. */
  #dropping = ''

  constructor(ring: RingWriter, post: (firing: Firing) => void) {
    this.#ring = ring
    this.#post = post
  }

  /**
   * Arms rules instead of those that are.
   * @throws OperationError when the machine has no place for one.
   */
  arm(plan: FaultPlan): void {
    // Devices are known when a machine is there.
    const rules = this.#around === undefined ? [] : this.#resolve(plan)
    this.disarm()
    this.#plan = plan
    this.#firings = []
    this.#states = []
    this.#install(rules, true)
  }

  /** The machine goes on as if there had never been a rule; what a fault left behind stays. */
  disarm(): void {
    this.#uninstall()
    this.#plan = undefined
    this.#rules = []
    this.#at = byPoint([])
    this.armed = false
  }

  status(): FaultStatus {
    return {
      armed: this.armed,
      seed: this.#plan?.seed ?? 0,
      plan: this.#plan?.rules ?? [],
      rules: this.#rules.map(({ rule, trigger }) => ({
        rule: rule.name,
        matches: trigger.matches,
        fired: trigger.fired,
      })),
      firings: this.#firings,
    }
  }

  /** For the thread that goes on; null when nothing is armed. */
  get state(): InjectorState | null {
    if (this.#plan === undefined) return null
    return { plan: this.#plan, triggers: this.#rules.map(({ trigger }) => trigger.state), firings: this.#firings }
  }

  /** Goes on where another thread stood, before `connect`; null: nothing was armed there. */
  adopt(state: InjectorState | null): void {
    this.#plan = state?.plan
    this.#states = state?.triggers ?? []
    this.#firings = [...(state?.firings ?? [])]
  }

  /** Rules for the machine that connects, before its first trap. */
  prepare(plan: FaultPlan | undefined): void {
    this.#plan ??= plan
  }

  /**
   * A machine is there.
   * @param running it has been reset already
   * @throws OperationError when the machine has no place for a rule
   */
  connect(around: Surroundings, running: boolean): void {
    this.#around = around
    this.#postponed = []
    this.#later = []
    if (this.#plan === undefined) return
    const states = this.#rules.length > 0 ? this.#rules.map(({ trigger }) => trigger.state) : this.#states
    const rules = this.#resolve(this.#plan)
    for (const [i, { trigger }] of rules.entries()) {
      const state = states[i]
      if (state !== undefined) trigger.state = state
    }
    this.#install(rules, running)
  }

  disconnect(): void {
    // The hardware cannot be reached any more.
    for (const undo of this.#undo.splice(0).reverse()) undo()
    this.#units = []
    this.#around = undefined
    this.armed = false
  }

  /** A console line or a moment came that these rules wait for. */
  open(names: readonly string[], time = this.#time): void {
    this.#time = Math.max(this.#time, time)
    for (const { rule, trigger } of this.#rules) if (names.includes(rule.name)) trigger.open()
    this.#moments()
    this.#settle()
  }

  /** Carries a rule out whose action stands for itself, whatever its conditions. @throws OperationError */
  fire(name: string): void {
    const armed = this.#rules.find(({ rule }) => rule.name === name)
    if (armed === undefined) throw new OperationError('absent', `no rule ${name} is armed`)
    if (this.#around === undefined) throw new OperationError('state', 'no machine is connected')
    if (armed.rule.where.at !== 'machine') {
      throw new OperationError('state', `rule ${name} acts on ${armed.rule.where.at}: it cannot be fired by itself`)
    }
    armed.trigger.force()
    this.#act(armed, 0)
    this.#settle()
  }

  /** Decides a trap, with faults around it. */
  access(policy: Policy, trap: Trap): void {
    this.#seq = trap.seq
    this.#time = trap.time
    this.#inside = true
    try {
      const unit = this.#units[trap.smmu]
      for (const { view } of this.#units) view.tick(trap.time)
      this.#carryOutPostponed(policy)
      this.#moments()
      for (const armed of this.#at.transport) {
        if (armed.rule.where.at === 'transport' && armed.rule.where.message === 'trap') this.#try(armed, trap.smmu)
      }
      if (unit === undefined) policy.access(trap)
      else if (trap.write) this.#write(policy, trap, unit)
      else this.#read(policy, trap, unit)
    } finally {
      this.#inside = false
      this.#settle()
      this.#seq = 0
    }
  }

  /** The machine was reset. */
  reset(policy: Policy): void {
    this.#seq = 0
    this.#postponed = []
    for (const unit of this.#units) unit.reset()
    this.#inside = true
    try {
      for (const armed of this.#at.transport) {
        if (armed.rule.where.at === 'transport' && armed.rule.where.message === 'reset') this.#try(armed, 0)
      }
      policy.reset()
    } finally {
      this.#inside = false
      this.#settle()
    }
  }

  /** An answer to a translate request, before it is sent. */
  translate(request: Translate, answer: Answer): void {
    this.#translating = true
    try {
      for (const armed of this.#at.transport) {
        if (armed.rule.where.at === 'transport' && armed.rule.where.message === 'translate') {
          this.#try(armed, request.smmu)
        }
      }
      const write = (request.access & enums.access.write[0]) !== 0
      const iova = addressOf(request.iovaLo, request.iovaHi)
      for (const armed of this.#at.translate) {
        const { where } = armed.rule
        if (where.at !== 'translate' || !armed.concerns(request.smmu) || !armed.touches(iova)) continue
        if (armed.sid !== undefined && armed.sid !== request.sid) continue
        if (where.access !== undefined && (where.access === 'write') !== write) continue
        if (armed.trigger.match(this.#time)) this.#alterTranslation(armed, request, answer, write)
      }
    } finally {
      this.#translating = false
    }
  }

  // Arming.

  #resolve(plan: FaultPlan): ArmedRule[] {
    const around = this.#around
    const devices = around?.devices ?? []
    const fired = (name: string) => (this.#rules.find(({ rule }) => rule.name === name)?.trigger.fired ?? 0) > 0
    return plan.rules.map((rule, i) => {
      try {
        if (around !== undefined) {
          this.#expectPlace(rule.where.at, around)
          if ('sid' in rule.what && rule.what.sid !== undefined) resolveSid(rule.what.sid, devices)
        }
        return new ArmedRule(rule, i + 1, plan.seed, devices, fired)
      } catch (error) {
        throw new OperationError('invalid', `rule ${rule.name}: ${(error as Error).message}`)
      }
    })
  }

  #expectPlace(point: Point, { translates, policy }: Surroundings): void {
    if (point === 'translate' && !translates)
      throw new Error('translations are the hardware’s: use translate mode server')
    if ((point === 'command' || point === 'table' || point === 'pages') && hypervisorOf(policy) === undefined) {
      throw new Error(`policy ${policy.name} has no ${point} of its own to act on`)
    }
  }

  #install(rules: ArmedRule[], running: boolean): void {
    this.#rules = rules
    this.#at = byPoint(rules)
    const around = this.#around
    this.armed = around !== undefined && rules.length > 0
    this.#time = around?.clock() ?? 0
    if (around === undefined || !this.armed) return
    const { machine } = around
    this.#units = machine.smmus.map(({ hardware }, index) => this.#interposeHardware(hardware, index))
    this.#interposeMemory(machine.memory)
    if (this.#at.pages.length > 0) this.#interposePages(around.policy)
    if (running) for (const unit of this.#units) this.#learn(unit, around.policy)
  }

  #uninstall(): void {
    if (this.#around !== undefined) for (const { view } of this.#units) view.end()
    for (const undo of this.#undo.splice(0).reverse()) undo()
    this.#units = []
    this.#postponed = []
    this.#later = []
  }

  /** Where things stand in a machine that runs already. */
  #learn(unit: Unit, policy: Policy): void {
    const value: Halves = { lo: 0, hi: 0 }
    for (const [offset, size] of Places.REGISTERS) {
      unit.hardware.read(offset, size, value)
      unit.shadow.set(offset, size, value)
      const trap: Trap = { ...EMPTY_TRAP, smmu: unit.index, offset, size }
      policy.access(trap)
      unit.host.set(offset, size, trap)
    }
    const around = this.#around
    for (const places of [unit.host, unit.shadow]) if (around) places.learnTables(around.memory)
  }

  #interposeHardware(hardware: SmmuHardware, index: number): Unit {
    let unit: Unit | undefined
    const undo = interpose(
      hardware,
      below => {
        const made = new Unit(index, below as SmmuHardware)
        unit = made
        const read: SmmuHardware['read'] = (offset, size, into) => this.#hardwareRead(made, offset, size, into)
        const write: SmmuHardware['write'] = (offset, size, lo, hi) => this.#hardwareWrite(made, offset, size, lo, hi)
        return {
          read,
          write,
          writeThenRead: (offset, value, readOffset, into) => {
            const written = write(offset, 4, value, 0)
            return read(readOffset, 4, into) && written
          },
          // Every access is to be seen: the guest's reads of CMDQ_CONS as well.
          post: () => false,
        }
      },
      { read: true, write: true, writeThenRead: true, post: true },
    )
    this.#undo.push(undo)
    return unit ?? new Unit(index, hardware)
  }

  #interposeMemory(memory: GuestMemory): void {
    const undo = interpose(
      memory,
      below => {
        this.#memory = { ram: memory.ram, ...below }
        return {
          read: (address, target, offset, length) => this.#memoryRead(below.read, address, target, offset, length),
          write: (address, source, offset, length) => this.#memoryWrite(below.write, address, source, offset, length),
        }
      },
      { read: true, write: true },
    )
    this.#undo.push(undo)
  }

  #interposePages(policy: Policy): void {
    const hypervisor = hypervisorOf(policy)
    if (hypervisor === undefined) return
    const guarded =
      (operation: PageOperation, below: (base: number, size: number, vm: number) => number) =>
      (base: number, size: number, vm: number): number =>
        this.#pages(operation, base, size) ?? below(base, size, vm)
    const { ownership, pool } = hypervisor
    this.#undo.push(
      interpose(
        ownership as PageMethods,
        below => ({
          share: guarded('share', below.share),
          unshare: guarded('unshare', below.unshare),
          pin: guarded('pin', below.pin),
          unpin: guarded('unpin', below.unpin),
          donate: guarded('donate', below.donate),
          reclaim: guarded('reclaim', below.reclaim),
          donateToHyp: guarded('donate-hyp', below.donateToHyp),
        }),
        { share: true, unshare: true, pin: true, unpin: true, donate: true, reclaim: true, donateToHyp: true },
      ),
      interpose(
        pool as AllocateMethod,
        below => ({
          allocate: (bytes, overwritten) => this.#pages('allocate', 0, bytes) ?? below.allocate(bytes, overwritten),
        }),
        { allocate: true },
      ),
    )
  }

  // Traps.

  #write(policy: Policy, trap: Trap, unit: Unit): void {
    const { lo, hi } = trap
    let lost = false
    for (const armed of this.#at.register) {
      const { where, what } = armed.rule
      if (where.at !== 'register' || where.access !== 'write' || !this.#accessMatches(armed, trap)) continue
      if (where.cpu !== undefined && where.cpu !== trap.cpu) continue
      if (!armed.wants(trap) || !armed.trigger.match(trap.time)) continue
      switch (what.do) {
        case 'set':
        case 'change': {
          const before = hex64(trap.lo, trap.hi)
          alter(trap, what, trap.size)
          this.#fired(
            armed,
            `write of ${registerName(trap.offset)}: ${before} → ${hex64(trap.lo, trap.hi)}`,
            lo,
            trap.lo,
          )
          break
        }
        case 'drop':
          lost = true
          this.#fired(armed, `write of ${registerName(trap.offset)} ${hex64(lo, hi)} lost`, lo)
          break
        case 'abort':
          lost = true
          trap.aborted = true
          this.#fired(armed, `write of ${registerName(trap.offset)} ${hex64(lo, hi)} aborted`, lo)
          break
        case 'postpone':
          lost = true
          this.#postponed.push({ due: trap.seq + what.traps, trap: { ...trap } })
          this.#fired(armed, `write of ${registerName(trap.offset)} ${hex64(lo, hi)}: ${what.traps} traps later`, lo)
          break
        default:
          this.#act(armed, trap.smmu)
      }
    }
    if (!lost) this.#decideWrite(policy, trap, unit)
    // The trace has what the guest wrote.
    trap.lo = lo
    trap.hi = hi
  }

  #decideWrite(policy: Policy, trap: Trap, unit: Unit): void {
    unit.view.write(trap)
    if (Places.holds(trap.offset)) unit.host.set(trap.offset, trap.size, trap)
    this.#prod = trap.offset === r.ARM_SMMU_CMDQ_PROD ? trap.lo : -1
    policy.access(trap)
    this.#prod = -1
  }

  #carryOutPostponed(policy: Policy): void {
    while (this.#postponed.length > 0 && (this.#postponed[0]?.due ?? 0) <= this.#seq) {
      const late = this.#postponed.shift()
      const unit = late && this.#units[late.trap.smmu]
      if (late !== undefined && unit !== undefined) this.#decideWrite(policy, late.trap, unit)
    }
  }

  #read(policy: Policy, trap: Trap, unit: Unit): void {
    if (trap.offset === r.ARM_SMMU_EVTQ_PROD && this.#at.event.length > 0) this.#lookAtEvents(unit)
    policy.access(trap)
    unit.view.read(trap)
    for (const armed of this.#at.register) {
      const { where, what } = armed.rule
      if (where.at !== 'register' || where.access !== 'read' || !this.#accessMatches(armed, trap)) continue
      if (where.cpu !== undefined && where.cpu !== trap.cpu) continue
      const fires = armed.wants(trap) && armed.trigger.match(trap.time)
      if (fires && (what.do === 'set' || what.do === 'change' || what.do === 'freeze' || what.do === 'abort')) {
        const before = hex64(trap.lo, trap.hi)
        const beforeLo = trap.lo
        this.#alterRead(armed, trap, trap.size)
        if (what.do === 'abort') trap.aborted = true
        const name = registerName(trap.offset)
        const text =
          what.do === 'abort' ? `read of ${name} aborted` : `read of ${name}: ${before} → ${hex64(trap.lo, trap.hi)}`
        this.#fired(armed, text, beforeLo, trap.lo)
      } else if (fires) this.#act(armed, trap.smmu)
      if (what.do === 'freeze') armed.last = { lo: trap.lo, hi: trap.hi }
    }
  }

  #accessMatches(armed: ArmedRule, trap: Readonly<Trap>): boolean {
    return armed.concerns(trap.smmu) && armed.covers(trap.offset, trap.size)
  }

  #alterRead(armed: ArmedRule, value: Halves, size: number): void {
    const { what } = armed.rule
    if (what.do === 'set' || what.do === 'change') alter(value, what, size)
    else if (what.do === 'freeze') {
      armed.frozen ??= armed.last ?? { lo: value.lo, hi: value.hi }
      value.lo = armed.frozen.lo
      value.hi = armed.frozen.hi
    } else {
      value.lo = 0
      value.hi = 0
    }
  }

  // The hardware port.

  #hardwareRead(unit: Unit, offset: number, size: number, into: Halves): boolean {
    let ok = unit.hardware.read(offset, size, into)
    const { hang } = unit
    if (hang !== undefined && offset === r.ARM_SMMU_CMDQ_CONS) {
      if (this.#time < hang.until) into.lo = hang.pointer
      else unit.hang = undefined
    }
    for (const armed of this.#at.hardware) {
      const { where, what } = armed.rule
      if (where.at !== 'hardware' || where.access !== 'read') continue
      if (!armed.concerns(unit.index) || !armed.covers(offset, size)) continue
      if (armed.wants(into) && armed.trigger.match(this.#time)) {
        if (what.do === 'set' || what.do === 'change' || what.do === 'freeze' || what.do === 'abort') {
          const before = into.lo
          this.#alterRead(armed, into, size)
          if (what.do === 'abort') ok = false
          this.#fired(
            armed,
            `hardware's ${registerName(offset)}: ${hex(before)} → ${ok ? hex(into.lo) : 'abort'}`,
            before,
            into.lo,
          )
        } else this.#act(armed, unit.index)
      }
      if (what.do === 'freeze') armed.last = { lo: into.lo, hi: into.hi }
    }
    return ok
  }

  #hardwareWrite(unit: Unit, offset: number, size: number, lo: number, hi: number): boolean {
    const value = { lo, hi }
    let lost = false
    let aborted = false
    for (const armed of this.#at.hardware) {
      const { where, what } = armed.rule
      if (where.at !== 'hardware' || where.access !== 'write') continue
      if (!armed.concerns(unit.index) || !armed.covers(offset, size)) continue
      if (!armed.wants(value) || !armed.trigger.match(this.#time)) continue
      if (what.do === 'set' || what.do === 'change') alter(value, what, size)
      else if (what.do === 'drop' || what.do === 'abort') {
        lost = true
        aborted = what.do === 'abort'
      } else {
        this.#act(armed, unit.index)
        continue
      }
      const after = lost ? (aborted ? 'aborted' : 'lost') : `→ ${hex64(value.lo, value.hi)}`
      this.#fired(armed, `hypervisor's write of ${registerName(offset)}: ${hex64(lo, hi)} ${after}`, lo, value.lo)
    }
    if (Places.holds(offset)) unit.shadow.set(offset, size, { lo, hi })
    return lost ? !aborted : unit.hardware.write(offset, size, value.lo, value.hi)
  }

  // The memory port.

  #memoryRead(
    below: GuestMemory['read'],
    address: number,
    target: Uint8Array,
    offset: number,
    length: number,
  ): boolean {
    if (!below(address, target, offset, length)) return false
    for (const unit of this.#units) {
      if (this.#at.command.length > 0 && length % 16 === 0 && unit.host.inQueue(address, length)) {
        const words = wordsOf(target, offset, length)
        const rules = this.#at.command.filter(a => queueOf(a) === 'host' && a.concerns(unit.index))
        if (
          unit.hostQueue.alter(words, length / 16, rules, this.#time, this.#effects(unit, unit.host, address, true))
        ) {
          target.set(new Uint8Array(words.buffer), offset)
        }
        return true
      }
      for (const places of [unit.host, unit.shadow]) {
        if (length === STRTAB_L1_DESC_SIZE && places.l1Sid(address) !== undefined) {
          if (places === unit.host) this.#tableRead('host-l1', unit, address, target, offset, length)
          const [lo = 0, hi = 0] = wordsOf(target, offset, length)
          places.descriptor(address, lo, hi)
          return true
        }
      }
      if (length === STRTAB_STE_SIZE && unit.host.ste(address)?.at === 0) {
        if (!this.#tableRead('host-ste', unit, address, target, offset, length)) return false
        this.#contextDescriptor(unit, unit.host.ste(address)?.sid ?? 0, wordsOf(target, offset, length))
        return true
      }
    }
    return true
  }

  /** Entries of the host as they are copied. */
  #tableRead(table: Table, unit: Unit, address: number, target: Uint8Array, offset: number, length: number): boolean {
    const sid = table === 'host-l1' ? unit.host.l1Sid(address) : unit.host.ste(address)?.sid
    const span = table === 'host-l1' ? 2 ** (unit.host.table?.split ?? 0) : 1
    for (const armed of this.#tables(table, unit)) {
      if (armed.sid !== undefined && (sid === undefined || armed.sid < sid || armed.sid >= sid + span)) continue
      if (!armed.trigger.match(this.#time)) continue
      const { what } = armed.rule
      if (what.do === 'abort') {
        this.#fired(armed, `copy of ${table} of sid ${hex(sid ?? 0)} refused`, sid)
        return false
      }
      if (what.do === 'change') {
        const before = changeBytes(target, offset, length, what)
        this.#fired(armed, `${table} of sid ${hex(sid ?? 0)}, word ${what.word ?? 0}: ${before}`, sid, what.word)
      } else this.#act(armed, unit.index)
    }
    return true
  }

  /** The host's CD of a stream that is being configured: the hardware reads it where it stands, so there it changes. */
  #contextDescriptor(unit: Unit, sid: number, ste: Uint32Array): void {
    const memory = this.#memory
    const [lo = 0, hi = 0] = ste
    // V, and Config with stage 1.
    if (memory === undefined || (lo & 1) === 0 || (lo & 0xa) !== 0xa) return
    const address = addressOf((lo & 0xffff_ffc0) >>> 0, hi & 0x00ff_ffff)
    for (const armed of this.#tables('cd', unit)) {
      if (armed.sid !== undefined && armed.sid !== sid) continue
      if (!armed.trigger.match(this.#time)) continue
      const { what } = armed.rule
      if (what.do !== 'change') {
        this.#act(armed, unit.index)
        continue
      }
      const bytes = new Uint8Array(8)
      const at = address + 8 * (what.word ?? 0)
      if (!memory.read(at, bytes, 0, 8)) continue
      const text = changeBytes(bytes, 0, 8, { ...what, word: 0 })
      memory.write(at, bytes, 0, 8)
      this.#fired(armed, `cd of sid ${hex(sid)} at ${hex(address)}, word ${what.word ?? 0}: ${text}`, sid, at)
    }
  }

  #memoryWrite(
    below: GuestMemory['write'],
    address: number,
    source: Uint8Array,
    offset: number,
    length: number,
  ): boolean {
    for (const unit of this.#units) {
      if (unit.shadow.inQueue(address, length)) {
        const rules = this.#at.command.filter(a => queueOf(a) === 'shadow' && a.concerns(unit.index))
        if (this.#at.command.length === 0 || length % 16 !== 0) return below(address, source, offset, length)
        const words = wordsOf(source, offset, length)
        const effects = this.#effects(unit, unit.shadow, address, false)
        const altered = unit.shadowQueue.alter(words, length / 16, rules, this.#time, effects)
        return altered
          ? below(address, new Uint8Array(words.buffer), 0, length)
          : below(address, source, offset, length)
      }
      if (length === STRTAB_L1_DESC_SIZE && unit.shadow.l1Sid(address) !== undefined) {
        const [lo = 0, hi = 0] = wordsOf(source, offset, length)
        unit.shadow.descriptor(address, lo, hi)
        return this.#entryWrite('l1', unit, unit.shadow.l1Sid(address) ?? 0, 0, below, address, source, offset, length)
      }
      const ste = length <= STRTAB_STE_SIZE ? unit.shadow.ste(address) : undefined
      if (ste !== undefined) {
        return this.#entryWrite('ste', unit, ste.sid, ste.at, below, address, source, offset, length)
      }
    }
    return this.#stage2Write(below, address, source, offset, length)
  }

  /** An entry of the shadow stream table, or a part of it. @param at bytes into the entry */
  #entryWrite(
    table: 'ste' | 'l1',
    unit: Unit,
    sid: number,
    at: number,
    below: GuestMemory['write'],
    address: number,
    source: Uint8Array,
    offset: number,
    length: number,
  ): boolean {
    const span = table === 'l1' ? 2 ** (unit.shadow.table?.split ?? 0) : 1
    let bytes: Uint8Array | undefined
    for (const armed of this.#tables(table, unit)) {
      if (armed.sid !== undefined && (armed.sid < sid || armed.sid >= sid + span)) continue
      const { what } = armed.rule
      const update = `${armed.number} ${this.#seq} ${sid}`
      if (what.do === 'drop' && this.#dropping === update) return true
      const word = what.do === 'change' ? 8 * (what.word ?? 0) : at
      if (word < at || word >= at + length || !armed.trigger.match(this.#time)) continue
      if (what.do === 'drop') {
        this.#dropping = update
        this.#fired(armed, `write of ${table} of sid ${hex(sid)} lost`, sid)
        return true
      }
      if (what.do === 'abort') {
        this.#fired(armed, `write of ${table} of sid ${hex(sid)} refused`, sid)
        return false
      }
      if (what.do === 'change') {
        bytes ??= source.slice(offset, offset + length)
        const text = changeBytes(bytes, 0, length, { ...what, word: (word - at) / 8 })
        this.#fired(armed, `${table} of sid ${hex(sid)}, word ${word / 8}: ${text}`, sid, word / 8)
      } else this.#act(armed, unit.index)
    }
    return bytes === undefined ? below(address, source, offset, length) : below(address, bytes, 0, length)
  }

  /** Descriptors of the stage-2 idmap among what is written. */
  #stage2Write(
    below: GuestMemory['write'],
    address: number,
    source: Uint8Array,
    offset: number,
    length: number,
  ): boolean {
    const { carveout } = this.#around?.machine ?? {}
    const inside = carveout && address >= carveout.base && address < carveout.base + carveout.size
    if (!inside || length % 8 !== 0) return below(address, source, offset, length)
    let bytes: Uint8Array | undefined
    for (const armed of this.#at.table) {
      const { where, what } = armed.rule
      if (where.at !== 'table' || where.table !== 'stage2') continue
      const places = this.#stage2Places(armed, address, source, offset, length)
      if (places.length === 0 || !armed.trigger.match(this.#time)) continue
      if (what.do === 'abort') {
        this.#fired(armed, `write of stage-2 descriptors at ${hex(address)} refused`, address)
        return false
      }
      if (what.do !== 'change' && what.do !== 'drop') {
        this.#act(armed, 0)
        continue
      }
      bytes ??= source.slice(offset, offset + length)
      let text = 'lost'
      for (const at of places) {
        if (what.do === 'change') text = changeBytes(bytes, at, 8, { ...what, word: 0 })
        else this.#memory?.read(address + at, bytes, at, 8)
      }
      this.#fired(armed, `stage-2 descriptor at ${hex(address + (places[0] ?? 0))}: ${text}`, address)
    }
    return bytes === undefined ? below(address, source, offset, length) : below(address, bytes, 0, length)
  }

  /** Offsets into what is written at which descriptors for the rule's input addresses stand. */
  #stage2Places(armed: ArmedRule, address: number, source: Uint8Array, offset: number, length: number): number[] {
    const { range } = armed
    const idmap = hypervisorOf(this.#around?.policy)?.idmap ?? null
    const memory = this.#memory
    const places: number[] = []
    if (range === undefined || memory === undefined) return places
    if (idmap !== null) {
      const step = idmap.geometry.granule
      const from = range.from - (range.from % step)
      for (let page = from, i = 0; page < range.end && i < MAX_LEAVES; page += step, i++) {
        const at = stage2Descriptor(memory, idmap, page)
        if (at !== undefined && at >= address && at + 8 <= address + length) places.push(at - address)
      }
      return [...new Set(places)]
    }
    // While it is built, a page descriptor of an identity map says itself where it belongs.
    const words = wordsOf(source, offset, length)
    for (let i = 0; i + 1 < words.length; i += 2) {
      const [lo = 0, hi = 0] = [words[i], words[i + 1]]
      const page = addressOf((lo & 0xffff_f000) >>> 0, hi & 0xffff)
      if ((lo & LEAF_ATTRIBUTES) === LEAF_ATTRIBUTES && page >= range.from && page < range.end) places.push(4 * i)
    }
    return places
  }

  *#tables(table: Table, unit: Unit): Generator<ArmedRule> {
    for (const armed of this.#at.table) {
      const { where } = armed.rule
      if (where.at === 'table' && where.table === table && armed.concerns(unit.index)) yield armed
    }
  }

  #effects(unit: Unit, places: Places, address: number, host: boolean): QueueEffects {
    return {
      fired: (armed, words, at) => {
        const text = describeCommand(words.subarray(at, at + 4))
        this.#fired(
          armed,
          `${host ? 'host' : 'shadow'} command ${text}: ${armed.rule.what.do}`,
          words[at],
          words[at + 1],
        )
      },
      stand: (armed, index) => this.#stand(armed, unit, places, (address - places.queueBase) / 16 + index, host),
      act: armed => this.#act(armed, unit.index),
    }
  }

  /** CONS stays at an entry of the queue. */
  #stand(armed: ArmedRule, unit: Unit, { queueLog2size: log2 }: Places, entry: number, host: boolean): void {
    const { what } = armed.rule
    const size = 2 ** log2
    const until = what.do === 'hang' && what.ms !== undefined ? this.#time + what.ms * 1e6 : Number.POSITIVE_INFINITY
    const error = what.do === 'cerror' ? CERROR[what.error] : 0
    if (host) {
      const behind = (((this.#prod & (size - 1)) - entry + size) % size || size) & (2 * size - 1)
      unit.view.stand((this.#prod - behind) & (2 * size - 1), error, until)
      if (error > 0) this.#raise(unit, r.GERROR_CMDQ_ERR)
      return
    }
    const value: Halves = { lo: 0, hi: 0 }
    unit.hardware.read(r.ARM_SMMU_CMDQ_PROD, 4, value)
    const ahead = (entry - (value.lo & (size - 1)) + size) % size
    unit.hang = { pointer: (value.lo + ahead) & (2 * size - 1), until }
  }

  // Pages.

  /** @returns an error that stands for the operation's result; undefined: it takes place. */
  #pages(operation: PageOperation, base: number, size: number): number | undefined {
    for (const armed of this.#at.pages) {
      const { where, what } = armed.rule
      if (where.at !== 'pages' || where.operation !== operation || !armed.touches(base, size)) continue
      if (!armed.trigger.match(this.#time)) continue
      if (what.do === 'fail') {
        const result = PAGE_ERROR[what.error]
        this.#fired(armed, `${operation} of ${size} bytes at ${hex(base)} fails: ${what.error}`, base, size)
        return result
      }
      this.#act(armed, 0)
    }
    return undefined
  }

  // Translations.

  #alterTranslation(armed: ArmedRule, request: Translate, answer: Answer, write: boolean): void {
    const { what } = armed.rule
    const from = `sid ${hex(request.sid)} iova ${hex64(request.iovaLo, request.iovaHi)}`
    switch (what.do) {
      case 'fault': {
        const record = emptyEvent(eventId(what.event) ?? 0, request.sid)
        record.rnw = !write
        record.s2 = what.stage === 2
        record.class = EVTQ_1_CLASS_IN
        record.inputLo = request.iovaLo
        record.inputHi = request.iovaHi
        record.ipa = what.stage === 2 ? answer.pa - (answer.pa % 4096) : 0
        answer.status = FAULT[0]
        encodeEvent(record, answer.words)
        break
      }
      case 'abort':
        answer.status = SILENT[0]
        break
      case 'redirect': {
        if (answer.status !== MAPPED[0]) return
        const within = answer.pa % 4096
        const page = what.address === undefined ? answer.pa - within : rangeOf(what.address).from
        answer.pa = Number(BigInt(page + within) ^ big(what.xor ?? 0))
        answer.addressMask = 0xfff
        break
      }
      case 'restrict':
        answer.permissions &= what.permissions === 'none' ? 0 : enums.permission[what.permissions][0]
        break
      default:
        return this.#act(armed, request.smmu)
    }
    this.#fired(
      armed,
      `${from}: ${what.do}, status ${answer.status}, address ${hex(answer.pa)}`,
      request.sid,
      answer.pa,
    )
  }

  // Events.

  /** Records that the guest is about to see. */
  #lookAtEvents(unit: Unit): void {
    const memory = this.#memory
    if (memory === undefined) return
    const queue = eventQueue(unit.hardware)
    if (queue === undefined) return
    const { base, log2size, cons } = queue
    let { prod } = queue
    const mask = 2 * 2 ** log2size - 1
    const bytes = new Uint8Array(32)
    const words = new Uint32Array(bytes.buffer)
    const behind = unit.eventsSeen < 0 ? 0 : (unit.eventsSeen - cons) & mask
    let at = behind <= ((prod - cons) & mask) ? (cons + behind) & mask : cons
    while (at !== (prod & mask)) {
      const address = base + 32 * (at & (2 ** log2size - 1))
      if (!memory.read(address, bytes, 0, 32)) return
      const [word0 = 0, sid = 0] = words
      let gone = false
      for (const armed of this.#at.event) {
        const { what } = armed.rule
        if (!armed.concerns(unit.index) || (armed.event !== undefined && armed.event !== (word0 & 0xff))) continue
        if (armed.sid !== undefined && armed.sid !== sid) continue
        if (!armed.trigger.match(this.#time)) continue
        if (what.do === 'change') {
          const text = changeBytes(bytes, 0, 32, what)
          memory.write(address, bytes, 0, 32)
          this.#fired(armed, `event record at ${hex(address)}, word ${what.word ?? 0}: ${text}`, sid, word0)
        } else if (what.do === 'drop') {
          gone = true
          this.#fired(armed, `event record at ${hex(address)} lost`, sid, word0)
        } else this.#act(armed, unit.index)
      }
      if (gone) {
        for (let from = (at + 1) & mask, to = at; from !== (prod & mask); to = from, from = (from + 1) & mask) {
          memory.read(base + 32 * (from & (2 ** log2size - 1)), bytes, 0, 32)
          memory.write(base + 32 * (to & (2 ** log2size - 1)), bytes, 0, 32)
        }
        prod = ((prod & 0x8000_0000) | ((prod - 1) & mask)) >>> 0
        unit.hardware.write(r.ARM_SMMU_EVTQ_PROD, 4, prod, 0)
      } else at = (at + 1) & mask
    }
    unit.eventsSeen = at
  }

  // Actions that stand for themselves.

  #try(armed: ArmedRule, smmu: number): void {
    if (armed.trigger.match(this.#time)) this.#act(armed, smmu)
  }

  /** Rules that have no place, and whose time has come. */
  #moments(): void {
    if (this.#around === undefined) return
    for (const armed of this.#at.machine) {
      // Without a condition it is there to be fired by hand.
      if (hasCondition(armed.rule)) this.#try(armed, 0)
    }
  }

  #act(armed: ArmedRule, smmu: number): void {
    const { what } = armed.rule
    switch (what.do) {
      case 'delay':
        this.#fired(armed, `${what.ms} ms`, what.ms)
        sleep(what.ms)
        return
      case 'reset':
        return this.#fired(armed, 'machine reset', 0, 0, what)
      case 'pause':
        return this.#fired(armed, `vCPUs stand still for ${what.ms} ms`, what.ms, 0, what)
      case 'disconnect':
        this.#fired(armed, 'connection cut')
        return this.#around?.cut()
      case 'kill':
        this.#fired(armed, 'trap thread ends')
        process.exit(1)
    }
    // The rest uses hardware, tables or the hypervisor: not while a translation or a trap is being decided.
    const delayed = this.#translating || (this.#inside && (what.do === 'donate' || what.do === 'reclaim'))
    const carryOut = () => this.#fired(armed, this.#carryOut(armed, smmu), smmu)
    if (delayed) this.#later.push(carryOut)
    else carryOut()
  }

  /** @returns what was done, in words. */
  #carryOut({ rule: { what } }: ArmedRule, smmu: number): string {
    const around = this.#around
    const unit = this.#units[smmu]
    if (around === undefined || unit === undefined) return 'there is no machine'
    switch (what.do) {
      case 'irq': {
        const [line] = enums.irqLine[what.line]
        const pulses = what.count ?? 1
        for (let i = 0; i < pulses; i++) around.irq(smmu, line)
        return `${pulses} × interrupt ${what.line}`
      }
      case 'lose-irq': {
        const bits = what.lines.reduce((all, line) => all | IRQ_ENABLE[line], 0)
        unit.view.mask(bits, what.ms === undefined ? Number.POSITIVE_INFINITY : this.#time + what.ms * 1e6)
        return `interrupts ${what.lines.join(', ')} lost from now on`
      }
      case 'gerror': {
        const bits = what.bits.reduce((all, bit) => all | GERROR[bit], 0)
        if (what.error !== undefined && (bits & r.GERROR_CMDQ_ERR) !== 0) {
          const trap: Trap = { ...EMPTY_TRAP, smmu, offset: r.ARM_SMMU_CMDQ_CONS }
          around.policy.access(trap)
          unit.view.stand(trap.lo & 0xf_ffff, CERROR[what.error], Number.POSITIVE_INFINITY)
        }
        this.#raise(unit, bits)
        return `GERROR ${what.bits.join(' ')}`
      }
      case 'event': {
        const sid = what.sid === undefined ? 0 : resolveSid(what.sid, around.devices)
        const text = this.#memory === undefined ? '' : produceEvents(this.#memory, unit.hardware, what, sid)
        around.irq(smmu, enums.irqLine.evtq[0])
        return text
      }
      case 'warn': {
        const warning = HYP_WARNINGS[(warningId(what.warning) ?? 1) - 1]
        if (warning !== undefined) around.warn(warning, this.#seq, smmu)
        return `${what.warning} forced`
      }
      case 'corrupt':
        return this.#corrupt(unit, what)
      case 'donate':
      case 'reclaim':
        return this.#givePages(unit, what)
      case 'malformed':
        around.garble()
        return 'a frame that is none'
      default:
        return what.do
    }
  }

  #raise(unit: Unit, bits: number): void {
    unit.view.raise(bits)
    this.#around?.irq(unit.index, enums.irqLine.gerror[0])
  }

  #corrupt(unit: Unit, what: WhatOf['corrupt']): string {
    const around = this.#around
    const memory = this.#memory
    if (around === undefined || memory === undefined) return 'there is no machine'
    const sid = what.sid === undefined ? 0 : resolveSid(what.sid, around.devices)
    const idmap = hypervisorOf(around.policy)?.idmap ?? null
    let address: number | undefined
    if (what.table === 'ste') address = unit.shadow.steAddress(sid, memory)
    else if (what.table === 'l1') address = unit.shadow.l1Address(sid)
    else if (idmap !== null) address = stage2Descriptor(memory, idmap, rangeOf(what.address ?? 0).from)
    const bytes = new Uint8Array(8)
    const at = (address ?? 0) + 8 * (what.table === 'ste' ? (what.word ?? 0) : 0)
    if (address === undefined || !memory.read(at, bytes, 0, 8)) return `no ${what.table} there`
    const text = changeBytes(bytes, 0, 8, { ...what, do: 'change', word: 0 })
    memory.write(at, bytes, 0, 8)
    around.invalidate(unit.index)
    return `${what.table} at ${hex(at)}: ${text}`
  }

  #givePages(unit: Unit, what: WhatOf['donate'] | WhatOf['reclaim']): string {
    const around = this.#around
    if (around === undefined) return 'there is no machine'
    let base = what.address === undefined ? undefined : rangeOf(what.address).from
    if (what.do === 'donate' && base === undefined && what.sid !== undefined) {
      base = devicePage(unit.hardware, around.memory, resolveSid(what.sid, around.devices), halvesOf(what.iova ?? 0))
    }
    if (base === undefined) return 'nothing is mapped there'
    const size = Number(big(what.size ?? 4096))
    const result = around[what.do](base, size, what.vm ?? 1)
    return `${what.do} ${size} bytes at ${hex(base)}: ${resultName(result)}`
  }

  /** What had to wait, and rules that waited for what has fired. */
  #settle(): void {
    if (this.#later.length === 0 && this.#at.machine.length === 0) return
    for (const act of this.#later.splice(0)) act()
    this.#moments()
  }

  #fired(armed: ArmedRule, text: string, v0 = 0, v1 = 0, machine?: Firing['action']): void {
    const { rule, number, action, trigger } = armed
    this.#ring.fault(number, action, v0, v1, trigger.fired)
    if (trigger.fired > TOLD && machine === undefined) return
    const firing: Firing = {
      rule: rule.name,
      n: trigger.fired,
      trap: this.#seq,
      time: this.#time,
      what: text,
      ...(machine && { action: machine }),
    }
    if (this.#firings.length < KEPT) this.#firings.push(firing)
    this.#post(firing)
  }
}

/** Methods of the page ownership that can be made to fail. */
type PageMethods = Record<
  'share' | 'unshare' | 'pin' | 'unpin' | 'donate' | 'reclaim' | 'donateToHyp',
  (base: number, size: number, vm: number) => number
>
interface AllocateMethod {
  allocate(bytes: number, overwritten?: boolean): number
}

const EMPTY_TRAP: Trap = {
  seq: 0,
  smmu: 0,
  cpu: 0xffff,
  write: false,
  offset: 0,
  size: 4,
  lo: 0,
  hi: 0,
  time: 0,
  pcLo: 0,
  pcHi: 0,
  aborted: false,
}

const CERROR = {
  ILL: r.CMDQ_ERR_CERROR_ILL_IDX,
  ABT: r.CMDQ_ERR_CERROR_ABT_IDX,
  ATC_INV_SYNC: r.CMDQ_ERR_CERROR_ATC_INV_IDX,
} as const

const PAGE_ERROR: Readonly<Record<(typeof PAGE_ERRORS)[number], number>> = {
  EPERM,
  EBUSY,
  ENOMEM,
  EFAULT,
  EINVAL,
  ERANGE,
}

const IRQ_ENABLE = {
  evtq: r.IRQ_CTRL_EVTQ_IRQEN,
  priq: r.IRQ_CTRL_PRIQ_IRQEN,
  gerror: r.IRQ_CTRL_GERROR_IRQEN,
} as const

const GERROR: Readonly<Record<(typeof GERROR_BITS)[number], number>> = {
  CMDQ_ERR: r.GERROR_CMDQ_ERR,
  EVTQ_ABT_ERR: r.GERROR_EVTQ_ABT_ERR,
  PRIQ_ABT_ERR: r.GERROR_PRIQ_ABT_ERR,
  MSI_CMDQ_ABT_ERR: r.GERROR_MSI_CMDQ_ABT_ERR,
  MSI_EVTQ_ABT_ERR: r.GERROR_MSI_EVTQ_ABT_ERR,
  MSI_PRIQ_ABT_ERR: r.GERROR_MSI_PRIQ_ABT_ERR,
  MSI_GERROR_ABT_ERR: r.GERROR_MSI_GERROR_ABT_ERR,
  SFM_ERR: r.GERROR_SFM_ERR,
}

/** Page, accessed, readable and writable. */
const LEAF_ATTRIBUTES = ARM_LPAE_PTE_TYPE_PAGE | ARM_LPAE_PTE_AF | ARM_LPAE_PTE_HAP_READ | ARM_LPAE_PTE_HAP_WRITE

function hypervisorOf(policy: Policy | undefined): Hypervisor | undefined {
  const { hypervisor } = (policy ?? {}) as { hypervisor?: unknown }
  return hypervisor instanceof Hypervisor ? hypervisor : undefined
}

function byPoint(rules: readonly ArmedRule[]): Record<Point, ArmedRule[]> {
  const lists = Object.fromEntries(POINTS.map(point => [point, [] as ArmedRule[]])) as Record<Point, ArmedRule[]>
  for (const armed of rules) lists[armed.rule.where.at].push(armed)
  return lists
}

const hasCondition = ({ when = {} }: FaultRule): boolean =>
  when.console !== undefined || when.time !== undefined || when.after !== undefined

function queueOf({ rule: { where } }: ArmedRule): 'host' | 'shadow' {
  return where.at === 'command' ? (where.queue ?? 'host') : 'host'
}

/** A copy as words. */
function wordsOf(bytes: Uint8Array, offset: number, length: number): Uint32Array<ArrayBuffer> {
  return new Uint32Array(bytes.slice(offset, offset + length).buffer)
}

/** Changes a 64-bit word; says what it was and is. Nothing happens when the entry has no such word. */
function changeBytes(bytes: Uint8Array, offset: number, length: number, what: WhatOf['change']): string {
  const at = 8 * (what.word ?? 0)
  if (at + 8 > length) return 'no such word'
  const view = new DataView(bytes.buffer, bytes.byteOffset + offset + at, 8)
  const before = view.getBigUint64(0, true)
  const after = changed(before, what)
  view.setBigUint64(0, after, true)
  return `${hex(before)} → ${hex(after)}`
}

const clock = new Int32Array(new SharedArrayBuffer(4))
/** The trap thread stands still. */
function sleep(ms: number): void {
  Atomics.wait(clock, 0, 0, ms)
}
