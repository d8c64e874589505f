// SPDX-License-Identifier: Apache-2.0
/** @param text matches NumberText. */
export const parseBig = (text: string): bigint => BigInt(text.toLowerCase())

export const halves = (value: bigint): { lo: number; hi: number } => ({
  lo: Number(value & 0xffff_ffffn),
  hi: Number((value >> 32n) & 0xffff_ffffn),
})

/** Little-endian 64-bit words of a buffer. */
export function dwords(bytes: Uint8Array): BigUint64Array<ArrayBuffer> {
  return new BigUint64Array(bytes.slice().buffer)
}

/** Little-endian 32-bit words. */
export function words(bytes: Uint8Array): Uint32Array<ArrayBuffer> {
  return new Uint32Array(bytes.slice().buffer)
}
