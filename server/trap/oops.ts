// SPDX-License-Identifier: Apache-2.0
import type { Policy, Trap } from '../policy/policy.ts'
import { hex, hex64 } from '../smmu/bits.ts'
import { describeRegister, registerName } from '../smmu/registers.ts'
import { describeSte } from '../smmu/ste.ts'

/**
 * What stood at the trap where a hyp warning stopped the machine, or at the last one before a violation of isolation was found, as
 * lines for a person; like a kernel's oops.
 * @param details of a violation; absent: it is a hyp warning
 */
export function oops(
  text: string,
  trap: Readonly<Trap>,
  policy: Policy | undefined,
  details?: readonly string[],
): string[] {
  const what = details === undefined ? 'hyp warning' : 'isolation violation'
  const { offset, size, lo, hi } = trap
  const access = `${trap.write ? 'write' : 'read'} ${registerName(offset)} (offset ${hex(offset)}, ${size} bytes)`
  const value = trap.write ? ` = ${hex64(lo, hi)} ${describeRegister(offset, lo, hi)}` : ''
  const lines = [
    `------------[ ${what} ]------------`,
    text,
    ...(details ?? []),
    `trap ${trap.seq}: ${access}${value}`,
    `SMMU ${trap.smmu}, CPU ${trap.cpu}, pc ${hex64(trap.pcLo, trap.pcHi)}, guest time ${(trap.time / 1e9).toFixed(6)} s`,
  ]
  const { inspect } = policy ?? {}
  if (inspect !== undefined) {
    lines.push(...inspect.stateLines())
    for (const { smmu, sid, host, shadow } of inspect.streams()) {
      lines.push(`stream ${smmu}:${hex(sid)}`, `  host   ${describeSte(host)}`, `  shadow ${describeSte(shadow)}`)
    }
  }
  return [...lines, `---[ end of ${what} ]---`]
}
