// SPDX-License-Identifier: Apache-2.0
/**
 * The policy `full`: pKVM's trap and emulate for drivers that are not Linux's. The mechanism is `pkvm`'s, the isolation too; the host
 * may do what IHI 0070 allows on an SMMU without stage 2 (server/hypervisor/README.md, section 18).
 */
import type { Machine } from '../../machine/ports.ts'
import { includesStep, type PolicyContext, type PolicyDescription, type PolicyOptions } from '../../policy/policy.ts'
import { EINVAL, OK } from '../../policy/result.ts'
import { fieldGet64 } from '../../smmu/bits.ts'
import { STRTAB_STE_0_CFG_S1_TRANS, STRTAB_STE_1_EATS, STRTAB_STE_1_EATS_S1CHK } from '../../smmu/ste.ts'
import { ARCHITECTURE } from '../pkvm/choices.ts'
import { facilitiesOf } from '../pkvm/inspect.ts'
import { type PkvmOverrides, PkvmPolicy } from '../pkvm/policy.ts'
import { type StreamRule, steConfig } from '../pkvm/steRules.ts'
import { HYP_WARNINGS } from '../pkvm/warnings.ts'
import { commands } from './commands.ts'
import { registers } from './registers.ts'

export const description: PolicyDescription = {
  summary: "pkvm's isolation for any driver: all that the architecture allows on an SMMU without stage 2",
  warnings: HYP_WARNINGS,
  facilities: ({ until = 'nested' }) => facilitiesOf(until),
}

/** An ILLEGAL entry is an invalid one to transactions: C_BAD_STE (IHI 0070 section 5.2.2). */
const illegalAsInvalid =
  (rule: StreamRule): StreamRule =>
  (host, shadow, context) => {
    const result = rule(host, shadow, context)
    // Split-stage ATS is for those who have a stage 2; where ATS is not there the field is ignored.
    const split =
      context.ats &&
      steConfig(host) === STRTAB_STE_0_CFG_S1_TRANS &&
      fieldGet64(STRTAB_STE_1_EATS, host[1]) === STRTAB_STE_1_EATS_S1CHK
    if (result !== EINVAL && !(result === OK && split)) return result
    shadow.fill(0n)
    return OK
  }

/** What `given` makes of what `own` makes of a rule. */
function after<Rule>(
  own: Readonly<Record<number, (rule: Rule) => Rule>>,
  given: Readonly<Record<number, (rule: Rule) => Rule>> = {},
): Readonly<Record<number, (rule: Rule) => Rule>> {
  const both: Record<number, (rule: Rule) => Rule> = { ...own }
  for (const [key, change] of Object.entries(given)) {
    const first = own[Number(key)]
    both[Number(key)] = first === undefined ? change : rule => change(first(rule))
  }
  return both
}

/** What makes `full` of `pkvm`. @param given changes of its own decisions: each is given the one that stands here */
export function fullOverrides(
  { until = 'nested', ats = false }: PolicyOptions,
  given: PkvmOverrides = {},
): PkvmOverrides {
  const { stream = rule => rule } = given
  return {
    name: 'full',
    ...given,
    choices: { ...ARCHITECTURE, ...given.choices },
    registers: after(registers(includesStep(until, 'queues')), given.registers),
    commands: after(commands(ats), given.commands),
    stream: rule => stream(illegalAsInvalid(rule)),
  }
}

export function full(machine: Machine, context: PolicyContext, overrides?: PkvmOverrides): PkvmPolicy {
  return new PkvmPolicy(machine, context, fullOverrides(context.options, overrides))
}

export default full
