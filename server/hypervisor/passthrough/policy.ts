// SPDX-License-Identifier: Apache-2.0
import type { Machine } from '../../machine/ports.ts'
import { HypFatal, type Policy, type PolicyContext, type PolicyDescription, type Trap } from '../../policy/policy.ts'
import { NO_WARNINGS } from '../../policy/warnings.ts'

export const description: PolicyDescription = {
  summary: 'every access goes to the hardware as it is',
  warnings: NO_WARNINGS,
  facilities: () => [],
}

/** Every access goes to the hardware with its own size, and its outcome back. */
export function passthrough(machine: Machine, { options }: PolicyContext): Policy {
  return {
    name: 'passthrough',
    reset() {
      if (options.requireIsolation) throw new HypFatal('no DMA isolation: passthrough has no second stage')
    },
    access(trap: Trap) {
      const hardware = machine.smmus[trap.smmu]?.hardware
      if (hardware === undefined) trap.aborted = true
      else if (trap.write) trap.aborted = !hardware.write(trap.offset, trap.size, trap.lo, trap.hi)
      else trap.aborted = !hardware.read(trap.offset, trap.size, trap)
    },
  }
}

export default passthrough
