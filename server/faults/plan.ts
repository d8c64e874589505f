// SPDX-License-Identifier: Apache-2.0
import { entriesOf } from './catalogue.ts'
import { aboutTranslations, type CheckContext, checkRules } from './check.ts'
import { pathText } from './load.ts'
import type { FaultPlan, FaultRule } from './rule.ts'

/** What is wrong with rules for this machine, a line each. @throws Error */
export function expectRules(rules: unknown, context: CheckContext): asserts rules is FaultRule[] {
  const flaws = checkRules(rules, context, ['rules'])
  if (flaws.length === 0) return
  throw new Error(flaws.map(({ path, message }) => `${pathText(path)}: ${message}`).join('\n'))
}

/** Rules of several files and entries together. @throws Error when they do not fit each other, or the machine */
export async function planOf(
  faults: readonly string[],
  seed: number,
  context: CheckContext,
  signal?: AbortSignal,
): Promise<FaultPlan> {
  const entries = (await Promise.all(faults.map(name => entriesOf(name, signal)))).flat()
  const rules = entries.flatMap(entry => entry.rules)
  expectRules(rules, {
    ...context,
    ...(needsServer(rules) && context.translate === 'hardware' && { translate: 'server' }),
  })
  return { rules, seed }
}

/** Faults of translations: somebody has to ask the server. */
export const needsServer = (rules: readonly FaultRule[]): boolean => rules.some(aboutTranslations)
