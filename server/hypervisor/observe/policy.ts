// SPDX-License-Identifier: Apache-2.0
/**
 * The policy `observe`: for a guest whose own EL2 drives the SMMU. Every access goes to the hardware as it is; what the guest
 * programs there is held against EL2's own tables by somebody else (`boot --el2 kernel`).
 */
import type { Machine } from '../../machine/ports.ts'
import { HypFatal, type Policy, type PolicyContext, type PolicyDescription, type Trap } from '../../policy/policy.ts'
import { NO_WARNINGS } from '../../policy/warnings.ts'

export const description: PolicyDescription = {
  summary: "every access goes to the hardware; what EL2 programs is held against EL2's own tables",
  warnings: NO_WARNINGS,
  facilities: () => [],
}

export function observe(machine: Machine, { options }: PolicyContext): Policy {
  return {
    name: 'observe',
    observes: true,
    reset() {
      if (options.requireIsolation) throw new HypFatal('no DMA isolation: observe has no second stage of its own')
    },
    access(trap: Trap) {
      const hardware = machine.smmus[trap.smmu]?.hardware
      if (hardware === undefined) trap.aborted = true
      else if (trap.write) trap.aborted = !hardware.write(trap.offset, trap.size, trap.lo, trap.hi)
      else trap.aborted = !hardware.read(trap.offset, trap.size, trap)
    },
  }
}

export default observe
