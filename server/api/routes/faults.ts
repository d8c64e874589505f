// SPDX-License-Identifier: Apache-2.0
import { catalogue, entryNamed } from '../../faults/catalogue.ts'
import type { CheckContext } from '../../faults/check.ts'
import { describeRule } from '../../faults/describe.ts'
import type { FaultStatus } from '../../faults/injector.ts'
import { FaultFileError } from '../../faults/load.ts'
import { parseAside } from '../../faults/loadAside.ts'
import { expectRules } from '../../faults/plan.ts'
import type { FaultRule } from '../../faults/rule.ts'
import type { MachineManager } from '../machineManager.ts'
import { Problem } from '../problem.ts'
import type { FaultStatusView, faults } from '../schemas/faults.ts'
import type { Handlers } from '../schemas/route.ts'

const entryRules = (name: string): readonly FaultRule[] => {
  try {
    return entryNamed(name).rules
  } catch (error) {
    throw new Problem(422, (error as Error).message)
  }
}

/** @throws Problem with what is wrong, a line each */
function rulesOf(names: readonly string[], own: readonly unknown[], context: CheckContext): FaultRule[] {
  const rules: unknown[] = [...names.flatMap(entryRules), ...own]
  try {
    expectRules(rules, context)
  } catch (error) {
    throw new Problem(422, (error as Error).message)
  }
  return rules
}

/** @throws Problem with the places of what is wrong */
async function rulesIn(text: string, context: CheckContext, signal: AbortSignal): Promise<readonly FaultRule[]> {
  try {
    const { rules, entries } = await parseAside(text, 'text', context, { signal })
    return rules ?? entries?.flatMap(entry => entry.rules) ?? []
  } catch (error) {
    if (!(error instanceof FaultFileError)) throw error
    const errors = error.complaints.map(({ file, ...complaint }) => ({ path: file, ...complaint }))
    throw new Problem(422, error.message, errors)
  }
}

function stateOf({ when }: FaultRule, matches: number, fired: number): 'waiting' | 'firing' | 'spent' {
  const { nth, times = 1 } = when ?? {}
  if ((times !== 'always' && fired >= times) || (nth !== undefined && matches >= nth)) return 'spent'
  return fired > 0 ? 'firing' : 'waiting'
}

const show = (status: FaultStatus, rules: readonly FaultRule[]): FaultStatusView => ({
  armed: status.armed,
  seed: status.seed,
  rules: status.rules.flatMap(({ rule, matches, fired }) => {
    const found = rules.find(({ name }) => name === rule)
    if (found === undefined) return []
    const { at } = found.where
    return [{ rule, text: describeRule(found), at, state: stateOf(found, matches, fired), matches, fired }]
  }),
  firings: status.firings.map(({ rule, n, trap, time, what }) => ({ rule, n, trap, time, what })),
})

export function faultHandlers(manager: MachineManager): Handlers<typeof faults> {
  return {
    'GET /faults/catalogue': () =>
      catalogue().map(({ name, summary, expect, why, session, rules }) => ({
        name,
        summary,
        expect: typeof expect === 'string' ? [expect] : expect,
        why,
        session: { ...session },
        rules: rules.map(rule => ({ name: rule.name, text: describeRule(rule), rule })),
      })),
    'GET /faults': async () => {
      const status = await manager.faults.status()
      return show(status, status.plan)
    },
    'POST /faults': async ({ body }) => {
      const { faults: names = [], rules: own = [], text, seed = 1 } = body
      const { policy, until } = manager.status().options ?? {}
      const context = { ...(policy && { policy }), ...(until && { until }) }
      const rules = rulesOf(
        names,
        [...own, ...(text === undefined ? [] : await rulesIn(text, context, manager.closing))],
        context,
      )
      await manager.faults.arm(rules, seed)
      return show(await manager.faults.status(), rules)
    },
    'DELETE /faults': () => manager.faults.disarm(),
    'GET /faults/effect': () => manager.faults.effect(),
    'POST /faults/:rule/fire': ({ params }) => manager.faults.fire(params.rule),
  }
}
