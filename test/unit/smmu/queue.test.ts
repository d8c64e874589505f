// SPDX-License-Identifier: Apache-2.0
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import * as q from '../../../server/smmu/queue.ts'

describe('queue indices (IHI 0070 section 3.5.1)', () => {
  it('behaves like a counter modulo twice the size', () => {
    fc.assert(
      fc.property(fc.nat(19), fc.nat(2 ** 21), fc.nat(2 ** 19), fc.nat(0xff), (log2size, consumed, fill, flags) => {
        const size = 2 ** log2size
        const entries = fill % (size + 1)
        const cons = ((consumed % (2 * size)) | (flags << 24)) >>> 0
        const prod = (consumed + entries) % (2 * size)
        expect(q.queueEntries(prod, cons, log2size)).toBe(entries)
        expect(q.queueSpace(prod, cons, log2size)).toBe(size - entries)
        expect(q.queueEmpty(prod, cons, log2size)).toBe(entries === 0)
        expect(q.queueFull(prod, cons, log2size)).toBe(entries === size)
        expect(q.queueIndex(cons, log2size)).toBe(consumed % size)
        expect(q.queuePointer(cons, log2size)).toBe(consumed % (2 * size))
        expect(q.queueAdvance(q.queuePointer(cons, log2size), log2size, entries)).toBe(prod)
      }),
    )
  })

  it('sees PROD and CONS that describe no queue', () => {
    expect(q.queueEntries(0, 1, 2)).toBe(7)
    expect(q.queueSpace(0, 1, 2)).toBe(0)
    expect(q.queueFull(0, 1, 2)).toBe(false)
  })

  it.each([
    // log2size, entry size, ADDR as written, effective address (IHI 0070 section 6.3.26)
    [8, 16, 0x48000fe0, 0x48000000],
    [0, 16, 0x48000020, 0x48000020],
    [0, 32, 0x48000020, 0x48000020],
    [1, 32, 0x48000020, 0x48000000],
    [19, 16, 0x48900000, 0x48800000],
  ])('a base of 2^%i entries of %i bytes at %i', (log2size, size, lo, base) => {
    expect(q.queueBase(lo | log2size, 0, log2size, size)).toBe(base)
    expect(q.queueLog2Size(lo | log2size, 19)).toBe(log2size)
  })

  it('caps LOG2SIZE and ignores the hint bit', () => {
    expect(q.queueLog2Size(31, 19)).toBe(19)
    expect(q.queueBase(0, 0x40000001, 8, 16)).toBe(0x1_0000_0000)
  })
})
