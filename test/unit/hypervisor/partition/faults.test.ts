// SPDX-License-Identifier: Apache-2.0
/** Rules armed on the policy `partition`: what it has can be broken, what it lacks is refused. */
import { beforeEach, expect, test } from 'vitest'
import { Injector } from '../../../../server/faults/injector.ts'
import type { FaultRule, Firing } from '../../../../server/faults/rule.ts'
import * as r from '../../../../server/smmu/registers.ts'
import { createRing, RingWriter } from '../../../../server/trace/ring.ts'
import { faultContext } from '../../faults/support.ts'
import { CARVEOUT_BASE, HOST_CMDQ, MiB, RAM_BASE, STE } from '../pkvm/support.ts'
import { GUEST, PartitionBench, VAULT } from './support.ts'

class FaultyPartition extends PartitionBench {
  readonly firings: Firing[] = []
  readonly injector = new Injector(new RingWriter(createRing(1 << 20)), firing => this.firings.push(firing))
  readonly irqs: number[] = []
  readonly forced: string[] = []
  readonly time = 0
  garbled = 0
  readonly lost: number[] = []
  #invalidated = 0

  /** As the hardware does it when QEMU is asked to. */
  get invalidated(): number {
    return this.#invalidated
  }
  set invalidated(count: number) {
    this.#invalidated = count
    this.host.commands([0x04, 0, 31, 0], [0x30, 0, 0, 0])
  }

  protected override decide(): void {
    if (this.injector.armed) this.injector.access(this.policy, this.trapped)
    else super.decide()
  }

  arm(where: FaultRule['where'], what: FaultRule['what']): void {
    const rule: FaultRule = { name: 'fault', where, when: { times: 'always' }, what }
    this.injector.arm({ rules: [rule], seed: 1 })
  }
}

let bench: FaultyPartition
beforeEach(() => {
  bench = new FaultyPartition()
  bench.injector.connect(faultContext(bench), false)
  bench.boot()
})

const PAGE = RAM_BASE + 10 * MiB
const reaches = (address: number) => bench.translate(GUEST, address).kind === 'translated'
const fired = () => bench.injector.status().rules.map(({ fired }) => fired)

test('an entry that never reaches the table: the stream stays stopped', () => {
  bench.arm({ at: 'table', table: 'ste', sid: GUEST }, { do: 'drop' })
  bench.host.attach(GUEST, STE.bypass)
  expect(fired()).toEqual([1])
  expect(bench.translate(GUEST, PAGE)).toEqual({ kind: 'abort' })
  bench.injector.disarm()
  bench.host.attach(GUEST, STE.bypass)
  expect(reaches(PAGE)).toBe(true)
})

test("an entry that is not as it was written: another second stage is seen by the policy's own check", () => {
  bench.arm({ at: 'table', table: 'ste', sid: GUEST }, { do: 'change', word: 0, xor: 2 ** 1 })
  bench.host.attach(GUEST, STE.s1)
  // Nested has become stage 1 bypassed: still through the second stage.
  expect(reaches(VAULT.base)).toBe(false)
  bench.arm({ at: 'machine' }, { do: 'corrupt', table: 'ste', sid: GUEST, word: 3, xor: 0x1000 })
  expect(bench.policy.inspect?.verify()).toEqual([])
  bench.injector.fire('fault')
  expect(bench.policy.inspect?.verify()).toEqual(['SMMU 0: stream 0x8 does not lead where it should'])
})

test("a copy of the guest's entry that is refused, or another one", () => {
  bench.arm({ at: 'table', table: 'host-ste', sid: GUEST }, { do: 'abort' })
  bench.host.attach(GUEST, STE.bypass)
  expect(bench.report.take()).toEqual(['PART_STREAM'])
  expect(reaches(PAGE)).toBe(false)
  bench.arm({ at: 'table', table: 'host-ste', sid: GUEST }, { do: 'change', word: 0, xor: 8 })
  bench.host.attach(GUEST, STE.abort)
  expect(bench.report.take()).toEqual([])
  expect(reaches(PAGE)).toBe(true)
})

test('a descriptor of the second stage, where it stands', () => {
  bench.host.attach(GUEST, STE.bypass)
  expect([PAGE, VAULT.base].map(reaches)).toEqual([true, false])
  bench.arm({ at: 'machine' }, { do: 'corrupt', table: 'stage2', address: PAGE, xor: 1 })
  bench.injector.fire('fault')
  expect(bench.invalidated).toBe(1)
  expect(reaches(PAGE)).toBe(false)
  expect(bench.policy.inspect?.verify().join()).toMatch(/the table at 0x[0-9a-f]+ is damaged/)
})

test('registers, on both sides of it', () => {
  bench.arm({ at: 'register', access: 'read', register: 'IDR0' }, { do: 'set', value: 0x55 })
  expect(bench.read(r.ARM_SMMU_IDR0)).toBe(0x55)
  bench.arm({ at: 'hardware', access: 'write', register: 'CMDQ_BASE' }, { do: 'drop' })
  bench.write64(r.ARM_SMMU_CMDQ_BASE, RAM_BASE + 4)
  expect(bench.hw(r.ARM_SMMU_CMDQ_BASE)).toBe(HOST_CMDQ + 8)
  bench.arm({ at: 'machine' }, { do: 'warn', warning: 'PART_STREAM' })
  bench.injector.fire('fault')
  expect(bench.forced).toEqual(['PART_STREAM'])
})

test.each([
  [{ at: 'command' }, { do: 'drop' }, 'a command queue of its own'],
  [{ at: 'pages', operation: 'share' }, { do: 'fail', error: 'EPERM' }, 'page ownership'],
  [{ at: 'machine' }, { do: 'donate', address: CARVEOUT_BASE }, 'pages that change hands'],
] satisfies [FaultRule['where'], FaultRule['what'], string][])('%j: refused', (where, what, lacks) => {
  expect(() => bench.arm(where, what)).toThrow(`rule fault: policy partition lacks what this needs: ${lacks}`)
})
