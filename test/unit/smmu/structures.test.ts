// SPDX-License-Identifier: Apache-2.0
/** STE, CD, stream table. Bit numbers are literals copied from IHI 0070 chapter 5. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { genmask64 } from '../../../server/smmu/bits.ts'
import * as cd from '../../../server/smmu/cd.ts'
import type { GuestMemory } from '../../../server/smmu/memory.ts'
import * as ste from '../../../server/smmu/ste.ts'
import * as strtab from '../../../server/smmu/strtab.ts'

type Constants = Record<string, unknown>

describe('STE fields (IHI 0070 section 5.2)', () => {
  // The specification numbers bits 0 to 511.
  it.each([
    ['STRTAB_STE_0_V', 0, 0],
    ['STRTAB_STE_0_CFG', 3, 1],
    ['STRTAB_STE_0_S1FMT', 5, 4],
    ['STRTAB_STE_0_S1CTXPTR_MASK', 55, 6],
    ['STRTAB_STE_0_S1CDMAX', 63, 59],
    ['STRTAB_STE_1_S1DSS', 65, 64],
    ['STRTAB_STE_1_S1CIR', 67, 66],
    ['STRTAB_STE_1_S1COR', 69, 68],
    ['STRTAB_STE_1_S1CSH', 71, 70],
    ['STRTAB_STE_1_S2HWU', 75, 72],
    ['STRTAB_STE_1_DRE', 76, 76],
    ['STRTAB_STE_1_CONT', 80, 77],
    ['STRTAB_STE_1_DCP', 81, 81],
    ['STRTAB_STE_1_PPAR', 82, 82],
    ['STRTAB_STE_1_MEV', 83, 83],
    ['STRTAB_STE_1_SW_RESERVED', 87, 84],
    ['STRTAB_STE_1_S1PIE', 88, 88],
    ['STRTAB_STE_1_S2FWB', 89, 89],
    ['STRTAB_STE_1_S1MPAM', 90, 90],
    ['STRTAB_STE_1_S1STALLD', 91, 91],
    ['STRTAB_STE_1_EATS', 93, 92],
    ['STRTAB_STE_1_STRW', 95, 94],
    ['STRTAB_STE_1_MEMATTR', 99, 96],
    ['STRTAB_STE_1_MTCFG', 100, 100],
    ['STRTAB_STE_1_ALLOCCFG', 104, 101],
    ['STRTAB_STE_1_SHCFG', 109, 108],
    ['STRTAB_STE_1_NSCFG', 111, 110],
    ['STRTAB_STE_1_PRIVCFG', 113, 112],
    ['STRTAB_STE_1_INSTCFG', 115, 114],
    ['STRTAB_STE_2_S2VMID', 143, 128],
    ['STRTAB_STE_2_VTCR', 178, 160],
    ['STRTAB_STE_2_S2AA64', 179, 179],
    ['STRTAB_STE_2_S2ENDI', 180, 180],
    ['STRTAB_STE_2_S2AFFD', 181, 181],
    ['STRTAB_STE_2_S2PTW', 182, 182],
    ['STRTAB_STE_2_S2HD', 183, 183],
    ['STRTAB_STE_2_S2HA', 184, 184],
    ['STRTAB_STE_2_S2S', 185, 185],
    ['STRTAB_STE_2_S2R', 186, 186],
    ['STRTAB_STE_2_S2HAFT', 187, 187],
    ['STRTAB_STE_2_S2PIE', 188, 188],
    ['STRTAB_STE_2_S2POE', 189, 189],
    ['STRTAB_STE_2_DPT_VMATCH', 191, 190],
    ['STRTAB_STE_3_S2NSW', 192, 192],
    ['STRTAB_STE_3_S2NSA', 193, 193],
    ['STRTAB_STE_3_S2SL0_2', 194, 194],
    ['STRTAB_STE_3_S2DS', 195, 195],
    ['STRTAB_STE_3_S2TTB_MASK', 243, 196],
    ['STRTAB_STE_4_PARTID', 287, 272],
    ['STRTAB_STE_5_PMG', 327, 320],
    ['STRTAB_STE_5_VMSPTR_MASK', 375, 332],
  ])('%s is [%i:%i]', (name, hi, lo) => {
    const dword = Number(/STE_(\d)/.exec(name)?.[1])
    expect((ste as unknown as Constants)[name]).toBe(genmask64(hi - 64 * dword, lo - 64 * dword))
  })

  it.each([
    ['S2T0SZ', 165, 160],
    ['S2SL0', 167, 166],
    ['S2IR0', 169, 168],
    ['S2OR0', 171, 170],
    ['S2SH0', 173, 172],
    ['S2TG', 175, 174],
    ['S2PS', 178, 176],
  ])('VTCR.%s is [%i:%i]', (name, hi, lo) =>
    expect((ste as unknown as Constants)[`STRTAB_STE_2_VTCR_${name}`]).toBe(genmask64(hi - 160, lo - 160)),
  )

  it.each([
    [[0n], 'V=0'],
    [[0x1n], 'V abort'],
    [[0x5n], 'V abort'],
    [[0x9n, 0x100000000000n], 'V bypass SHCFG=1'],
    [[0x4100_000bn, 0x1000_0000_00d4n], 'V s1 S1ContextPtr=0x41000000 S1CIR=1 S1COR=1 S1CSH=3 SHCFG=1 S2VMID=0'],
    [
      [0x5000_0000_4100_000fn, 0x1000_0000_00d4n, 0x044c_3594_0000_0007n, 0x4200_0000n],
      'V nested S1ContextPtr=0x41000000 S1CDMax=10 S1CIR=1 S1COR=1 S1CSH=3 SHCFG=1 S2VMID=7 S2T0SZ=20 S2SL0=2 S2IR0=1 S2OR0=1 S2SH0=3 S2TG=0 S2PS=4 S2AA64 S2PTW S2R S2TTB=0x42000000',
    ],
    [[0xdn, 0n, 0n], 'V s2 S2VMID=0 S2T0SZ=0 S2SL0=0 S2IR0=0 S2OR0=0 S2SH0=0 S2TG=0 S2PS=0 S2TTB=0x0'],
  ])('describes %x', (dwords, text) => {
    const entry = new BigUint64Array(8)
    entry.set(dwords)
    expect(ste.describeSte(entry)).toBe(text)
  })
})

describe('CD fields (IHI 0070 section 5.4)', () => {
  it.each([
    ['CTXDESC_CD_0_TCR_T0SZ', 5, 0],
    ['CTXDESC_CD_0_TCR_TG0', 7, 6],
    ['CTXDESC_CD_0_TCR_IRGN0', 9, 8],
    ['CTXDESC_CD_0_TCR_ORGN0', 11, 10],
    ['CTXDESC_CD_0_TCR_SH0', 13, 12],
    ['CTXDESC_CD_0_TCR_EPD0', 14, 14],
    ['CTXDESC_CD_0_ENDI', 15, 15],
    ['CTXDESC_CD_0_TCR_T1SZ', 21, 16],
    ['CTXDESC_CD_0_TCR_TG1', 23, 22],
    ['CTXDESC_CD_0_TCR_IRGN1', 25, 24],
    ['CTXDESC_CD_0_TCR_ORGN1', 27, 26],
    ['CTXDESC_CD_0_TCR_SH1', 29, 28],
    ['CTXDESC_CD_0_TCR_EPD1', 30, 30],
    ['CTXDESC_CD_0_V', 31, 31],
    ['CTXDESC_CD_0_TCR_IPS', 34, 32],
    ['CTXDESC_CD_0_AFFD', 35, 35],
    ['CTXDESC_CD_0_WXN', 36, 36],
    ['CTXDESC_CD_0_UWXN', 37, 37],
    ['CTXDESC_CD_0_TCR_TBI0', 38, 38],
    ['CTXDESC_CD_0_TCR_TBI1', 39, 39],
    ['CTXDESC_CD_0_PAN', 40, 40],
    ['CTXDESC_CD_0_AA64', 41, 41],
    ['CTXDESC_CD_0_TCR_HD', 42, 42],
    ['CTXDESC_CD_0_TCR_HA', 43, 43],
    ['CTXDESC_CD_0_S', 44, 44],
    ['CTXDESC_CD_0_R', 45, 45],
    ['CTXDESC_CD_0_A', 46, 46],
    ['CTXDESC_CD_0_ASET', 47, 47],
    ['CTXDESC_CD_0_ASID', 63, 48],
    ['CTXDESC_CD_1_NSCFG0', 64, 64],
    ['CTXDESC_CD_1_HAD0', 65, 65],
    ['CTXDESC_CD_1_E0PD0', 66, 66],
    ['CTXDESC_CD_1_HAFT', 67, 67],
    ['CTXDESC_CD_1_TTB0_MASK', 115, 68],
    ['CTXDESC_CD_1_EPAN', 123, 123],
    ['CTXDESC_CD_2_NSCFG1', 128, 128],
    ['CTXDESC_CD_2_HAD1', 129, 129],
    ['CTXDESC_CD_2_E0PD1', 130, 130],
    ['CTXDESC_CD_2_TTB1_MASK', 179, 132],
    ['CTXDESC_CD_2_DS', 186, 186],
    ['CTXDESC_CD_2_PIE', 187, 187],
    ['CTXDESC_CD_3_MAIR', 255, 192],
  ])('%s is [%i:%i]', (name, hi, lo) => {
    const dword = Number(/CD_(\d)/.exec(name)?.[1])
    expect((cd as unknown as Constants)[name]).toBe(genmask64(hi - 64 * dword, lo - 64 * dword))
  })

  it.each([
    [[0n], 'V=0'],
    [
      [0x0001_6204_c000_3510n, 0x4200_0000n, 0n, 0xff440c0400n],
      'V ASID=1 IPS=4 AA64 R A TTB0=0x42000000 T0SZ=16 TG0=4K EPD1 MAIR=0xff440c0400',
    ],
    [
      [0x0000_0080_8090_4000n, 0n, 0x4300_0002n, 0n],
      'V ASID=0 IPS=0 EPD0 TTB1=0x43000000 T1SZ=16 TG1=4K TBI1 HAD1 MAIR=0x0',
    ],
  ])('describes %x', (dwords, text) => {
    const entry = new BigUint64Array(8)
    entry.set(dwords)
    expect(cd.describeCd(entry)).toBe(text)
  })

  it('describes anything', () => {
    fc.assert(
      fc.property(fc.bigUint64Array({ minLength: 8, maxLength: 8 }), words => {
        expect(cd.describeCd(words)).toMatch(/^V/)
        expect(ste.describeSte(words)).toMatch(/^V/)
      }),
    )
  })
})

describe('stream table (IHI 0070 sections 5.1, 6.3.24, 6.3.25)', () => {
  const CFG = (fmt: number, split: number, log2size: number) => (fmt << 16) | (split << 6) | log2size

  it.each([
    // base lo, cfg, 2-level supported, expected
    [0x4800_0fc0, CFG(0, 0, 8), true, { twoLevel: false, base: 0x4800_0000, log2size: 8, split: 0 }],
    [0x4800_0fc0, CFG(0, 8, 0), true, { twoLevel: false, base: 0x4800_0fc0, log2size: 0, split: 0 }],
    [0x4800_0fc0, CFG(1, 8, 16), true, { twoLevel: true, base: 0x4800_0800, log2size: 16, split: 8 }],
    [0x4800_0fc0, CFG(1, 8, 8), true, { twoLevel: true, base: 0x4800_0fc0, log2size: 8, split: 8 }],
    [0x4800_0fc0, CFG(1, 10, 16), true, { twoLevel: true, base: 0x4800_0e00, log2size: 16, split: 10 }],
    [0x4800_0fc0, CFG(1, 7, 16), true, { twoLevel: true, base: 0x4800_0000, log2size: 16, split: 6 }],
    [0x4810_0000, CFG(1, 8, 25), true, { twoLevel: true, base: 0x4810_0000, log2size: 16, split: 8 }],
    [0x4818_0000, CFG(1, 8, 26), true, { twoLevel: true, base: 0x4800_0000, log2size: 16, split: 8 }],
    [0x4800_0fc0, CFG(1, 8, 16), false, { twoLevel: false, base: 0x4800_0000, log2size: 16, split: 0 }],
    [0x4800_0fc0, CFG(2, 8, 1), true, { twoLevel: false, base: 0x4800_0f80, log2size: 1, split: 0 }],
  ])('base %i cfg %i', (lo, cfg, supported, expected) =>
    expect(strtab.decodeStreamTable(lo, 0, cfg, 16, supported)).toEqual(expected),
  )

  it('measures the table', () => {
    const two = strtab.decodeStreamTable(0, 0, CFG(1, 8, 16), 16, true)
    expect([strtab.streamTableEntries(two), strtab.streamTableBytes(two)]).toEqual([256, 2048])
    const small = strtab.decodeStreamTable(0, 0, CFG(1, 8, 5), 16, true)
    expect([strtab.streamTableEntries(small), strtab.streamTableBytes(small)]).toEqual([1, 8])
    const linear = strtab.decodeStreamTable(0, 0, CFG(0, 0, 8), 16, true)
    expect([strtab.streamTableEntries(linear), strtab.streamTableBytes(linear)]).toEqual([256, 16384])
    expect(strtab.l1DescriptorAddress(two, 0x1ff)).toBe(8)
  })

  it.each([
    [0, 8, 0],
    [1, 8, 1],
    [9, 8, 256],
    [10, 8, 0],
    [11, 10, 1024],
    [12, 10, 0],
    [31, 10, 0],
    [7, 6, 64],
    [8, 6, 0],
  ])('span %i with split %i holds %i STEs', (span, split, stes) =>
    expect(strtab.l1DescriptorStes(0x4800_0000 | span, split)).toBe(stes),
  )

  it('aligns the L2 table to its size and ignores reserved bits', () => {
    expect(strtab.l1DescriptorL2Ptr(0x4800_4fc9, 0xff00_0001, 256)).toBe(0x1_4800_4000)
    expect(strtab.l1DescriptorL2Ptr(0x4800_4fc1, 0, 1)).toBe(0x4800_4fc0)
  })

  describe('look-up', () => {
    const L1 = 0x4000_0000
    const END = L1 + 0x1_0000
    /** RAM with L1 descriptors by number, the rest invalid. */
    const memory = (descriptors: Record<number, bigint>): GuestMemory => ({
      ram: [{ base: L1, size: END - L1 }],
      read(address, target, offset, length) {
        if (address < L1 || address + length > END) return false
        const words = new BigUint64Array(length / 8)
        for (let i = 0; i < words.length; i++) words[i] = descriptors[(address - L1) / 8 + i] ?? 0n
        target.set(new Uint8Array(words.buffer), offset)
        return true
      },
      write: () => false,
    })
    const two = strtab.decodeStreamTable(L1, 0, CFG(1, 8, 16), 16, true)

    it.each([
      ['in the first L2 table', 0x05, 0x4100_0140],
      ['the last that Span covers', 0x0f, 0x4100_03c0],
      ['beyond Span', 0x10, strtab.STE_ABSENT],
      ['in the second', 0x1ff, 0x4200_3fc0],
      ['where the descriptor is invalid', 0x200, strtab.STE_ABSENT],
      ['with a Reserved Span', 0x300, strtab.STE_ABSENT],
      ['beyond the table', 0x1_0000, strtab.STE_ABSENT],
    ])('%s', (_, sid, address) => {
      const descriptors = { 0: 0x4100_0005n, 1: 0x4200_0009n, 3: 0x4300_000cn }
      expect(strtab.steAddress(two, sid, memory(descriptors))).toBe(address)
    })

    it('of a linear table reads nothing', () => {
      const linear = strtab.decodeStreamTable(0x5000_0000, 0, CFG(0, 0, 8), 16, true)
      expect(strtab.steAddress(linear, 0xff, memory({}))).toBe(0x5000_3fc0)
      expect(strtab.steAddress(linear, 0x100, memory({}))).toBe(strtab.STE_ABSENT)
      expect([...strtab.steTables(linear, memory({}))]).toEqual([{ address: 0x5000_0000, sid: 0, stes: 256 }])
    })

    it('of a descriptor that is not in RAM', () => {
      const outside = { ...two, base: END }
      expect(strtab.steAddress(outside, 0, memory({}))).toBe(strtab.STE_UNREADABLE)
      expect([...strtab.steTables(outside, memory({}))]).toEqual([])
    })

    it('finds those between two StreamIDs, wherever they lie', () => {
      const descriptors = { 0: 0x4100_0009n, 1: 0x1_4200_0009n, 2: 0x4300_0009n, 3: 0x4400_0009n }
      const sids = (from?: number, to?: number) =>
        [...strtab.steTables(two, memory(descriptors), from, to)].map(({ sid }) => sid >> 8)
      expect(sids()).toEqual([0, 1, 2, 3])
      expect(sids(0x100)).toEqual([1, 2, 3])
      expect(sids(0x1ff, 0x201)).toEqual([1, 2])
      expect(sids(0, 0x100)).toEqual([0])
      expect([...strtab.steTables(two, memory(descriptors), 0x100, 0x200)]).toEqual([
        { address: 0x1_4200_0000, sid: 0x100, stes: 256 },
      ])
    })

    it('finds each once, where RAM ends behind the first of a page', () => {
      const cut = { ...two, base: END - 513 * 8, log2size: 24 }
      const first = (END - 513 * 8 - L1) / 8
      const found = [...strtab.steTables(cut, memory({ [first + 1]: 0x4100_0009n }))]
      expect(found).toEqual([{ address: 0x4100_0000, sid: 0x100, stes: 256 }])
    })

    it('reads an entry where there is one', () => {
      const words = memory({ 8: 0x0123_4567_89ab_cdefn, 15: 7n })
      expect(strtab.readSte(L1 + 64, words)).toEqual(
        BigUint64Array.of(0x0123_4567_89ab_cdefn, 0n, 0n, 0n, 0n, 0n, 0n, 7n),
      )
      expect(strtab.readSte(END, words)).toBeUndefined()
      const anywhere: GuestMemory = { ram: [], read: () => true, write: () => false }
      expect(strtab.readSte(0, anywhere)).toEqual(new BigUint64Array(8))
      for (const none of [strtab.STE_ABSENT, strtab.STE_UNREADABLE]) {
        expect(strtab.readSte(none, anywhere)).toBeUndefined()
      }
    })

    it('finds all L2 tables, of a table that is larger than a page and partly not in RAM', () => {
      const large = strtab.decodeStreamTable(L1, 0, CFG(1, 8, 24), 24, true)
      const descriptors = { 0: 0x4100_0005n, 511: 0x4200_0001n, 512: 0x4300_0009n, 8191: 0x4400_0009n, 8192: 1n }
      expect([...strtab.steTables(large, memory(descriptors))]).toEqual([
        { address: 0x4100_0000, sid: 0, stes: 16 },
        { address: 0x4200_0000, sid: 511 << 8, stes: 1 },
        { address: 0x4300_0000, sid: 512 << 8, stes: 256 },
        { address: 0x4400_0000, sid: 8191 << 8, stes: 256 },
      ])
    })
  })
})
