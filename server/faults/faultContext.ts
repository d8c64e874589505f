// SPDX-License-Identifier: Apache-2.0
import type { Machine } from '../machine/ports.ts'
import type { Policy } from '../policy/policy.ts'
import type { HypWarning } from '../policy/warnings.ts'
import type { GuestMemory } from '../smmu/memory.ts'
import type { Device } from './armed.ts'

/** What faults need of the dispatcher. */
export interface FaultContext {
  readonly machine: Machine
  readonly policy: Policy
  readonly devices: readonly Device[]
  /** Guest memory whose accesses nobody records. */
  readonly memory: GuestMemory
  /** Answers translate requests: faults of translations are possible. */
  readonly translates: boolean
  /** Guest's virtual clock at its last trap, ns. */
  clock(): number
  /** Raises an interrupt of an SMMU (a value of `irqLine`). */
  irq(smmu: number, line: number): void
  /** Drops what the hardware has cached. */
  invalidate(smmu: number): void
  /** The hardware is as after a power-on that nobody knows of. */
  loseState(smmu: number): void
  warn(warning: HypWarning, trap: number, smmu: number): void
  donate(base: number, size: number, vm: number): number
  reclaim(base: number, size: number, vm: number): number
  /** Breaks the connection. @throws always */
  cut(): never
  /** Sends bytes that are no frame. */
  garble(): void
  /** Ends the trap thread. */
  die(): never
}
