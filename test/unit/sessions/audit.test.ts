// SPDX-License-Identifier: Apache-2.0
import { describe, expect, test } from 'vitest'
import { idmapGeometry } from '../../../server/hypervisor/pkvm/idmapGeometry.ts'
import { type AuditInput, audit } from '../../../server/sessions/audit.ts'
import type { GuestMemory } from '../../../server/smmu/memory.ts'
import {
  STRTAB_STE_0_CFG_BYPASS,
  STRTAB_STE_0_CFG_NESTED,
  STRTAB_STE_0_CFG_S1_TRANS,
} from '../../../server/smmu/ste.ts'
import { changedCanary, fillCanary } from '../../../server/trap/canary.ts'
import type { OwnershipRange } from '../../../server/trap/operations.ts'

const RAM = 0x4000_0000
const SIZE = 0x40_0000
const TABLE = RAM + 0x20_0000
const STES = RAM + 0x30_0000
const HYP = RAM + 0x20_0000
const PAGE = 4096
const LEAF = 0x7ffn | (1n << 10n)

/** A stream table with one stream, whose second stage maps the host's half of 4 MiB of RAM page by page. */
function machine(config = STRTAB_STE_0_CFG_NESTED) {
  const bytes = Buffer.alloc(SIZE)
  const put = (address: number, value: bigint) => bytes.writeBigUInt64LE(value, address - RAM)
  const within = (address: number, length: number) => address >= RAM && address + length <= RAM + SIZE
  const memory: GuestMemory = {
    ram: [{ base: RAM, size: SIZE }],
    read(address, target, offset, length) {
      if (!within(address, length)) return false
      bytes.copy(target, offset, address - RAM, address - RAM + length)
      return true
    },
    write(address, source, offset, length) {
      if (!within(address, length)) return false
      bytes.set(source.subarray(offset, offset + length), address - RAM)
      return true
    },
  }
  // Level 0 to 2 with one table each; of RAM, level 3 of the first 2 MiB.
  const geometry = idmapGeometry(4096, 44)
  expect(geometry.startLevel).toBe(0)
  put(TABLE, BigInt(TABLE + PAGE) | 3n)
  put(TABLE + PAGE + 8, BigInt(TABLE + 2 * PAGE) | 3n)
  put(TABLE + 2 * PAGE, BigInt(TABLE + 3 * PAGE) | 3n)
  const leaf = (page: number) => TABLE + 3 * PAGE + ((page - RAM) / PAGE) * 8
  for (let page = RAM; page < HYP; page += PAGE) put(leaf(page), BigInt(page) | LEAF)
  put(STES + 64, 1n | (BigInt(config) << 1n))
  put(STES + 64 + 16, BigInt(geometry.vtcr) << 32n)
  put(STES + 64 + 24, BigInt(TABLE))
  const ownership: OwnershipRange[] = [
    { base: RAM, size: HYP - RAM, state: 'owned', vm: 0 },
    { base: HYP, size: RAM + SIZE - HYP, state: 'hyp', vm: 0 },
  ]
  const input: AuditInput = {
    memory,
    smmus: [
      {
        strtabBaseLo: STES,
        strtabBaseHi: 0,
        strtabBaseCfg: 4,
        sidSize: 16,
        twoLevel: true,
        oas: 44,
        enabled: true,
        aborts: true,
      },
    ],
    ownership,
    frames: [{ base: 0x905_0000, size: 0x2_0000 }],
    device: (_, sid) => `device ${sid}`,
    canaries: true,
  }
  return { input, memory, put, leaf }
}

const donated = RAM + 0x5000
/** One page of the host is a VM's. */
const donate = (ownership: readonly OwnershipRange[]): OwnershipRange[] => [
  { base: RAM, size: donated - RAM, state: 'owned', vm: 0 },
  { base: donated, size: PAGE, state: 'vm', vm: 3 },
  { base: donated + PAGE, size: HYP - donated - PAGE, state: 'owned', vm: 0 },
  ...ownership.slice(1),
]

describe('audit of what devices reach', () => {
  test('tables that are as they should be: nothing', () => {
    expect(audit(machine().input)).toEqual([])
  })

  test('an SMMU that is off stops everything, or lets everything through', () => {
    const { input } = machine()
    const off = (aborts: boolean) => audit({ ...input, smmus: [{ ...input.smmus[0], enabled: false, aborts }] })
    expect(off(true)).toEqual([])
    expect(off(false)).toEqual(['SMMU 0 is off and lets everything through: its devices reach all of memory'])
  })

  test('a flipped output address, to the host and to the hypervisor', () => {
    const { input, put, leaf } = machine()
    put(leaf(RAM), BigInt(RAM + 0x1000) | LEAF)
    put(leaf(RAM + 0x1000), BigInt(HYP) | LEAF)
    expect(audit(input)).toEqual([
      'device 1: the second stage maps 0x40000000 to 0x40001000, not to itself',
      'device 1: the second stage maps 0x40001000 to 0x40200000, not to itself',
      'device 1: the second stage maps 0x40001000: page 0x40200000 belongs to the hypervisor',
    ])
  })

  test('registers of an SMMU', () => {
    const { input, put, leaf } = machine()
    put(leaf(RAM), 0x905_1000n | LEAF)
    expect(audit(input)).toContain('device 1: the second stage maps 0x40000000: registers of an SMMU')
  })

  test.each([STRTAB_STE_0_CFG_BYPASS, STRTAB_STE_0_CFG_S1_TRANS])('configuration %i has no second stage', config => {
    expect(audit(machine(config).input)).toEqual([
      'device 1: its stream table entry has no second stage: it reaches all of memory',
    ])
  })

  test('a donated page that is still mapped', () => {
    const { input, memory, put, leaf } = machine()
    fillCanary(memory, donated, PAGE)
    const ownership = donate(input.ownership)
    expect(audit({ ...input, ownership })).toEqual([
      'device 1: the second stage maps 0x40005000: page 0x40005000 belongs to VM 3',
    ])
    put(leaf(donated), 0n)
    expect(audit({ ...input, ownership })).toEqual([])
  })

  test('a donated page that somebody wrote', () => {
    const { input, memory, put, leaf } = machine()
    put(leaf(donated), 0n)
    fillCanary(memory, donated, PAGE)
    put(donated + 0x40, 0n)
    expect(audit({ ...input, ownership: donate(input.ownership) })).toEqual([
      'page 0x40005000 of VM 3 was written by somebody else: 2 words from offset 0x40',
    ])
  })

  test('a canary knows its page, and zeros are none', () => {
    const { memory } = machine()
    expect(changedCanary(memory, donated)).toEqual({ offset: 0, words: 1024 })
    fillCanary(memory, donated, 2 * PAGE)
    const page = new Uint8Array(PAGE)
    memory.read(donated, page, 0, PAGE)
    memory.write(donated + PAGE, page, 0, PAGE)
    expect(changedCanary(memory, donated)).toBeUndefined()
    expect(changedCanary(memory, donated + PAGE)).toBeDefined()
  })

  test('a table that leads into itself ends', () => {
    const { input, put } = machine()
    put(TABLE + 2 * PAGE + 8, BigInt(TABLE) | 3n)
    // Descriptors of tables, read as leaves, permit nothing.
    expect(audit(input)).toEqual([])
  })

  test('an SMMU that is off is not walked', () => {
    const { input } = machine(STRTAB_STE_0_CFG_BYPASS)
    expect(audit({ ...input, smmus: input.smmus.map(smmu => ({ ...smmu, enabled: false })) })).toEqual([])
  })
})
