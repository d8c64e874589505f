// SPDX-License-Identifier: Apache-2.0
/** The policy `partition` under attack, and what an attack finds of one that does not keep what it promises. */
import { describe, expect, test } from 'vitest'
import { Campaign } from '../../../../server/attack/campaign.ts'
import type { HardwareOption } from '../../../../server/attack/setup.ts'
import { guestOnly, type Partition, partition } from '../../../../server/hypervisor/partition/policy.ts'
import type { Machine } from '../../../../server/machine/ports.ts'
import type { PolicyFactory } from '../../../../server/policy/policy.ts'

/** What hardware may be that the policy takes. */
const HARDWARE: readonly HardwareOption[] = ['lag', 'slow', 'torn', 'unguarded', 'unaligned', 'small']
const VAULT_SIZE = 0x10_0000
const FOREIGN = 8
const NOBODYS = 0x100

/** The last MiB of the guest's RAM and a stream are another partition's, a second stream nobody's. */
function two(machine: Machine): Partition[] {
  const [guest] = guestOnly(machine)
  const ram = guest.ranges.findLastIndex(({ device }) => device === undefined)
  const { base, size } = guest.ranges[ram]
  return [
    {
      name: 'guest',
      streams: guest.streams.filter(({ sid }) => sid !== FOREIGN && sid !== NOBODYS),
      ranges: guest.ranges.map((range, i) => (i === ram ? { base, size: size - VAULT_SIZE } : range)),
    },
    {
      name: 'vault',
      streams: guest.streams.filter(({ sid }) => sid === FOREIGN),
      ranges: [{ base: base + size - VAULT_SIZE, size: VAULT_SIZE }],
    },
  ]
}

const shared: PolicyFactory = (machine, context) => partition(machine, context, two(machine))

/**
 * @param wanted kinds after which it ends
 * @returns kinds of what was found, and programs that were judged
 */
function attacked(
  factory: PolicyFactory,
  programs: number,
  hardware: readonly HardwareOption[],
  seed: number,
  wanted?: readonly string[],
) {
  const campaign = new Campaign(factory, { policy: 'test', until: 'nested', hardware, seed, known: [] })
  for (let i = 0; i < programs; i++) {
    campaign.next()
    if (wanted?.every(kind => campaign.stats.kinds.has(kind))) break
  }
  return { kinds: [...campaign.stats.kinds.keys()], judged: campaign.stats.judged }
}

test.each([
  ['alone', partition, HARDWARE, 1],
  ['beside another partition', shared, HARDWARE, 2],
  ['on hardware as it is', shared, [], 3],
] as const)('nothing is found of the guest %s', (_name, factory, hardware, seed) => {
  const { kinds, judged } = attacked(factory, 150, hardware, seed)
  expect(kinds).toEqual([])
  expect(judged).toBeGreaterThan(60)
})

describe('a promise that is not kept', () => {
  /** It shares out as above, and says something else. */
  const says =
    (change: (partitions: readonly Partition[]) => readonly Partition[]): PolicyFactory =>
    (machine, context) => {
      const policy = shared(machine, context)
      if (policy.inspect) Object.assign(policy.inspect, { partitions: change(two(machine)) })
      return policy
    }

  test.each([
    [
      'a stream of another partition reaches what is not its own',
      ([guest, vault]: readonly Partition[]) => [guest, { ...vault, ranges: [] }],
      ['dma by stage 2', 'tables: stage 2'],
    ],
    [
      'a stream that should reach nothing reaches the memory of a partition',
      ([guest, vault]: readonly Partition[]) => [guest, { ...vault, streams: [] }],
      ['dma by stage 2', 'tables: stage 2'],
    ],
    [
      'a stream of the guest, and the SMMU itself, reach what is not of the guest',
      ([guest, vault]: readonly Partition[]) => [{ ...guest, ranges: guest.ranges.slice(-2) }, vault],
      ['dma by stage 2', 'smmu-write event'],
    ],
  ] as const)('%s', (_name, change, wanted) => {
    expect(attacked(says(change), 150, [], 1, wanted).kinds).toEqual(expect.arrayContaining([...wanted]))
  })
})

test('a machine that the policy refuses is left for the next one', () => {
  const stopped: string[] = []
  const counted: PolicyFactory = (machine, context) => {
    const policy = partition(machine, context)
    return {
      ...policy,
      reset() {
        try {
          policy.reset()
        } catch (error) {
          stopped.push((error as Error).message)
          throw error
        }
      },
    }
  }
  // Seven machines in ten have MSIs: most of a slot's turns would be lost with them.
  const { kinds, judged } = attacked(counted, 200, ['msi', 'lag'], 4)
  expect(kinds).toEqual([])
  expect(stopped.length).toBeLessThan(100)
  expect(judged).toBe(200 - stopped.length)
})
