// SPDX-License-Identifier: Apache-2.0
/** What people type, as numbers. Everything throws RangeError with what was expected. */
import { opcodeName } from '../smmu/commands.ts'
import { REGISTERS } from '../smmu/registers.ts'

const OPCODES = new Map(Array.from({ length: 256 }, (_, opcode) => [opcodeName(opcode), opcode]))
const OFFSETS = new Map(REGISTERS.map(({ name, offset }) => [name, offset]))

/** The known name that is nearest, for a message. */
function nearest(name: string, names: Iterable<string>): string {
  let best = ''
  let least = Number.POSITIVE_INFINITY
  for (const candidate of names) {
    const distance = editDistance(name, candidate)
    if (distance < least) {
      least = distance
      best = candidate
    }
  }
  return best
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      const change = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1)
      next.push(Math.min(change, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1))
    }
    row = next
  }
  return row[b.length] ?? 0
}

/** A whole number from 0 up, decimal or with 0x. */
export function parseNumber(text: string): number {
  const value = /^(0x[0-9a-f]+|[0-9]+)$/i.test(text) ? Number(text) : Number.NaN
  if (!Number.isSafeInteger(value)) throw new RangeError(`"${text}" is not a number`)
  return value
}

/** Offset of a register by name (`SMMU_` in front is allowed), or a number. */
export function parseRegister(text: string): number {
  if (/^[0-9]/.test(text)) return parseNumber(text)
  const name = text.toUpperCase().replace(/^(ARM_)?SMMU_/, '')
  const offset = OFFSETS.get(name)
  if (offset === undefined)
    throw new RangeError(`no register "${text}": did you mean ${nearest(name, OFFSETS.keys())}?`)
  return offset
}

/** Opcode of a command by name (`CMD_` in front is allowed), or a number. */
export function parseCommand(text: string): number {
  if (/^[0-9]/.test(text)) return parseNumber(text)
  const name = text.toUpperCase().replace(/^CMD_/, '')
  const opcode = OPCODES.get(name === 'CFGI_ALL' ? 'CFGI_STE_RANGE' : name)
  if (opcode === undefined) throw new RangeError(`no command "${text}": did you mean ${nearest(name, OPCODES.keys())}?`)
  return opcode
}

/** From `from` up to, not including, `to`. */
export interface Range {
  readonly from: number
  readonly to: number
}

/** Addresses: `A` (one byte), `A..B` (B not included), `A+SIZE`. */
export function parseAddresses(text: string): Range {
  const [, from = '', operator, second = ''] = /^(\w+)(?:(\.\.|\+)(\w+))?$/.exec(text) ?? []
  const base = parseNumber(from)
  const to = operator === undefined ? base + 1 : operator === '+' ? base + parseNumber(second) : parseNumber(second)
  if (to <= base) throw new RangeError(`"${text}" is empty: expected A, A..B or A+SIZE`)
  return { from: base, to }
}

/** Whole numbers: `A`, `A..B` (both included), `A..`, `..B`. */
export function parseInterval(text: string): Range {
  const single = /^\w+$/.test(text)
  const [, from = '', to = ''] = /^(\w*)\.\.(\w*)$/.exec(single ? `${text}..${text}` : text) ?? [text, 'not a range']
  const range = {
    from: from === '' ? 0 : parseNumber(from),
    to: to === '' ? Number.POSITIVE_INFINITY : parseNumber(to) + 1,
  }
  if (range.to <= range.from) throw new RangeError(`"${text}" is empty`)
  return range
}

/** Seconds as `A..B`, `A..`, `..B`; returns ns. */
export function parseTimes(text: string): Range {
  const [whole, from = '', to = ''] = /^([0-9.]*?)\.\.([0-9.]*)$/.exec(text) ?? []
  const range = { from: Number(from) * 1e9, to: to === '' ? Number.POSITIVE_INFINITY : Number(to) * 1e9 }
  if (whole === undefined || !(range.from < range.to)) {
    throw new RangeError(`"${text}" is not a time in seconds: expected A..B, A.. or ..B`)
  }
  return range
}

export function inRange(value: number, range: Range): boolean {
  return value >= range.from && value < range.to
}
