// SPDX-License-Identifier: Apache-2.0
/** SMMUs that do not look into the CPU's caches: what the hypervisor stores and forgets to clean is found, each clean in turn. */
import { describe, expect, test } from 'vitest'
import { Campaign } from '../../../server/attack/campaign.ts'
import { CpuCache } from '../../../server/attack/cpuCache.ts'
import { cfgiSte, Host, STE_BYPASS, SYNC } from '../../../server/attack/host.ts'
import { AttackMemory } from '../../../server/attack/memory.ts'
import { Random } from '../../../server/attack/random.ts'
import { World } from '../../../server/attack/world.ts'
import type { PolicyFactory } from '../../../server/policy/policy.ts'
import { ARM_SMMU_CMDQ_PROD } from '../../../server/smmu/registers.ts'
import { attackUntil, dma, HIGH_RAM, KNOWN, PLAIN, RAM, withHole, write } from './support.ts'

/** File and function of the hypervisor that cleans. */
function site(): string {
  const frame = (new Error().stack ?? '').split('\n').find(line => line.includes('server/hypervisor/pkvm/')) ?? ''
  const [, name = '', file = ''] = /at (?:\S*?\.)?(\S+) \(.*\/(\w+)\.ts:/.exec(frame) ?? []
  return `${file} ${name}`
}

/** The hypervisor, whose cleans go through `clean`. */
const cleaning = (clean: (site: string, really: () => void) => void): PolicyFactory =>
  withHole({
    machine: ({ memory }) => ({
      memory: {
        ram: memory.ram,
        read: (address, target, offset, length) => memory.read(address, target, offset, length),
        write: (address, source, offset, length) => memory.write(address, source, offset, length),
        clean: (address, length) => clean(site(), () => memory.clean?.(address, length)),
      },
    }),
  })

/** A hypervisor is killed between a store and its clean too seldom for an attack. */
const RESUME = 'hypervisor resume'

/** Every place that there is. */
const SITES = [
  'shadowCmdq append',
  'shadowCmdq discard',
  'shadowStrtab #link',
  'shadowStrtab write',
  'shadowStrtab #writeEntry',
  'tableMemory write',
  'pool zero',
  RESUME,
]

test('these are all cleans of the hypervisor', () => {
  const seen = new Set<string>()
  const campaign = new Campaign(
    cleaning((where, really) => {
      seen.add(where)
      really()
    }),
    { policy: 'pkvm', until: 'nested', hardware: ['noncoherent'], seed: 1, known: KNOWN },
  )
  while (campaign.stats.steps < 60_000) expect(campaign.next()).toBeUndefined()
  expect([...seen].sort()).toEqual([...SITES].sort())
})

const without = (left: string): PolicyFactory =>
  cleaning((where, really) => {
    if (where !== left) really()
  })

describe('left out', () => {
  test.each(SITES.filter(left => left !== RESUME))('%s', left => {
    const factory = without(left)
    const found = attackUntil(factory, /./, { hardware: ['noncoherent'], steps: 600_000 })
    expect(found?.kind).toBeDefined()
  })
})

/** A stream is attached, and the hypervisor killed after so many accesses in the middle of that: whether its device gets through. */
function killed(factory: PolicyFactory, after: number): { readonly reached: boolean; readonly died: boolean } {
  const world = new World({ ...PLAIN, twoLevel: true, sidBits: 16, hardware: ['noncoherent'] }, factory)
  world.restart(1)
  const host = new Host(world, new Random(1))
  const [strtab, cmdq, evtq] = [0x1_0000, 0x2_0000, 0x2_1000].map(offset => HIGH_RAM + offset)
  host.boot(0, { strtab, cmdq, cmdqLog2size: 6, evtq, evtqLog2size: 6, priq: evtq, priqLog2size: 6 })
  host.ste(0, 1, STE_BYPASS, HIGH_RAM + 0x4_0000)
  const { cmdqProd } = world.host[0]
  host.store(cmdq + 16 * cmdqProd, [...cfgiSte(1), ...SYNC])
  const before = world.policy
  world.perform({ ...write(ARM_SMMU_CMDQ_PROD, cmdqProd + 2), dies: after })
  const died = world.policy !== before
  expect(world.oracle.finding).toBeUndefined()
  return { died, reached: world.devices.access(dma(1, HIGH_RAM + 0x3_0000))?.kind === 'translated' }
}

test('killed between a store and its clean', () => {
  let lost = 0
  for (let after = 1; ; after++) {
    const { reached, died } = killed(withHole({}), after)
    expect([after, reached]).toEqual([after, true])
    if (!killed(without(RESUME), after).reached) lost++
    if (!died) break
  }
  expect(lost).toBeGreaterThan(0)
})

test('cleans are counted: of a stream, a command, a donation, a reclaim', () => {
  const world = new World({ ...PLAIN, twoLevel: true, sidBits: 16, hardware: ['noncoherent'] }, withHole({}))
  world.restart(1)
  const host = new Host(world, new Random(1))
  const [strtab, cmdq, evtq] = [0x1_0000, 0x2_0000, 0x2_1000].map(offset => HIGH_RAM + offset)
  host.boot(0, { strtab, cmdq, cmdqLog2size: 6, evtq, evtqLog2size: 6, priq: evtq, priqLog2size: 6 })
  const cleaned = (act: () => void) => {
    world.takeCleaned()
    act()
    return world.takeCleaned()
  }
  const page = HIGH_RAM + 0x3_0000
  // An L2 table of 16 KiB is zeroed; an L1 descriptor; words 1 to 7, CFGI, word 0, CFGI; the host's commands. Commands of which four are a
  // line lie in two, as the queue stands.
  expect(cleaned(() => host.attach(0, 1, STE_BYPASS, HIGH_RAM + 0x4_0000))).toEqual({ operations: 7, lines: 264 })
  expect(cleaned(() => host.attach(0, 2, STE_BYPASS, HIGH_RAM + 0x4_0000))).toEqual({ operations: 5, lines: 6 })
  expect(cleaned(() => host.commands(0, SYNC))).toEqual({ operations: 1, lines: 1 })
  // A descriptor; TLBI_S2_IPA and CMD_SYNC, TLBI_NH_ALL and CMD_SYNC.
  expect(cleaned(() => host.transfer('donate', page, 4096, 1))).toEqual({ operations: 3, lines: 3 })
  // The page, its descriptor.
  expect(cleaned(() => host.transfer('reclaim', page, 4096, 1))).toEqual({ operations: 2, lines: 65 })
  const { stats } = (() => {
    const options = { policy: 'pkvm', until: 'nested', hardware: ['noncoherent'], seed: 1, known: KNOWN } as const
    const campaign = new Campaign(withHole({}), options)
    while (campaign.stats.steps < 5_000) campaign.next()
    return campaign
  })()
  expect(stats.cleans).toBeGreaterThan(100)
  expect(stats.cleanedLines).toBeGreaterThan(stats.cleans)
})

test('a store reaches others with its line', () => {
  const memory = new AttackMemory([{ base: RAM, size: 0x2000 }])
  const cache = new CpuCache(memory)
  const bytes = (of: Pick<CpuCache, 'read'>, address: number, length: number) => {
    const read = new Uint8Array(length)
    expect(of.read(address, read, 0, length)).toBe(true)
    return [...read]
  }
  memory.setWord(RAM + 0x7c, 0x04030201)
  expect(cache.write(RAM + 0x7e, Uint8Array.of(9, 8, 7, 6), 0, 4)).toBe(true)
  expect(bytes(cache, RAM + 0x7c, 8)).toEqual([1, 2, 9, 8, 7, 6, 0, 0])
  expect(bytes(memory, RAM + 0x7c, 8)).toEqual([1, 2, 3, 4, 0, 0, 0, 0])
  cache.clean(RAM + 0x80, 1)
  expect(bytes(memory, RAM + 0x7c, 8)).toEqual([1, 2, 3, 4, 7, 6, 0, 0])
  cache.clean(RAM, 0x1000)
  expect(bytes(memory, RAM + 0x7c, 8)).toEqual([1, 2, 9, 8, 7, 6, 0, 0])
  // Not dirty any more: what others store is seen.
  memory.setWord(RAM + 0x7c, 0)
  expect(bytes(cache, RAM + 0x7c, 4)).toEqual([0, 0, 0, 0])
  cache.write(RAM + 0x1ffc, Uint8Array.of(5), 0, 1)
  cache.clear()
  cache.clean(RAM, 0x2000)
  expect(bytes(memory, RAM + 0x1ffc, 1)).toEqual([0])
  expect(cache.write(RAM + 0x1ffe, new Uint8Array(4), 0, 4)).toBe(false)
  expect(cache.read(RAM - 1, new Uint8Array(4), 0, 4)).toBe(false)
  cache.clean(RAM + 0x1ffe, 4)
})
