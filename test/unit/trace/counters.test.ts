// SPDX-License-Identifier: Apache-2.0
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { HYP_CMDQ_TIMEOUT } from '../../../server/hypervisor/pkvm/warnings.ts'
import { newTrap } from '../../../server/policy/policy.ts'
import { COMMAND_DROPPED, COMMAND_KEPT, COMMAND_REWRITTEN } from '../../../server/policy/report.ts'
import { Counters, CountersWriter, createCounters, describeSmmu } from '../../../server/trace/counters.ts'
import { buckets, count, HISTOGRAM_WORDS, percentiles } from '../../../server/trace/histogram.ts'
import { createRing, RingWriter } from '../../../server/trace/ring.ts'
import { TraceReport } from '../../../server/trace/traceReport.ts'

const trap = { ...newTrap(), seq: 1, write: true, offset: 0x98, size: 4 }

test('property: percentiles are within 3 % of the exact ones, the maximum is exact', () => {
  const value = fc.oneof(fc.nat(100), fc.nat(100_000), fc.nat(2 ** 31), fc.constant(2 ** 32 - 1))
  fc.assert(
    fc.property(fc.array(value, { minLength: 1, maxLength: 300 }), values => {
      const words = new Uint32Array(HISTOGRAM_WORDS)
      for (const value of values) count(words, 0, value)
      values.sort((a, b) => a - b)
      const found = percentiles(words)
      for (const [name, q] of [
        ['p50', 0.5],
        ['p90', 0.9],
        ['p99', 0.99],
      ] as const) {
        const exact = values[Math.ceil(values.length * q) - 1] ?? 0
        expect(Math.abs(found[name] - exact)).toBeLessThanOrEqual(exact * 0.03)
      }
      expect(found.max).toBe(values.at(-1))
      expect(buckets(words).reduce((sum, [, n]) => sum + n, 0)).toBe(values.length)
    }),
  )
})

test('an empty histogram is all zeros; what is too long saturates', () => {
  const words = new Uint32Array(HISTOGRAM_WORDS)
  expect(percentiles(words)).toEqual({ p50: 0, p90: 0, p99: 0, max: 0 })
  count(words, 0, 1e12)
  expect(percentiles(words).max).toBe(2 ** 32 - 1)
})

test('an SMMU that is in the state already was not switched', () => {
  const buffer = createCounters()
  const writer = new CountersWriter(buffer)
  writer.power('on', 'off', true)
  writer.power('off', 'off', true)
  writer.power('off', 'retained', false)
  writer.power('off', 'on', true)
  writer.power('on', 'retained', true)
  writer.power(null, 'off', false)
  const counters = new Counters(buffer)
  expect([counters.get('poweredOff'), counters.get('poweredOn'), counters.get('powerRefused')]).toEqual([2, 1, 2])
})

test('counts by register, command, warning and event', () => {
  const buffer = createCounters()
  const writer = new CountersWriter(buffer)
  const report = new TraceReport(new RingWriter(createRing(65536)), writer)
  writer.machine(2)
  writer.trap(trap, 0, 2000)
  writer.trap({ ...trap, write: false, offset: 0x9c }, 10_000, 4000)
  writer.trap({ ...trap, write: false, offset: 0x9c, aborted: true }, 10_000, 4000)
  writer.trap({ ...trap, smmu: 1, offset: 0xfffffff0 }, 10_000, 4000)
  writer.latency(20_000)
  report.command(0, 0x46, COMMAND_KEPT)
  report.command(0, 0x46, COMMAND_REWRITTEN)
  report.command(1, 0x03, COMMAND_DROPPED)
  report.hypCommand(0, 0x46)
  report.warn(HYP_CMDQ_TIMEOUT, 1, 0, 1, 2, 3, 0)
  writer.event(0x10)
  writer.add('resets')
  writer.predicted(0)
  const counters = new Counters(buffer)
  expect(counters.traps()).toEqual({
    total: 4,
    reads: 2,
    writes: 2,
    predicted: 1,
    byRegister: [
      { register: 'CMDQ_CONS', reads: 2, writes: 0 },
      { register: 'CMDQ_PROD', reads: 0, writes: 1 },
      { register: 'PAGE1+0xfffc', reads: 0, writes: 1 },
    ],
    bySmmu: [
      { smmu: 0, reads: 2, writes: 1, predicted: 1, commands: { kept: 1, rewritten: 1, dropped: 0, own: 1 } },
      { smmu: 1, reads: 0, writes: 1, predicted: 0, commands: { kept: 0, rewritten: 0, dropped: 1, own: 0 } },
    ],
    latencyUs: { p50: expect.closeTo(10, 0), p90: expect.closeTo(20, 0), p99: expect.closeTo(20, 0), max: 20 },
    serverUs: { p50: expect.closeTo(4, 0), p90: expect.closeTo(4, 0), p99: expect.closeTo(4, 0), max: 4 },
  })
  expect(counters.commands()).toEqual([
    { opcode: 3, command: 'CFGI_STE', kept: 0, rewritten: 0, dropped: 1, own: 0 },
    { opcode: 0x46, command: 'SYNC', kept: 1, rewritten: 1, dropped: 0, own: 1 },
  ])
  expect(counters.smmus().map(describeSmmu)).toEqual([
    'SMMU 0: 3 accesses, of which 1 answered by QEMU; 2 commands of the host, 1 of the hypervisor',
    'SMMU 1: 1 access; 1 command of the host, 0 of the hypervisor',
  ])
  expect(counters.warnings()).toEqual([{ id: HYP_CMDQ_TIMEOUT.id, count: 1 }])
  expect(counters.events()).toEqual([{ id: 0x10, count: 1 }])
  expect(counters.get('aborted')).toBe(1)
  expect(counters.get('resets')).toBe(1)
})
