// SPDX-License-Identifier: Apache-2.0
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import * as p from '../../../server/smmu/pagetable.ts'

describe('levels (DDI 0487 D8.2)', () => {
  it.each([
    // granule, input bits from, to, start level of stage 1
    [12, 25, 30, 2],
    [12, 31, 39, 1],
    [12, 40, 48, 0],
    [14, 25, 25, 3],
    [14, 26, 36, 2],
    [14, 37, 47, 1],
    [14, 48, 48, 0],
    [16, 25, 29, 3],
    [16, 30, 42, 2],
    [16, 43, 52, 1],
  ])('granule 2^%i, %i to %i bits start at level %i', (granule, from, to, level) => {
    for (let bits = from; bits <= to; bits++) expect(p.stage1StartLevel(bits, granule)).toBe(level)
  })

  it.each([
    [12, [39, 30, 21, 12]],
    [14, [47, 36, 25, 14]],
    [16, [55, 42, 29, 16]],
  ])('granule 2^%i has levels of 2^%j bytes', (granule, shifts) =>
    expect([0, 1, 2, 3].map(level => p.levelShift(level, granule))).toEqual(shifts),
  )

  it.each([
    // granule, SL0, OAS, STT, start level
    [12, 0, 44, false, 2],
    [12, 1, 44, false, 1],
    [12, 2, 44, false, 0],
    [12, 2, 42, false, -1],
    [12, 3, 48, false, -1],
    [12, 3, 48, true, 3],
    [14, 0, 44, false, 3],
    [14, 1, 44, false, 2],
    [14, 2, 44, false, 1],
    [14, 2, 42, false, 1],
    [14, 2, 40, false, -1],
    [14, 3, 48, true, -1],
    [16, 0, 44, false, 3],
    [16, 1, 44, false, 2],
    [16, 2, 44, false, 1],
    [16, 2, 42, false, -1],
    [16, 3, 48, true, -1],
  ])('granule 2^%i, SL0 %i, OAS %i, STT %s: level %i', (granule, sl0, oas, stt, level) => {
    expect(p.stage2StartLevel(sl0, granule, oas, stt)).toBe(level)
    if (level >= 0) expect(p.stage2Sl0(level, granule)).toBe(sl0)
  })

  it.each([
    // granule, start level, fewest and most input bits: one to full table times 16 (D8.2.2)
    [12, 2, 22, 34],
    [12, 1, 31, 43],
    [12, 0, 40, 52],
    [14, 3, 15, 29],
    [14, 2, 26, 40],
    [14, 1, 37, 51],
    [16, 3, 17, 33],
    [16, 2, 30, 46],
    [16, 1, 43, 59],
  ])('granule 2^%i starting at level %i takes %i to %i bits', (granule, level, min, max) => {
    expect(p.stage2StartLevelFits(min, level, granule)).toBe(true)
    expect(p.stage2StartLevelFits(min - 1, level, granule)).toBe(false)
    expect(p.stage2StartLevelFits(max, level, granule)).toBe(true)
    expect(p.stage2StartLevelFits(max + 1, level, granule)).toBe(false)
    expect(p.concatenatedTables(max, level, granule)).toBe(16)
    expect(p.startTableBytes(max, level, granule)).toBe(16 * 2 ** granule)
    expect(p.concatenatedTables(min, level, granule)).toBe(1)
    expect(p.startTableBytes(min, level, granule)).toBe(16)
  })

  it.each([
    // granule, input bits, shortest start level, tables
    [12, 32, 2, 4],
    [12, 36, 1, 1],
    [12, 40, 1, 2],
    [12, 42, 1, 8],
    [12, 44, 0, 1],
    [12, 48, 0, 1],
    [14, 40, 2, 16],
    [14, 44, 1, 1],
    [14, 48, 1, 2],
    [16, 44, 2, 4],
    [16, 48, 1, 1],
  ])('granule 2^%i, %i bits of stage 2 start best at level %i with %i tables', (granule, bits, level, tables) => {
    expect(p.stage2ShortestStartLevel(bits, granule)).toBe(level)
    expect(p.concatenatedTables(bits, level, granule)).toBe(tables)
  })

  it('decodes TG0 and TG1', () => {
    expect([0, 1, 2, 3].map(p.tg0GranuleShift)).toEqual([12, 16, 14, 0])
    expect([0, 1, 2, 3].map(p.tg1GranuleShift)).toEqual([0, 14, 12, 16])
  })

  it.each([
    [12, 48, [false, true, true]],
    [14, 48, [false, false, true]],
    [16, 48, [false, false, true]],
    [16, 52, [false, true, true]],
  ])('granule 2^%i with OAS %i: blocks at levels 0 to 2: %j', (granule, oas, allowed) =>
    expect([0, 1, 2].map(level => p.blockAllowed(level, granule, oas))).toEqual(allowed),
  )

  it.each([
    [12, 1, 16],
    [12, 2, 16],
    [12, 3, 16],
    [14, 2, 32],
    [14, 3, 128],
    [16, 2, 32],
    [16, 3, 32],
  ])('granule 2^%i level %i: %i contiguous entries', (granule, level, entries) =>
    expect(2 ** p.contiguousBits(level, granule)).toBe(entries),
  )
})

describe('descriptors (DDI 0487 D8.3)', () => {
  it('puts an address in and gets it out again, whatever the attributes', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(12, 14, 16),
        fc.nat(2 ** 36 - 1),
        fc.boolean(),
        fc.nat(0x3ff),
        (granule, page, wide, attributes) => {
          const oas = wide ? 52 : 48
          const bits = wide && granule === 16 ? 52 : 48
          const address = (page * 2 ** granule) % 2 ** bits
          const lo = p.descriptorLo(address, (attributes << 2) | 3, granule)
          const hi = p.descriptorHi(address, 0xfff0_0000)
          expect(p.descriptorAddress(lo, hi, granule, granule, oas)).toBe(address)
          expect(lo & 0xfff).toBe((attributes << 2) | 3)
        },
      ),
    )
  })

  it('drops the low bits of a block address', () => {
    expect(p.descriptorAddress(0x4020_0f01, 0x0070_0001, 30, 12, 48)).toBe(0x1_4000_0000)
    expect(p.descriptorAddress(0x4020_0f01, 0x0070_0001, 21, 12, 48)).toBe(0x1_4020_0000)
  })

  it('takes bits [51:48] from [15:12] only with 64 KiB and 52 bits', () => {
    expect(p.descriptorAddress(0x0001_a003, 0, 16, 16, 52)).toBe(0xa_0000_0001_0000)
    expect(p.descriptorAddress(0x0001_a003, 0, 16, 16, 48)).toBe(0x1_0000)
    expect(p.descriptorAddress(0x0001_a003, 0xf_ffff, 12, 12, 52)).toBe(0xffff_0001_a000)
  })
})
