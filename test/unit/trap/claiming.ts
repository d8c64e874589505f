// SPDX-License-Identifier: Apache-2.0
/** A policy that aborts all that devices do, at each reset, and says that it isolates; everything else goes to the hardware. */
import { passthrough } from '../../../server/hypervisor/passthrough/policy.ts'
import type { Machine } from '../../../server/machine/ports.ts'
import type { Policy, PolicyContext } from '../../../server/policy/policy.ts'
import { NO_WARNINGS } from '../../../server/policy/warnings.ts'
import { ARM_SMMU_GBPA, GBPA_ABORT } from '../../../server/smmu/registers.ts'

export default function claiming(machine: Machine, context: PolicyContext): Policy {
  return {
    ...passthrough(machine, context),
    name: 'claiming',
    reset() {
      for (const { hardware } of machine.smmus) hardware.write(ARM_SMMU_GBPA, 4, GBPA_ABORT, 0)
    },
    inspect: {
      facilities: new Set(['stage2'] as const),
      warnings: NO_WARNINGS,
      faults: { stage2: () => [] },
      sections: () => ({ isolated: true }),
      streams: () => [],
      stateLines: () => [],
      verify: () => [],
    },
  }
}
