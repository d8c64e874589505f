// SPDX-License-Identifier: Apache-2.0
import type { Machine, Policy } from '../../machine/ports.ts'
import type { HypReport } from '../report.ts'

/** How much of the series is emulated (section 10 of the behaviour reference), each stage including those before. */
export const STAGES = ['mmio', 'cmdq', 'strtab', 'queues', 'nested'] as const
export type Stage = (typeof STAGES)[number]

/** Whether a run until `until` includes `stage`. */
export function stageIncludes(until: Stage, stage: Stage): boolean {
  return STAGES.indexOf(until) >= STAGES.indexOf(stage)
}

/** Sizes of a stage-2 page, bytes. */
export const GRANULES = [4096, 16384, 65536] as const
export type Granule = (typeof GRANULES)[number]

export interface PolicyOptions {
  /** Default 'nested'. */
  readonly until?: Stage
  /** Page size of the stage-2 idmap; default 4096. */
  readonly granule?: Granule
  /** An SMMU that cannot be isolated stops the machine (`reset` throws HypFatal) instead of being reported. */
  readonly requireIsolation?: boolean
  /** Pages of 4 KiB that the pool may hand out; default: as many as the host's stage 2 can need, plus 500. */
  readonly poolPages?: number
  /** Limit of one wait for the hardware; default 1000 ms. */
  readonly waitMs?: number
  /** Limit of one wait for the hardware in register reads, for a clock that stands still; default 1,000,000. */
  readonly waitPolls?: number
}

export interface PolicyContext {
  readonly options: PolicyOptions
  readonly report: HypReport
  /**
   * Sends the policy's state to be kept, now: called before something that must be finished once it has begun, outside of
   * traps. Default: nobody keeps it.
   */
  readonly persist?: () => void
  /** Milliseconds, monotonic; default performance.now. */
  readonly clock?: () => number
}

/** The default export of a policy file. */
export type PolicyFactory = (machine: Machine, context: PolicyContext) => Policy

/** A reset that must not be survived: the options demand isolation and the hardware cannot give it. */
export class HypFatal extends Error {
  override readonly name = 'HypFatal'
}
