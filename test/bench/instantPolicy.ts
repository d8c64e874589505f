// SPDX-License-Identifier: Apache-2.0
/** Decides nothing: what a trap costs when the policy costs nothing. */
import type { Machine } from '../../server/machine/ports.ts'
import type { Policy, Trap } from '../../server/policy/policy.ts'

export default function instant(_machine: Machine): Policy {
  return {
    name: 'instant',
    reset() {},
    access(trap: Trap) {
      if (!trap.write) trap.lo = 0x0d44_101b
    },
  }
}
