// SPDX-License-Identifier: Apache-2.0
/** All of it holds for each SMMU, the idmap is one, limited to what all support (server/hypervisor/README.md, section 1). */
import { beforeEach, describe, expect, test } from 'vitest'
import * as r from '../../../../server/smmu/registers.ts'
import { command } from '../../smmu/fields.ts'
import { Bench, Host, idmapEntry, RAM_BASE, SMMU_BASE, STE, shadowSte, shadowSteAddress } from './support.ts'

const APART = 6 * 2 ** 20
let bench: Bench
let hosts: Host[]
beforeEach(() => {
  bench = new Bench({ smmus: 3, ids: [{}, { idr5: r.IDR5_OAS_40_BIT | r.IDR5_GRAN4K }, { idr3: 0 }] })
  bench.hyp.reset()
  hosts = [0, 1, 2].map(smmu => new Host(bench, smmu, smmu * APART))
})

test('each is probed, and reported', () => {
  expect(bench.report.probes).toEqual([null, null, null])
  expect(bench.hyp.smmus.map(({ features: { oas, rangeInvalidation } }) => [oas, rangeInvalidation])).toEqual([
    [44, true],
    [40, true],
    [44, false],
  ])
})

test('the idmap has the smallest output size', () => {
  expect(bench.hyp.idmapInfo).toMatchObject({ inputBits: 40, outputBits: 40, startLevel: 1, concatenated: 2 })
})

test('no SMMU frame is mapped', () => {
  for (let smmu = 0; smmu < 3; smmu++) {
    expect(idmapEntry(bench, SMMU_BASE + smmu * 0x2_0000)).toBeNull()
    expect(idmapEntry(bench, SMMU_BASE + smmu * 0x2_0000 + 0x1_ffff)).toBeNull()
  }
  expect(idmapEntry(bench, SMMU_BASE + 3 * 0x2_0000)).not.toBeNull()
})

test('a granule that one of them lacks', () => {
  bench = new Bench({
    smmus: 2,
    ids: [{}, { idr5: r.IDR5_OAS_40_BIT | r.IDR5_GRAN4K }],
    options: { granule: 65536 },
  })
  bench.hyp.reset()
  expect(bench.report.probes).toEqual(['SMMU 1: no 64 KiB granule', 'SMMU 1: no 64 KiB granule'])
  expect(bench.hyp.isolated).toBe(false)
})

test('every one has its own queue and table', () => {
  const places = bench.hardware.flatMap(hw => [
    hw.get64(r.ARM_SMMU_CMDQ_BASE) & 0xf_ffff_ffff_ffe0n,
    hw.get64(r.ARM_SMMU_STRTAB_BASE) & 0xf_ffff_ffff_ffc0n,
  ])
  expect(new Set(places).size).toBe(6)
})

describe('side by side', () => {
  beforeEach(() => {
    for (const host of hosts) host.boot()
  })

  test('the same StreamID is another stream on each', () => {
    hosts[0].attach(8, STE.s1)
    hosts[1].attach(8, STE.bypass)
    hosts[2].attach(8, STE.abort)
    expect([0, 1, 2].map(smmu => (shadowSte(bench, 8, smmu)[0] >> 1n) & 7n)).toEqual([7n, 6n, 0n])
    expect(new Set([0, 1, 2].map(smmu => shadowSteAddress(bench, 8, smmu))).size).toBe(3)
    expect(bench.hyp.streams().map(({ smmu, sid }) => [smmu, sid])).toEqual([
      [0, 8],
      [1, 8],
      [2, 8],
    ])
    expect(bench.report.take()).toEqual([])
    // All of them walk the same tables.
    expect(shadowSte(bench, 8, 0)[3]).toBe(shadowSte(bench, 8, 1)[3])
  })

  test("one's trouble is not another's", () => {
    bench.hardware[1].stuck = true
    hosts[1].commands(command('SYNC'))
    expect(bench.report.warnings).toMatchObject([{ code: 'HYP_CMDQ_TIMEOUT', smmu: 1 }])
    bench.report.take()
    hosts[0].commands(command('SYNC'))
    hosts[2].attach(3, STE.s1)
    expect(bench.report.take()).toEqual([])
  })

  test('a structure of one cannot be a structure of another', () => {
    bench.write(r.ARM_SMMU_CR0, 0, 1)
    bench.report.take()
    bench.write64(r.ARM_SMMU_CMDQ_BASE, hosts[0].cmdq + 8, 0, 1)
    bench.write(r.ARM_SMMU_CR0, r.CR0_CMDQEN, 1)
    expect(bench.report.warnings).toMatchObject([{ code: 'HYP_CMDQ_SHARE', smmu: 1 }])
  })

  test('a donation that one SMMU does not follow is taken back', () => {
    bench.hardware[2].stuck = true
    expect(bench.hyp.donate(RAM_BASE, 4096, 1)).toBeLessThan(0)
    expect(idmapEntry(bench, RAM_BASE)).not.toBeNull()
    bench.hardware[2].stuck = false
    expect(bench.hyp.donate(RAM_BASE, 4096, 1)).toBe(0)
  })
})
