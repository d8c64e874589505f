// SPDX-License-Identifier: Apache-2.0
/** Names that rules use, and the numbers behind them. Linux's and the specification's prefixes may be there or not. */

import type { Halves } from '../smmu/bits.ts'
import { COMMAND_NAMES, EVENT_NAMES, REGISTER_NAMES, registerOffset } from '../smmu/names.ts'
import { ARM_SMMU_FRAME_SIZE } from '../smmu/registers.ts'
import type { Range, Value } from './rule.ts'

/** Offset of a register by name or offset; undefined: there is none of that name, or beyond the frame. */
export const register = (name: string | number): number | undefined => {
  const offset = typeof name === 'number' ? name : registerOffset(name)
  return offset !== undefined && offset < ARM_SMMU_FRAME_SIZE ? offset : undefined
}
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
