// SPDX-License-Identifier: Apache-2.0
/**
 * What a policy shows of itself, so that reports, the dashboard, faults and replay work with any: nobody else knows which
 * hypervisor it is. Called between traps, or while one is held; never while a trap is being decided.
 */
import type { PowerState } from '../smmu/hardware.ts'
import type { WarningTable } from './warnings.ts'

/**
 * A part that a hypervisor may have of its own. `cmdq`: it copies the host's commands and the hardware reads a queue of its
 * own. `strtab`: a shadow stream table. `stage2`: tables of a second stage. `ownership`: an owner for each page. `donation`:
 * pages that change hands when the outside asks for it.
 */
export type Facility = 'cmdq' | 'strtab' | 'stage2' | 'ownership' | 'donation'

/** Pages in the same state: `base` and `size` in bytes. */
export interface PageRun {
  readonly base: number
  readonly size: number
  /** `vm`: given to a VM, or to another partition. */
  readonly state: 'owned' | 'shared' | 'hyp' | 'vm' | 'not RAM'
  /** VM id, 0 unless the state is `vm`. */
  readonly vm: number
}

/** A stream that the host configured. */
export interface StreamInfo {
  readonly smmu: number
  readonly sid: number
  /** Entry of the host as it was last copied, and what stands in the shadow table: eight 64-bit words. */
  readonly host: BigUint64Array
  readonly shadow: BigUint64Array
  /** Trap of the last change. */
  readonly trap: number
}

/** Page ownership. Results are 0 or a negative error number (result.ts). */
export interface PageOwners {
  /** All RAM in ascending order, or the runs that touch `from` to `to`. */
  ranges(from?: number, to?: number): PageRun[]
  /** A hypervisor at EL2 says whose pages are: `donate` and `reclaim` are refused. Default: not so. */
  readonly followed?: boolean
  /** Gives pages of the host to a VM. Bytes; absent with `reclaim`: pages never change hands. */
  donate?(base: number, size: number, vm: number): number
  reclaim?(base: number, size: number, vm: number): number
}

/** SMMUs that the host asks to be switched off and on. */
export interface PowerRequests {
  /** @returns 0, or a negative error number (result.ts) */
  power(smmu: number, state: PowerState): number
  /** null: there is no such SMMU */
  powerState(smmu: number): PowerState | null
}

/** Streams and memory that belong together from the reset on. Bytes. */
export interface StaticPartition {
  readonly name: string
  readonly streams: readonly { readonly smmu: number; readonly sid: number }[]
  readonly ranges: readonly { readonly base: number; readonly size: number }[]
}

/** Changes of page ownership that can be made to fail: `base` and `size` in bytes. */
export type PageMethods = Record<
  'share' | 'unshare' | 'pin' | 'unpin' | 'donate' | 'reclaim' | 'donateToHyp',
  (base: number, size: number, vm: number) => number
>

/** Allocations of hypervisor memory that can be made to fail. @returns an address, or a negative error number */
export interface AllocateMethod {
  allocate(bytes: number, overwritten?: boolean): number
}

/** Tables of a second stage that identity-map (VMSAv8-64). */
export interface Stage2Table {
  /** Address of the start level. */
  readonly root: number
  readonly granuleShift: number
  readonly startLevel: number
  readonly outputBits: number
  readonly bigEndian: boolean
  /** What EL2 has not mapped for its host yet need not be in it. Default: it is. */
  readonly onDemand?: boolean
}

/** Where faults get at a hypervisor besides its ports: objects whose methods may be replaced while rules are armed. */
export interface FaultPorts {
  readonly ownership?: PageMethods
  readonly pool?: AllocateMethod
  /** As they are now. */
  stage2(): readonly Stage2Table[]
}

export interface Inspectable {
  readonly facilities: ReadonlySet<Facility>
  readonly warnings: WarningTable
  /** Absent: it keeps no ownership of pages. */
  readonly pages?: PageOwners
  /** Absent: SMMUs are on, as far as it knows. */
  readonly power?: PowerRequests
  /**
   * What was shared out for good, the guest's part first: no stream ever reaches a range of another partition than its own, nor does one
   * that is in none reach anything. An oracle holds the policy to that. Absent: all streams are the host's.
   */
  readonly partitions?: readonly StaticPartition[]
  readonly faults: FaultPorts
  /** Its part of a report: JSON. */
  sections(): Readonly<Record<string, unknown>>
  /** The streams that were configured, by SMMU and StreamID. */
  streams(): StreamInfo[]
  /** What stands where, a line each, for someone who looks at a machine that stopped. Reads no hardware: that may be the trouble. */
  stateLines(): string[]
  /** What is not as it should be in hypervisor memory and in the hardware's registers, in words. */
  verify(): string[]
}
