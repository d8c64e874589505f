// SPDX-License-Identifier: Apache-2.0
import type { HostStage2Registers, Machine } from '../machine/ports.ts'
import type { Halves } from '../smmu/bits.ts'
import { nearest } from '../smmu/names.ts'
import type { Facility, Inspectable } from './inspect.ts'
import type { HypReport } from './report.ts'
import { NO_WARNINGS, type WarningTable } from './warnings.ts'

/** How much of the series is emulated (server/hypervisor/README.md, section 10), each step including those before. */
export const SERIES_STEPS = ['mmio', 'cmdq', 'strtab', 'queues', 'nested'] as const
export type SeriesStep = (typeof SERIES_STEPS)[number]

/** Whether a run up to `upTo` includes `step`. */
export function includesStep(upTo: SeriesStep, step: SeriesStep): boolean {
  return SERIES_STEPS.indexOf(upTo) >= SERIES_STEPS.indexOf(step)
}

/** Sizes of a stage-2 page, bytes. */
export const GRANULES = [4096, 16384, 65536] as const
export type Granule = (typeof GRANULES)[number]

/**
 * What hardware lets software do with a block of a translation table that becomes a table, or the reverse (SMMU_IDR3.BBML, IHI 0070
 * section 6.3.4): 0: the entry is invalid in between; 1: it has nT in between; 2: nothing, but invalidate afterwards.
 */
export const BBM_LEVELS = [0, 1, 2] as const
export type BbmLevel = (typeof BBM_LEVELS)[number]

/**
 * What becomes of an SMMU's streams and registers where it loses its state with the power: the host finds it reset, and its streams are
 * shadowed again when it sets SMMUEN, or it finds it as it was.
 */
export const POWER_MODES = ['reshadow', 'keep'] as const
export type PowerMode = (typeof POWER_MODES)[number]

/**
 * Whose tables are the second stage: the hypervisor's own, or, with a hypervisor at EL2, those that it keeps for its host, as they are
 * (server/hypervisor/README.md, section 20).
 */
export const STAGE2_MODES = ['own', 'shared'] as const
export type Stage2Mode = (typeof STAGE2_MODES)[number]

/**
 * What becomes of a device's access to a page that the host owns and EL2 has not mapped yet, where its tables are shared. `ahead`: the
 * hypervisor maps it before. `stall`: the SMMU holds the access until the host has touched the page and resumes it. `never`: it faults.
 */
export const POPULATE_MODES = ['ahead', 'stall', 'never'] as const
export type PopulateMode = (typeof POPULATE_MODES)[number]

export interface PolicyOptions {
  /** How much of the series `pkvm` emulates; named as the option `--until`, and in recordings. Default 'nested'. */
  readonly until?: SeriesStep
  /** Page size of the stage-2 idmap; default 4096. */
  readonly granule?: Granule
  /** The stage-2 idmap maps RAM in the largest blocks that ownership allows. Default: in pages. */
  readonly blocks?: boolean
  /** Highest BBM level that is made use of, with `blocks`. Default: what the SMMUs have. */
  readonly bbm?: BbmLevel
  /** SMMUs may be switched off and on, and the hypervisor decides that. Default: they are on, and it is told nothing. */
  readonly power?: PowerMode
  /** Default: the hypervisor's own. A machine on which tables cannot be shared is stopped (HypFatal). */
  readonly stage2?: Stage2Mode
  /** With `stage2` shared; default: ahead. */
  readonly populate?: PopulateMode
  /** A machine that cannot be isolated is stopped (`reset` throws HypFatal) instead of being reported. */
  readonly requireIsolation?: boolean
  /**
   * PCIe ATS and PRI are let through to the host: devices that have them are trusted, for they keep physical addresses and use
   * them past stage 2. Default: the host does not see them.
   */
  readonly ats?: boolean
  /** Known defects that the policy shows, by name: those of its description. Default: none. */
  readonly quirks?: readonly string[]
  /** Pages of 4 KiB that the pool may hand out; default: as many as the host's stage 2 can need, plus 500. */
  readonly poolPages?: number
  /** Limit of one wait for the hardware; default 1000 ms. */
  readonly waitMs?: number
  /** Limit of one wait for the hardware in register reads, for a clock that stands still; default 1,000,000. */
  readonly waitPolls?: number
}

/** Policies of ours whose second stage is the idmap of `pkvm`. */
const IDMAP_POLICIES: ReadonlySet<string> = new Set(['pkvm', 'full'])

/** What a command line or a request says of blocks, as options that are absent where nothing was said. */
export const blockOptions = ({ blocks, bbm }: Pick<PolicyOptions, 'blocks' | 'bbm'>): PolicyOptions =>
  blocks === true ? { blocks, ...(bbm !== undefined && { bbm }) } : {}

/**
 * @param policy its name, or a file
 * @returns why these options say nothing; undefined: they do
 */
export function blocksProblem(policy: string, builtIn: boolean, { blocks, bbm }: PolicyOptions): string | undefined {
  if (blocks !== true) return bbm === undefined ? undefined : 'bbm: only with blocks'
  return builtIn && !IDMAP_POLICIES.has(policy) ? `blocks: policy ${policy} has no stage-2 idmap` : undefined
}

/** The same of power. */
export const powerOptions = ({ power }: Pick<PolicyOptions, 'power'>): PolicyOptions =>
  power === undefined ? {} : { power }

/**
 * @param policy its name, or a file
 * @returns why this option says nothing; undefined: it does
 */
export function powerProblem(policy: string, builtIn: boolean, { power }: PolicyOptions): string | undefined {
  return power !== undefined && builtIn && policy !== 'pkvm' ? `power: policy ${policy} switches no SMMU` : undefined
}

/** The same of shared tables. */
export const stage2Options = ({ stage2, populate }: Pick<PolicyOptions, 'stage2' | 'populate'>): PolicyOptions =>
  stage2 === 'shared' ? { stage2, ...(populate !== undefined && { populate }) } : {}

/**
 * @param policy its name, or a file
 * @param el2 a hypervisor of the guest's own is at EL2, and the policy follows it
 * @returns why these options say nothing, or do not fit each other; undefined: they do
 */
export function stage2Problem(
  policy: string,
  builtIn: boolean,
  el2: boolean,
  options: PolicyOptions,
): string | undefined {
  const { stage2, populate, until = 'nested', blocks, power, ats } = options
  if (stage2 !== 'shared') return populate === undefined ? undefined : 'populate: only with stage2 shared'
  if (!el2) return 'stage2 shared: only with el2 pkvm, whose tables are shared'
  if (builtIn && !IDMAP_POLICIES.has(policy)) return `stage2 shared: policy ${policy} has no second stage`
  if (until !== 'nested') return `stage2 shared: until ${until} there is no second stage`
  if (blocks === true) return 'stage2 shared: EL2 says what is mapped in blocks'
  if (power !== undefined) return 'stage2 shared: not with power'
  return ats === true ? 'stage2 shared: not with ats' : undefined
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

/** Known defects that a policy can be made to show, by name. */
export type QuirkTable = Readonly<
  Record<
    string,
    {
      /** Versions of the original that have it. */
      readonly versions: string
      readonly effect: string
    }
  >
>

/** Known before there is a machine: the export `description` of a policy file, which may be absent. */
export interface PolicyDescription {
  /** For a list of policies, half a line. */
  readonly summary: string
  readonly warnings: WarningTable
  /** Default: none. */
  readonly quirks?: QuirkTable
  /** What a policy with these options has. */
  facilities(options: PolicyOptions): readonly Facility[]
}

/** @param policy its name @throws Error that names the quirks there are */
export function checkQuirks(policy: string, table: QuirkTable, quirks: readonly string[]): void {
  const known = Object.keys(table)
  const unknown = quirks.find(quirk => !known.includes(quirk))
  if (unknown === undefined) return
  const near = nearest(unknown, known)
  const hint = near === undefined ? '' : `did you mean ${near}? `
  const what = known.length > 0 ? `${hint}there are ${known.join(', ')}` : 'it has none'
  throw new Error(`policy ${policy} has no quirk "${unknown.slice(0, 80)}": ${what}`)
}

/** The policy with these quirks. */
export function withQuirks(factory: PolicyFactory, quirks: readonly string[] = []): PolicyFactory {
  if (quirks.length === 0) return factory
  return (machine, context) => factory(machine, { ...context, options: { ...context.options, quirks } })
}

/** What must not be survived: the options demand what hardware or EL2 cannot give. Of `reset`, or of `stage2Changed`. */
export class HypFatal extends Error {
  override readonly name = 'HypFatal'
}

/** One access of a vCPU to a register frame. The object is reused for every trap: copy what must outlive it. */
export interface Trap extends Halves {
  /** Number of the trap since the machine started, from 1. */
  seq: number
  smmu: number
  /** 0xffff: not made by a vCPU. */
  cpu: number
  write: boolean
  /** Bytes into the frame, not necessarily aligned, possibly no register. */
  offset: number
  /** 1, 2, 4 or 8 bytes. */
  size: number
  /** Virtual time, ns. */
  time: number
  pcLo: number
  pcHi: number
  /** Set by the policy: the access ends in an external abort. `lo` and `hi` hold the value written, or the answer. */
  aborted: boolean
}

/** One to be filled in. */
export const newTrap = (): Trap => ({
  seq: 0,
  smmu: 0,
  cpu: 0,
  write: false,
  offset: 0,
  size: 0,
  time: 0,
  pcLo: 0,
  pcHi: 0,
  lo: 0,
  hi: 0,
  aborted: false,
})

/** State of a policy that outlives the server: another one goes on from it while the machine runs. */
export interface PolicyState {
  /** Changes with every change of the state. */
  readonly generation: number
  /** The state as bytes, good until the next call. Called before the answer to each trap that changed it. */
  checkpoint(): Uint8Array
  /** Takes over a state, instead of `reset`; touches nothing outside. @throws Error when it cannot, in words for a person. */
  restore(checkpoint: Uint8Array): void
  /**
   * After `restore`: brings hardware, tables and state together again. The former server may have died anywhere: in the
   * middle of a trap, which is then decided once more, or of an operation.
   * @returns what had to be put right, in words. @throws Error when that is not possible.
   */
  resume?(): string[]
}

/** EL2 is about to leave for a lower exception level, and has stored to tables that it keeps for its host. */
export interface Stage2Change extends HostStage2Registers {
  readonly cpu: number
  /** Virtual time, ns. */
  readonly time: number
  /** The tables are new, or nothing of them is watched: all has to be read. */
  readonly all: boolean
  /** Addresses of watched pages with stores. */
  readonly pages: readonly number[]
}

/** Addresses of pages as the wire and recordings have them: 8 bytes each, little-endian. */
export function pageAddresses(bytes: Uint8Array): number[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length - (bytes.length % 8))
  const address = (_: unknown, i: number) => view.getUint32(8 * i, true) + view.getUint32(8 * i + 4, true) * 2 ** 32
  return Array.from({ length: view.byteLength / 8 }, address)
}

/** Decides what every access to the register frames does. */
export interface Policy {
  readonly name: string
  /** It decides nothing: what is programmed into the SMMU is the guest's own doing. Default: not so. */
  readonly observes?: boolean
  /** Absent: it keeps none, a new server can go on at any time. */
  readonly state?: PolicyState
  /** The machine was reset, no vCPU runs: bring hardware, tables and state to the beginning. Called before the first trap. */
  reset(): void
  /** Decide a trap: for a read set `lo`/`hi`; for a write act on them; or set `aborted`. */
  access(trap: Trap): void
  /** What was posted to this SMMU's hardware did not lead to what it was to lead to. Called between traps. */
  postMismatch?(smmu: number): void
  /**
   * Devices reach what EL2 lets its host reach, before this returns; the vCPU waits in EL2, in front of its return from there and, with `stage2`
   * shared, behind a TLBI. Called between traps.
   * @returns false when that could not be done: the machine must not go on
   */
  stage2Changed?(change: Stage2Change): boolean
  /** Absent: it has nothing to show. */
  readonly inspect?: Inspectable
}

/** What is said about a policy, to those on another thread. */
export interface PolicyInfo {
  readonly name: string
  readonly facilities: readonly Facility[]
  readonly warnings: WarningTable
}

export const policyInfo = ({ name, inspect }: Policy): PolicyInfo => ({
  name,
  facilities: [...(inspect?.facilities ?? [])],
  warnings: inspect?.warnings ?? NO_WARNINGS,
})
