// SPDX-License-Identifier: Apache-2.0
/** Whether an SMMU could walk EL2's own tables, and what those say of an address. */
import { expect, test } from 'vitest'
import { hostDescriptor } from '../../../server/oracle/hostStage2.ts'
import { QEMU_NESTED_ID_REGISTERS as QEMU } from '../../../server/smmu/features.ts'
import * as r from '../../../server/smmu/registers.ts'
import { hearsBroadcast, sharingProblems } from '../../../server/smmu/sharedStage2.ts'
import { TestMemory } from '../hypervisor/pkvm/support.ts'

/** As Debian's 7.3 has them with `-cpu max`: 52 bits, LPA2. */
const MAX = { vttbrLo: 0x7b81_0001, vttbrHi: 0, vtcrLo: 0x802e_358c, vtcrHi: 0x1 }
/** 44 bits in 4 KiB granules from level 0: T0SZ 20, SL0 2. */
const PLAIN = { vttbrLo: 0x4000_0000, vttbrHi: 0, vtcrLo: 0x4_0000 | (2 << 6) | 20, vtcrHi: 0 }

test('tables that QEMU’s SMMU can walk', () => {
  expect(sharingProblems(PLAIN, QEMU)).toEqual([])
  expect(hearsBroadcast(QEMU)).toBe(false)
  expect(hearsBroadcast({ ...QEMU, idr0: QEMU.idr0 | r.IDR0_BTM })).toBe(true)
})

test('those of a CPU with 52-bit addresses it cannot', () => {
  expect(sharingProblems(MAX, QEMU)).toEqual([
    'the descriptors are those of 52-bit addresses, which the SMMU does not read (VTCR_EL2.DS, IDR5.DS)',
    'the tables translate 52 bits, a stage 2 of the SMMU at most 44 (VTCR_EL2.T0SZ, IDR5.OAS)',
  ])
  const large = { ...QEMU, idr5: (QEMU.idr5 & ~r.IDR5_OAS) | r.IDR5_OAS_52_BIT | r.IDR5_DS }
  expect(sharingProblems(MAX, large)).toEqual([])
})

test.each([
  ['no stage 2', { idr0: QEMU.idr0 & ~r.IDR0_S2P }, {}, ['the SMMU has no stage 2 (IDR0.S2P)']],
  [
    'not coherent',
    { idr0: QEMU.idr0 & ~r.IDR0_COHACC },
    {},
    ['the SMMU does not look into caches, and EL2 cleans no table for it (IDR0.COHACC)'],
  ],
  [
    'another granule',
    { idr5: QEMU.idr5 & ~r.IDR5_GRAN64K },
    { vtcrLo: PLAIN.vtcrLo | (1 << 14) },
    ['the SMMU has no granule of 64 KiB (VTCR_EL2.TG0)'],
  ],
  ['a reserved granule', {}, { vtcrLo: PLAIN.vtcrLo | (3 << 14) }, ['VTCR_EL2.TG0 is reserved']],
  [
    'a VMID of 16 bits',
    { idr0: QEMU.idr0 & ~r.IDR0_VMID16 },
    { vttbrHi: 0x0100_0000 },
    ["VMID 256 has more bits than the SMMU's (IDR0.VMID16)"],
  ],
  ['the largest VMID of 8 bits', { idr0: QEMU.idr0 & ~r.IDR0_VMID16 }, { vttbrHi: 0x00ff_0000 }, []],
  ['a VMID of 16 bits that the SMMU has', { idr0: QEMU.idr0 | r.IDR0_VMID16 }, { vttbrHi: 0x0100_0000 }, []],
])('%s', (_, id, registers, problems) => {
  expect(sharingProblems({ ...PLAIN, ...registers }, { ...QEMU, ...id })).toEqual(problems)
})

test('what decides about an address', () => {
  const memory = new TestMemory([{ base: 0x4000_0000, size: 0x10_0000 }])
  const [l0, l1, l2, l3] = [0x4000_0000, 0x4000_1000, 0x4000_2000, 0x4000_3000]
  memory.poke64(l0, BigInt(l1) | 3n)
  memory.poke64(l1 + 8, BigInt(l2) | 3n)
  memory.poke64(l2, 0x4000_07fdn, BigInt(l3) | 3n)
  memory.poke64(l3, 0x4020_07ffn, 0x2000_0000_0000_0002n)
  const of = (address: number) => hostDescriptor(memory, PLAIN, address)
  expect(of(0x4000_5000)).toBe(0x4000_07fdn)
  expect(of(0x4020_0000)).toBe(0x4020_07ffn)
  expect(of(0x4020_1fff)).toBe(0x2000_0000_0000_0002n)
  expect(of(0x4020_2000)).toBe(0n)
  expect(of(0x8000_0000)).toBe(0n)
  // Beyond what the tables translate.
  expect(of(2 ** 44)).toBe(0n)
  memory.poke64(l1 + 8, 0x9000_0003n)
  expect(() => of(0x4000_5000)).toThrow('not in RAM')
})
