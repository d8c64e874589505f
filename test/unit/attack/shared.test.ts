// SPDX-License-Identifier: Apache-2.0
/** Hosts whose EL2 keeps tables that devices share: nothing is found, and hypervisors with one hole are. */
import { describe, expect, test } from 'vitest'
import { Campaign } from '../../../server/attack/campaign.ts'
import { decodeCase, encodeCase, performCase } from '../../../server/attack/cases.ts'
import { repertoire, Stage } from '../../../server/attack/program.ts'
import { Random } from '../../../server/attack/random.ts'
import { HARDWARE, POPULATE, type Setup } from '../../../server/attack/setup.ts'
import type { El2Step, Step } from '../../../server/attack/steps.ts'
import { World } from '../../../server/attack/world.ts'
import { pkvm } from '../../../server/hypervisor/pkvm/policy.ts'
import type { PolicyFactory, Stage2Change } from '../../../server/policy/policy.ts'
import { CMDQ_OP_PREFETCH_CFG } from '../../../server/smmu/commands.ts'
import { attackUntil, filtered, HIGH_RAM, PLAIN, store, withHole } from './support.ts'

const SHARED: Setup = { ...PLAIN, bbml: 2, shared: 'never' }

test.each(POPULATE)('%s: nothing is found', populate => {
  const campaign = new Campaign(pkvm, {
    ...{ policy: 'pkvm', until: 'nested', hardware: HARDWARE, seed: 5, known: [], shared: { populate } },
  })
  while (campaign.stats.steps < 80_000) expect(campaign.next()).toBeUndefined()
  expect(campaign.stats.judged).toBeGreaterThan(20)
  expect(campaign.stats.lost).toBe(0)
})

/** What EL2 tells is made another. */
const told = (hole: (change: Stage2Change, inner: (change: Stage2Change) => boolean) => boolean): PolicyFactory =>
  withHole({ stage2Changed: hole })

const HOLES: readonly (readonly [string, PolicyFactory, RegExp])[] = [
  [
    'what EL2 took is looked at one time later',
    (machine, context) => {
      let late: Stage2Change | undefined
      return told((change, inner) => {
        if (change.all) return inner(change)
        const due = late
        late = change
        return due === undefined || inner(due)
      })(machine, context)
    },
    /^dma/,
  ],
  [
    'TLBs keep what EL2 took',
    withHole({
      machine: ({ memory }) => ({
        memory: filtered(memory, (_, bytes) => {
          for (let at = 0; bytes.length % 16 === 0 && at < bytes.length; at += 16)
            if (bytes[at] >= 0x10 && bytes[at] <= 0x30) bytes[at] = CMDQ_OP_PREFETCH_CFG
          return true
        }),
      }),
    }),
    /^dma .*from a cache/,
  ],
  [
    'the machine goes on though EL2 took what SMMUs use',
    told((change, inner) => {
      inner(change)
      return true
    }),
    /^(smmu-write event|hypervisor-reads-vm)/,
  ],
]

test.each(HOLES)('%s: found, and its case shows it', (_, factory, kind) => {
  const found = attackUntil(factory, kind, { shared: { populate: undefined }, seed: 3 })
  expect(found?.kind).toMatch(kind)
  if (found === undefined) return
  const again = decodeCase(encodeCase(found), 'a case')
  expect(performCase(again, factory).finding?.kind).toBe(found.kind)
  expect(performCase(again, pkvm).finding).toBeUndefined()
})

test('a program ends where EL2 waits for good: what would do nothing is no operation', () => {
  let halted = 0
  let whole = 0
  for (let seed = 0; seed < 40; seed++) {
    const stage = new Stage(SHARED, 'hostile', pkvm)
    const { world } = stage
    /** Operations before the one in which EL2 was stopped. */
    let before: number | undefined
    const perform = world.perform.bind(world)
    world.perform = step => {
      if (before !== undefined) expect(stage.operations).toBe(before)
      perform(step)
      if (world.halted) before ??= stage.operations
    }
    const random = new Random(seed)
    const known = repertoire('hostile', 'shared')
    const operations = [known.first(random), ...Array.from({ length: 50 }, () => known.random(random))]
    expect(stage.run({ mode: 'hostile', seed, operations, interleaving: 0 }, false)).toBeUndefined()
    if (before === undefined) whole++
    else if (stage.operations === before + 1 && before + 1 < operations.length) halted++
  }
  expect(halted).toBeGreaterThan(0)
  expect(whole).toBeGreaterThan(0)
})

test('few programs end because EL2 took what an SMMU uses, or waits for one that stands, and some do', () => {
  let halted = 0
  const stage = new Stage(SHARED, 'hostile', pkvm)
  for (let seed = 0; seed < 100; seed++) {
    const random = new Random(seed)
    const known = repertoire('hostile', 'shared')
    const operations = [known.first(random), ...Array.from({ length: 60 }, () => known.random(random))]
    expect(stage.run({ mode: 'hostile', seed, operations, interleaving: 0 }, false)).toBeUndefined()
    if (stage.world.halted) halted++
  }
  expect(halted).toBeGreaterThan(0)
  expect(halted).toBeLessThan(25)
})

describe('EL2', () => {
  const el2 = (what: El2Step['what'], address = 0, tlbi = true): El2Step => ({ do: 'el2', what, address, vm: 1, tlbi })
  const PAGE = HIGH_RAM + 0x5000
  /** What the policy was told, and by which step. */
  const toldBy = (...steps: Step[]): { readonly world: World; readonly at: readonly number[] } => {
    const at: number[] = []
    const world = new World(
      SHARED,
      told((change, inner) => {
        at.push(world.steps.length)
        return inner(change)
      }),
    )
    world.restart(1)
    for (const step of steps) world.perform(step)
    return { world, at }
  }

  test('tells of its tables when it has some, of what it broke behind its TLBI, and of the rest when it leaves', () => {
    const { at } = toldBy(el2('touch', PAGE), el2('leave'), el2('take', PAGE), el2('leave'), el2('leave'))
    expect(at).toEqual([0, 2, 3, 4])
  })

  test('without a TLBI tells of it when it leaves only', () => {
    const { at } = toldBy(el2('touch', PAGE), el2('leave'), el2('take', PAGE, false), el2('leave'))
    expect(at).toEqual([0, 2, 4])
  })

  test('gives pages to VMs, and takes them back empty', () => {
    const { world } = toldBy({ do: 'donate', base: PAGE, size: 8192, vm: 2 }, store(PAGE, 1, 2, 3), {
      do: 'donate',
      base: PAGE,
      size: 4096,
      vm: 3,
    })
    const { map, donations, finding } = world.oracle
    expect([map.owner(PAGE), map.owner(PAGE + 4096), map.owner(PAGE + 8192)]).toEqual([2, 2, 0])
    expect(donations).toEqual([PAGE, PAGE + 4096])
    // Its host does not get there.
    expect(world.memory.word(PAGE)).not.toBe(1)
    world.perform({ do: 'reclaim', base: PAGE, size: 4096, vm: 2 })
    expect([map.owner(PAGE), map.owner(PAGE + 4096)]).toEqual([0, 2])
    expect(world.memory.word(PAGE)).toBe(0)
    expect(finding).toBeUndefined()
  })

  test('keeps its own memory', () => {
    const { world } = toldBy({ do: 'donate', base: HIGH_RAM + 0x20_0000, size: 4096, vm: 1 })
    expect(world.oracle.donations).toEqual([])
    expect(world.oracle.map.hostMay(HIGH_RAM + 0x20_0000)).toBe(false)
  })
})
