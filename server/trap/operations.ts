// SPDX-License-Identifier: Apache-2.0
import type { FaultStatus } from '../faults/injector.ts'
import type { FaultRule } from '../faults/rule.ts'
import type { HostStage2Registers } from '../machine/ports.ts'
import type { NamedDevice } from '../machine/streams.ts'
import type { Trap } from '../policy/policy.ts'
import type { Halves } from '../smmu/bits.ts'
import type { PowerState } from '../smmu/hardware.ts'
import type { FunctionTable } from '../trace/symbols.ts'
import type { Breakpoint, BreakpointSpec, Hit } from './breakpoints.ts'
import type { El2Report } from './el2Oracle.ts'
import type { OracleReport } from './oracleReport.ts'

/** A trap that waits for a person, and why. */
export interface HeldTrap {
  readonly hit: Hit
  readonly trap: Readonly<Trap>
  /** Return addresses on the stack of its vCPU, the innermost first; none where QEMU cannot tell. */
  readonly callers: readonly bigint[]
}

/** How a held trap goes on. */
export interface Release {
  /**
   * `continue`: as if nothing had been. `step`: the same, and the next trap is held. `drop`: nobody decides the trap; a
   * write is lost, a read answers 0. `abort`: the access ends in an external abort.
   */
  readonly action: 'continue' | 'step' | 'drop' | 'abort'
  /** With continue and step: the value written instead, or the answer to the read. */
  readonly value?: Readonly<Halves>
}

/** A register as seen from one side; `ok` false: the access was aborted. */
export interface RegisterValue extends Halves {
  readonly offset: number
  readonly ok: boolean
  /** A recording does not show it. */
  readonly absent?: true
}

/** Pages of one state, for maps: `base` and `size` in bytes. */
export interface OwnershipRange {
  readonly base: number
  readonly size: number
  /** `mixed`: more changes than were asked for lie in here. */
  readonly state: 'owned' | 'shared' | 'hyp' | 'vm' | 'not RAM' | 'mixed'
  /** VM id, 0 unless the state is `vm`. */
  readonly vm: number
}

/** What the control thread can ask of the trap thread, between traps or while one is held. */
export interface Operations {
  sections(): Readonly<Record<string, unknown>>
  /** The machine's devices that have a StreamID by now. */
  nameDevices(devices: readonly NamedDevice[]): void
  /** What another trap thread would go on from. */
  checkpoint(): Uint8Array
  breakpoints(): Breakpoint[]
  /** @param id chosen by the caller, above 0; default: the next one. */
  addBreakpoint(spec: BreakpointSpec, id?: number): Breakpoint
  removeBreakpoint(id: number): void
  enableBreakpoint(id: number, enabled: boolean): void
  /** Hold the next trap (or no longer). */
  breakNext(on: boolean): void
  held(): HeldTrap | null
  release(how: Release): void
  /** gdb may look from now on: traps that are held are parked, the present one too. */
  debug(): void
  /** The functions of the kernel that the machine runs, for breakpoints in them. */
  kernel(table: FunctionTable): void
  /** Registers as the host or the hardware has them. */
  registers(smmu: number, view: 'host' | 'hardware', offsets: readonly number[]): RegisterValue[]
  memory(address: number, length: number): Uint8Array
  /** States of pages from `from` to `to`, in at most about `limit` ranges. */
  ownership(from: number, to: number, limit: number): OwnershipRange[]
  /** Where EL2 keeps its host's tables; null: it keeps none, or there is no EL2. */
  hostStage2(): HostStage2Registers | null
  /** What EL2 does, and whether devices reach what it lets its host reach; null: there is no EL2 whose tables can be read. */
  el2(): El2Report | null
  /** Looks at all that the oracle of isolation watches; null: the machine is not watched. */
  oracle(): OracleReport | null
  /** Gives pages of the host to a VM; not while EL2 says whose they are. @returns 0, or a negative error number (hypervisor/result.ts). */
  donate(base: number, size: number, vm: number): number
  reclaim(base: number, size: number, vm: number): number
  /** The host asks for an SMMU to be switched off or on. @returns 0, or a negative error number (policy/result.ts) */
  power(smmu: number, state: PowerState): number
  /** null: there is no such SMMU */
  powerState(smmu: number): PowerState | null
  /** Arms rules instead of those that are. */
  armFaults(rules: readonly FaultRule[], seed: number): void
  disarmFaults(): void
  faults(): FaultStatus
  /** The console line or the moment (guest's clock, ns) came that these rules wait for. */
  openFaults(names: readonly string[], time?: number): void
  /** Carries out a rule of the point `machine`, now. */
  fireFault(name: string): void
}
