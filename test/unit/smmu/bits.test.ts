// SPDX-License-Identifier: Apache-2.0
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import * as bits from '../../../server/smmu/bits.ts'

describe('masks', () => {
  it.each([
    [31, 0, 0xffffffff],
    [31, 31, 0x80000000],
    [30, 24, 0x7f000000],
    [0, 0, 1],
    [5, 0, 0x3f],
  ])('genmask(%i, %i)', (hi, lo, mask) => expect(bits.genmask(hi, lo)).toBe(mask))

  it('gets back what was put into a register field, and leaves the rest alone', () => {
    fc.assert(
      fc.property(fc.nat(31), fc.nat(31), fc.nat(0xffffffff), (a, b, value) => {
        const mask = bits.genmask(Math.max(a, b), Math.min(a, b))
        const width = Math.abs(a - b) + 1
        expect(bits.fieldGet(mask, bits.fieldPrep(mask, value))).toBe(
          Number(BigInt(value) & ((1n << BigInt(width)) - 1n)),
        )
      }),
    )
  })

  it('agrees with BigInt on 64-bit fields inside one word', () => {
    fc.assert(
      fc.property(
        fc.nat(31),
        fc.nat(31),
        fc.boolean(),
        fc.nat(3),
        fc.bigInt(0n, 2n ** 64n - 1n),
        (a, b, high, dword, value) => {
          const offset = high ? 32 : 0
          const mask = bits.genmask64(Math.max(a, b) + offset, Math.min(a, b) + offset)
          const dwords = new BigUint64Array(4)
          dwords[dword] = value
          const words = new Uint32Array(dwords.buffer)
          const field = bits.dwordField(dword, mask)
          expect(bits.getField(words, field)).toBe(bits.fieldGet64(mask, value))
          bits.setField(words, field, 0)
          expect(dwords[dword]).toBe(value & ~mask)
          bits.setField(words, field, 0xffffffff)
          expect(dwords[dword]).toBe(value | mask)
        },
      ),
    )
  })

  it('refuses a field that crosses a word', () => {
    expect(() => bits.field(32, 31)).toThrow(RangeError)
    expect(() => bits.field(3, 4)).toThrow(RangeError)
  })

  it('does with powers of two what ** and % do', () => {
    fc.assert(
      fc.property(fc.maxSafeNat(), fc.nat(53), (value, n) => {
        expect(bits.shiftDown(value, n)).toBe(Math.floor(value / 2 ** n))
        expect(bits.alignDown(value, n)).toBe(value - (value % 2 ** n))
        expect(bits.lowBits(value, n)).toBe(value % 2 ** n)
        expect(bits.exceeds(value, n)).toBe(value >= 2 ** n)
      }),
    )
  })

  it('shows numbers in hexadecimal', () => {
    expect(bits.hex(255)).toBe('0xff')
    expect(bits.hex64(0xfffff000, 0xffffffff)).toBe('0xfffffffffffff000')
  })
})
