// SPDX-License-Identifier: Apache-2.0
/** What the trap thread looks up for people: registers from both sides, and commands that are about to be consumed. */

import type { Machine } from '../machine/ports.ts'
import { newTrap, type Policy, type Trap } from '../policy/policy.ts'
import { CMDQ_ENT_WORDS } from '../smmu/commands.ts'
import type { GuestMemory } from '../smmu/memory.ts'
import {
  CMDQ_ENTRY_SIZE,
  MAX_QUEUE_LOG2SIZE,
  queueAdvance,
  queueBase,
  queueEntries,
  queueIndex,
  queueLog2Size,
} from '../smmu/queue.ts'
import { ARM_SMMU_CMDQ_BASE, ARM_SMMU_CMDQ_CONS, ARM_SMMU_CR0, CR0_CMDQEN, registerAt } from '../smmu/registers.ts'
import type { RegisterValue } from './operations.ts'

export class Inspector {
  readonly #machine: Machine
  readonly #policy: Policy
  readonly #memory: GuestMemory
  readonly #trap: Trap = { ...newTrap(), cpu: 0xffff, size: 4 }

  /** @param memory guest memory whose accesses nobody records. */
  constructor(machine: Machine, policy: Policy, memory: GuestMemory) {
    this.#machine = machine
    this.#policy = policy
    this.#memory = memory
  }

  /** As the host would read it now: a read has no side effect in any register that the policies emulate. */
  host(smmu: number, offset: number): RegisterValue {
    const trap = this.#trap
    trap.smmu = smmu
    trap.write = false
    trap.offset = offset
    trap.size = (registerAt(offset)?.bits ?? 32) / 8
    trap.lo = 0
    trap.hi = 0
    trap.aborted = false
    this.#policy.access(trap)
    return { offset, lo: trap.lo, hi: trap.hi, ok: !trap.aborted }
  }

  hardware(smmu: number, offset: number): RegisterValue {
    const value = { lo: 0, hi: 0 }
    const size = (registerAt(offset)?.bits ?? 32) / 8
    const ok = this.#machine.smmus[smmu]?.hardware.read(offset, size, value) ?? false
    return { offset, ...value, ok }
  }

  /** @returns undefined when it is not all RAM. */
  memory(address: number, length: number): Uint8Array | undefined {
    const bytes = new Uint8Array(length)
    return this.#memory.read(address, bytes, 0, length) ? bytes : undefined
  }

  /** The commands that a write of CMDQ_PROD hands over. */
  commandsAhead(trap: Readonly<Trap>): Uint32Array | undefined {
    const { smmu, lo: prod } = trap
    if ((this.host(smmu, ARM_SMMU_CR0).lo & CR0_CMDQEN) === 0) return undefined
    const { lo, hi } = this.host(smmu, ARM_SMMU_CMDQ_BASE)
    const log2size = queueLog2Size(lo, MAX_QUEUE_LOG2SIZE)
    const cons = this.host(smmu, ARM_SMMU_CMDQ_CONS).lo
    const count = Math.min(queueEntries(prod, cons, log2size), 2 ** log2size)
    const base = queueBase(lo, hi, log2size, CMDQ_ENTRY_SIZE)
    const words = new Uint32Array(count * CMDQ_ENT_WORDS)
    const bytes = new Uint8Array(words.buffer)
    for (let i = 0; i < count; i++) {
      const at = queueIndex(queueAdvance(cons, log2size, i), log2size) * CMDQ_ENTRY_SIZE
      if (!this.#memory.read(base + at, bytes, i * CMDQ_ENTRY_SIZE, CMDQ_ENTRY_SIZE)) return undefined
    }
    return words
  }
}
