// SPDX-License-Identifier: Apache-2.0
/** CR0 transitions, bit × state × failure (server/hypervisor/README.md, section 5). */
import { beforeEach, describe, expect, test } from 'vitest'
import { PAGE_OWNED, PAGE_SHARED } from '../../../../server/hypervisor/pkvm/ownership.ts'
import { EBUSY, EFAULT, EPERM, OK } from '../../../../server/policy/result.ts'
import { opcodeName } from '../../../../server/smmu/commands.ts'
import { QEMU_NESTED_ID_REGISTERS as QEMU } from '../../../../server/smmu/features.ts'
import * as r from '../../../../server/smmu/registers.ts'
import {
  Bench,
  CARVEOUT_BASE,
  HOST_CMDQ,
  HOST_EVTQ,
  HOST_PRIQ,
  HOST_STRTAB,
  Host,
  MiB,
  RAM_BASE,
  RAM_SIZE,
  SMMU_BASE,
  STE,
} from './support.ts'

const { CR0_SMMUEN: SMMUEN, CR0_PRIQEN: PRIQEN, CR0_EVTQEN: EVTQEN, CR0_CMDQEN: CMDQEN } = r

let bench: Bench
let host: Host
beforeEach(() => {
  bench = new Bench({ options: { ats: true }, ids: [{ idr0: QEMU.idr0 | r.IDR0_PRI }] })
  bench.hyp.reset()
  host = new Host(bench)
  host.prepare()
  bench.write64(r.ARM_SMMU_PRIQ_BASE, HOST_PRIQ + 8)
})

const cr0 = (value: number) => bench.write(r.ARM_SMMU_CR0, value)
const state = (address: number) => bench.hyp.ownership.stateAt(address)
const pins = (address: number) => bench.hyp.ownership.pinsAt(address)
const sharedPages = () =>
  bench.hyp
    .ranges()
    .filter(range => range.state === 'shared')
    .map(({ base, size, pins: count }) => [base, size, count])

describe('0 → 1', () => {
  const shares: [name: string, bit: number, base: number, register: number, entry: number][] = [
    ['CMDQEN', CMDQEN, HOST_CMDQ, r.ARM_SMMU_CMDQ_BASE, 16],
    ['EVTQEN', EVTQEN, HOST_EVTQ, r.ARM_SMMU_EVTQ_BASE, 32],
    ['PRIQEN', PRIQEN, HOST_PRIQ, r.ARM_SMMU_PRIQ_BASE, 16],
  ]

  describe.each(shares)('%s', (name, bit, base, register, entry) => {
    test.each([0, 1, 7, 8, 12, 15])('LOG2SIZE %i: its pages are shared and pinned', log2size => {
      bench.write64(register, base + log2size)
      cr0(bit)
      expect(sharedPages()).toEqual([[base, Math.max(4096, entry * 2 ** log2size), 1]])
      expect(bench.hw.get(r.ARM_SMMU_CR0)).toBe(bit)
      expect(bench.read(r.ARM_SMMU_CR0ACK)).toBe(bit)
      expect(bench.report.take()).toEqual([])
    })

    const failures: [string, number, number][] = [
      ['outside of RAM', 0x1000_0000 + 8, EFAULT],
      ['at zero', 8, EFAULT],
      ['above RAM', RAM_BASE + RAM_SIZE + 8, EFAULT],
      ['on the SMMU itself', SMMU_BASE + 8, EFAULT],
      ['inside hypervisor memory', CARVEOUT_BASE + 8, EPERM],
      ['on the last page of hypervisor memory', RAM_BASE + RAM_SIZE - 8192 + 8, EPERM],
      ['reaching into hypervisor memory', RAM_BASE + 16 * MiB + 19, EPERM],
      ['at the largest address there is', 0, EFAULT],
    ]
    test.each(failures)('%s: a warning, and it stays off', (what, value, error) => {
      if (what === 'at the largest address there is') bench.trap(true, register, 8, 0xffff_ffe8, 0x00ff_ffff)
      else bench.write64(register, value)
      cr0(bit)
      const [warning, ...rest] = bench.report.warnings
      expect(warning).toMatchObject({ code: `HYP_${name.slice(0, 4)}_SHARE` })
      expect(warning.values[3]).toBe(error)
      expect(rest).toEqual([])
      expect(bench.hw.get(r.ARM_SMMU_CR0)).toBe(0)
      expect(sharedPages()).toEqual([])
      // What failed can be put right.
      bench.report.take()
      bench.write64(register, base + 8)
      cr0(bit)
      expect(bench.report.take()).toEqual([])
      expect(bench.hw.get(r.ARM_SMMU_CR0)).toBe(bit)
    })

    test('LOG2SIZE above 19 counts as 19', () => {
      bench = new Bench({
        options: { ats: true },
        ids: [{ idr0: QEMU.idr0 | r.IDR0_PRI }],
        ram: [{ base: RAM_BASE, size: 64 * MiB }],
        carveout: { base: RAM_BASE, size: 12 * MiB },
      })
      bench.hyp.reset()
      bench.write64(register, RAM_BASE + 32 * MiB + 31)
      cr0(bit)
      expect(bench.report.take()).toEqual([])
      expect(sharedPages()).toEqual([[RAM_BASE + 32 * MiB, entry * 2 ** 19, 1]])
    })

    test('pages that are shared already', () => {
      bench.hyp.ownership.share(base, 4096)
      cr0(bit)
      expect(bench.report.warnings[0].values[3]).toBe(EPERM)
      expect(bench.hw.get(r.ARM_SMMU_CR0)).toBe(0)
    })

    test('a base that is not aligned to the size covers what any implementation would touch', () => {
      bench.write64(register, base + entry * 128 + 8)
      cr0(bit)
      expect(bench.report.take()).toEqual([])
      expect(state(base)).toBe(PAGE_SHARED)
      // Only the command queue is read by us alone.
      if (bit !== CMDQEN) expect(state(base + entry * (128 + 256) - 1)).toBe(PAGE_SHARED)
    })

    test('written again while it is set: nothing', () => {
      cr0(bit)
      cr0(bit)
      expect(pins(base)).toBe(1)
      expect(bench.report.take()).toEqual([])
    })
  })

  test('two queues in the same page: the second is refused', () => {
    bench.write64(r.ARM_SMMU_EVTQ_BASE, HOST_CMDQ + 0x800 + 2)
    bench.write64(r.ARM_SMMU_CMDQ_BASE, HOST_CMDQ + 2)
    cr0(CMDQEN | EVTQEN)
    expect(bench.report.take()).toEqual(['HYP_EVTQ_SHARE'])
    expect(bench.hw.get(r.ARM_SMMU_CR0)).toBe(CMDQEN)
  })

  test('a failure of one bit does not keep the others', () => {
    bench.write64(r.ARM_SMMU_EVTQ_BASE, CARVEOUT_BASE + 8)
    cr0(CMDQEN | EVTQEN | PRIQEN | SMMUEN)
    expect(bench.report.take()).toEqual(['HYP_EVTQ_SHARE'])
    expect(bench.hw.get(r.ARM_SMMU_CR0)).toBe(CMDQEN | PRIQEN | SMMUEN)
  })

  test('other bits of CR0 pass', () => {
    cr0(0xffff_ffe0)
    expect(bench.hw.get(r.ARM_SMMU_CR0)).toBe(0xffff_ffe0)
    expect(bench.report.take()).toEqual([])
  })
})

describe('SMMUEN 0 → 1', () => {
  test("the L1 table's pages are shared and pinned", () => {
    cr0(CMDQEN)
    cr0(CMDQEN | SMMUEN)
    expect(sharedPages()).toContainEqual([HOST_STRTAB, 4096, 1])
    expect(bench.report.take()).toEqual([])
    expect(bench.hw.get(r.ARM_SMMU_CR0)).toBe(CMDQEN | SMMUEN)
  })

  test('together with CMDQEN', () => {
    cr0(CMDQEN | SMMUEN)
    expect(bench.report.take()).toEqual([])
  })

  test.each([
    ['never set', 0, SMMUEN],
    ['cleared at the same time', CMDQEN, SMMUEN],
  ])('without CMDQEN, %s: a warning, and it stays off', (_, before, written) => {
    cr0(before)
    cr0(written)
    expect(bench.report.warnings).toMatchObject([{ code: 'HYP_SMMUEN_WITHOUT_CMDQ' }])
    expect(bench.hw.get(r.ARM_SMMU_CR0)).toBe(0)
    expect(state(HOST_STRTAB)).toBe(PAGE_OWNED)
  })

  test('with a command queue that could not be shared', () => {
    bench.write64(r.ARM_SMMU_CMDQ_BASE, CARVEOUT_BASE)
    cr0(CMDQEN | SMMUEN)
    expect(bench.report.take()).toEqual(['HYP_CMDQ_SHARE', 'HYP_SMMUEN_WITHOUT_CMDQ'])
    expect(bench.hw.get(r.ARM_SMMU_CR0)).toBe(0)
  })

  const cfg = (fmt: number, split: number, log2size: number) => (fmt << 16) | (split << 6) | log2size
  const formats: [sidSize: number, cfg: number, ok: boolean][] = [
    [16, cfg(1, 8, 16), true],
    [16, cfg(1, 8, 9), true],
    [16, cfg(1, 8, 25), true],
    [16, cfg(1, 8, 26), false],
    [16, cfg(1, 8, 63), false],
    [16, cfg(1, 8, 8), false],
    [16, cfg(1, 8, 0), false],
    [16, cfg(1, 6, 16), false],
    [16, cfg(1, 10, 16), false],
    [16, cfg(1, 0, 16), false],
    [16, cfg(1, 31, 16), false],
    [16, cfg(0, 8, 16), false],
    [16, cfg(0, 0, 8), false],
    [16, cfg(2, 8, 16), false],
    [16, cfg(3, 8, 16), false],
    [8, cfg(0, 0, 8), true],
    [8, cfg(0, 0, 0), true],
    [8, cfg(0, 8, 7), true],
    [8, cfg(0, 0, 9), false],
    [8, cfg(0, 0, 63), false],
    [8, cfg(1, 8, 8), false],
    [8, cfg(1, 8, 16), false],
    [25, cfg(1, 8, 25), true],
    [32, cfg(1, 8, 25), true],
    [32, cfg(1, 8, 32), false],
  ]
  test.each(formats)('SIDSIZE %i, STRTAB_BASE_CFG 0x%s: accepted %s', (sidSize, value, ok) => {
    bench = new Bench({ ids: [{ idr1: (QEMU.idr1 & ~r.IDR1_SIDSIZE) | sidSize }] })
    bench.hyp.reset()
    host = new Host(bench)
    host.prepare()
    bench.write(r.ARM_SMMU_STRTAB_BASE_CFG, value)
    cr0(CMDQEN | SMMUEN)
    expect(bench.report.take()).toEqual(ok ? [] : ['HYP_STRTAB_FORMAT'])
    expect(bench.hw.get(r.ARM_SMMU_CR0)).toBe(ok ? CMDQEN | SMMUEN : CMDQEN)
  })

  test.each([
    ['outside of RAM', 0x1000_0000, EFAULT],
    ['in hypervisor memory', CARVEOUT_BASE, EPERM],
    ['on the command queue', HOST_CMDQ, EPERM],
  ])('a table %s: a warning, and it stays off', (_, base, error) => {
    bench.write64(r.ARM_SMMU_STRTAB_BASE, base)
    cr0(CMDQEN | SMMUEN)
    expect(bench.report.warnings).toMatchObject([{ code: 'HYP_STRTAB_SHARE', values: [base, 0, 2048, error] }])
    expect(bench.hw.get(r.ARM_SMMU_CR0)).toBe(CMDQEN)
  })

  test('the hardware keeps the shadow table and queue', () => {
    const base = bench.hw.get64(r.ARM_SMMU_STRTAB_BASE)
    const table = bench.hw.get(r.ARM_SMMU_STRTAB_BASE_CFG)
    const queue = bench.hw.get64(r.ARM_SMMU_CMDQ_BASE)
    cr0(CMDQEN | EVTQEN | SMMUEN)
    expect(bench.hw.get64(r.ARM_SMMU_STRTAB_BASE)).toBe(base)
    expect(bench.hw.get(r.ARM_SMMU_STRTAB_BASE_CFG)).toBe(table)
    expect(bench.hw.get64(r.ARM_SMMU_CMDQ_BASE)).toBe(queue)
  })
})

describe('1 → 0', () => {
  test('CMDQEN: unshared', () => {
    cr0(CMDQEN)
    cr0(0)
    expect(sharedPages()).toEqual([])
    expect(bench.report.take()).toEqual([])
  })

  test('CMDQEN: a failure is a warning, and the bit is cleared', () => {
    cr0(CMDQEN)
    bench.hyp.ownership.pin(HOST_CMDQ, 4096)
    cr0(0)
    expect(bench.report.warnings).toMatchObject([{ code: 'HYP_CMDQ_UNSHARE', values: [HOST_CMDQ, 0, 4096, EBUSY] }])
    expect(bench.hw.get(r.ARM_SMMU_CR0)).toBe(0)
  })

  test('SMMUEN: unshared', () => {
    cr0(CMDQEN | SMMUEN)
    cr0(CMDQEN)
    expect(state(HOST_STRTAB)).toBe(PAGE_OWNED)
    expect(bench.report.take()).toEqual([])
  })

  test('SMMUEN: a failure is a warning, and the bit is cleared', () => {
    cr0(CMDQEN | SMMUEN)
    bench.hyp.ownership.pin(HOST_STRTAB, 4096)
    cr0(CMDQEN)
    expect(bench.report.warnings).toMatchObject([{ code: 'HYP_STRTAB_UNSHARE', values: [HOST_STRTAB, 0, 2048, EBUSY] }])
    expect(bench.hw.get(r.ARM_SMMU_CR0)).toBe(CMDQEN)
  })

  test.each([
    ['EVTQEN', EVTQEN, HOST_EVTQ, 'HYP_EVTQ_DISABLED'],
    ['PRIQEN', PRIQEN, HOST_PRIQ, 'HYP_PRIQ_DISABLED'],
  ])('%s while the SMMU runs on: a warning', (_, bit, base, code) => {
    cr0(CMDQEN | SMMUEN | bit)
    cr0(CMDQEN | SMMUEN)
    expect(bench.report.warnings).toMatchObject([{ code, values: [CMDQEN | SMMUEN | bit, CMDQEN | SMMUEN] }])
    expect(bench.hw.get(r.ARM_SMMU_CR0)).toBe(CMDQEN | SMMUEN)
    expect(state(base)).toBe(PAGE_OWNED)
  })

  test.each([
    [EVTQEN, 1],
    [PRIQEN, 1],
    [EVTQEN | PRIQEN, 2],
  ])(
    'CR0 := 0 with queues 0x%s enabled, as at power-off: the warning for it, and everything unshared',
    (bits, count) => {
      cr0(CMDQEN | SMMUEN | bits)
      cr0(0)
      expect(bench.report.take()).toEqual(Array(count).fill('HYP_QUEUE_DISABLED_AT_SHUTDOWN'))
      expect(sharedPages()).toEqual([])
      expect(bench.hw.get(r.ARM_SMMU_CR0)).toBe(0)
      // A reboot without a reset of the machine starts clean.
      new Host(bench).boot()
      expect(bench.report.take()).toEqual([])
    },
  )

  test.each([
    [EVTQEN, 1],
    [PRIQEN, 1],
    [EVTQEN | PRIQEN, 2],
  ])(
    'queues 0x%s when the SMMU is enabled, as a crash kernel does: the warning for it, and unshared',
    (bits, count) => {
      cr0(CMDQEN | bits)
      cr0(CMDQEN | SMMUEN)
      expect(bench.report.take()).toEqual(Array(count).fill('HYP_QUEUE_DISABLED_BY_CRASH_KERNEL'))
      expect(sharedPages().map(([base]) => base)).toEqual([HOST_CMDQ, HOST_STRTAB])
      expect(bench.hw.get(r.ARM_SMMU_CR0)).toBe(CMDQEN | SMMUEN)
    },
  )

  test('a queue that cannot be unshared', () => {
    cr0(EVTQEN)
    bench.hyp.ownership.pin(HOST_EVTQ, 4096)
    cr0(0)
    expect(bench.report.take()).toEqual(['HYP_QUEUE_DISABLED_AT_SHUTDOWN', 'HYP_QUEUE_UNSHARE'])
  })
})

test.each([
  ['the hardware has none', { options: { ats: true } }],
  ['it is hidden', { ids: [{ idr0: QEMU.idr0 | r.IDR0_PRI }] }],
])('PRIQEN is RES0 where the host sees no PRI: %s', (_, setUp) => {
  bench = new Bench(setUp)
  bench.hyp.reset()
  bench.write64(r.ARM_SMMU_PRIQ_BASE, HOST_PRIQ + 8)
  cr0(PRIQEN)
  expect(bench.report.take()).toEqual([])
  expect(bench.hw.get(r.ARM_SMMU_CR0)).toBe(0)
  expect(sharedPages()).toEqual([])
})

test('the order is CMDQEN, EVTQEN, PRIQEN, then SMMUEN behind what invalidates the caches', () => {
  const log = bench.record()
  cr0(0xf)
  const bases = bench.report.operations.map(({ base, result }) => [base, result])
  expect(bases).toEqual([
    [HOST_CMDQ, OK],
    [HOST_EVTQ, OK],
    [HOST_PRIQ, OK],
    [HOST_STRTAB, OK],
  ])
  const seen = log.flatMap((entry): (string | bigint)[] => {
    if (entry.what === 'cmd') return [opcodeName((entry.words[0] ?? 0) & 0xff)]
    return entry.what === 'reg' && entry.offset === r.ARM_SMMU_CR0 ? [entry.value] : []
  })
  expect(seen).toEqual([0xen, 'CFGI_STE_RANGE', 'TLBI_NSNH_ALL', 'SYNC', 0xfn])
})

test("Linux's writes of CR0 from boot to power-off: one warning, the expected one", () => {
  host.boot()
  host.attach(8, STE.s1)
  cr0(0)
  expect(bench.report.take()).toEqual(['HYP_QUEUE_DISABLED_AT_SHUTDOWN'])
})

test("a crash kernel's writes of CR0, after the kernel that crashed: expected warnings only", () => {
  host.boot()
  for (const value of [0, CMDQEN, CMDQEN | EVTQEN, CMDQEN | SMMUEN]) cr0(value)
  expect(bench.report.take()).toEqual(['HYP_QUEUE_DISABLED_AT_SHUTDOWN', 'HYP_QUEUE_DISABLED_BY_CRASH_KERNEL'])
})

test('an aborted write of the hardware is passed on', () => {
  bench.hw.aborting.add(r.ARM_SMMU_CR0)
  expect(bench.trap(true, r.ARM_SMMU_CR0, 4, CMDQEN).aborted).toBe(true)
})
