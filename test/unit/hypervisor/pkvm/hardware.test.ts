// SPDX-License-Identifier: Apache-2.0
/**
 * Isolation on hardware that has what its ID registers may promise and QEMU's has not, and that others have used before. DMA goes
 * through a SoftSmmu whose caches forget nothing by themselves.
 */
import { describe, expect, test } from 'vitest'
import { OK } from '../../../../server/policy/result.ts'
import * as r from '../../../../server/smmu/registers.ts'
import { idRegisters, SoftBench, type SoftSetUp, softHost } from './soft.ts'
import { CARVEOUT_BASE, HOST_EVTQ, Host, MiB, RAM_BASE, STE } from './support.ts'

const SID = 0x20
const OWNED = RAM_BASE + 9 * MiB
const DONATED = RAM_BASE + 10 * MiB
const OTHER = RAM_BASE + 12 * MiB
const MSI = { id: idRegisters({ idr0: r.IDR0_MSI }) }
/** Nothing is acknowledged or consumed at once. */
const LAG = { update: () => 3, early: () => false, command: () => 2 }

const SOURCES = {
  GERROR: [r.ARM_SMMU_GERROR_IRQ_CFG0, r.IRQ_CTRL_GERROR_IRQEN],
  EVTQ: [r.ARM_SMMU_EVTQ_IRQ_CFG0, r.IRQ_CTRL_EVTQ_IRQEN],
} as const

describe('interrupts as messages (IDR0.MSI)', () => {
  test.each(['GERROR', 'EVTQ'] as const)('%s: never written where the host says', name => {
    const written: number[] = []
    const { bench, host } = softHost({
      soft: { ...MSI, onWrite: (what, address) => what.startsWith('msi') && written.push(address) },
    })
    const [offset, enable] = SOURCES[name]
    expect(bench.hyp.donate(DONATED, 4096, 1)).toBe(OK)
    bench.write64(offset, DONATED)
    bench.write(offset + 8, 0x5a5a)
    bench.write(r.ARM_SMMU_IRQ_CTRL, enable)
    expect(bench.report.take()).toEqual(['HYP_MSI_REGISTER', 'HYP_MSI_REGISTER'])
    host.commands([0xff, 0, 0, 0])
    expect(bench.dma(SID, OWNED)).toBe('C_BAD_STREAMID')
    expect(written).toEqual([])
  })
})

describe('a former owner', () => {
  /** Firmware that let a device through, with queues and interrupts of its own, and an error that nobody acknowledged. */
  function used(setUp: SoftSetUp = {}): SoftBench {
    const bench = new SoftBench(setUp)
    const { hw, memory } = bench
    memory.poke64(OTHER + 64 * SID, ...STE.bypass)
    hw.write(r.ARM_SMMU_STRTAB_BASE, 8, OTHER, 0)
    bench.poke(r.ARM_SMMU_STRTAB_BASE_CFG, 8)
    hw.write(r.ARM_SMMU_CMDQ_BASE, 8, OTHER + MiB + 4, 0)
    hw.write(r.ARM_SMMU_EVTQ_BASE, 8, OTHER + MiB + 4096 + 4, 0)
    for (const [offset, enable] of Object.values(SOURCES)) {
      hw.write(offset, 8, CARVEOUT_BASE, 0)
      bench.poke(r.ARM_SMMU_IRQ_CTRL, enable)
    }
    bench.poke(r.ARM_SMMU_CR0, r.CR0_SMMUEN | r.CR0_CMDQEN | r.CR0_EVTQEN)
    hw.step()
    expect(bench.dma(SID, OWNED)).toBe('done')
    memory.poke64(OTHER + MiB, 0xffn)
    bench.poke(r.ARM_SMMU_CMDQ_PROD, 1)
    hw.step()
    expect(bench.peek(r.ARM_SMMU_GERROR)).toBe(r.GERROR_CMDQ_ERR)
    bench.hyp.reset()
    return bench
  }

  test.each<[string, SoftSetUp]>([
    ['', {}],
    [', MSI', { soft: MSI }],
    [', acknowledging late', { soft: { ...MSI, lag: LAG } }],
    [', registers that are writable while in use', { soft: { unguarded: true } }],
  ])('disabled, and all that it left is gone%s', (_, setUp) => {
    const bench = used(setUp)
    expect(bench.report.probes).toEqual([null])
    expect(bench.peek(r.ARM_SMMU_CR0)).toBe(0)
    expect(bench.peek(r.ARM_SMMU_CR0ACK)).toBe(0)
    expect(bench.peek(r.ARM_SMMU_IRQ_CTRLACK)).toBe(0)
    expect(bench.peek(r.ARM_SMMU_GERRORN)).toBe(bench.peek(r.ARM_SMMU_GERROR))
    expect(bench.peek(r.ARM_SMMU_CMDQ_BASE)).toBeGreaterThanOrEqual(CARVEOUT_BASE)
    for (const [offset] of Object.values(SOURCES)) {
      if (setUp.soft?.id !== undefined) expect(bench.peek(offset)).toBe(0)
    }
    expect(bench.dma(SID, OWNED)).toBe('abort')
    new Host(bench).boot()
    expect(bench.report.take()).toEqual([])
  })

  test('one that cannot be disabled leaves no isolation, and says why', () => {
    const bench = new SoftBench({ soft: { lag: { ...LAG, update: () => 10_000 } } })
    bench.poke(r.ARM_SMMU_CR0, r.CR0_SMMUEN)
    bench.hw.step()
    bench.hyp.reset()
    expect(bench.report.probes).toEqual([expect.stringMatching(/GBPA|CR0ACK/)])
    expect(bench.hyp.isolated).toBe(false)
  })
})

test('registers that do not hold what was written leave no isolation', () => {
  const bench = new SoftBench()
  const { hw } = bench
  const write = hw.write.bind(hw)
  hw.write = (offset, ...rest) => offset === r.ARM_SMMU_STRTAB_BASE || write(offset, ...rest)
  bench.hyp.reset()
  expect(bench.report.probes).toEqual([expect.stringMatching(/STRTAB_BASE/)])
})

describe('availability', () => {
  test('GERRORN = 1 without an error does not stop the command queue', () => {
    const { bench, host } = softHost()
    bench.write(r.ARM_SMMU_GERRORN, 1)
    expect(bench.report.take()).toEqual(['HYP_GERRORN_INACTIVE'])
    host.attach(SID, STE.bypass)
    expect(bench.dma(SID, OWNED)).toBe('done')
    expect(bench.hyp.donate(DONATED, 4096, 1)).toBe(OK)
    expect(bench.dma(SID, DONATED)).toBe('F_TRANSLATION')
    expect(bench.report.take()).toEqual([])
  })
})

test("Linux's arm_smmu_hw_info: all ID registers are answered without a warning", () => {
  const { bench } = softHost({ soft: { iidr: 0x1043b, aidr: 2 } })
  const answers = Array.from({ length: 8 }, (_, i) => bench.read(4 * i))
  expect(answers).toEqual(Array.from({ length: 8 }, (_, i) => (i === 0 ? bench.read(0) : bench.peek(4 * i))))
  expect(answers.slice(6)).toEqual([0x1043b, 2])
  expect(bench.report.take()).toEqual([])
})

test('a crash kernel takes over from the one that crashed', () => {
  const { bench, host } = softHost()
  host.attach(SID, STE.bypass)
  host.prepare()
  for (const value of [8, 0xc, 9]) bench.write(r.ARM_SMMU_CR0, value)
  expect(bench.report.take()).toEqual(['HYP_QUEUE_DISABLED_AT_SHUTDOWN', 'HYP_QUEUE_DISABLED_BY_CRASH_KERNEL'])
  expect(bench.hyp.donate(HOST_EVTQ, 4096, 1)).toBe(OK)
})
