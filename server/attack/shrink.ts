// SPDX-License-Identifier: Apache-2.0
/** Makes a case small that shows a finding: fewer operations, fewer steps, less hardware. */
import type { PolicyFactory } from '../policy/policy.ts'
import type { Finding, Kinds } from './oracle.ts'
import { type Mode, type Program, Stage } from './program.ts'
import type { Setup } from './setup.ts'
import type { Interleaved, Step } from './steps.ts'

/** A case: a machine, and what is done to it. */
export interface Reproduction {
  readonly mode: Mode
  readonly setup: Setup
  readonly seed: number
  readonly steps: readonly Step[]
  readonly finding: Finding
}

/** Attempts for one case. */
const BUDGET = 3000

/**
 * The shortest list that `fails` which is found by leaving out ever smaller parts (delta debugging).
 * @param left attempts that may still be made
 */
function reduce<T>(
  items: readonly T[],
  fails: (items: readonly T[]) => boolean,
  left: { attempts: number },
): readonly T[] {
  let now = items
  for (let size = Math.ceil(now.length / 2); size >= 1; size = size === 1 ? 0 : Math.ceil(size / 2)) {
    for (let at = 0; at < now.length && left.attempts > 0; ) {
      const without = [...now.slice(0, at), ...now.slice(at + size)]
      left.attempts--
      if (fails(without)) now = without
      else at += size
    }
  }
  return now
}

/** Whether two findings are the same weakness. */
const same = (a: Finding | undefined, b: Finding): boolean => a?.kind === b.kind

/**
 * @param known kinds that are passed over on a machine
 * @returns undefined if the program does not show the finding on a machine of its own
 */
export function shrink(
  program: Program,
  setup: Setup,
  finding: Finding,
  factory: PolicyFactory,
  known: (setup: Setup) => Kinds,
): Reproduction | undefined {
  const { mode, seed } = program
  const fresh = (with_: Setup = setup) => new Stage(with_, mode, factory, known(with_))
  let stage = fresh()
  if (!same(stage.run(program, true), finding)) return undefined
  const left = { attempts: BUDGET }
  const runs = (operations: Program['operations']) => same(stage.run({ ...program, operations }, true), finding)
  const operations = reduce(program.operations, runs, left)
  stage = fresh()
  if (!same(stage.run({ ...program, operations }, true), finding)) return undefined
  let steps: readonly Step[] = [...stage.world.steps]

  const performs = (some: readonly Step[]) => same(stage.perform(some, seed, true), finding)
  // An audit at the end of a program is no step: what it needs is all there.
  if (!performs(steps)) return undefined
  steps = mode === 'driver' ? reduceSome(steps, isOptional, performs, left) : reduce(steps, performs, left)
  steps = simplify(steps, performs, left)
  if (mode === 'hostile') steps = reduce(steps, performs, left)

  const [small, machine] = plainer(setup, steps, seed, finding, with_ => fresh(with_))
  return machine === undefined ? undefined : { mode, setup: small, seed, steps, finding: machine }
}

/** What a driver may leave out and still be one: it does not write half of its tables and registers. */
const isOptional = ({ do: what }: Step): boolean => what !== 'store' && what !== 'write'

/** Leaves out only those that may be. */
function reduceSome(
  steps: readonly Step[],
  may: (step: Step) => boolean,
  fails: (steps: readonly Step[]) => boolean,
  left: { attempts: number },
): readonly Step[] {
  const optional = steps.filter(may)
  const kept = (some: readonly Step[]) => {
    const chosen = new Set(some)
    return steps.filter(step => !may(step) || chosen.has(step))
  }
  return kept(reduce(optional, some => fails(kept(some)), left))
}

/** Takes away what happens meanwhile, step by step. */
function simplify(
  steps: readonly Step[],
  fails: (steps: readonly Step[]) => boolean,
  left: { attempts: number },
): readonly Step[] {
  let now = steps
  for (let i = 0; i < now.length; i++) {
    for (const part of ['each', 'during', 'dies'] as const) {
      const step = now[i]
      if (!(part in step) || left.attempts <= 0) continue
      const { [part]: _, ...rest } = step as Step & Interleaved
      const without = now.map((other, at) => (at === i ? (rest as Step) : other))
      left.attempts--
      if (fails(without)) now = without
    }
  }
  return now
}

/** A machine with as little as possible out of the ordinary that still shows it. */
function plainer(
  setup: Setup,
  steps: readonly Step[],
  seed: number,
  finding: Finding,
  fresh: (setup: Setup) => Stage,
): [Setup, Finding | undefined] {
  let now = setup
  let shown = fresh(now).perform(steps, seed, true)
  const attempt = (change: Partial<Setup>) => {
    const changed = { ...now, ...change }
    const found = fresh(changed).perform(steps, seed, true)
    if (!same(found, finding)) return
    now = changed
    shown = found
  }
  for (const option of setup.hardware) attempt({ hardware: now.hardware.filter(other => other !== option) })
  attempt({ firmware: 'none' })
  attempt({ posts: false })
  attempt({ ssidBits: 0 })
  attempt({ endian: 'little' })
  attempt({ smmus: 1 })
  for (const caching of ['none', 'architectural', 'walks'] as const) {
    if (now.caching !== caching) attempt({ caching })
    if (now.caching === caching) break
  }
  return [now, same(shown, finding) ? shown : undefined]
}
