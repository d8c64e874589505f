// SPDX-License-Identifier: Apache-2.0
/** The policy `full` under attack, with hardware as its ID registers may promise. */
import { expect, test } from 'vitest'
import { Campaign } from '../../../../server/attack/campaign.ts'
import { HARDWARE, type HardwareOption } from '../../../../server/attack/setup.ts'
import { full } from '../../../../server/hypervisor/full/policy.ts'

test.each<[string, readonly HardwareOption[], number]>([
  ['hardware as QEMU’s', [], 1],
  ['all that hardware may be', HARDWARE, 2],
])('nothing is found: %s', (_name, hardware, seed) => {
  const campaign = new Campaign(full, { policy: 'full', until: 'nested', hardware, seed, known: [] })
  for (let i = 0; i < 150; i++) campaign.next()
  expect([...campaign.stats.kinds.keys()]).toEqual([])
  expect(campaign.stats.judged).toBeGreaterThan(60)
})
