// SPDX-License-Identifier: Apache-2.0
/** `set`, `change` and their like, on registers, words and bytes. */
import { type Halves, hex } from '../smmu/bits.ts'
import type { ArmedRule } from './armed.ts'
import { big } from './names.ts'
import type { WhatOf } from './rule.ts'

/** `change`, of 64 bits. */
export function changed(before: bigint, { and, or, xor }: Pick<WhatOf['change'], 'and' | 'or' | 'xor'>): bigint {
  let after = before
  if (and !== undefined) after &= big(and)
  if (or !== undefined) after |= big(or)
  if (xor !== undefined) after ^= big(xor)
  return BigInt.asUintN(64, after)
}

/** `set` and `change` of a register's value, as wide as the access was. */
export function alter(value: Halves, what: WhatOf['set'] | WhatOf['change'], size: number): void {
  const before = (BigInt(value.hi >>> 0) << 32n) | BigInt(value.lo >>> 0)
  const after = BigInt.asUintN(8 * size, what.do === 'set' ? big(what.value) : changed(before, what))
  value.lo = Number(after & 0xffff_ffffn)
  value.hi = Number(after >> 32n)
}

/** What a read of a register answers instead: `set`, `change`, `freeze`, or 0 for `abort`. */
export function alterRead(armed: ArmedRule, value: Halves, size: number): void {
  const { what } = armed.rule
  if (what.do === 'set' || what.do === 'change') alter(value, what, size)
  else if (what.do === 'freeze') {
    armed.frozen ??= armed.last ?? { lo: value.lo, hi: value.hi }
    value.lo = armed.frozen.lo
    value.hi = armed.frozen.hi
  } else {
    value.lo = 0
    value.hi = 0
  }
}

/** Changes a 64-bit word of an entry; says what it was and is. Nothing happens when the entry has no such word. */
export function changeBytes(entry: Uint8Array, what: WhatOf['change']): string {
  const at = 8 * (what.word ?? 0)
  if (at + 8 > entry.length) return 'no such word'
  const view = new DataView(entry.buffer, entry.byteOffset + at, 8)
  const before = view.getBigUint64(0, true)
  const after = changed(before, what)
  view.setBigUint64(0, after, true)
  return `${hex(before)} → ${hex(after)}`
}

/** A copy as words. */
export function wordsOf(bytes: Uint8Array): Uint32Array<ArrayBuffer> {
  return new Uint32Array(bytes.slice().buffer)
}
