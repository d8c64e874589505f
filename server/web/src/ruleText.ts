// SPDX-License-Identifier: Apache-2.0
import type { FaultEntry } from '../../api/schemas/faults.ts'

/** Names that YAML does not take for something else. */
const PLAIN = /^(?!(?:true|false|null|yes|no|on|off|y|n)$)[A-Za-z][\w-]*$/i

function flow(value: unknown): string {
  if (typeof value === 'string') return PLAIN.test(value) ? value : JSON.stringify(value)
  if (Array.isArray(value)) return `[${value.map(flow).join(', ')}]`
  if (typeof value !== 'object' || value === null) return String(value)
  const fields = Object.entries(value).map(([name, part]) => `${name}: ${flow(part)}`)
  return `{ ${fields.join(', ')} }`
}

/** Rules as a file has them, to be changed by hand. */
export function ruleText(rules: readonly FaultEntry['rules'][number]['rule'][]): string {
  const lines = rules.flatMap(({ name, where, when, what }) => [
    `  - name: ${flow(name)}`,
    `    where: ${flow(where)}`,
    ...(when === undefined ? [] : [`    when: ${flow(when)}`]),
    `    what: ${flow(what)}`,
  ])
  return `rules:\n${lines.join('\n')}\n`
}
