// SPDX-License-Identifier: Apache-2.0
import { expect, test } from 'vitest'
import type { OwnedRange, Reach } from '../../../server/api/schemas/pages.ts'
import { refusal } from '../../../server/web/src/refusal.ts'

const range = (base: number, state: OwnedRange['state'], vm = 0): OwnedRange => ({
  base: `0x${base.toString(16)}`,
  size: 0x1000,
  state,
  vm,
})
const host = range(0x7000_0000, 'owned')

test.each<[string, Parameters<typeof refusal>, string]>([
  [
    'a VM has it',
    ['donate', 1, 'EPERM', [host, range(0x7000_1000, 'vm', 2)], []],
    'The page at 0x70001000 belongs to VM 2.',
  ],
  [
    'the hypervisor has it',
    ['donate', 1, 'EPERM', [range(0x7c00_0000, 'hyp')], []],
    'The page at 0x7c000000 is the hypervisor’s.',
  ],
  ['nobody took it', ['reclaim', 1, 'EPERM', [host], []], 'The page at 0x70000000 is the host’s.'],
  ['another VM has it', ['reclaim', 1, 'EPERM', [range(0x1000, 'vm', 2)], []], 'The page at 0x1000 belongs to VM 2.'],
  ['no RAM', ['donate', 1, 'EFAULT', [range(0x1000, 'not RAM')], []], 'The page at 0x1000 is not RAM.'],
  ['not aligned', ['donate', 1, 'EINVAL', [host], []], 'The range is not aligned to the granule.'],
])('%s', (_, given, expected) => {
  expect(refusal(...given)).toBe(expected)
})

test('a pinned page: where a device has it mapped', () => {
  const reach = [
    {
      sid: 8,
      device: { name: 'virtio-blk', model: 'virtio-blk-pci' },
      config: 'nested',
      mapped: [{ base: '0x6fffe000', size: 0x4000, iova: '0xffffc000' }],
    },
  ] as unknown as readonly Reach[]
  expect(refusal('donate', 1, 'EBUSY', [host], reach)).toBe(
    'The page at 0x70000000 is the host’s, and mapped for DMA of virtio-blk at IOVA 0xffffc000.',
  )
  expect(refusal('donate', 1, 'EBUSY', [host], [])).toBe('A page in the range is pinned.')
})
