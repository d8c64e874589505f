// SPDX-License-Identifier: Apache-2.0
/** What each prefix of the series emulates, and what is the host's own in it (server/hypervisor/README.md, section 10). */
import { describe, expect, test } from 'vitest'
import { includesStep, SERIES_STEPS, type SeriesStep } from '../../../../server/policy/policy.ts'
import * as r from '../../../../server/smmu/registers.ts'
import { command } from '../../smmu/fields.ts'
import { Bench, CARVEOUT_BASE, HOST_CMDQ, HOST_EVTQ, HOST_STRTAB, Host, RAM_BASE, STE, shadowSte } from './support.ts'

function start(until: SeriesStep): { bench: Bench; host: Host } {
  const bench = new Bench({ options: { until } })
  bench.hyp.reset()
  const host = new Host(bench)
  return { bench, host }
}

describe.each(SERIES_STEPS)('until %s', until => {
  const has = (stage: SeriesStep) => includesStep(until, stage)

  test('what is programmed before the host comes', () => {
    const { bench } = start(until)
    expect(bench.hyp.isolated).toBe(true)
    expect(Number(bench.hw.get64(r.ARM_SMMU_CMDQ_BASE)) >= CARVEOUT_BASE).toBe(has('cmdq'))
    expect((bench.hw.get(r.ARM_SMMU_STRTAB_BASE) & 0xffff_ffc0) !== 0).toBe(has('strtab'))
    expect((bench.hw.get(r.ARM_SMMU_GBPA) & r.GBPA_ABORT) !== 0).toBe(has('queues'))
    expect(bench.hyp.idmapInfo !== null).toBe(has('nested'))
  })

  test('Linux comes up and attaches without a warning', () => {
    const { bench, host } = start(until)
    host.boot()
    host.attach(8, STE.s1)
    host.attach(9, STE.bypass)
    host.attach(8, STE.abort)
    expect(bench.report.take()).toEqual([])
    expect(bench.hw.get(r.ARM_SMMU_CR0)).toBe(0xd)
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS)).toBe(host.prod)
  })

  test('IDR0 is masked, unknown registers and CR1 are checked in all of them', () => {
    const { bench } = start(until)
    expect(bench.read(r.ARM_SMMU_IDR0) & r.IDR0_S2P).toBe(0)
    bench.trap(false, 0x40, 4)
    bench.write(r.ARM_SMMU_CR1, 0)
    expect(bench.report.take()).toEqual(['HYP_UNKNOWN_REGISTER', 'HYP_CR1_VALUE'])
    expect(bench.hw.get(r.ARM_SMMU_CR1)).toBe(0xd75)
  })

  test("whose command queue the hardware reads, and what it is told of the host's commands", () => {
    const { bench, host } = start(until)
    host.boot()
    const base = Number(bench.hw.get64(r.ARM_SMMU_CMDQ_BASE) & 0xf_ffff_ffff_ffe0n)
    expect(base === HOST_CMDQ).toBe(!has('cmdq'))
    host.commands(command('TLBI_NH_ALL'), command('SYNC'))
    expect(bench.hw.takeCommands()).toEqual(has('cmdq') ? ['SYNC'] : ['TLBI_NH_ALL', 'SYNC'])
    expect(bench.report.take()).toEqual(has('cmdq') ? ['HYP_COMMAND_REFUSED'] : [])
    expect(bench.hyp.ownership.pinsAt(HOST_CMDQ)).toBe(has('cmdq') ? 1 : 0)
  })

  test('whose stream table the hardware reads, and what its entries are', () => {
    const { bench, host } = start(until)
    host.boot()
    const base = Number(bench.hw.get64(r.ARM_SMMU_STRTAB_BASE) & 0xf_ffff_ffff_ffc0n)
    expect(base === HOST_STRTAB).toBe(!has('strtab'))
    expect(bench.hyp.ownership.pinsAt(HOST_STRTAB)).toBe(has('strtab') ? 1 : 0)
    expect(bench.read64(r.ARM_SMMU_STRTAB_BASE) & 0xf_ffff_ffff_ffc0n).toBe(BigInt(HOST_STRTAB))
    const words = [STE.s1[0], STE.s1[1], 0x1234n, 0x5678n]
    host.attach(8, words)
    const config = (shadowSte(bench, 8)[0] >> 1n) & 7n
    expect(config).toBe(has('nested') ? 7n : 5n)
    if (!has('nested')) expect(shadowSte(bench, 8).slice(0, 4)).toEqual(words)
    expect(bench.hyp.streams().length).toBe(has('strtab') ? 1 : 0)
  })

  test('an entry with a second stage of the host', () => {
    const { bench, host } = start(until)
    host.boot()
    host.attach(8, STE.s2)
    expect(bench.report.take()).toEqual(has('nested') ? ['HYP_CFGI_STE'] : [])
  })

  test('GBPA', () => {
    const { bench } = start(until)
    bench.write(r.ARM_SMMU_GBPA, (r.GBPA_UPDATE | 0x20) >>> 0)
    expect(bench.hw.get(r.ARM_SMMU_GBPA) === 0x20).toBe(!has('queues'))
    expect(bench.read(r.ARM_SMMU_GBPA)).toBe(has('queues') ? r.GBPA_ABORT : 0x20)
  })

  test('the event queue', () => {
    const { bench, host } = start(until)
    host.prepare()
    bench.write(r.ARM_SMMU_CR0, r.CR0_EVTQEN)
    expect(bench.hyp.ownership.pinsAt(HOST_EVTQ)).toBe(has('queues') ? 1 : 0)
    bench.write(r.ARM_SMMU_CR0, 0)
    expect(bench.report.take()).toEqual(has('queues') ? ['HYP_QUEUE_DISABLED_AT_SHUTDOWN'] : [])
  })

  test('what is live cannot be written, forwarded or not', () => {
    const { bench, host } = start(until)
    host.boot()
    const log = bench.record()
    bench.write64(r.ARM_SMMU_STRTAB_BASE, RAM_BASE)
    bench.write(r.ARM_SMMU_STRTAB_BASE_CFG, 0)
    bench.write64(r.ARM_SMMU_CMDQ_BASE, RAM_BASE)
    bench.write(r.ARM_SMMU_CMDQ_CONS, 0)
    bench.write64(r.ARM_SMMU_EVTQ_BASE, RAM_BASE)
    expect(log).toEqual([])
    expect(bench.report.take().length).toBe(5)
  })
})

test('the default is nested', () => {
  expect(new Bench().hyp.upTo).toBe('nested')
})

test('mmio needs no hypervisor memory', () => {
  const bench = new Bench({ options: { until: 'mmio' }, carveout: { base: 0, size: 0 } })
  bench.hyp.reset()
  expect(bench.hyp.isolated).toBe(true)
  expect(bench.guard.ranges).toEqual([])
})
