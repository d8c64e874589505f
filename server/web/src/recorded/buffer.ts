// SPDX-License-Identifier: Apache-2.0
/**
 * What the code that reads recordings uses of Node's Buffer, for a browser. It has to be imported before that code: some of it makes
 * buffers when it is loaded.
 */

type Encoding = 'utf8' | 'hex' | 'latin1'

const DECODER = new TextDecoder()
const ENCODER = new TextEncoder()
const HEX = Array.from({ length: 256 }, (_, value) => value.toString(16).padStart(2, '0'))

export class Bytes extends Uint8Array {
  #view(): DataView {
    return new DataView(this.buffer, this.byteOffset, this.byteLength)
  }

  override toString(encoding: Encoding = 'utf8', start = 0, end = this.length): string {
    const part = this.subarray(start, end)
    if (encoding === 'utf8') return DECODER.decode(part)
    let text = ''
    for (const value of part) text += encoding === 'hex' ? HEX[value] : String.fromCharCode(value)
    return text
  }

  equals(other: Uint8Array): boolean {
    return compare(this, other) === 0
  }

  copy(target: Uint8Array, targetStart = 0, start = 0, end = this.length): number {
    const part = this.subarray(start, Math.min(end, start + target.length - targetStart))
    target.set(part, targetStart)
    return part.length
  }

  override indexOf(value: number | Uint8Array, from = 0): number {
    if (typeof value === 'number') return super.indexOf(value, from)
    const [first] = value
    if (first === undefined) return from
    for (let at = super.indexOf(first, from); at >= 0; at = super.indexOf(first, at + 1)) {
      if (compare(this.subarray(at, at + value.length), value) === 0) return at
    }
    return -1
  }

  swap64(): this {
    for (let at = 0; at + 8 <= this.length; at += 8) this.subarray(at, at + 8).reverse()
    return this
  }

  readUInt16LE(at = 0): number {
    return this.#view().getUint16(at, true)
  }

  readUInt16BE(at = 0): number {
    return this.#view().getUint16(at)
  }

  readUInt32LE(at = 0): number {
    return this.#view().getUint32(at, true)
  }

  readUInt32BE(at = 0): number {
    return this.#view().getUint32(at)
  }

  readDoubleLE(at = 0): number {
    return this.#view().getFloat64(at, true)
  }

  readDoubleBE(at = 0): number {
    return this.#view().getFloat64(at)
  }

  readBigUInt64LE(at = 0): bigint {
    return this.#view().getBigUint64(at, true)
  }

  writeUInt16LE(value: number, at = 0): number {
    this.#view().setUint16(at, value, true)
    return at + 2
  }

  writeUInt32LE(value: number, at = 0): number {
    this.#view().setUint32(at, value, true)
    return at + 4
  }

  writeDoubleLE(value: number, at = 0): number {
    this.#view().setFloat64(at, value, true)
    return at + 8
  }

  writeDoubleBE(value: number, at = 0): number {
    this.#view().setFloat64(at, value)
    return at + 8
  }

  writeBigUInt64LE(value: bigint, at = 0): number {
    this.#view().setBigUint64(at, value, true)
    return at + 8
  }
}

function compare(a: Uint8Array, b: Uint8Array): -1 | 0 | 1 {
  for (let i = 0; i < Math.min(a.length, b.length); i++) {
    const [x = 0, y = 0] = [a[i], b[i]]
    if (x !== y) return x < y ? -1 : 1
  }
  return a.length === b.length ? 0 : a.length < b.length ? -1 : 1
}

/** The functions of Node's Buffer. */
export const functions = {
  alloc: (size: number): Bytes => new Bytes(size),
  allocUnsafe: (size: number): Bytes => new Bytes(size),
  compare,
  concat(parts: readonly Uint8Array[]): Bytes {
    const all = new Bytes(parts.reduce((sum, { length }) => sum + length, 0))
    let at = 0
    for (const part of parts) {
      all.set(part, at)
      at += part.length
    }
    return all
  },
  /** A buffer is looked at, anything else is copied. */
  from(source: string | ArrayBufferLike | Uint8Array, second?: number | Encoding, length?: number): Bytes {
    if (typeof source === 'string') {
      if (second === 'latin1') return Bytes.from(source, c => c.charCodeAt(0)) as Bytes
      if (second === 'hex') return Bytes.from(source.match(/../g) ?? [], pair => Number.parseInt(pair, 16)) as Bytes
      return new Bytes(ENCODER.encode(source))
    }
    if (source instanceof Uint8Array) return new Bytes(source)
    return new Bytes(source as ArrayBuffer, Number(second ?? 0), length)
  },
}

if (!('Buffer' in globalThis)) {
  const { from: _, ...rest } = functions
  const made = Object.assign(Bytes, rest)
  // Bytes inherits a `from` of its own, which the functions above use.
  const Buffer = new Proxy(made, { get: (of, name) => (name === 'from' ? functions.from : Reflect.get(of, name)) })
  Object.assign(globalThis, { Buffer })
}
