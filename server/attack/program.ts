// SPDX-License-Identifier: Apache-2.0
/** A case before it is known what it does: operations, each with its seed, of a host that means harm or of drivers. */
import type { PolicyFactory } from '../policy/policy.ts'
import { DRIVER_OPERATIONS, DRIVER_POWER_OPERATIONS } from './driver.ts'
import { Host } from './host.ts'
import { HostView } from './hostView.ts'
import {
  DRIVER_EL2_OPERATIONS,
  EL2_OPERATIONS,
  OPERATIONS,
  type OperationKind,
  POWER_OPERATIONS,
} from './operations.ts'
import type { Finding, Kinds } from './oracle.ts'
import { Random } from './random.ts'
import type { Setup } from './setup.ts'
import type { Step } from './steps.ts'
import { audit } from './tables.ts'
import { World } from './world.ts'

export const MODES = ['hostile', 'driver'] as const
export type Mode = (typeof MODES)[number]

export interface Operation {
  readonly name: string
  readonly seed: number
}

export interface Program {
  readonly mode: Mode
  /** Of what hardware does by chance. */
  readonly seed: number
  /** Percent of steps that get something meanwhile. */
  readonly interleaving: number
  readonly operations: readonly Operation[]
}

/** The operations of a mode, by name and by chance. */
export class Repertoire {
  readonly #kinds: readonly OperationKind[]
  readonly #byName: ReadonlyMap<string, OperationKind>
  readonly #total: number

  /** @param kinds the first is what cases begin with */
  constructor(kinds: readonly OperationKind[]) {
    this.#kinds = kinds
    this.#byName = new Map(this.#kinds.map(kind => [kind.name, kind]))
    this.#total = this.#kinds.reduce((sum, { weight }) => sum + weight, 0)
  }

  get(name: string): OperationKind | undefined {
    return this.#byName.get(name)
  }

  /** What a case begins with. */
  first(random: Random): Operation {
    return { name: this.#kinds[0].name, seed: random.next() }
  }

  random(random: Random): Operation {
    let at = (random.next() / 2 ** 32) * this.#total
    for (const { name, weight } of this.#kinds) {
      at -= weight
      if (at < 0) return { name, seed: random.next() }
    }
    return this.first(random)
  }
}

/** What a host can bring about besides: SMMUs are switched off, EL2 has tables for it, or what there is at all. */
export type Extra = 'power' | 'shared' | 'all'

const REPERTOIRES: Readonly<Record<Mode, Readonly<Record<Extra | 'none', Repertoire>>>> = {
  hostile: {
    none: new Repertoire(OPERATIONS),
    power: new Repertoire([...OPERATIONS, ...POWER_OPERATIONS]),
    shared: new Repertoire([...OPERATIONS, ...EL2_OPERATIONS]),
    all: new Repertoire([...OPERATIONS, ...POWER_OPERATIONS, ...EL2_OPERATIONS]),
  },
  driver: {
    none: new Repertoire(DRIVER_OPERATIONS),
    power: new Repertoire([...DRIVER_OPERATIONS, ...DRIVER_POWER_OPERATIONS]),
    shared: new Repertoire([...DRIVER_OPERATIONS, ...DRIVER_EL2_OPERATIONS]),
    all: new Repertoire([...DRIVER_OPERATIONS, ...DRIVER_POWER_OPERATIONS, ...DRIVER_EL2_OPERATIONS]),
  },
}

export const repertoire = (mode: Mode, extra: Extra | 'none'): Repertoire => REPERTOIRES[mode][extra]

/** A world and the host in it, used for one program after the other. */
export class Stage {
  readonly world: World
  readonly mode: Mode
  readonly #host: Host
  readonly #random = new Random(0)
  /** Of the last program, those that were run: it ends at a finding, and some need hardware. */
  operations = 0

  constructor(setup: Setup, mode: Mode, factory: PolicyFactory, known: Kinds = new Set<string>()) {
    this.world = new World(setup, factory)
    this.mode = mode
    this.world.oracle.known = known
    if (mode === 'driver') this.world.view = new HostView(this.world)
    this.#host = new Host(this.world, this.#random)
    this.#host.polls = mode === 'driver'
  }

  /** Runs a program from the beginning. `audited`: the guard and all tables are looked at in the end. */
  run(program: Program, audited: boolean): Finding | undefined {
    const { world } = this
    world.restart(program.seed)
    this.#host.interleaving = program.interleaving
    this.operations = 0
    // There is nothing to attack.
    if (world.stopped) return undefined
    const known = repertoire(program.mode, 'all')
    const { hardware, power, shared } = world.setup
    for (const { name, seed } of program.operations) {
      if (world.oracle.finding !== undefined || world.oracle.spoiled) return world.oracle.finding
      if (world.halted) break
      const kind = known.get(name)
      if (kind === undefined || (kind.switches && power === undefined) || (kind.shares && shared === undefined))
        continue
      if (kind.needs && !kind.needs.some(option => hardware.includes(option))) continue
      this.#random.seed(seed)
      kind.run(this.#host)
      this.operations++
    }
    if (audited && world.oracle.finding === undefined && !world.oracle.spoiled) audit(world)
    return world.oracle.finding
  }

  /** Performs steps from the beginning. */
  perform(steps: readonly Step[], seed: number, audited: boolean): Finding | undefined {
    const { world } = this
    world.restart(seed)
    for (const step of steps) {
      if (world.oracle.finding !== undefined || world.oracle.spoiled) return world.oracle.finding
      world.perform(step)
    }
    if (audited && world.oracle.finding === undefined && !world.oracle.spoiled) audit(world)
    return world.oracle.finding
  }
}
