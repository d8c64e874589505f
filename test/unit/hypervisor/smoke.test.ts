// SPDX-License-Identifier: Apache-2.0
import { expect, test } from 'vitest'
import { Bench, Host, STE, shadowSte } from './support.ts'

test('boots and attaches', () => {
  const bench = new Bench()
  bench.hyp.reset()
  console.log(bench.report.probes, bench.hyp.idmapInfo, bench.hyp.pool.used, bench.hyp.pool.limit)
  const host = new Host(bench).boot()
  expect(bench.report.take()).toEqual([])
  host.attach(8, STE.s1)
  expect(bench.report.take()).toEqual([])
  console.log(
    shadowSte(bench, 8).map(x => x.toString(16)),
    bench.hw.takeCommands(),
  )
  console.log(bench.hyp.donate(0x41000000, 0x5000, 3), bench.hw.takeCommands(), bench.guard.ranges)
  console.log(bench.hyp.reclaim(0x41001000, 0x1000, 3), bench.hw.takeCommands(), bench.guard.ranges)
})
