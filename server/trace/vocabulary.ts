// SPDX-License-Identifier: Apache-2.0
/** What people type, as numbers. Everything throws RangeError with what was expected. */
import { COMMAND_NAMES, commandNumber, nearest, REGISTER_NAMES, registerOffset } from '../smmu/names.ts'

/** What was meant, for a message. */
function meant(text: string, names: readonly string[]): string {
  const name = nearest(text.replace(/^(ARM_SMMU_|SMMU_|CMDQ_OP_|CMD_)/i, ''), names)
  return name === undefined ? '' : `: did you mean ${name}?`
}

/** A whole number from 0 up, decimal or with 0x. */
export function parseNumber(text: string): number {
  const value = /^(0x[0-9a-f]+|[0-9]+)$/i.test(text) ? Number(text) : Number.NaN
  if (!Number.isSafeInteger(value)) throw new RangeError(`"${text}" is not a number`)
  return value
}

/** Offset of a register by name, or a number. */
export function parseRegister(text: string): number {
  const offset = /^[0-9]/.test(text) ? parseNumber(text) : registerOffset(text)
  if (offset === undefined) throw new RangeError(`no register "${text}"${meant(text, REGISTER_NAMES)}`)
  return offset
}

/** Opcode of a command by name, or a number. */
export function parseCommand(text: string): number {
  const opcode = /^[0-9]/.test(text) ? parseNumber(text) : commandNumber(text)
  if (opcode === undefined) throw new RangeError(`no command "${text}"${meant(text, COMMAND_NAMES)}`)
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
