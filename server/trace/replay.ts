// SPDX-License-Identifier: Apache-2.0

import type { Machine } from '../machine/ports.ts'
import { machineFault } from '../policy/machineFault.ts'
import {
  newTrap,
  type Policy,
  type PolicyFactory,
  type PolicyOptions,
  pageAddresses,
  type Stage2Change,
  type Trap,
} from '../policy/policy.ts'
import type { HypReport } from '../policy/report.ts'
import { resultName } from '../policy/result.ts'
import {
  formatWarningValues,
  type HypWarning,
  NO_WARNINGS,
  type WarningTable,
  warningById,
} from '../policy/warnings.ts'
import { hex64 } from '../smmu/bits.ts'
import { opcodeName } from '../smmu/commands.ts'
import { POWER_STATES } from '../smmu/hardware.ts'
import type { GuestMemory } from '../smmu/memory.ts'
import { registerName } from '../smmu/registers.ts'
import { describeRecord, describeRoot } from './describe.ts'
import type { MachineDescription } from './format.ts'
import { type Group, type Item, isGroup, type Root } from './groups.ts'
import { type RecordOf, released, request, type TraceRecord, verdict } from './records.ts'
import { type Effect, ReplayMachine } from './replayMachine.ts'
import type { LongWrites } from './shown.ts'

/** One thing that went differently. */
export interface Difference {
  /** What to count it under: `hardware W CMDQ_PROD`, `outcome CR0`, … */
  readonly subject: string
  /** In words; `—` when there was nothing. */
  readonly recorded: string
  readonly replayed: string
}

/** Where and how the replay went differently. */
export interface Divergence {
  readonly group: Group
  readonly differences: readonly Difference[]
}

const NOTHING = '—'
const VERDICTS = Object.keys(verdict)

/** A warning, or a decision about a command: what it is compared by, and in words. */
interface Decision {
  readonly subject: string
  readonly key: string
  readonly text: string
}

/** What a recording tells of decisions. */
export interface Told {
  /** A command that was rewritten has a verdict of its own; default: yes. */
  readonly rewritten?: boolean
  /** What the ids of its warnings stand for. */
  readonly warnings: WarningTable
}

/** The recorded rules of fault injection, in front of the policy and its ports (faults/replayFaults.ts). */
export interface InjectedAgain {
  /** What fired since it was emptied: `rule N action N`. */
  readonly fired: string[]
  /** Other rules were armed since. */
  readonly lost: boolean
  connect(machine: Machine, policy: Policy, memory: GuestMemory, report: HypReport): void
  access(policy: Policy, trap: Trap): void
  reset(policy: Policy): void
  stage2Changed(policy: Policy, change: Stage2Change): boolean
  open(rules: readonly [low: number, high: number], time: number): void
  end(): void
}

/** Requests that do nothing to the hypervisor's state. */
const IDLE: ReadonlySet<number> = new Set([request.other, request.faultsOpened, request.faultsArmed])

/** Lets a hypervisor decide again what another one decided in a recording. */
export class Replay {
  /** Decided so far. */
  traps = 0
  roots = 0
  /** Answers to translate requests, which the walker gave and not the policy: left out. */
  translations = 0
  /** Faults of the recording that were not injected again, and the first decision that they were part of. */
  faults = 0
  firstFault: Root | undefined
  policy: Policy | undefined
  readonly #described: MachineDescription
  readonly #recorded: ReplayMachine
  readonly #factory: PolicyFactory
  readonly #options: PolicyOptions
  readonly #told: Told
  readonly #injected: InjectedAgain | undefined
  #decisions: Decision[] = []
  readonly #trap = newTrap()

  constructor(
    machine: MachineDescription,
    factory: PolicyFactory,
    options: PolicyOptions,
    told: Told,
    injected?: InjectedAgain,
  ) {
    this.#injected = injected
    this.#described = machine
    this.#recorded = new ReplayMachine(machine)
    this.#told = told
    this.#factory = factory
    this.#options = options
  }

  get machine(): Machine {
    return this.#recorded.machine
  }

  /** Reads of memory that the recording doesn't show; answered with 0. */
  get unknownReads(): number {
    return this.#recorded.unknownReads
  }

  /** Of the decision that was last made: what it wrote where the recording has only the same digest. */
  get longWrites(): LongWrites {
    return this.#recorded.longWrites
  }

  /**
   * Decides everything in order.
   * @yields each group after it was decided, with what went differently, if anything did
   * @throws Error when the recording has no beginning, or the policy throws
   */
  *run(items: Iterable<Item>): Generator<{ readonly group: Group; readonly divergence: Divergence | undefined }> {
    for (const item of items) {
      if (!isGroup(item)) continue
      this.#countFaults(item)
      const differences = this.#decide(item)
      yield { group: item, divergence: differences.length > 0 ? { group: item, differences } : undefined }
    }
  }

  #countFaults({ root, children }: Group): void {
    for (const { kind } of children) {
      if (kind !== 'fault' || this.#injected?.lost === false) continue
      this.faults++
      this.firstFault ??= root
    }
  }

  #decide(group: Group): Difference[] {
    const { root } = group
    this.#recorded.begin(group)
    this.#decisions = []
    if (this.policy === undefined) {
      // Somebody may look at a machine that has not been reset yet; that does nothing to it.
      if (root.kind === 'request' && IDLE.has(root.request)) return []
      const fault = machineFault(this.#described)
      if (fault !== undefined) throw new Error(`the machine that the recording describes: ${fault}`)
      if (root.kind !== 'reset') {
        throw new Error(`replay needs a recording from the start; this one begins with ${describeRoot(root).trim()}`)
      }
      const context = { options: this.#options, report: this.#report(), clock: this.#recorded.clock }
      this.policy = this.#factory(this.#recorded.machine, context)
      this.#injected?.connect(this.#recorded.machine, this.policy, this.#recorded.shown, context.report)
    }
    this.#injected?.fired.splice(0)
    if (root.kind !== 'translate') this.roots++
    const outcome = this.#outcome(group, this.policy)
    this.#recorded.end()
    return [
      ...outcome,
      ...this.#decisionDifferences(group),
      ...this.#faultDifferences(group),
      ...this.#effectDifferences(),
    ]
  }

  #outcome({ root, children }: Group, policy: Policy): Difference[] {
    switch (root.kind) {
      case 'trap':
        return this.#access(root, policy)
      case 'reset':
        if (this.#injected === undefined) policy.reset()
        else this.#injected.reset(policy)
        return []
      case 'request':
        return root.request === request.stage2Changed
          ? this.#stage2Changed(root, children, policy)
          : this.#request(root, policy)
      case 'translate':
        this.translations++
        return []
    }
  }

  #access(root: RecordOf<'trap'>, policy: Policy): Difference[] {
    this.traps++
    if (root.released === released.answered) return []
    const trap = this.#trap
    trap.seq = root.seq
    trap.smmu = root.smmu
    trap.cpu = root.cpu
    trap.write = root.write === 1
    trap.offset = root.offset
    trap.size = root.size
    trap.lo = trap.write ? root.lo : 0
    trap.hi = trap.write ? root.hi : 0
    trap.time = root.time
    trap.pcLo = root.pcLo
    trap.pcHi = root.pcHi
    trap.aborted = false
    // What QEMU answered by itself met no rule.
    if (this.#injected === undefined || root.duration === 0) policy.access(trap)
    else this.#injected.access(policy, trap)
    if (root.released === released.changed) return []
    const answers = !trap.write && !trap.aborted
    const aborted = root.aborted === 1
    if (trap.aborted === aborted && (!answers || (trap.lo === root.lo && trap.hi === root.hi))) return []
    const word = (abort: boolean, lo: number, hi: number) =>
      abort ? 'external abort' : trap.write ? 'completed' : hex64(lo, hi)
    const recorded = word(aborted, root.lo, root.hi)
    const replayed = word(trap.aborted, trap.lo, trap.hi)
    return [{ subject: `outcome of ${trap.write ? 'W' : 'R'} ${registerName(trap.offset)}`, recorded, replayed }]
  }

  #request(root: RecordOf<'request'>, policy: Policy): Difference[] {
    if (root.request === request.resume) policy.state?.resume?.()
    if (root.request === request.postMismatch) policy.postMismatch?.(root.v0)
    if (root.request === request.faultsOpened) this.#injected?.open([root.v0, root.v1], root.v2)
    if (root.request === request.faultsArmed) this.#injected?.end()
    const { v0, v1, v2 } = root
    if (root.request === request.power) {
      const state = POWER_STATES[v1]
      const result = state && policy.inspect?.power?.power(v0, state)
      if (result !== undefined && result >>> 0 === root.result) return []
      const replayed = result === undefined ? NOTHING : resultName(result)
      return [{ subject: 'result of power', recorded: resultName(root.result), replayed }]
    }
    if (root.request !== request.donate && root.request !== request.reclaim) return []
    const what = root.request === request.donate ? 'donate' : 'reclaim'
    const result = policy.inspect?.pages?.[what]?.(v0, v1, v2)
    if (result !== undefined && result >>> 0 === root.result) return []
    const replayed = result === undefined ? NOTHING : resultName(result)
    return [{ subject: `result of ${what}`, recorded: resultName(root.result), replayed }]
  }

  /** What EL2 told stands before what was done about it. */
  #stage2Changed(root: RecordOf<'request'>, children: readonly TraceRecord[], policy: Policy): Difference[] {
    const told = children.find(child => child.kind === 'stage2')
    if (told === undefined) return []
    const { cpu, time, all, vttbrLo, vttbrHi, vtcrLo, vtcrHi, bytes } = told
    const pages = pageAddresses(bytes)
    const change = { cpu, time, all: all === 1, vttbrLo, vttbrHi, vtcrLo, vtcrHi, pages }
    const followed = this.#injected?.stage2Changed(policy, change) ?? policy.stage2Changed?.(change) ?? true
    if (followed === (root.result === 0)) return []
    const word = (ok: boolean) => (ok ? 'followed' : 'not followed')
    return [{ subject: "EL2's tables", recorded: word(root.result === 0), replayed: word(followed) }]
  }

  #decisionDifferences(group: Group): Difference[] {
    const recorded: Decision[] = []
    for (const child of group.children) {
      if (child.kind === 'warning') recorded.push(this.#warningDecision(child))
      else if (child.kind === 'command' && child.verdict !== verdict.own) recorded.push(this.#commandDecision(child))
    }
    const differences: Difference[] = []
    for (let i = 0; i < Math.max(recorded.length, this.#decisions.length); i++) {
      const then = recorded[i]
      const now = this.#decisions[i]
      if (then?.key === now?.key) continue
      const subject = then?.subject ?? now?.subject ?? ''
      differences.push({ subject, recorded: then?.text ?? NOTHING, replayed: now?.text ?? NOTHING })
    }
    return differences
  }

  /** Only where rules are injected again. */
  #faultDifferences({ children }: Group): Difference[] {
    if (this.#injected === undefined || this.#injected.lost) return []
    const then = children.flatMap(child =>
      child.kind === 'fault' ? [`rule ${child.rule} action ${child.action}`] : [],
    )
    const now = [...this.#injected.fired]
    const differences: Difference[] = []
    for (let i = 0; i < Math.max(then.length, now.length); i++) {
      if (then[i] === now[i]) continue
      differences.push({ subject: 'fault', recorded: then[i] ?? NOTHING, replayed: now[i] ?? NOTHING })
    }
    return differences
  }

  #effectDifferences(): Difference[] {
    const { missing, extra } = this.#recorded
    if (missing.length === 0 && extra.length === 0) return []
    const left = [...extra]
    const differences = missing.map(effect => {
      const subject = this.#subject(effect)
      const at = left.findIndex(other => this.#subject(other) === subject)
      const other = at >= 0 ? left.splice(at, 1)[0] : undefined
      return { subject, recorded: inWords(effect), replayed: other ? inWords(other) : NOTHING }
    })
    for (const effect of left) {
      differences.push({ subject: this.#subject(effect), recorded: NOTHING, replayed: inWords(effect) })
    }
    return differences
  }

  #subject(effect: Effect): string {
    if (effect.kind === 'hardware') return `hardware W ${registerName(effect.offset)}`
    if (effect.kind === 'guard') return `guard ${effect.add ? 'add' : 'remove'}`
    return `${this.#recorded.owns(effect.address) ? 'hypervisor' : 'host'} memory W +${effect.length}`
  }

  #commandDecision({ opcode, verdict: result }: RecordOf<'command'>): Decision {
    const subject = `host cmd ${opcodeName(opcode)}`
    const untold = this.#told.rewritten === false && result !== verdict.dropped
    const text = `${subject} ${untold ? 'not dropped' : (VERDICTS[result] ?? result)}`
    return { subject, key: text, text }
  }

  #warningDecision({ id, v0, v1, v2, v3 }: RecordOf<'warning'>): Decision {
    const warning = warningById(this.#told.warnings, id)
    return warning === undefined
      ? decisionToWarn(`number ${id}`, '', v0, v1, v2, v3)
      : decisionToWarn(warning.code, formatWarningValues(warning, [v0, v1, v2, v3]), v0, v1, v2, v3)
  }

  #report(): HypReport {
    return {
      warn: (warning: HypWarning, _trap, _smmu, a, b, c, d) => {
        const values = [a >>> 0, b >>> 0, c >>> 0, d >>> 0] as const
        this.#decisions.push(decisionToWarn(warning.code, formatWarningValues(warning, values), ...values))
      },
      command: (smmu, opcode, result) => {
        this.#decisions.push(this.#commandDecision({ kind: 'command', smmu, opcode, verdict: result }))
      },
      hypCommand() {},
      stream() {},
      pages() {},
      probe() {},
    }
  }
}

function decisionToWarn(code: string, words: string, ...values: readonly number[]): Decision {
  const subject = `WARNING ${code}`
  return { subject, key: `${subject} ${values.join(' ')}`, text: `${subject} ${words}`.trim() }
}

const inWords = (effect: Effect): string => describeRecord(effect, NO_WARNINGS)
