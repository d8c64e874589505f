// SPDX-License-Identifier: Apache-2.0
/** EL2 takes pages from its host and gives them back: devices reach the same, before EL2 goes on. */
import { beforeEach, describe, expect, test } from 'vitest'
import { annotated, hostDescriptor } from '../../../../server/oracle/hostStage2.ts'
import { EFAULT, EPERM } from '../../../../server/policy/result.ts'
import { opcodeName } from '../../../../server/smmu/commands.ts'
import { SYNC } from '../../smmu/fields.ts'
import {
  ANNOTATION_EL2,
  ANNOTATION_VM,
  descriptor,
  El2Bench,
  L2,
  L3,
  PAGE,
  REGION,
  ROOT,
  registers,
} from './el2Support.ts'
import { Bench, CARVEOUT_BASE, CARVEOUT_SIZE, idmapEntry, MiB, RAM_BASE, RAM_SIZE, successor } from './support.ts'

let bench: El2Bench

const changed = (all: boolean, pages?: readonly number[]) => bench.changed(all, pages)
const store = (page: number, value: bigint) => bench.store(page, value)

beforeEach(() => {
  bench = new El2Bench()
})

describe('while EL2 runs', () => {
  test('every page of its tables is watched', () => {
    expect([...bench.el2.watched].sort()).toEqual([ROOT, ROOT + 0x1000, L2, L3])
  })

  test('a page that it takes is invalidated and unreachable before it goes on', () => {
    bench.hw.consumed = []
    expect(store(PAGE, ANNOTATION_EL2)).toBe(true)
    expect(bench.hw.consumed.map(([word = 0]) => opcodeName(word & 0xff))).toEqual([
      'TLBI_S2_IPA',
      'SYNC',
      'TLBI_NH_ALL',
      'SYNC',
    ])
    expect(bench.hyp.ownership.hostReaches(PAGE)).toBe(false)
    expect(bench.hyp.verify()).toEqual([])
  })

  test('a page of a VM is shown as that VM’s', () => {
    store(PAGE, ANNOTATION_VM)
    expect(bench.hyp.ranges(PAGE, PAGE + 4096)).toMatchObject([{ base: PAGE, size: 4096, state: 'vm', vm: 1 }])
    expect(bench.hyp.verify()).toEqual([])
  })

  test.each([
    ['not touched', 0n],
    ['mapped', BigInt(PAGE) | 0x7ffn],
  ])('a page that comes back %s is reachable at once, without an invalidation', (_, value) => {
    store(PAGE, ANNOTATION_VM)
    bench.hw.consumed = []
    expect(store(PAGE, value)).toBe(true)
    expect(bench.hw.consumed).toEqual([])
    expect(bench.hyp.ownership.hostReaches(PAGE)).toBe(true)
    expect(bench.hyp.verify()).toEqual([])
  })

  test('what EL2 only maps or splits changes nothing', () => {
    bench.hw.consumed = []
    const { generation } = bench.hyp.ownership
    store(PAGE, BigInt(PAGE) | 0x7ffn)
    expect(bench.hw.consumed).toEqual([])
    expect(bench.hyp.ownership.generation).toBe(generation)
  })

  test('nothing but the page that changed is read again', () => {
    const read = new Set<number>()
    bench.memory.beforeRead = address => read.add(address - (address % 4096))
    expect(store(PAGE, ANNOTATION_EL2)).toBe(true)
    expect([ROOT, ROOT + 0x1000, L2, L3].filter(page => read.has(page))).toEqual([L3])
  })

  test('all of it is read the first time, whatever is said to have changed', () => {
    bench.hyp.reset()
    bench.el2.watched.clear()
    bench.memory.poke64(descriptor(PAGE), ANNOTATION_EL2)
    expect(changed(false, [])).toBe(true)
    expect([...bench.el2.watched].sort()).toEqual([ROOT, ROOT + 0x1000, L2, L3])
    expect(bench.hyp.ownership.hostReaches(PAGE)).toBe(false)
  })

  test('a block that is annotated whole', () => {
    bench.memory.poke64(L2 + 8 * ((REGION / 2 ** 21) % 512), ANNOTATION_EL2)
    expect(changed(false, [L2])).toBe(true)
    expect(bench.hyp.ranges(REGION, REGION + 2 * MiB)).toMatchObject([{ base: REGION, size: 2 * MiB, state: 'hyp' }])
    expect(bench.el2.watched.has(L3)).toBe(false)
    expect(bench.hyp.verify()).toEqual([])
  })

  test('hypervisor memory stays the server’s whatever EL2 says of it', () => {
    const index = Math.floor(CARVEOUT_BASE / 2 ** 21) % 512
    bench.memory.poke64(L2 + 8 * index, ANNOTATION_VM)
    changed(false, [L2])
    bench.memory.poke64(L2 + 8 * index, 0n)
    changed(false, [L2])
    expect(bench.hyp.ranges(CARVEOUT_BASE, CARVEOUT_BASE + 4096)).toMatchObject([{ state: 'hyp' }])
    expect(bench.hyp.verify()).toEqual([])
  })

  test('the pages right below and behind hypervisor memory are the host’s to lose', () => {
    bench = new El2Bench({ ram: [{ base: RAM_BASE, size: RAM_SIZE + 2 * MiB }] })
    for (const base of [CARVEOUT_BASE - 2 * MiB, CARVEOUT_BASE + CARVEOUT_SIZE]) {
      bench.memory.poke64(L2 + 8 * (Math.floor(base / 2 ** 21) % 512), ANNOTATION_VM)
      expect(changed(false, [L2])).toBe(true)
      expect(bench.hyp.ranges(base, base + 2 * MiB)).toMatchObject([{ base, size: 2 * MiB, state: 'vm', vm: 1 }])
    }
    expect(bench.hyp.verify()).toEqual([])
  })

  test('a page that goes from EL2 to a VM, and to another one, is shown as theirs', () => {
    bench.hw.consumed = []
    store(PAGE, ANNOTATION_EL2)
    const invalidations = bench.hw.consumed.length
    for (const vm of [1, 2]) {
      expect(store(PAGE, ANNOTATION_VM + (BigInt(vm - 1) << 4n))).toBe(true)
      expect(bench.hyp.ranges(PAGE, PAGE + 4096)).toMatchObject([{ state: 'vm', vm }])
    }
    expect(bench.hw.consumed).toHaveLength(invalidations)
    expect(bench.hyp.verify()).toEqual([])
  })

  test('nobody else gives pages away', () => {
    expect(bench.hyp.donate(PAGE, 4096, 1)).toBe(EPERM)
    store(PAGE, ANNOTATION_VM)
    expect(bench.hyp.reclaim(PAGE, 4096, 1)).toBe(EPERM)
    expect(bench.hyp.ownership.hostReaches(PAGE)).toBe(false)
  })

  test('an SMMU that does not invalidate keeps EL2 where it is', () => {
    bench.hw.stuck = true
    expect(store(PAGE, ANNOTATION_EL2)).toBe(false)
    expect(bench.report.warnings.map(({ code }) => code)).toContain('HYP_UNMAP')
  })

  test('one of several pages cannot be unmapped: the warning names it', () => {
    const { idmap } = bench.hyp
    if (idmap === null) throw new Error('there is no idmap')
    const other = PAGE + 3 * 4096
    const unmap = idmap.unmap.bind(idmap)
    idmap.unmap = (base, size) => (base === other ? EFAULT : unmap(base, size))
    bench.memory.poke64(descriptor(PAGE), ANNOTATION_EL2)
    expect(store(other, ANNOTATION_EL2)).toBe(false)
    expect(bench.report.warnings).toMatchObject([{ code: 'HYP_UNMAP', values: [other, 0, 1, EFAULT] }])
  })

  test.each([
    ['EL2', ANNOTATION_EL2],
    ['a VM', ANNOTATION_VM],
  ])('a page that is shared goes to %s: devices lose it, and the machine does not go on', (_, annotation) => {
    expect(bench.hyp.share.share(PAGE, 4096)).toBe(0)
    expect(store(PAGE, annotation)).toBe(false)
    expect(bench.report.warnings).toMatchObject([{ code: 'HYP_EL2_TOOK_SHARED', values: [PAGE, 0, 1, 0] }])
    expect(bench.hyp.ownership.hostReaches(PAGE)).toBe(false)
  })

  test.each([
    ['as Linux 7.3 marks it', 1n << 60n],
    ['as others mark it', 1n << 10n],
  ])('a page whose descriptor EL2 is about to replace is still the host’s: %s', (_, locked) => {
    expect(bench.hyp.share.share(PAGE, 4096)).toBe(0)
    expect(store(PAGE, locked)).toBe(true)
    expect(bench.report.warnings).toEqual([])
    expect(bench.hyp.ownership.hostReaches(PAGE)).toBe(true)
    expect(annotated(bench.memory, registers)).toEqual([])
    expect(hostDescriptor(bench.memory, registers, PAGE)).toBe(0n)
    expect(store(PAGE + 4096, ANNOTATION_EL2)).toBe(true)
    expect(annotated(bench.memory, registers)).toMatchObject([{ base: PAGE + 4096, size: 4096 }])
  })

  test('blocks are split for what EL2 takes, and what cannot be taken keeps it where it is', () => {
    bench = new El2Bench({ options: { blocks: true } })
    expect(idmapEntry(bench, PAGE)?.size).toBe(2 * MiB)
    expect(store(PAGE, ANNOTATION_EL2)).toBe(true)
    expect(idmapEntry(bench, PAGE)).toBeNull()
    expect(idmapEntry(bench, PAGE + 4096)?.size).toBe(4096)
    expect(bench.hyp.verify()).toEqual([])
    bench.hw.stuck = true
    expect(store(PAGE + 8192, ANNOTATION_EL2)).toBe(false)
    expect(bench.report.take()).toContain('HYP_UNMAP')
  })

  test('without a second stage, or without an EL2, there is nothing to follow', () => {
    const until = new Bench({ el2: bench.el2, options: { until: 'queues' } })
    until.hyp.reset()
    const alone = new Bench()
    alone.hyp.reset()
    const change = { ...registers, cpu: 0, time: 0, all: true, pages: [] }
    for (const { hyp } of [until, alone]) {
      expect(hyp.stage2Changed(change)).toBe(true)
      expect(hyp.followed).toBe(false)
    }
  })

  test('what a trap waited for in vain does not shorten it', () => {
    bench.hw.stuck = true
    bench.host.commands(SYNC)
    bench.hw.stuck = false
    bench.hw.slow = 5
    expect(store(PAGE, ANNOTATION_EL2)).toBe(true)
  })

  test('it is followed', () => {
    expect(bench.hyp.followed).toBe(true)
    expect(new El2Bench().hyp.followed).toBe(true)
    expect(new Bench().hyp.followed).toBe(false)
  })

  test('tables that cannot be read keep EL2 where it is', () => {
    bench.memory.poke64(L2, 0x1000n | 3n)
    expect(changed(false, [L2])).toBe(false)
    expect(bench.report.warnings.map(({ code }) => code)).toContain('HYP_EL2_TABLES')
  })
})

describe('a hypervisor that takes over', () => {
  const next = () => {
    const hyp = successor(bench)
    hyp.restore(bench.hyp.checkpoint().slice())
    return hyp
  }

  test('before EL2 has tables', () => {
    bench.hyp.reset()
    bench.el2.now = null
    const hyp = next()
    expect(hyp.resume()).toEqual([])
    expect(hyp.followed).toBe(false)
    expect(bench.report.take()).toEqual([])
  })

  test('and cannot read them does not go on', () => {
    bench.memory.poke64(L2, 0x1000n | 3n)
    expect(() => next().resume()).toThrow("EL2's tables for its host cannot be followed")
  })

  test('and finds what it knows changes nothing', () => {
    expect(next().resume()).toEqual([])
  })
})

test('a hypervisor that takes over reads what EL2 changed meanwhile', () => {
  const checkpoint = bench.hyp.checkpoint().slice()
  bench.memory.poke64(descriptor(PAGE), ANNOTATION_VM)
  const next = successor(bench)
  next.restore(checkpoint)
  expect(next.resume()).toContain('pages that EL2 took or gave back meanwhile were followed')
  expect(next.ownership.hostReaches(PAGE)).toBe(false)
  expect(next.verify()).toEqual([])
})
