// SPDX-License-Identifier: Apache-2.0
/**
 * Hyp warnings: where a real hypervisor would stop with a WARN, ours records one of these and goes on. Each policy has a
 * table of its own, which travels with every recording. A code never changes its meaning; ids are for binary traces, append
 * only.
 */
import { resultName } from './result.ts'

export interface HypWarning {
  /** 1 to 255, unique in its table. */
  readonly id: number
  readonly code: string
  /** Where its rule stands: file of the repository and anchor of the heading. */
  readonly section: string
  readonly meaning: string
  /** Names of the 32-bit values that come with it; a pair xLo, xHi is one 64-bit value. At most four. */
  readonly values: readonly string[]
  /** An unmodified driver does this in normal operation: listed apart, does not count as unexpected. */
  readonly expected: boolean
}

/** The warnings of a policy, as data. */
export type WarningTable = readonly HypWarning[]

/** Of a policy that has none. */
export const NO_WARNINGS: WarningTable = []

/** Whether a value of unknown origin is a table, of which nothing surprises a terminal. */
export function isWarningTable(value: unknown): value is WarningTable {
  return Array.isArray(value) && value.length <= 255 && value.every(isWarning)
}

function isWarning(value: unknown): value is HypWarning {
  if (typeof value !== 'object' || value === null) return false
  const { id, code, section, meaning, values, expected } = value as Record<string, unknown>
  return (
    Number.isInteger(id) &&
    Number(id) >= 1 &&
    Number(id) <= 255 &&
    isText(code, /^\w{1,64}$/) &&
    isText(section, PRINTABLE) &&
    isText(meaning, PRINTABLE) &&
    Array.isArray(values) &&
    values.length <= 4 &&
    values.every(name => isText(name, /^\w{1,32}$/)) &&
    typeof expected === 'boolean'
  )
}

const PRINTABLE = /^[^\p{Cc}]{0,500}$/u

const isText = (value: unknown, pattern: RegExp): boolean => typeof value === 'string' && pattern.test(value)

/** Adds a warning to a table that is being made: the next id. */
export function defineWarning(
  table: HypWarning[],
  code: string,
  section: string,
  meaning: string,
  values: readonly string[],
  expected = false,
): HypWarning {
  const warning = { id: table.length + 1, code, section, meaning, values, expected }
  table.push(warning)
  return warning
}

export const warningById = (table: WarningTable, id: number): HypWarning | undefined =>
  table[id - 1]?.id === id ? table[id - 1] : table.find(warning => warning.id === id)

/** @param code in any case */
export const warningByCode = (table: WarningTable, code: string): HypWarning | undefined =>
  table.find(warning => warning.code === code.toUpperCase())

/** The values of a warning for a person: `name=0x…`, pairs joined. */
export function formatWarningValues(warning: HypWarning, values: readonly number[]): string {
  const out: string[] = []
  for (let i = 0; i < warning.values.length; i++) {
    const name = warning.values[i] ?? ''
    const value = values[i] ?? 0
    if (name.endsWith('Lo')) {
      const high = values[++i] ?? 0
      out.push(`${name.slice(0, -2)}=0x${(BigInt(high >>> 0) * 0x1_0000_0000n + BigInt(value >>> 0)).toString(16)}`)
    } else if (name === 'error') {
      out.push(`error=${resultName(value)}`)
    } else {
      out.push(`${name}=0x${(value >>> 0).toString(16)}`)
    }
  }
  return out.join(' ')
}
