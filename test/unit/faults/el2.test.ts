// SPDX-License-Identifier: Apache-2.0
/** What goes wrong between EL2, the policy and the SMMU, and what then stands in the tables. */
import { beforeEach, describe, expect, test } from 'vitest'
import type { FaultRule, What } from '../../../server/faults/rule.ts'
import { Hypervisor } from '../../../server/hypervisor/pkvm/hypervisor.ts'
import { compare, idmapReach } from '../../../server/oracle/agreement.ts'
import { opcodeName } from '../../../server/smmu/commands.ts'
import { ARM_SMMU_CR0 } from '../../../server/smmu/registers.ts'
import {
  ANNOTATION_VM,
  descriptor,
  FakeEl2,
  L2,
  L3,
  PAGE,
  pokeTables,
  registers,
} from '../hypervisor/pkvm/el2Support.ts'
import { CARVEOUT_BASE, CARVEOUT_SIZE, STE } from '../hypervisor/pkvm/support.ts'
import { Cut, FaultyBench, Host } from './support.ts'

let bench: FaultyBench

const changed = (all: boolean, pages: readonly number[] = []): boolean =>
  bench.injector.stage2Changed(bench.policy, { ...registers, cpu: 0, time: 1e9, all, pages })

/** EL2 gives a page to a VM, and leaves. */
function take(): boolean {
  bench.memory.poke64(descriptor(PAGE), ANNOTATION_VM)
  return changed(false, [L3])
}

/** What devices reach and EL2's host does not, and the other way round. */
const disagreements = () =>
  compare(
    bench.memory,
    registers,
    (bench.policy.inspect?.faults.stage2() ?? []).map(table => idmapReach(bench.memory, table)),
    { base: CARVEOUT_BASE, size: CARVEOUT_SIZE },
  ).disagreements.map(({ base, what }) => [base, what])

const REACHED = [[PAGE, 'reached']]
const at = (what: What, when?: FaultRule['when']): FaultRule => ({
  name: 'rule',
  where: { at: 'el2' },
  what,
  ...(when && { when }),
})
const arm = (...rules: readonly FaultRule[]) => bench.arm(rules)

beforeEach(() => {
  const el2 = new FakeEl2()
  bench = new FaultyBench({ el2 })
  bench.connect()
  bench.reset()
  pokeTables(bench)
  new Host(bench).boot().attach(8, STE.bypass)
  el2.now = registers
  expect(changed(true)).toBe(true)
})

test('without a fault the page is out of reach', () => {
  arm({ name: 'other', where: { at: 'el2', cpu: 3 }, what: { do: 'drop' } })
  expect(take()).toBe(true)
  expect(disagreements()).toEqual([])
  expect(bench.fired()).toEqual([])
})

describe('a change of which the policy does not hear', () => {
  test('lost', () => {
    arm(at({ do: 'drop' }))
    expect(take()).toBe(true)
    expect(disagreements()).toEqual(REACHED)
    expect(bench.firings[0]?.what).toBe(`EL2's change of 0x${L3.toString(16)} lost`)
  })

  test('lost once: the next of the same page brings both', () => {
    arm(at({ do: 'drop' }))
    take()
    bench.memory.poke64(descriptor(PAGE + 4096), ANNOTATION_VM)
    changed(false, [L3])
    expect(disagreements()).toEqual([])
  })

  test('late: until so many traps later', () => {
    arm(at({ do: 'postpone', traps: 2 }))
    take()
    expect(disagreements()).toEqual(REACHED)
    bench.trap(false, ARM_SMMU_CR0, 4)
    expect(disagreements()).toEqual(REACHED)
    bench.trap(false, ARM_SMMU_CR0, 4)
    expect(disagreements()).toEqual([])
  })

  test('late, and the machine was reset before: it is not told of another machine', () => {
    arm(at({ do: 'postpone', traps: 1 }))
    take()
    bench.reset()
    bench.memory.poke64(descriptor(PAGE), 0n)
    bench.trap(false, ARM_SMMU_CR0, 4)
    expect(bench.hyp.ownership.hostReaches(PAGE)).toBe(true)
  })

  test('of another page', () => {
    arm(at({ do: 'change', xor: L3 ^ L2 }))
    expect(take()).toBe(true)
    expect(disagreements()).toEqual(REACHED)
    expect(bench.firings[0]?.what).toContain(`told as 0x${L2.toString(16)}`)
  })
})

describe('what the SMMU keeps', () => {
  test('an invalidation that is swallowed: tables agree, and no command says so', () => {
    arm(
      ...(['CMDQ_OP_TLBI_S2_IPA', 'CMDQ_OP_TLBI_NH_ALL'] as const).map(
        (command, i): FaultRule => ({
          name: `rule-${i}`,
          where: { at: 'command', command, queue: 'shadow' },
          when: { times: 'always' },
          what: { do: 'drop' },
        }),
      ),
    )
    bench.hw.consumed = []
    expect(take()).toBe(true)
    expect(disagreements()).toEqual([])
    expect(bench.hw.consumed.map(([word = 0]) => opcodeName(word & 0xff))).toEqual([
      'PREFETCH_CONFIG',
      'SYNC',
      'PREFETCH_CONFIG',
      'SYNC',
    ])
  })

  test('an unmapping whose store is lost', () => {
    arm({
      name: 'rule',
      where: { at: 'table', table: 'stage2', address: PAGE },
      what: { do: 'drop' },
    })
    expect(take()).toBe(true)
    expect(disagreements()).toEqual(REACHED)
  })

  test('an SMMU that never comes to the end of the invalidation keeps EL2 where it is', () => {
    arm({
      name: 'rule',
      where: { at: 'command', command: 'CMDQ_OP_CMD_SYNC', queue: 'shadow' },
      what: { do: 'hang' },
    })
    expect(take()).toBe(false)
    expect(bench.report.warnings.map(({ code }) => code)).toContain('HYP_UNMAP')
  })
})

describe('a server that is killed', () => {
  /** Another one goes on from the last checkpoint, while EL2 still waits: it is told again. */
  function successor(checkpoint: Uint8Array): Hypervisor {
    bench.injector.disarm()
    const next = new Hypervisor(bench.machine, {
      options: { waitPolls: 50 },
      report: bench.report,
      clock: () => bench.now++,
    })
    next.restore(checkpoint)
    next.resume()
    expect(next.stage2Changed({ ...registers, cpu: 0, time: 1e9, all: true, pages: [] })).toBe(true)
    expect(next.verify()).toEqual([])
    return next
  }

  test.each<[string, FaultRule]>([
    ['before it hears of the change', at({ do: 'kill' })],
    ['before it hears of the change, by a connection that is cut', at({ do: 'disconnect' })],
    [
      'between the unmapping and its invalidation',
      {
        name: 'rule',
        where: { at: 'command', command: 'CMDQ_OP_TLBI_S2_IPA', queue: 'shadow' },
        what: { do: 'kill' },
      },
    ],
    [
      'between the invalidation and its end',
      {
        name: 'rule',
        where: { at: 'command', command: 'CMDQ_OP_CMD_SYNC', queue: 'shadow' },
        what: { do: 'kill' },
      },
    ],
    [
      'before it unmaps',
      { name: 'rule', where: { at: 'table', table: 'stage2', address: PAGE }, what: { do: 'kill' } },
    ],
  ])('%s: the next one takes the page before EL2 goes on', (_, rule) => {
    const checkpoint = bench.hyp.checkpoint().slice()
    arm(rule)
    expect(take).toThrow(Cut)
    bench.hw.consumed = []
    const next = successor(checkpoint)
    expect(next.ownership.hostReaches(PAGE)).toBe(false)
    expect(disagreements()).toEqual([])
    // Whatever the dead one had begun, what a TLB kept of the page is gone.
    expect(bench.hw.consumed.map(([word = 0]) => opcodeName(word & 0xff))).toContain('TLBI_S2_IPA')
  })
})

test('a machine without EL2 has no place for such a rule', () => {
  const plain = new FaultyBench()
  plain.connect()
  expect(() => plain.arm([at({ do: 'drop' })])).toThrow('the machine has no EL2, or the policy does not follow it')
})
