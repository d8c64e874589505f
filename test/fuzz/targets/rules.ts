// SPDX-License-Identifier: Apache-2.0
import { FaultFileError, parseFile } from '../../../server/faults/load.ts'
import type { Choices } from '../choices.ts'
import { computed, Finding, type Target } from '../target.ts'

/** One file of 4 KiB is read within this, ms of the processor. */
const LIMIT_MS = 1_000

const WORDS = [
  'rules:',
  'entries:',
  '- ',
  'name: ',
  'where: ',
  'when: ',
  'what: ',
  'at: ',
  'do: ',
  'register',
  'command',
  'console',
  'nth: ',
  'ARM_SMMU_CR0',
  'CMD_SYNC',
  'access: write',
  'drop',
  'flip',
  'bits: ',
  'stage2',
  'probability: ',
  'seed',
  'every: ',
  'ste',
  '0x',
  '1e400',
  '.inf',
  '-1',
  '0',
  '18446744073709551616',
  '"(a+)+$"',
  "'",
  '"',
  '[',
  ']',
  '{',
  '}',
  ',',
  ': ',
  '? ',
  '| ',
  '> ',
  '&a ',
  '*a ',
  '<<: ',
  '!!js/function ',
  '!!binary ',
  '%YAML 1.1',
  '---',
  '...',
  '~',
  'null',
  '__proto__: ',
  'constructor: ',
  '\u0000',
  '\ufeff',
  '\u2028',
  '😀',
  '#',
]

/** Words of YAML and of rules in any order. */
function text(choices: Choices): string {
  let result = choices.once(2) ? 'rules:\n' : ''
  let indent = 0
  while (choices.left > 0 && result.length < 65_536) {
    switch (choices.below(8)) {
      case 0:
        indent = Math.max(0, indent + choices.below(5) - 2)
        result += `\n${'  '.repeat(indent)}`
        break
      case 1:
        result += choices.bytes(8).toString('latin1')
        break
      case 2:
        result += choices.pick(WORDS).repeat(1 + choices.below(64))
        break
      default:
        result += choices.pick(WORDS)
    }
  }
  return result
}

const rules: Target = {
  name: 'rules',
  summary: 'files of fault rules: YAML and its meaning',
  run(choices) {
    const source = text(choices)
    const start = computed()
    let outcome: string
    try {
      const { rules, entries } = parseFile(source, 'fuzz.yaml')
      outcome = `${rules?.length ?? 0} rules, ${entries?.length ?? 0} entries`
    } catch (error) {
      if (!(error instanceof FaultFileError)) throw error
      outcome = error.complaints.map(({ message }) => message.replaceAll(/"[^"]*"|\d+/g, '0').slice(0, 60)).join(', ')
    }
    const ms = computed() - start
    if (ms > LIMIT_MS) throw new Finding(`${source.length} characters took ${Math.round(ms / 1000)} s`)
    if (({} as Record<string, unknown>).polluted !== undefined) throw new Finding('a file changed all objects')
    return outcome.slice(0, 300)
  },
}

export default rules
