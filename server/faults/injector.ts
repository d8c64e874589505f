// SPDX-License-Identifier: Apache-2.0
/**
 * Fault injection in the trap thread: between guest and policy (traps), and between policy and machine (its ports). While
 * no rule is armed nothing of it stands in the way of an access but one look at `armed`. Here rules are armed and disarmed,
 * and what takes place is handed to the points (points/), of which each has its rules.
 */
import type { Translate } from '../../protocol/generated/messages.ts'
import { OperationError } from '../policy/operationError.ts'
import type { Policy, Stage2Change, Trap } from '../policy/policy.ts'
import type { GuestMemory } from '../smmu/memory.ts'
import type { RingWriter } from '../trace/ring.ts'
import type { Answer } from '../translate/answer.ts'
import { ArmedRule, resolveSid, rulesAt } from './armed.ts'
import { ArmedMachine } from './armedMachine.ts'
import { FACILITY_NAMES, facilityOf } from './facility.ts'
import type { FaultContext } from './faultContext.ts'
import { FreeActions } from './freeActions.ts'
import { interpose } from './interpose.ts'
import { CommandPoint } from './points/command.ts'
import { El2Point } from './points/el2.ts'
import { EventPoint } from './points/event.ts'
import { HardwarePoint } from './points/hardware.ts'
import { MachinePoint } from './points/machine.ts'
import { PagesPoint } from './points/pages.ts'
import { RegisterPoint } from './points/register.ts'
import { TablePoint } from './points/table.ts'
import { TranslatePoint } from './points/translate.ts'
import { TransportPoint } from './points/transport.ts'
import type { FaultPlan, FaultRule, Firing } from './rule.ts'
import type { TriggerState } from './trigger.ts'

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

/** Rules that are armed on a machine, at their points. */
interface Arming {
  readonly machine: ArmedMachine
  readonly actions: FreeActions
  readonly register: RegisterPoint
  readonly hardware: HardwarePoint
  readonly command: CommandPoint
  readonly table: TablePoint
  readonly translate: TranslatePoint
  readonly event: EventPoint
  readonly pages: PagesPoint
  readonly transport: TransportPoint
  readonly el2: El2Point
  readonly machinePoint: MachinePoint
}

export class Injector {
  /** Rules are armed: accesses have to be looked at. */
  armed = false
  readonly #ring: Pick<RingWriter, 'fault'>
  readonly #post: (firing: Firing) => void
  #plan: FaultPlan | undefined
  #rules: readonly ArmedRule[] = []
  /** States of triggers that go on from another thread's. */
  #states: readonly TriggerState[] = []
  #firings: Firing[] = []
  #context: FaultContext | undefined
  /** While `armed`. */
  #at: Arming | undefined
  /** Takes what stands in front of the ports away, last first. */
  #undo: (() => void)[] = []

  constructor(ring: Pick<RingWriter, 'fault'>, post: (firing: Firing) => void) {
    this.#ring = ring
    this.#post = post
  }

  /**
   * Arms rules instead of those that are.
   * @throws OperationError when the machine has no place for one.
   */
  arm(plan: FaultPlan): void {
    // Devices are known when a machine is there.
    const rules = this.#context === undefined ? [] : this.#resolve(plan)
    this.disarm()
    this.#plan = plan
    this.#firings = []
    this.#states = []
    this.#install(rules, true)
  }

  /** The machine goes on as if there had never been a rule; what a fault left behind stays. */
  disarm(): void {
    // Guest's interrupts are enabled again as it wants them.
    for (const { view } of this.#at?.machine.smmus ?? []) view.end()
    this.#release()
    this.#plan = undefined
    this.#rules = []
  }

  /** The machine's devices have other StreamIDs, or there are others: rules that name one follow it. */
  renamed(): void {
    for (const armed of this.#rules) armed.locate(this.#context?.devices ?? [])
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
  connect(context: FaultContext, running: boolean): void {
    this.#context = context
    if (this.#plan === undefined) return
    const states = this.#rules.length > 0 ? this.#rules.map(({ trigger }) => trigger.state) : this.#states
    const rules = this.#resolve(this.#plan)
    for (const [i, { trigger }] of rules.entries()) {
      const state = states[i]
      if (state !== undefined) trigger.state = state
    }
    this.#install(rules, running)
  }

  /** The machine is gone; rules and their counters stay for the next. */
  disconnect(): void {
    // The hardware cannot be reached any more.
    this.#release()
    this.#context = undefined
  }

  /** Rules by their numbers, as bits: rule n is bit n-1 of the first, rule 33 bit 0 of the second. For the trace. */
  bitsOf(names: readonly string[]): [low: number, high: number] {
    const bits: [number, number] = [0, 0]
    for (const { rule, number } of this.#rules) {
      if (names.includes(rule.name)) bits[number > 32 ? 1 : 0] += 2 ** ((number - 1) % 32)
    }
    return bits
  }

  /** A console line or a moment came that these rules wait for. @param time guest's clock, ns */
  open(names: readonly string[], time?: number): void {
    for (const { rule, trigger } of this.#rules) if (names.includes(rule.name)) trigger.open()
    if (this.#at === undefined) return
    const { machine, machinePoint } = this.#at
    machine.time = Math.max(machine.time, time ?? machine.time)
    machinePoint.look()
    this.#settle()
  }

  /** Carries a rule out whose action stands for itself, whatever its conditions. @throws OperationError */
  fire(name: string): void {
    const armed = this.#rules.find(({ rule }) => rule.name === name)
    if (armed === undefined) throw new OperationError('absent', `no rule ${name} is armed`)
    if (this.#at === undefined) throw new OperationError('state', 'no machine is connected')
    if (armed.rule.where.at !== 'machine') {
      throw new OperationError('state', `rule ${name} acts on ${armed.rule.where.at}: it cannot be fired by itself`)
    }
    armed.trigger.force()
    this.#at.actions.act(armed, 0)
    this.#settle()
  }

  /** Decides a trap, with faults around it. */
  access(policy: Policy, trap: Trap): void {
    if (this.#at === undefined) return policy.access(trap)
    const { machine, actions, register, event, transport, el2, machinePoint } = this.#at
    machine.trap = trap.seq
    machine.time = trap.time
    actions.deciding = true
    try {
      const smmu = machine.smmus[trap.smmu]
      for (const { view } of machine.smmus) view.tick(trap.time)
      register.carryOutPostponed(policy)
      el2.carryOutPostponed(policy)
      machinePoint.look()
      transport.request('trap', trap.smmu)
      if (smmu === undefined) policy.access(trap)
      else if (trap.write) register.write(policy, trap, smmu)
      else {
        event.beforeRead(smmu, trap.offset)
        register.read(policy, trap, smmu)
      }
    } finally {
      actions.deciding = false
      this.#settle()
      machine.trap = 0
    }
  }

  /** The machine was reset. */
  reset(policy: Policy): void {
    if (this.#at === undefined) return policy.reset()
    const { machine, actions, register, event, transport, el2 } = this.#at
    machine.trap = 0
    for (const smmu of machine.smmus) smmu.reset()
    register.reset()
    el2.reset()
    event.reset()
    actions.deciding = true
    try {
      transport.request('reset', 0)
      policy.reset()
    } finally {
      actions.deciding = false
      this.#settle()
    }
  }

  /** EL2 has changed its host's tables. @returns false when devices may still reach what is not the host's */
  stage2Changed(policy: Policy, change: Stage2Change): boolean {
    if (this.#at === undefined) return policy.stage2Changed?.(change) ?? true
    const { machine, actions, el2, machinePoint } = this.#at
    machine.time = change.time
    actions.deciding = true
    try {
      machinePoint.look()
      return el2.changed(policy, change)
    } finally {
      actions.deciding = false
      this.#settle()
    }
  }

  /** An answer to a translate request, before it is sent. */
  translate(request: Translate, answer: Answer): void {
    if (this.#at === undefined) return
    const { actions, translate, transport } = this.#at
    actions.translating = true
    try {
      transport.request('translate', request.smmu)
      translate.alter(request, answer)
    } finally {
      actions.translating = false
    }
  }

  #resolve(plan: FaultPlan): ArmedRule[] {
    const context = this.#context
    const devices = context?.devices ?? []
    const fired = (name: string) => (this.#rules.find(({ rule }) => rule.name === name)?.trigger.fired ?? 0) > 0
    return plan.rules.map((rule, i) => {
      try {
        if (context !== undefined) {
          expectPlace(rule, context)
          if ('sid' in rule.what && rule.what.sid !== undefined) resolveSid(rule.what.sid, devices)
        }
        return new ArmedRule(rule, i + 1, plan.seed, devices, fired)
      } catch (error) {
        throw new OperationError('invalid', `rule ${rule.name}: ${(error as Error).message}`)
      }
    })
  }

  #install(rules: readonly ArmedRule[], running: boolean): void {
    this.#rules = rules
    const context = this.#context
    if (context === undefined || rules.length === 0) return
    const machine = new ArmedMachine(context, this.#ring, this.#post, this.#firings)
    const actions = new FreeActions(machine)
    const at: Arming = {
      machine,
      actions,
      register: new RegisterPoint(machine, actions, rulesAt(rules, 'register')),
      hardware: new HardwarePoint(machine, actions, rulesAt(rules, 'hardware')),
      command: new CommandPoint(machine, actions, rulesAt(rules, 'command')),
      table: new TablePoint(machine, actions, rulesAt(rules, 'table')),
      translate: new TranslatePoint(machine, actions, rulesAt(rules, 'translate')),
      event: new EventPoint(machine, actions, rulesAt(rules, 'event')),
      pages: new PagesPoint(machine, actions, rulesAt(rules, 'pages')),
      transport: new TransportPoint(actions, rulesAt(rules, 'transport')),
      el2: new El2Point(machine, actions, rulesAt(rules, 'el2')),
      machinePoint: new MachinePoint(actions, rulesAt(rules, 'machine')),
    }
    for (const smmu of machine.smmus) this.#undo.push(at.hardware.interpose(smmu))
    this.#undo.push(interposeMemory(context.machine.memory, at))
    const { inspect } = context.policy
    if (inspect !== undefined) this.#undo.push(...at.pages.interpose(inspect.faults))
    this.#at = at
    this.armed = true
    if (running) machine.learn()
  }

  /** Nothing stands in front of the ports any more. */
  #release(): void {
    for (const undo of this.#undo.splice(0).reverse()) undo()
    this.#at = undefined
    this.armed = false
  }

  /** What had to wait, and rules that waited for what has fired. */
  #settle(): void {
    this.#at?.actions.settle()
    this.#at?.machinePoint.look()
  }
}

/** @throws Error when the machine has no place for a rule */
function expectPlace(rule: FaultRule, { translates, policy, machine }: FaultContext): void {
  if (rule.where.at === 'el2' && (machine.el2 === undefined || policy.stage2Changed === undefined))
    throw new Error('the machine has no EL2, or the policy does not follow it')
  if (rule.where.at === 'translate' && !translates)
    throw new Error('translations are the hardware’s: use translate mode server')
  const needed = facilityOf(rule)
  if (needed !== undefined && policy.inspect?.facilities.has(needed) !== true) {
    throw new Error(`policy ${policy.name} lacks what this needs: ${FACILITY_NAMES[needed]}`)
  }
}

/** What is read and written is an SMMU's queue, an entry of its tables, a stage-2 table, or nobody's. */
function interposeMemory(memory: GuestMemory, { machine, command, table }: Arming): () => void {
  const read: GuestMemory['read'] = (address, target, offset, length) => {
    if (!machine.memory.read(address, target, offset, length)) return false
    for (const smmu of machine.smmus) {
      const done =
        command.read(smmu, address, target, offset, length) ?? table.read(smmu, address, target, offset, length)
      if (done !== undefined) return done
    }
    return true
  }
  const write: GuestMemory['write'] = (address, source, offset, length) => {
    for (const smmu of machine.smmus) {
      const done =
        command.write(smmu, address, source, offset, length) ?? table.write(smmu, address, source, offset, length)
      if (done !== undefined) return done
    }
    return table.writeStage2(address, source, offset, length)
  }
  return interpose(memory, () => ({ read, write }), { read: true, write: true, clean: true })
}
