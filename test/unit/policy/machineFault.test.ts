// SPDX-License-Identifier: Apache-2.0
import { expect, test } from 'vitest'
import { type DescribedMachine, machineFault } from '../../../server/policy/machineFault.ts'

const MIB = 2 ** 20
const RAM = 0x4000_0000
const smmu = { base: 0x0905_0000, size: 0x2_0000 }

const good: DescribedMachine = {
  ram: [
    { base: RAM, size: MIB },
    { base: 2 ** 40, size: MIB },
  ],
  smmus: [smmu],
  devices: [{ smmu: 0, sid: 8 }],
  carveout: { base: RAM, size: 4096 },
}

test('a machine that can be', () => {
  expect(machineFault(good)).toBeUndefined()
  expect(machineFault({ ...good, carveout: { base: 7, size: 0 } })).toBeUndefined()
})

const overlap = 'RAM range 1 overlaps the one before, or is not behind it'

test.each<[string, Partial<DescribedMachine>, string]>([
  ['no RAM', { ram: [] }, 'it has no RAM'],
  ['an empty range', { ram: [{ base: RAM, size: 0 }] }, 'RAM range 0 is not of whole pages'],
  ['half a page', { ram: [{ base: RAM, size: 2048 }] }, 'RAM range 0 is not of whole pages'],
  ['a base in a page', { ram: [{ base: RAM + 1, size: 4096 }] }, 'RAM range 0 is not of whole pages'],
  ['less than nothing', { ram: [{ base: RAM, size: -4096 }] }, 'RAM range 0 is not of whole pages'],
  ['no number', { ram: [{ base: RAM, size: Number.NaN }] }, 'RAM range 0 is not of whole pages'],
  ['without end', { ram: [{ base: RAM, size: Number.POSITIVE_INFINITY }] }, 'RAM range 0 is not of whole pages'],
  ['an overlap', { ram: [...good.ram.slice(0, 1), { base: RAM + 4096, size: MIB }] }, overlap],
  ['not ascending', { ram: good.ram.toReversed() }, overlap],
  ['above 52 bits', { ram: [{ base: 2 ** 52, size: MIB }] }, 'RAM range 0 ends above 2^52'],
  [
    'more than the server can look after',
    { ram: [{ base: 0, size: 2 ** 41 }] },
    'it has 2048 GiB of RAM, this server takes up to 1024 GiB',
  ],
  ['a carve-out beyond everything', { carveout: { base: 2 ** 52, size: 4096 } }, 'its carve-out is not in its RAM'],
  ['a carve-out larger than RAM', { carveout: { base: RAM, size: 2 * MIB } }, 'its carve-out is not in its RAM'],
  ['half a page of carve-out', { carveout: { base: RAM, size: 2048 } }, 'its carve-out is not of whole pages'],
  [
    'a carve-out that is too large',
    { ram: [{ base: RAM, size: 2 ** 37 }], carveout: { base: RAM, size: 2 ** 37 } },
    'its carve-out has 128 GiB, this server takes up to 64 GiB',
  ],
  ['an SMMU beyond everything', { smmus: [{ ...smmu, base: 2 ** 53 - 1 }] }, 'SMMU 0 ends above 2^52'],
  ['too many SMMUs', { smmus: new Array(257).fill(smmu) }, 'it has 257 SMMUs, at most 256 are possible'],
  ['a device behind nothing', { smmus: [] }, 'the device with StreamID 8 is behind SMMU 0, of 0'],
])('%s', (_name, change, fault) => {
  expect(machineFault({ ...good, ...change })).toBe(fault)
})
