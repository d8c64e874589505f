// SPDX-License-Identifier: Apache-2.0
/** What the probe accepts, refuses and takes from the ID registers (server/hypervisor/README.md, section 2). */
import { describe, expect, test } from 'vitest'
import { HypFatal } from '../../../../server/policy/policy.ts'
import { fieldPrep } from '../../../../server/smmu/bits.ts'
import { QEMU_NESTED_ID_REGISTERS as QEMU } from '../../../../server/smmu/features.ts'
import * as r from '../../../../server/smmu/registers.ts'
import { Bench, CARVEOUT_BASE, MiB, RAM_BASE, type SetUp } from './support.ts'

function iidr(product: number, variant: number, revision: number, implementer = 0x43b): number {
  return ((product << 20) | (variant << 16) | (revision << 12) | implementer) >>> 0
}

function probed(setUp: SetUp): { bench: Bench; refusal: string | null } {
  const bench = new Bench(setUp)
  bench.hyp.reset()
  return { bench, refusal: bench.report.probes[0] }
}

const idr0 = (clear: number, set = 0) => ({ idr0: ((QEMU.idr0 & ~clear) | set) >>> 0 })
const idr1 = (clear: number, set = 0) => ({ idr1: ((QEMU.idr1 & ~clear) | set) >>> 0 })

describe('refused', () => {
  const rows: [string, SetUp, RegExp][] = [
    ['IDR0.S1P = 0', { ids: [idr0(r.IDR0_S1P)] }, /stage 1/],
    ['IDR0.S2P = 0', { ids: [idr0(r.IDR0_S2P)] }, /stage 2/],
    ['IDR0.TTENDIAN reserved', { ids: [idr0(r.IDR0_TTENDIAN, fieldPrep(r.IDR0_TTENDIAN, 1))] }, /TTENDIAN/],
    ['IDR0.COHACC = 0', { ids: [idr0(r.IDR0_COHACC)] }, /coherent/],
    ['IDR1.TABLES_PRESET', { ids: [idr1(0, r.IDR1_TABLES_PRESET)] }, /TABLES_PRESET/],
    ['IDR1.QUEUES_PRESET', { ids: [idr1(0, r.IDR1_QUEUES_PRESET)] }, /QUEUES_PRESET/],
    ['IDR1.REL', { ids: [idr1(0, r.IDR1_REL)] }, /REL/],
    ['IDR1.SIDSIZE reserved', { ids: [idr1(r.IDR1_SIDSIZE, 33)] }, /SIDSIZE/],
    ['IDR1.CMDQS = 11', { ids: [idr1(r.IDR1_CMDQS, 11 << 21)] }, /CMDQS/],
    ['no granule', { ids: [{ idr5: r.IDR5_OAS_44_BIT | r.IDR5_GRAN16K }] }, /granule/],
    ['a frame of 64 KiB', { frames: [{ base: 0x0905_0000, size: 0x1_0000 }] }, /128 KiB/],
    ['a frame that is not page aligned', { frames: [{ base: 0x0905_0800, size: 0x2_0000 }] }, /aligned/],
    ['MMU-600 r0p0', { iidrs: [iidr(0x483, 0, 0)] }, /MMU-600 r0p0/],
    ['MMU-600 r1p3', { iidrs: [iidr(0x483, 1, 3)] }, /MMU-600 r1p3/],
    ['MMU-700 r0p1', { iidrs: [iidr(0x487, 0, 1)] }, /MMU-700 r0p1/],
    ['MMU-700 r1p0', { iidrs: [iidr(0x487, 1, 0)] }, /MMU-700 r1p0/],
    ['MMU-700 r2p0', { iidrs: [iidr(0x487, 2, 0)] }, /MMU-700 r2p0/],
    ['no carve-out', { carveout: { base: 0, size: 0 } }, /no hypervisor memory/],
    [
      'a carve-out outside of RAM',
      { carveout: { base: 0x1000_0000, size: 4 * MiB } },
      /not RAM|cannot be written|too small/,
    ],
    ['a carve-out of one page', { carveout: { base: CARVEOUT_BASE, size: 4096 } }, /too small/],
    ['a carve-out without room for the idmap', { carveout: { base: CARVEOUT_BASE, size: 17 * 4096 } }, /idmap/],
  ]
  test.each(rows)('%s', (_, setUp, reason) => {
    const { bench, refusal } = probed(setUp)
    expect(refusal).toMatch(reason)
    expect(bench.hyp.isolated).toBe(false)
    expect(bench.hyp.idmapInfo).toBeNull()
    expect(bench.report.take()).toEqual([])
  })

  test.each(rows)('%s: fatal when isolation is required', (_, setUp, reason) => {
    const bench = new Bench({ ...setUp, options: { requireIsolation: true } })
    expect(() => bench.hyp.reset()).toThrow(HypFatal)
    expect(() => bench.hyp.reset()).toThrow(reason)
  })

  test.each(['mmio', 'cmdq', 'strtab', 'queues'] as const)('isolation that %s has not', until => {
    const bench = new Bench({ options: { until, requireIsolation: true } })
    expect(() => bench.hyp.reset()).toThrow(`no DMA isolation: --until ${until}`)
    expect(bench.hyp.isolates).toBe(false)
  })

  test('isolation that is there', () => {
    const bench = new Bench({ options: { requireIsolation: true } })
    bench.hyp.reset()
    expect(bench.hyp.isolates).toBe(true)
  })

  test('the machine boots without isolation: accesses reach the hardware as they are', () => {
    const { bench } = probed({ ids: [idr1(0, r.IDR1_REL)] })
    expect(bench.read(r.ARM_SMMU_IDR0)).toBe(QEMU.idr0)
    bench.write(r.ARM_SMMU_GBPA, r.GBPA_UPDATE | 0x10)
    expect(bench.hw.get(r.ARM_SMMU_GBPA)).toBe(0x10)
    bench.write64(r.ARM_SMMU_STRTAB_BASE, RAM_BASE)
    expect(bench.hw.get64(r.ARM_SMMU_STRTAB_BASE)).toBe(BigInt(RAM_BASE))
    expect(bench.trap(true, r.ARM_SMMU_CR0, 2, 1).aborted).toBe(true)
    expect(bench.hyp.donate(RAM_BASE, 4096, 1)).toBe(-19)
    expect(bench.report.take()).toEqual([])
  })

  test('one SMMU that is refused leaves the whole machine without isolation, and each says why', () => {
    const bench = new Bench({ smmus: 2, ids: [{}, idr0(r.IDR0_S2P)] })
    bench.hyp.reset()
    expect(bench.hyp.isolated).toBe(false)
    expect(bench.report.probes[0]).toMatch(/SMMU 1/)
    expect(bench.report.probes[1]).toMatch(/stage 2/)
  })

  test('SMMUs whose table endianness has nothing in common', () => {
    const endian = (value: number) => idr0(r.IDR0_TTENDIAN, fieldPrep(r.IDR0_TTENDIAN, value))
    const bench = new Bench({ smmus: 2, ids: [endian(r.IDR0_TTENDIAN_LE), endian(r.IDR0_TTENDIAN_BE)] })
    bench.hyp.reset()
    expect(bench.report.probes[0]).toMatch(/endian/)
  })
})

describe('accepted', () => {
  const rows: [string, SetUp][] = [
    ['QEMU', {}],
    ['TTENDIAN mixed', { ids: [idr0(r.IDR0_TTENDIAN)] }],
    ['TTENDIAN big', { ids: [idr0(r.IDR0_TTENDIAN, fieldPrep(r.IDR0_TTENDIAN, r.IDR0_TTENDIAN_BE))] }],
    ['no range invalidation', { ids: [{ idr3: 0 }] }],
    ['a linear stream table', { ids: [{ ...idr0(r.IDR0_ST_LVL), ...idr1(r.IDR1_SIDSIZE, 12) }] }],
    ['MMU-600 r2p0', { iidrs: [iidr(0x483, 2, 0)] }],
    ['MMU-700 r1p1', { iidrs: [iidr(0x487, 1, 1)] }],
    ['MMU-700 r2p1', { iidrs: [iidr(0x487, 2, 1)] }],
    ['another implementer with the number of the MMU-600', { iidrs: [iidr(0x483, 0, 0, 0x123)] }],
    ['a broken MMU-600 when nesting is not used', { iidrs: [iidr(0x483, 0, 0)], options: { until: 'queues' } }],
    ['a larger frame', { frames: [{ base: 0x0905_0000, size: 0x4_0000 }] }],
  ]
  test.each(rows)('%s', (_, setUp) => {
    const { bench, refusal } = probed(setUp)
    expect(refusal).toBeNull()
    expect(bench.hyp.isolated).toBe(true)
  })

  test.each([
    [0, 32],
    [1, 36],
    [2, 40],
    [3, 42],
    [4, 44],
    [5, 48],
    [6, 52],
    [7, 48],
  ])('IDR5.OAS %i is %i bits', (oas, bits) => {
    const { bench } = probed({ ids: [{ idr5: oas | r.IDR5_GRAN4K }] })
    expect(bench.hyp.smmus[0].features.oas).toBe(bits)
    expect(bench.hyp.idmapInfo?.outputBits).toBe(bits)
    expect(bench.hyp.idmapInfo?.inputBits).toBe(Math.min(48, bits))
  })

  test.each([
    [4096, r.IDR5_GRAN4K],
    [16384, r.IDR5_GRAN16K],
    [65536, r.IDR5_GRAN64K],
  ] as const)('granule %i', (granule, bit) => {
    const { bench } = probed({ ids: [{ idr5: r.IDR5_OAS_44_BIT | bit }], options: { granule } })
    expect(bench.hyp.isolated).toBe(true)
    expect(bench.hyp.idmapInfo?.granule).toBe(granule)
  })

  test('the probe reads, and writes nothing', () => {
    const bench = new Bench({ ids: [idr1(0, r.IDR1_REL)] })
    const log = bench.record()
    bench.hyp.reset()
    expect(log.filter(entry => entry.what === 'reg')).toEqual([])
  })
})
