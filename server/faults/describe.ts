// SPDX-License-Identifier: Apache-2.0
import { counted } from '../trace/words.ts'
import type { FaultRule } from './rule.ts'

const words = (fields: object, without: string): string =>
  Object.entries(fields)
    .filter(([name]) => name !== without)
    .map(([name, value]) => `${name} ${text(value)}`)
    .join(', ')

function text(value: unknown): string {
  if (typeof value === 'number' && value > 9) return `0x${value.toString(16)}`
  if (Array.isArray(value)) return value.map(text).join('+')
  if (typeof value === 'object' && value !== null) return `(${words(value, '')})`
  return String(value)
}

/** A rule in one line: `at register (register CR0ACK, access read) do set (value 0), always`. */
export function describeRule({ where, when, what }: FaultRule): string {
  const place = words(where, 'at')
  const action = words(what, 'do')
  const times = when?.times === undefined && when?.nth === undefined ? 'once' : ''
  const conditions = Object.entries(when ?? {}).map(([name, value]) => {
    if (name === 'times') return value === 'always' ? 'always' : counted(Number(value), 'time')
    return name === 'time' ? `from ${value} ms on` : `${name} ${value}`
  })
  const condition = [...conditions, times].filter(part => part !== '').join(', ')
  return `at ${where.at}${place && ` (${place})`} do ${what.do}${action && ` (${action})`}, ${condition}`
}
