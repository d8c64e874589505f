// SPDX-License-Identifier: Apache-2.0
/** What stands in the hardware before the host's first access (server/hypervisor/README.md, section 3). */
import { describe, expect, test } from 'vitest'
import { PAGE_HYP } from '../../../../server/hypervisor/pkvm/ownership.ts'
import { OK } from '../../../../server/policy/result.ts'
import { QEMU_NESTED_ID_REGISTERS as QEMU } from '../../../../server/smmu/features.ts'
import * as r from '../../../../server/smmu/registers.ts'
import { CFGI_ALL } from '../../smmu/fields.ts'
import { softHost } from './soft.ts'
import { Bench, CARVEOUT_BASE, CARVEOUT_SIZE, MiB, RAM_BASE, RAM_SIZE, STE } from './support.ts'

function reset(...args: ConstructorParameters<typeof Bench>): Bench {
  const bench = new Bench(...args)
  bench.hyp.reset()
  return bench
}

const inCarveout = (address: bigint, size: number) =>
  address >= BigInt(CARVEOUT_BASE) && address + BigInt(size) <= BigInt(CARVEOUT_BASE + CARVEOUT_SIZE)

test('shadow command queue: 4096 entries in hypervisor memory, empty', () => {
  const { hw } = reset()
  const base = hw.get64(r.ARM_SMMU_CMDQ_BASE)
  expect(base & 0x1fn).toBe(12n)
  expect(inCarveout(base & 0xf_ffff_ffff_ffe0n, 65536)).toBe(true)
  expect((base & 0xf_ffff_ffff_ffe0n) % 65536n).toBe(0n)
  expect(hw.get(r.ARM_SMMU_CMDQ_PROD)).toBe(0)
  expect(hw.get(r.ARM_SMMU_CMDQ_CONS)).toBe(0)
})

describe('shadow stream table', () => {
  test.each([
    // twoLevel, SIDSIZE, FMT, LOG2SIZE, bytes
    [true, 16, 1, 16, 256 * 8],
    [true, 9, 1, 9, 2 * 8],
    [true, 24, 1, 24, 65536 * 8],
    [true, 25, 1, 25, 131072 * 8],
    [true, 32, 1, 25, 131072 * 8],
    [true, 8, 0, 8, 256 * 64],
    [true, 1, 0, 1, 2 * 64],
    [true, 0, 0, 0, 64],
    [false, 16, 0, 16, 65536 * 64],
    [false, 8, 0, 8, 256 * 64],
  ])('2-level %s, SIDSIZE %i: FMT %i, LOG2SIZE %i', (twoLevel, sidSize, format, log2size, bytes) => {
    const idr0 = twoLevel ? QEMU.idr0 : QEMU.idr0 & ~r.IDR0_ST_LVL
    const { hw, hyp } = reset({ ids: [{ idr0, idr1: (QEMU.idr1 & ~r.IDR1_SIDSIZE) | sidSize }] })
    expect(hyp.refusals).toEqual([null])
    const base = hw.get64(r.ARM_SMMU_STRTAB_BASE)
    expect(base >> 62n).toBe(1n)
    const address = base & 0xff_ffff_ffff_ffc0n
    expect(inCarveout(address, bytes)).toBe(true)
    expect(address % BigInt(Math.max(64, bytes))).toBe(0n)
    expect(hyp.smmus[0].shadowStrtab.bytes).toBe(bytes)
    const cfg = hw.get(r.ARM_SMMU_STRTAB_BASE_CFG)
    expect(cfg >>> 16).toBe(format)
    expect((cfg >>> 6) & 0x1f).toBe(format === 1 ? 8 : 0)
    expect(cfg & 0x3f).toBe(log2size)
  })

  test('a linear table that is larger than hypervisor memory is refused', () => {
    const { hyp } = reset({
      ids: [{ idr0: QEMU.idr0 & ~r.IDR0_ST_LVL, idr1: (QEMU.idr1 & ~r.IDR1_SIDSIZE) | 32 }],
    })
    expect(hyp.isolated).toBe(false)
  })
})

describe('GBPA', () => {
  test('abort, the rest as it was', () => {
    const { hw } = reset()
    expect(hw.get(r.ARM_SMMU_GBPA)).toBe(0x1000 | r.GBPA_ABORT)
  })

  test('written with UPDATE', () => {
    const bench = new Bench()
    const log = bench.record()
    bench.hyp.reset()
    const writes = log.filter(entry => entry.what === 'reg' && entry.offset === r.ARM_SMMU_GBPA)
    expect(writes).toMatchObject([{ value: BigInt((0x1000 | r.GBPA_ABORT | r.GBPA_UPDATE) >>> 0) }])
  })

  test.each(['before', 'after'])('UPDATE that does not clear %s the write is an error, in bounded time', when => {
    const bench = new Bench({ options: { waitPolls: 10_000 } })
    bench.hw.gbpaStuck = true
    if (when === 'before') bench.hw.set(r.ARM_SMMU_GBPA, r.GBPA_UPDATE)
    bench.hyp.reset()
    expect(bench.report.probes[0]).toMatch(/GBPA/)
    expect(bench.hyp.isolated).toBe(false)
    expect(bench.now).toBeLessThan(1010)
  })

  test('a clock that stands still does not make the wait endless', () => {
    const bench = new Bench({ options: { waitPolls: 100, waitMs: Number.POSITIVE_INFINITY } })
    bench.hw.gbpaStuck = true
    bench.hw.logReads = true
    bench.hyp.reset()
    expect(bench.report.probes[0]).toMatch(/GBPA/)
    expect(bench.hw.reads.length).toBeLessThan(300)
  })
})

test('CR0 is not written', () => {
  const bench = new Bench()
  const log = bench.record()
  bench.hyp.reset()
  expect(log.some(entry => entry.what === 'reg' && entry.offset === r.ARM_SMMU_CR0)).toBe(false)
})

test('hypervisor memory is owned, guarded from the CPU, and the only memory that is written', () => {
  const bench = new Bench()
  bench.memory.onWrite = (address, length) => {
    expect(inCarveout(BigInt(address), length)).toBe(true)
  }
  bench.hyp.reset()
  expect(bench.guard.ranges).toEqual([{ base: CARVEOUT_BASE, size: CARVEOUT_SIZE }])
  expect(bench.hyp.ownership.stateAt(CARVEOUT_BASE)).toBe(PAGE_HYP)
  expect(bench.hyp.ownership.stateAt(CARVEOUT_BASE + CARVEOUT_SIZE - 1)).toBe(PAGE_HYP)
  expect(bench.hyp.ownership.stateAt(CARVEOUT_BASE - 1)).not.toBe(PAGE_HYP)
})

test('the pool has what stage 2 of 1 GiB of RAM and 1 GiB of devices can need, 16 for the root, and 500', () => {
  const ram = [{ base: RAM_BASE, size: 1024 * MiB }]
  const bench = reset({ ram, carveout: { base: RAM_BASE + 960 * MiB, size: 64 * MiB } })
  const before = 16 + 1 // shadow queue, shadow L1
  expect(bench.hyp.pool.limit - before).toBe(2 * (512 + 1 + 1 + 1) + 16 + 500)
})

test('the pool can be set', () => {
  const bench = reset({ options: { poolPages: 100 } })
  expect(bench.hyp.pool.limit).toBe(16 + 1 + 100)
})

test('hypervisor memory at address 0', () => {
  const { bench, host } = softHost({
    ram: [
      { base: 0, size: 16 * MiB },
      { base: RAM_BASE, size: RAM_SIZE },
    ],
    carveout: { base: 0, size: 12 * MiB },
  })
  expect(bench.report.probes).toEqual([null])
  expect(bench.hyp.isolated).toBe(true)
  host.attach(8, STE.bypass)
  expect(bench.dma(8, 12 * MiB)).toBe('done')
  expect(bench.dma(8, 0)).toBe('F_TRANSLATION')
})

test('hypervisor memory above 4 GiB: queue, tables and idmap are found there', () => {
  const { bench, host } = softHost({
    ram: [
      { base: RAM_BASE, size: RAM_SIZE },
      { base: 2 ** 32, size: 32 * MiB },
    ],
    carveout: { base: 2 ** 32 + 16 * MiB, size: 16 * MiB },
  })
  const page = RAM_BASE + 10 * MiB
  host.attach(8, STE.bypass)
  expect(bench.dma(8, page)).toBe('done')
  expect(bench.hyp.donate(page, 4096, 1)).toBe(OK)
  expect(bench.dma(8, page)).toBe('F_TRANSLATION')
  expect(bench.dma(8, 2 ** 32 + 16 * MiB)).toBe('F_TRANSLATION')
  expect(bench.dma(8, 2 ** 32 + 15 * MiB)).toBe('done')
  expect(bench.hyp.reclaim(page, 4096, 1)).toBe(OK)
  expect(bench.dma(8, page)).toBe('done')
  // The last entry of its L2 table is gone, and the table with it: another one is made.
  host.l1(8, 0, 0)
  host.commands(CFGI_ALL)
  expect(bench.dma(8, page)).toBe('C_BAD_STREAMID')
  host.attach(8, STE.bypass)
  expect(bench.dma(8, page)).toBe('done')
  expect(bench.hyp.verify()).toEqual([])
})
