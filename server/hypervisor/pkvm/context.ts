// SPDX-License-Identifier: Apache-2.0
/** What the parts of the hypervisor have in common, so that none of them needs to know the whole. */
import type { PopulateMode, PowerMode, SeriesStep } from '../../policy/policy.ts'
import type { HypReport } from '../../policy/report.ts'
import type { HypWarning } from '../../policy/warnings.ts'
import type { GuestMemory } from '../../smmu/memory.ts'
import type { HardwareFrame } from '../common/hardwareFrame.ts'
import type { SmmuFeatures } from '../common/probe.ts'
import type { HardwareWait } from '../common/wait.ts'
import type { Choices } from './choices.ts'
import type { Idmap } from './idmap.ts'
import type { PagePool } from './pool.ts'
import type { Quirks } from './quirks.ts'
import type { HostShare } from './share.ts'

/** One hypervisor, as its SMMUs use it. */
export interface HypContext {
  readonly memory: GuestMemory
  readonly report: HypReport
  readonly wait: HardwareWait
  readonly share: HostShare
  readonly pool: PagePool
  readonly upTo: SeriesStep
  /** The host may use ATS and PRI (server/hypervisor/README.md, section 7.5). */
  readonly ats: boolean
  readonly quirks: Quirks
  readonly choices: Choices
  /** SMMUs may be switched off and on (server/hypervisor/README.md, section 19); null: they are on. */
  readonly powerMode: PowerMode | null
  /** The second stage is EL2's tables for its host (server/hypervisor/README.md, section 20); null: the hypervisor's own. */
  readonly populate: PopulateMode | null
  /** null unless the whole series is emulated and the machine is isolated. */
  readonly idmap: Idmap | null
  /** Trap that is being decided, 0 outside of traps. */
  readonly trap: number
  /** How many streams were shadowed, of all SMMUs. */
  streamCount(): number
  /** The state is kept now: what has begun is to be finished. */
  keepState(): void
  /** State that a checkpoint holds has changed. */
  changed(): void
  /** Nothing but pointers of a command queue has changed. */
  queueMoved(): void
}

/** One SMMU, as its queues and its stream table use it. */
export interface SmmuContext {
  readonly hyp: HypContext
  readonly index: number
  readonly hardware: HardwareFrame
  /** What the probe found. */
  readonly features: Readonly<SmmuFeatures>
  /** Whether all bits of `enables` are set in CR0, or were and the hardware has not acknowledged that they are not. */
  enabled(enables: number): boolean
  /** Reports a hyp warning of this SMMU, with the warning's values. */
  warn(warning: HypWarning, a: number, b: number, c: number, d: number): void
}
