// SPDX-License-Identifier: Apache-2.0
/**
 * One core's attack: programs at random and programs that are made of those that did something new, each run on a machine of its own; what is
 * found is made small. The same seed and options give the same attack.
 */
import { type PolicyFactory, type SeriesStep, withQuirks } from '../policy/policy.ts'
import type { Case } from './cases.ts'
import { Corpus } from './corpus.ts'
import { explain } from './explain.ts'
import { FEATURES, kindOf } from './feedback.ts'
import { kindsOf, type Weakness } from './known.ts'
import type { Finding, Kinds } from './oracle.ts'
import { type Extra, type Mode, type Operation, type Program, repertoire, Stage } from './program.ts'
import { Random } from './random.ts'
import { type Blocks, type HardwareOption, type Power, randomSetup, type Setup, type Shared } from './setup.ts'
import { type Reproduction, shrink } from './shrink.ts'

export interface CampaignOptions {
  /** Name or file, for cases. */
  readonly policy: string
  /** Defects that the policy is to show. */
  readonly quirks?: readonly string[]
  /** Absent: RAM is mapped in pages. */
  readonly blocks?: Blocks | undefined
  /** Absent: SMMUs are on. */
  readonly power?: Power | undefined
  /** Absent: there is no EL2. */
  readonly shared?: Shared | undefined
  readonly until: SeriesStep
  readonly hardware: readonly HardwareOption[]
  readonly seed: number
  /** What is passed over. */
  readonly known: readonly Weakness[]
}

export interface CampaignStats {
  /** Steps: traps, stores, accesses of devices, transfers of pages. */
  readonly steps: number
  /** What hosts do in one go, each of several steps; the reset before a program is one. */
  readonly operations: number
  readonly cases: number
  /** Programs on machines that the policy claimed to isolate. */
  readonly judged: number
  /** Things that were noticed, and programs that are kept for having been the first to show one. */
  readonly features: number
  /** The features by kind: as many as FEATURES has names. */
  readonly coverage: readonly number[]
  readonly corpus: number
  /** Cleans of the policy to the point of coherency, and cache lines that they were about. */
  readonly cleans: number
  readonly cleanedLines: number
  /** Findings that did not come again on a machine of their own. */
  readonly lost: number
  /** Findings by kind, known ones among them. */
  readonly kinds: ReadonlyMap<string, number>
}

/** Machines that are used in turns, and how often before another takes its place. */
const STAGES = 12
const USES = 100
/** Drivers are every third. */
const DRIVER_PERCENT = 30
/** Operations of a new program. */
const SHORTEST = 8
const LONGEST = 120
/** Programs that come from the corpus, in percent. */
const MUTATED_PERCENT = 60
/** All tables are audited after so many of 100 programs. */
const AUDIT_PERCENT = 10
/** Cases that are made small of one kind; after that it is passed over. */
const CASES_PER_KIND = 4
/** What drivers are not compared on: the SMMU without a hypervisor is prompt and does what it is told. */
const NOT_FOR_DRIVERS: readonly HardwareOption[] = ['lag', 'slow', 'torn', 'stall', 'unguarded']

interface Slot {
  stage: Stage
  left: number
}

/** What makes a case another than one of the same kind. */
function signature({ finding, setup, steps, mode }: Reproduction): string {
  const parts = steps.map(step => ('offset' in step ? `${step.do} ${step.offset.toString(16)}` : step.do))
  return [finding.kind, mode, setup.firmware, ...setup.hardware, ...new Set(parts)].join(' ')
}

export class Campaign {
  readonly #options: CampaignOptions
  readonly #factory: PolicyFactory
  readonly #random: Random
  readonly #slots: Slot[] = []
  readonly #features = new Set<number>()
  readonly #coverage = new Array<number>(FEATURES.length).fill(0)
  readonly #extra: Extra | 'none'
  readonly #corpus: Corpus
  /** Kinds of which there are enough cases. */
  readonly #enough = new Set<string>()
  readonly #kinds = new Map<string, number>()
  readonly #shrunk = new Map<string, number>()
  readonly #signatures = new Set<string>()
  #steps = 0
  #operations = 0
  #cases = 0
  #judged = 0
  #lost = 0
  #cleans = 0
  #cleanedLines = 0

  constructor(factory: PolicyFactory, options: CampaignOptions) {
    this.#options = options
    this.#factory = withQuirks(factory, options.quirks)
    this.#random = new Random(options.seed)
    this.#extra = options.shared !== undefined ? 'shared' : options.power !== undefined ? 'power' : 'none'
    this.#corpus = new Corpus(this.#extra)
  }

  get stats(): CampaignStats {
    return {
      steps: this.#steps,
      operations: this.#operations,
      cases: this.#cases,
      judged: this.#judged,
      features: this.#features.size,
      coverage: [...this.#coverage],
      corpus: this.#corpus.size,
      cleans: this.#cleans,
      cleanedLines: this.#cleanedLines,
      lost: this.#lost,
      kinds: this.#kinds,
    }
  }

  /** Programs that were worth keeping. */
  get corpus(): readonly Program[] {
    return this.#corpus.programs
  }

  /** Starts from programs of another attack. */
  adopt(programs: readonly Program[]): void {
    for (const program of programs) this.#corpus.add(program)
  }

  /** Runs one program. Returns a case if it shows a weakness that no case has shown. */
  next(): Case | undefined {
    const slot = this.#slot()
    const { stage } = slot
    const program = this.#program(stage.mode)
    const finding = stage.run(program, this.#random.chance(AUDIT_PERCENT))
    this.#count(stage, program)
    if (stage.world.stopped) slot.left = 0
    if (finding === undefined) return undefined
    this.#kinds.set(finding.kind, (this.#kinds.get(finding.kind) ?? 0) + 1)
    // A policy that threw is not trusted with another program.
    slot.left = 0
    return this.#found(program, stage.world.setup, finding)
  }

  #count({ world, operations }: Stage, program: Program): void {
    this.#cases++
    if (world.oracle.claims) this.#judged++
    // The reset before them is one as well: a policy that fails there makes no others.
    this.#operations += 1 + operations
    this.#steps += 1 + world.steps.length
    const { operations: cleans, lines } = world.takeCleaned()
    this.#cleans += cleans
    this.#cleanedLines += lines
    for (const [kind, times] of world.oracle.seen) this.#kinds.set(kind, (this.#kinds.get(kind) ?? 0) + times)
    world.oracle.seen.clear()
    let isNew = false
    for (const feature of world.feedback.features) {
      if (this.#features.has(feature)) continue
      this.#features.add(feature)
      this.#coverage[kindOf(feature)]++
      isNew = true
    }
    if (isNew) this.#corpus.add(program)
  }

  /** The next machine. */
  #slot(): Slot {
    const at = this.#cases % STAGES
    let slot = this.#slots[at]
    if (slot === undefined || slot.left <= 0) {
      slot = { stage: this.#newStage(), left: USES }
      this.#slots[at] = slot
    }
    slot.left--
    return slot
  }

  #newStage(): Stage {
    const { until, hardware, blocks, power, shared } = this.#options
    const mode: Mode = this.#random.chance(DRIVER_PERCENT) ? 'driver' : 'hostile'
    const offered = mode === 'driver' ? hardware.filter(option => !NOT_FOR_DRIVERS.includes(option)) : hardware
    const setup = randomSetup(this.#random, until, offered, blocks, power, shared)
    // Drivers are compared with an SMMU that nobody used before, and reach all that is the host's.
    const machine: Setup =
      mode === 'driver' ? { ...setup, firmware: 'none', ...(shared && { shared: 'ahead' }) } : setup
    return new Stage(machine, mode, this.#factory, this.#passed(machine))
  }

  #program(mode: Mode): Program {
    const r = this.#random
    const seed = r.next()
    const interleaving = mode === 'hostile' && r.chance(50) ? 1 + r.below(20) : 0
    const parent = r.chance(MUTATED_PERCENT) ? this.#corpus.pick(r, mode) : undefined
    if (parent !== undefined) return { ...this.#corpus.mutate(r, parent), seed }
    const known = repertoire(mode, this.#extra)
    const length = SHORTEST + r.below(LONGEST - SHORTEST)
    const operations: Operation[] = [known.first(r)]
    while (operations.length < length) operations.push(known.random(r))
    return { mode, seed, interleaving, operations }
  }

  #found(program: Program, setup: Setup, finding: Finding): Case | undefined {
    const { kind } = finding
    const shrunk = (this.#shrunk.get(kind) ?? 0) + 1
    this.#shrunk.set(kind, shrunk)
    if (shrunk >= CASES_PER_KIND) this.#enough.add(kind)
    const small = shrink(program, setup, finding, this.#factory, with_ => this.#passed(with_, kind))
    if (small === undefined) {
      this.#lost++
      return undefined
    }
    const name = signature(small)
    if (this.#signatures.has(name)) return undefined
    this.#signatures.add(name)
    const { mode, seed, steps } = small
    const { policy, quirks } = this.#options
    const case_: Case = {
      kind,
      message: small.finding.message,
      policy,
      ...(quirks !== undefined && quirks.length > 0 && { quirks }),
      mode,
      seed,
      setup: small.setup,
      steps,
    }
    return { ...case_, explanation: explain(case_, this.#factory) }
  }

  /** What is passed over on a machine. `wanted`: the kind of a case that is made small. */
  #passed(setup: Setup, wanted?: string): Kinds {
    const known = kindsOf(this.#options.known, setup)
    return { has: kind => kind !== wanted && (known.has(kind) || this.#enough.has(kind)) }
  }
}
