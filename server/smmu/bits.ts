// SPDX-License-Identifier: Apache-2.0
/**
 * Bit fields as the specification prints them: `[hi:lo]` of a 32-bit register, or of a structure of little-endian words.
 *
 * Registers use masks (`fieldGet(IDR1_SIDSIZE, idr1)`). Structures of 16 to 64 bytes – commands, event records, STEs, CDs –
 * are `Uint32Array`s, and their fields name the word they are in (`getField(cmd, CMDQ_CFGI_0_SID)`), so that no BigInt is
 * made where every microsecond counts.
 */

/** One value of up to 64 bits in halves, so that the trap path needs no BigInt. Both are unsigned 32-bit integers. */
export interface Halves {
  lo: number
  hi: number
}

/** Mask of bits `hi` to `lo` (both included, at most 31) of a 32-bit value, as an unsigned number. */
export function genmask(hi: number, lo: number): number {
  return 2 ** (hi + 1) - 2 ** lo
}

/** Mask of bits `hi` to `lo` of a 64-bit value. */
export function genmask64(hi: number, lo: number): bigint {
  return (1n << BigInt(hi + 1)) - (1n << BigInt(lo))
}

/** Position of the lowest set bit of a mask that is not 0. */
export function lowestBit(mask: number): number {
  return 31 - Math.clz32(mask & -mask)
}

/** The field that `mask` selects, moved down to bit 0. */
export function fieldGet(mask: number, value: number): number {
  return (value & mask) >>> lowestBit(mask)
}

/** `value` moved up into the field that `mask` selects; bits that do not fit are dropped. */
export function fieldPrep(mask: number, value: number): number {
  return ((value << lowestBit(mask)) & mask) >>> 0
}

/** A field inside one 32-bit word of a structure. */
export interface Field {
  /** Index of the word: bits `[32·word+31 : 32·word]` of the structure. */
  readonly word: number
  readonly shift: number
  /** Before shifting, that is at its place in the word; a signed 32-bit integer. */
  readonly mask: number
}

/** A field of one structure, with its value, for people. */
export interface Bits {
  readonly name: string
  /** Bits of the structure, as the specification's figures count them. */
  readonly hi: number
  readonly lo: number
  /** Hexadecimal from 10 on; an address stands at its place. */
  readonly value: string
}

/** Bits `hi` to `lo` of a structure, counted as the specification's figures do (0 is bit 0 of the first word). */
export function field(hi: number, lo: number = hi): Field {
  const word = lo >>> 5
  if (hi >>> 5 !== word || hi < lo) throw new RangeError(`field [${hi}:${lo}] is not inside one word`)
  // As a signed number every mask is a small integer of the engine, and reading a field costs no conversion.
  return { word, shift: lo & 31, mask: genmask(hi & 31, lo & 31) | 0 }
}

/**
 * The field that a 64-bit mask selects in 64-bit word `dword` of a structure, for structures whose fields Linux names by masks
 * of 64-bit words. The field must not cross the middle of the 64-bit word.
 */
export function dwordField(dword: number, mask: bigint): Field {
  const hi = mask.toString(2).length - 1
  const lo = (mask & -mask).toString(2).length - 1
  return field(64 * dword + hi, 64 * dword + lo)
}

/** The field that `mask` selects in a 64-bit value, moved down to bit 0. */
export function fieldGet64(mask: bigint, value: bigint): number {
  return Number((value & mask) / (mask & -mask))
}

/** `value` moved up into the field that `mask` selects in a 64-bit value; bits that do not fit are dropped. */
export function fieldPrep64(mask: bigint, value: number): bigint {
  return (BigInt(value) * (mask & -mask)) & mask
}

/** The field's value, unsigned. `base`: index of the structure's first word in `words`. */
export function getField(words: Uint32Array, f: Field, base = 0): number {
  return (words[base + f.word] & f.mask) >>> f.shift
}

/** Replaces the field's value; bits that do not fit are dropped. */
export function setField(words: Uint32Array, f: Field, value: number, base = 0): void {
  const i = base + f.word
  words[i] = (words[i] & ~f.mask) | ((value << f.shift) & f.mask)
}

export const TWO_POW_32 = 2 ** 32

/** 64 bits from two unsigned halves, for addresses below 2^53. */
export function addressOf(lo: number, hi: number): number {
  return hi * 0x1_0000_0000 + lo
}

// Powers of two as tables: `**` and `%` on addresses are too slow for a table walk.
const POW2 = Float64Array.from({ length: 65 }, (_, n) => 2 ** n)
const INVERSE = Float64Array.from({ length: 65 }, (_, n) => 2 ** -n)

/** `value` without its low `bits` bits, moved down by them. `value` is not negative. */
export function shiftDown(value: number, bits: number): number {
  return Math.floor(value * INVERSE[bits])
}

/** `value` with its low `bits` bits cleared. */
export function alignDown(value: number, bits: number): number {
  return Math.floor(value * INVERSE[bits]) * POW2[bits]
}

/** The low `bits` bits of `value`. */
export function lowBits(value: number, bits: number): number {
  return value - Math.floor(value * INVERSE[bits]) * POW2[bits]
}

/** `value` needs more than `bits` bits. */
export function exceeds(value: number, bits: number): boolean {
  return value >= POW2[bits]
}

/** Hexadecimal with `0x`, for people. */
export function hex(value: number | bigint): string {
  return `0x${value.toString(16)}`
}

/** 64 bits in unsigned halves as hexadecimal. */
export function hex64(lo: number, hi: number): string {
  return hex((BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0))
}
