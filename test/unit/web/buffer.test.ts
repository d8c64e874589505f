// SPDX-License-Identifier: Apache-2.0
/** The Buffer and the checksums of the browser do what Node's do. */
import { crc32 } from 'node:zlib'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { Bytes, functions } from '../../../server/web/src/recorded/buffer.ts'
import { crc32 as mine } from '../../../server/web/src/recorded/zlib.ts'

const bytes = fc.uint8Array({ minLength: 8, maxLength: 64 })

test('reads and writes', () => {
  fc.assert(
    fc.property(bytes, fc.nat(), fc.double(), fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), (from, n, double, big) => {
      const at = n % (from.length - 7)
      const [a, b] = [functions.from(from), Buffer.from(from)]
      for (const name of [
        'readUInt16LE',
        'readUInt16BE',
        'readUInt32LE',
        'readUInt32BE',
        'readDoubleLE',
        'readDoubleBE',
        'readBigUInt64LE',
      ] as const) {
        expect(a[name](at)).toEqual(b[name](at))
      }
      a.writeUInt16LE(n & 0xffff, at)
      b.writeUInt16LE(n & 0xffff, at)
      a.writeUInt32LE(n, at)
      b.writeUInt32LE(n, at)
      expect([...a]).toEqual([...b])
      a.writeDoubleLE(double, at)
      b.writeDoubleLE(double, at)
      expect([...a]).toEqual([...b])
      a.writeDoubleBE(double, at)
      b.writeDoubleBE(double, at)
      expect([...a]).toEqual([...b])
      a.writeBigUInt64LE(big, at)
      b.writeBigUInt64LE(big, at)
      expect([...a]).toEqual([...b])
    }),
  )
})

test('text, comparisons, copies and places', () => {
  fc.assert(
    fc.property(bytes, bytes, fc.string({ unit: 'grapheme' }), fc.nat(63), (x, y, text, n) => {
      const [a, b] = [functions.from(x), Buffer.from(x)]
      for (const encoding of ['utf8', 'hex', 'latin1'] as const) {
        expect(a.toString(encoding)).toBe(b.toString(encoding))
        expect(a.toString(encoding, 1, 5)).toBe(b.toString(encoding, 1, 5))
      }
      expect([...functions.from(text)]).toEqual([...Buffer.from(text)])
      expect([...functions.from(b.toString('hex'), 'hex')]).toEqual([...b])
      expect([...functions.from(b.toString('latin1'), 'latin1')]).toEqual([...b])
      expect(functions.compare(x, y)).toBe(Buffer.compare(x, y))
      expect(a.equals(x)).toBe(true)
      expect(a.equals(y)).toBe(b.equals(y))
      expect([...functions.concat([x, y])]).toEqual([...Buffer.concat([x, y])])
      const [c, d] = [functions.alloc(16), Buffer.alloc(16)]
      expect(a.copy(c, n % 16)).toBe(b.copy(d, n % 16))
      expect([...c]).toEqual([...d])
      const part = x.subarray(n % x.length, (n % x.length) + 3)
      expect(a.indexOf(part, n % 4)).toBe(b.indexOf(part, n % 4))
      expect(a.indexOf(x[0] ?? 0, n % 4)).toBe(b.indexOf(x[0] ?? 0, n % 4))
      const whole = x.subarray(0, x.length - (x.length % 8))
      expect([...functions.from(whole).swap64()]).toEqual([...Buffer.from(whole).swap64()])
    }),
  )
})

test('a part of a buffer is the same memory, a buffer of bytes is not', () => {
  const a = functions.alloc(8)
  a.subarray(2, 4).fill(7)
  expect([...a]).toEqual([0, 0, 7, 7, 0, 0, 0, 0])
  expect(a.subarray(2)).toBeInstanceOf(Bytes)
  const source = new Uint8Array([1, 2, 3])
  functions.from(source).fill(9)
  expect([...source]).toEqual([1, 2, 3])
  functions.from(source.buffer, 1, 1).fill(9)
  expect([...source]).toEqual([1, 9, 3])
})

test('checksums, in one piece and in two', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), fc.uint8Array({ maxLength: 50 }), (x, y) => {
      expect(mine(x)).toBe(crc32(x))
      expect(mine(y, mine(x))).toBe(crc32(y, crc32(x)))
    }),
  )
})
