// SPDX-License-Identifier: Apache-2.0
/** A machine that is reset starts like the first time, any number of times, whatever the host did before. */
import { crc32 } from 'node:zlib'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { Hypervisor } from '../../../../server/hypervisor/pkvm/hypervisor.ts'
import { QEMU_NESTED_ID_REGISTERS as QEMU } from '../../../../server/smmu/features.ts'
import * as r from '../../../../server/smmu/registers.ts'
import { command } from '../../smmu/fields.ts'
import {
  Bench,
  CARVEOUT_BASE,
  CARVEOUT_SIZE,
  HOST_PRIQ,
  Host,
  MiB,
  RAM_BASE,
  STE,
  shadowSte,
  successor,
} from './support.ts'

/** Everything that a host could find out, and the tables. */
function state(bench: Bench) {
  const carveout = new Uint8Array(CARVEOUT_SIZE)
  bench.memory.peek(CARVEOUT_BASE, carveout, 0, carveout.length)
  const registers = bench.hyp.smmus.map(smmu => ({
    smmu: { ...smmu.state },
    hostCmdq: { ...smmu.hostCmdq.registers },
    shadowCmdq: { ...smmu.shadowCmdq.state },
    hostStrtab: { ...smmu.hostStrtab.state },
    shadowStrtab: { ...smmu.shadowStrtab.state },
    queues: [{ ...smmu.evtq.registers }, { ...smmu.priq.registers }],
  }))
  return {
    carveout: crc32(carveout),
    registers,
    hypervisor: [bench.hyp.isolated, bench.hyp.isolates, bench.hyp.trap, bench.report.probes.at(-1)],
    checkpoint: [...bench.hyp.checkpoint()],
    ranges: bench.hyp.ranges(),
    pool: [bench.hyp.pool.used, bench.hyp.pool.limit, bench.hyp.pool.peak, bench.hyp.pool.failures],
    guard: [...bench.guard.ranges],
    donated: bench.hyp.donated,
    streams: bench.hyp.streams(),
    hardware: [
      bench.hw.get64(r.ARM_SMMU_CMDQ_BASE),
      bench.hw.get(r.ARM_SMMU_CMDQ_PROD),
      bench.hw.get(r.ARM_SMMU_CMDQ_CONS),
      bench.hw.get64(r.ARM_SMMU_STRTAB_BASE),
      bench.hw.get(r.ARM_SMMU_STRTAB_BASE_CFG),
    ],
  }
}

/** What a reset of the machine does to the SMMU. */
function resetHardware(bench: Bench): void {
  bench.hw.words.fill(0, r.ARM_SMMU_CR0 / 4)
  bench.hw.set(r.ARM_SMMU_GBPA, 0x1000)
}

test('three boots in one run', () => {
  const bench = new Bench()
  bench.hyp.reset()
  const first = state(bench)
  for (let boot = 0; boot < 3; boot++) {
    const host = new Host(bench).boot()
    host.attach(8, STE.s1)
    host.attach(0x300, STE.bypass)
    expect(bench.hyp.donate(RAM_BASE + 8 * MiB, 3 * 4096, 5)).toBe(0)
    expect(bench.hyp.reclaim(RAM_BASE + 8 * MiB, 4096, 5)).toBe(0)
    expect(bench.report.take()).toEqual([])
    expect(shadowSte(bench, 8)[0]).not.toBe(0n)
    bench.write(r.ARM_SMMU_CR0, 0)
    expect(bench.report.take()).toEqual(['HYP_QUEUE_DISABLED_AT_SHUTDOWN'])
    resetHardware(bench)
    bench.hyp.reset()
    expect(state(bench)).toEqual(first)
  }
})

test('a reset in the middle of everything, without any farewell', () => {
  const bench = new Bench()
  bench.hyp.reset()
  const first = state(bench)
  new Host(bench).boot().attach(8, STE.s1)
  bench.hw.stuck = true
  new Host(bench).commands(command('SYNC'))
  bench.hw.stuck = false
  resetHardware(bench)
  bench.hyp.reset()
  expect(state(bench)).toEqual(first)
  bench.report.take()
  new Host(bench).boot().attach(8, STE.s1)
  expect(bench.report.take()).toEqual([])
})

test('before the first one nothing is claimed, and nothing decided', () => {
  const bench = new Bench()
  expect([bench.hyp.isolated, bench.hyp.isolates, bench.hyp.trap]).toEqual([false, false, 0])
  const next = successor(bench)
  next.restore(bench.hyp.checkpoint().slice())
  expect(next.isolated).toBe(false)
})

test('behind a trap and a reclaim that ended in an exception', () => {
  const bench = new Bench()
  bench.hyp.reset()
  const first = state(bench)
  const host = new Host(bench).boot()
  expect(bench.hyp.donate(RAM_BASE + 8 * MiB, 4096, 5)).toBe(0)
  const { memory } = bench
  const fails = () => {
    throw new Error('the link is gone')
  }
  memory.beforeRead = fails
  memory.onWrite = fails
  expect(() => host.commands(command('SYNC'))).toThrow('gone')
  expect(() => bench.hyp.reclaim(RAM_BASE + 8 * MiB, 4096, 5)).toThrow('gone')
  expect(() => bench.hyp.reset()).toThrow('gone')
  expect(bench.hyp.isolated).toBe(false)
  memory.beforeRead = null
  memory.onWrite = null
  resetHardware(bench)
  bench.hyp.reset()
  expect(state(bench)).toEqual(first)
})

test('behind a take-over that did not finish what had begun', () => {
  const bench = new Bench()
  const context = { options: { waitPolls: 50 }, report: bench.report, clock: () => bench.now++ }
  let kept = new Uint8Array()
  const persist = () => {
    kept = bench.hyp.checkpoint().slice()
  }
  bench.hyp = new Hypervisor(bench.machine, { ...context, persist })
  bench.hyp.reset()
  const first = state(bench)
  expect(bench.hyp.donate(RAM_BASE + 8 * MiB, 4096, 5)).toBe(0)
  bench.hyp = new Hypervisor(bench.machine, context)
  bench.hyp.restore(kept)
  bench.hyp.reset()
  expect(state(bench)).toEqual(first)
})

test('of a machine whose PRI queue was in use', () => {
  const bench = new Bench({ options: { ats: true }, ids: [{ idr0: QEMU.idr0 | r.IDR0_PRI }] })
  bench.hyp.reset()
  const first = state(bench)
  new Host(bench).prepare()
  bench.write64(r.ARM_SMMU_PRIQ_BASE, HOST_PRIQ + 8)
  bench.write(r.ARM_SMMU_CR0, 0xf)
  expect(bench.report.take()).toEqual([])
  expect(bench.hyp.smmus[0].priq.registers.baseLo).toBe(HOST_PRIQ + 8)
  resetHardware(bench)
  bench.hyp.reset()
  expect(state(bench)).toEqual(first)
})

test('what the last trap waited for in vain costs the reset nothing of its own', () => {
  const bench = new Bench()
  bench.hyp.reset()
  const host = new Host(bench).boot()
  bench.hw.stuck = true
  host.commands(command('SYNC'))
  expect(bench.report.take()).toEqual(['HYP_CMDQ_TIMEOUT'])
  // CR0 is not 0 yet, and its acknowledgement comes with the third look.
  const { read } = bench.hw
  let late = 3
  bench.hw.read = (offset, size, into) => {
    const ok = read.call(bench.hw, offset, size, into)
    if (offset === r.ARM_SMMU_CR0ACK && into.lo === 0 && late-- > 0) into.lo = r.CR0_SMMUEN
    return ok
  }
  bench.hyp.reset()
  expect(late).toBeLessThan(0)
  expect(bench.hyp.isolated).toBe(true)
})

test('the first reset takes nothing out of the guard', () => {
  const bench = new Bench()
  const removed: number[] = []
  bench.guard.remove = base => {
    removed.push(base)
    return true
  }
  bench.hyp.reset()
  expect(removed).toEqual([])
  expect(bench.guard.ranges).toEqual([{ base: CARVEOUT_BASE, size: CARVEOUT_SIZE }])
})

test('a probe that fails at first, and then does not', () => {
  const bench = new Bench()
  const idr1 = bench.hw.get(r.ARM_SMMU_IDR1)
  bench.hw.set(r.ARM_SMMU_IDR1, (idr1 | r.IDR1_REL) >>> 0)
  bench.hyp.reset()
  expect(bench.hyp.isolated).toBe(false)
  bench.hw.set(r.ARM_SMMU_IDR1, idr1)
  bench.hyp.reset()
  expect(bench.hyp.isolated).toBe(true)
  expect(bench.hyp.refusals).toEqual([null])
  bench.hw.set(r.ARM_SMMU_IDR1, (idr1 | r.IDR1_REL) >>> 0)
  bench.hyp.reset()
  expect(bench.hyp.isolated).toBe(false)
  expect(bench.hyp.idmapInfo).toBeNull()
  expect(bench.guard.ranges).toEqual([{ base: CARVEOUT_BASE, size: CARVEOUT_SIZE }])
})

test('after any writes of the host', () => {
  const bench = new Bench({ options: { waitPolls: 5 } })
  bench.hyp.reset()
  const first = state(bench)
  const write = fc.record({
    offset: fc.constantFrom(0x20, 0x80, 0x88, 0x90, 0x98, 0x9c, 0xa0, 0xc0),
    value: fc.oneof(fc.nat(0xffff_ffff), fc.constantFrom(0, 0xf, 0x4010_0008, 0x4020_0008, 0x0001_0210)),
  })
  fc.assert(
    fc.property(fc.array(write, { maxLength: 20 }), writes => {
      for (const { offset, value } of writes)
        bench.trap(true, offset, offset >= 0x80 && offset % 16 === 0 ? 8 : 4, value)
      resetHardware(bench)
      bench.hyp.reset()
      expect(state(bench)).toEqual(first)
    }),
    { numRuns: 30 },
  )
})
