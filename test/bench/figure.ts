// SPDX-License-Identifier: Apache-2.0
import { ratios, type Summary, summarize } from './stats.ts'

/** The parts of the benchmark, in the order in which they run. */
export const NAMES = [
  'trap',
  'transport',
  'boot',
  'reads',
  'server',
  'parts',
  'compute',
  'parallel',
  'idle',
  'commands',
  'idmap',
  'dashboard',
  'recording',
  'translate',
  'switches',
  'faults',
  'scale',
] as const
export type Name = (typeof NAMES)[number]

/** One side of a comparison: what was measured how, once in each pair. */
export interface Side {
  readonly label: string
  readonly values: readonly number[]
}

export interface Figure {
  readonly bench: Name
  readonly what: string
  readonly unit: string
  readonly a: Side
  /** What `a` is compared with, run next to it. */
  readonly b?: Side
  /** In words; absent: shown because it explains others. */
  readonly target?: string
}

/** Where the time of something goes: medians, of which the indented ones are part of the one before. */
export interface Budget {
  readonly bench: Name
  readonly what: string
  readonly unit: string
  readonly rows: readonly { readonly part: string; readonly of?: true; readonly value: number }[]
}

export interface Part {
  readonly figures: readonly Figure[]
  readonly budgets?: readonly Budget[]
}

/** How much is measured. */
export interface Scale {
  readonly pairs: number
  /** Traps of one run of the bare-metal guest. */
  readonly traps: number
  /** 4-KiB reads of each disk. */
  readonly reads: number
  /** Reads of each of the eight readers at a time. */
  readonly parallelReads: number
  /** Thousands of rounds of arithmetic on each vCPU. */
  readonly rounds: number
  /** How long a guest is watched that does nothing, s. */
  readonly idleSeconds: number
  /** Fault sessions of one run. */
  readonly sessions: number
  /** Commands of one run. */
  readonly commands: number
  /** Builds of the idmap in one process. */
  readonly builds: number
  /** Runs that are not counted come first: page cache, processor clock. */
  readonly warmUp: boolean
}

export const FULL: Scale = {
  pairs: 7,
  traps: 200_000,
  reads: 4_000,
  parallelReads: 1_000,
  rounds: 500,
  idleSeconds: 60,
  sessions: 16,
  commands: 2_000_000,
  builds: 10,
  warmUp: true,
}
export const QUICK: Scale = {
  pairs: 1,
  traps: 20_000,
  reads: 500,
  parallelReads: 200,
  rounds: 50,
  idleSeconds: 10,
  sessions: 4,
  commands: 200_000,
  builds: 3,
  warmUp: false,
}

/** Something else that makes round trips, measured in the same run: a program of somebody else's. */
export interface Peer {
  readonly label: string
  /** Called with the number of round trips; prints p50, p90, p99 and maximum in ns, as pingpong.c does. */
  readonly program: string
}

/** What every part is given. */
export interface Context {
  readonly peers: readonly Peer[]
  readonly scale: Scale
  readonly signal: AbortSignal
  readonly say: (line: string) => void
  /** For boots, besides that of this process. */
  readonly env?: Readonly<Record<string, string>>
}

/** A figure with its statistics. */
export interface Result extends Figure {
  readonly summary: Summary
  readonly other?: Summary
  /** a ÷ b of each pair. */
  readonly ratio?: Summary
}

export function evaluate(figure: Figure): Result {
  const { a, b } = figure
  return {
    ...figure,
    summary: summarize(a.values),
    ...(b !== undefined && { other: summarize(b.values), ratio: summarize(ratios(a.values, b.values)) }),
  }
}
