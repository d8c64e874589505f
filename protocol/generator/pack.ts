// SPDX-License-Identifier: Apache-2.0
/** A msgpack packer of its own for the vectors and the specification's examples, in either of two styles. */

/** Bytes that go into a payload as they are. */
export class Raw {
  readonly bytes: Buffer
  constructor(hex: string) {
    this.bytes = Buffer.from(hex, 'hex')
  }
}

export type Element = number | string | Uint8Array | Raw | readonly Element[]

/** Which encoding is used where msgpack has several. */
export type Style = 'shortest' | 'longest'

/** `value` in 1, 2, 4 or 8 bytes after a first byte. */
function sized(first: number, bytes: number, value: number): Buffer {
  const buffer = Buffer.alloc(9)
  buffer[0] = first
  buffer.writeBigUInt64BE(BigInt(value) << BigInt(64 - 8 * bytes), 1)
  return buffer.subarray(0, 1 + bytes)
}

/** Index of the encoding of 1, 2, 4 or 8 bytes that `value` gets, at most `last`; -1: it fits into the first byte. */
function width(value: number, immediate: number, last: number, style: Style): number {
  if (style === 'longest') return last
  if (value < immediate) return -1
  return value < 0x100 ? 0 : value < 0x1_0000 ? 1 : value < 2 ** 32 ? 2 : 3
}

/** @returns the msgpack value */
export function pack(element: Element, style: Style = 'shortest'): Buffer {
  if (element instanceof Raw) return element.bytes
  if (typeof element === 'number') {
    const index = width(element, 0x80, 3, style)
    return index < 0 ? Buffer.from([element]) : sized(0xcc + index, 1 << index, element)
  }
  if (typeof element === 'string') {
    const bytes = Buffer.from(element)
    const index = width(bytes.length, 0x20, 2, style)
    const head = index < 0 ? Buffer.from([0xa0 | bytes.length]) : sized(0xd9 + index, 1 << index, bytes.length)
    return Buffer.concat([head, bytes])
  }
  if (element instanceof Uint8Array) {
    const index = width(element.length, 0, 2, style)
    return Buffer.concat([sized(0xc4 + index, 1 << index, element.length), element])
  }
  const { length } = element
  // arrays have no encoding of one byte
  const index = width(length, 0x10, 2, style)
  const head = index < 0 ? Buffer.from([0x90 | length]) : index < 2 ? sized(0xdc, 2, length) : sized(0xdd, 4, length)
  return Buffer.concat([head, ...element.map(item => pack(item, style))])
}

/** @returns the frame of a payload, as hex; `length` may be wrong on purpose */
export function framed(payload: Uint8Array, length: number = payload.length): string {
  const header = Buffer.alloc(4)
  header.writeUInt32LE(length)
  return Buffer.concat([header, payload]).toString('hex')
}

/** @returns the frame of a message, as hex */
export const frame = (elements: readonly Element[], style: Style = 'shortest'): string => framed(pack(elements, style))
