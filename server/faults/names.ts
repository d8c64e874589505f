// SPDX-License-Identifier: Apache-2.0
/** Names that rules use, and the numbers behind them. Linux's and the specification's prefixes may be there or not. */

import type { Halves } from '../smmu/bits.ts'
import {
  COMMAND_NAMES,
  commandNumber,
  EVENT_NAMES,
  eventNumber,
  REGISTER_NAMES,
  registerOffset,
} from '../smmu/names.ts'
import { ARM_SMMU_FRAME_SIZE } from '../smmu/registers.ts'
import type { Range, Value } from './rule.ts'

/** Offset of a register by name or offset; undefined: there is none of that name, or beyond the frame. */
export const register = (name: string | number): number | undefined => {
  const offset = typeof name === 'number' ? name : registerOffset(name.replace(/^ARM_SMMU_/i, ''))
  return offset !== undefined && offset < ARM_SMMU_FRAME_SIZE ? offset : undefined
}
/** Opcode. `CMDQ_OP_CFGI_STE`, `CMD_SYNC` and `CFGI_STE` are all understood. */
export const command = (name: string): number | undefined => {
  const short = name.toUpperCase().replace(/^CMDQ_OP_/, '')
  return commandNumber(short) ?? commandNumber(short.replace(/^CMD_/, ''))
}
export const event = (name: string): number | undefined => eventNumber(name.replace(/^EVT_ID_/i, ''))

/** What may be written, for suggestions. */
export const NAMES = {
  register: REGISTER_NAMES,
  command: COMMAND_NAMES,
  event: EVENT_NAMES,
} as const

/** @param value as ValueSchema has it */
export const big = (value: Value): bigint => BigInt(typeof value === 'string' ? value.toLowerCase() : value)

export function halvesOf(value: Value): Halves {
  const all = big(value)
  return { lo: Number(all & 0xffff_ffffn), hi: Number(all >> 32n) }
}

/** Addresses; a bare address stands for its page. */
export function rangeOf(range: Range): { readonly from: number; readonly end: number } {
  if (typeof range === 'object') {
    const from = Number(big(range.from))
    return { from, end: from + Number(big(range.size)) }
  }
  const address = Number(big(range))
  return { from: address - (address % 4096), end: address - (address % 4096) + 4096 }
}

/** The nearest of some names by edits, if one is near. */
export function nearest(name: string, names: readonly string[]): string | undefined {
  const wanted = name.toUpperCase().slice(0, 80)
  let best: string | undefined
  let distance = Math.max(3, Math.ceil(wanted.length / 3))
  for (const candidate of names) {
    const d = edits(wanted, candidate.toUpperCase(), distance)
    if (d < distance) {
      distance = d
      best = candidate
    }
  }
  return best
}

/** Levenshtein distance, or anything from `limit` on. */
function edits(a: string, b: string, limit: number): number {
  if (Math.abs(a.length - b.length) >= limit) return limit
  let row = Array.from({ length: b.length + 1 }, (_, i) => i)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      const cost = a[i - 1] === b[j - 1] ? 0 : 1
      next.push(Math.min((row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1, (row[j - 1] ?? 0) + cost))
    }
    row = next
  }
  return row[b.length] ?? limit
}
