// SPDX-License-Identifier: Apache-2.0
import { beforeEach, describe, expect, test } from 'vitest'
import { idmapGeometry } from '../../../server/hypervisor/pkvm/idmapGeometry.ts'
import { changedCanary, fillCanary } from '../../../server/oracle/canary.ts'
import { IsolationOracle } from '../../../server/oracle/isolationOracle.ts'
import { type Programmed, readFeatures, readProgrammed } from '../../../server/oracle/programmed.ts'
import { QEMU_NESTED_ID_REGISTERS } from '../../../server/smmu/features.ts'
import type { GuestMemory } from '../../../server/smmu/memory.ts'
import * as R from '../../../server/smmu/registers.ts'
import {
  STRTAB_STE_0_CFG_BYPASS,
  STRTAB_STE_0_CFG_NESTED,
  STRTAB_STE_0_CFG_S1_TRANS,
  STRTAB_STE_2_S2AA64,
} from '../../../server/smmu/ste.ts'

const RAM = 0x4000_0000
const SIZE = 0x40_0000
const TABLE = RAM + 0x20_0000
const STES = RAM + 0x30_0000
const HYP = RAM + 0x20_0000
const QUEUE = RAM + 0x10_0000
const PAGE = 4096
const LEAF = 0x7ffn | (1n << 10n)
const VM = 3
const DONATED = RAM + 0x5000

let bytes: Buffer
let memory: GuestMemory
let oracle: IsolationOracle
let registers: Map<number, number>

const put = (address: number, value: bigint) => bytes.writeBigUInt64LE(value, address - RAM)
const within = (address: number, length: number) => address >= RAM && address + length <= RAM + SIZE
/** Descriptor of a page of the second stage. */
const leaf = (page: number) => TABLE + 3 * PAGE + ((page - RAM) / PAGE) * 8

/** A stream table with one stream, whose second stage maps the host's half of 4 MiB of RAM page by page. */
beforeEach(() => {
  bytes = Buffer.alloc(SIZE)
  memory = {
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
  put(TABLE, BigInt(TABLE + PAGE) | 3n)
  put(TABLE + PAGE + 8, BigInt(TABLE + 2 * PAGE) | 3n)
  put(TABLE + 2 * PAGE, BigInt(TABLE + 3 * PAGE) | 3n)
  for (let page = RAM; page < HYP; page += PAGE) put(leaf(page), BigInt(page) | LEAF)
  put(STES + 64 + 16, (BigInt(geometry.vtcr) << 32n) | STRTAB_STE_2_S2AA64)
  put(STES + 64 + 24, BigInt(TABLE))
  configure(STRTAB_STE_0_CFG_NESTED)
  const { idr0, idr1, idr3, idr5 } = QEMU_NESTED_ID_REGISTERS
  registers = new Map([
    [R.ARM_SMMU_IDR0, idr0],
    [R.ARM_SMMU_IDR1, idr1],
    [R.ARM_SMMU_IDR3, idr3],
    [R.ARM_SMMU_IDR5, idr5],
    [R.ARM_SMMU_CR0ACK, R.CR0_SMMUEN],
    [R.ARM_SMMU_GBPA, R.GBPA_ABORT],
    [R.ARM_SMMU_STRTAB_BASE, STES],
    [R.ARM_SMMU_STRTAB_BASE_CFG, 4],
  ])
  oracle = new IsolationOracle({
    memory,
    carveout: { base: HYP, size: SIZE - (HYP - RAM) },
    frames: [{ base: 0x905_0000, size: 0x2_0000 }],
    device: (_, sid) => `device ${sid}`,
  })
  oracle.begin()
  oracle.guard.add(HYP, SIZE - (HYP - RAM))
  oracle.judge(true)
})

function configure(config: number): void {
  put(STES + 64, 1n | (BigInt(config) << 1n))
}

function smmus(): Programmed[] {
  const hardware = {
    read(offset: number, _size: number, into: { lo: number; hi: number }) {
      into.lo = registers.get(offset) ?? 0
      into.hi = registers.get(offset + 4) ?? 0
      return true
    },
  }
  return [readProgrammed(hardware, readFeatures(hardware))]
}

const messages = () => oracle.summary().violations.map(({ message }) => message)

function whole(): string[] {
  oracle.whole(smmus())
  return messages()
}

/** What a hypervisor does that donates as it should. */
function donate(page = DONATED): void {
  oracle.moving('donate', page, PAGE, VM)
  put(leaf(page), 0n)
  oracle.guard.add(page, PAGE)
  oracle.moved('donate', page, PAGE, VM, true)
}

function reclaim(page = DONATED): void {
  oracle.moving('reclaim', page, PAGE, VM)
  bytes.fill(0, page - RAM, page - RAM + PAGE)
  oracle.opening(page, PAGE)
  oracle.guard.remove(page, PAGE)
  put(leaf(page), BigInt(page) | LEAF)
  oracle.moved('reclaim', page, PAGE, VM, true)
}

describe('what the tables let devices reach', () => {
  test('as it should be: nothing', () => expect(whole()).toEqual([]))

  test('each partition is held to its own ranges, though two have a second stage in common', () => {
    const half = (HYP - RAM) / 2
    oracle.judge(true, [
      { name: 'guest', streams: [{ smmu: 0, sid: 1 }], ranges: [{ base: RAM, size: HYP - RAM }] },
      { name: 'vault', streams: [{ smmu: 0, sid: 2 }], ranges: [{ base: RAM, size: half }] },
    ])
    expect(whole()).toEqual([])
    for (let word = 0; word < 8; word++) put(STES + 128 + 8 * word, bytes.readBigUInt64LE(STES - RAM + 64 + 8 * word))
    const [first, ...others] = whole()
    expect(first).toBe(
      `device 2: the second stage maps 0x${(RAM + half).toString(16)}: page 0x${(RAM + half).toString(16)} is not in partition vault`,
    )
    expect(others.every(message => message.startsWith('device 2: '))).toBe(true)
  })

  test('without registers it is not all that was looked at', () => {
    whole()
    oracle.whole([])
    expect(oracle.summary().wholes).toBe(1)
  })

  test('an SMMU that is off stops everything, or lets everything through', () => {
    registers.set(R.ARM_SMMU_CR0ACK, 0)
    expect(whole()).toEqual([])
    registers.set(R.ARM_SMMU_GBPA, 0)
    expect(whole()).toEqual(['SMMU 0 is off and lets everything through: its devices reach all of memory'])
  })

  test('an SMMU whose CR0 is written, and not acknowledged yet, is on', () => {
    configure(STRTAB_STE_0_CFG_BYPASS)
    registers.set(R.ARM_SMMU_CR0ACK, 0)
    registers.set(R.ARM_SMMU_CR0, R.CR0_SMMUEN)
    expect(whole()).toHaveLength(1)
  })

  test('a flipped output address, to the host and to the hypervisor', () => {
    put(leaf(RAM), BigInt(RAM + 0x1000) | LEAF)
    put(leaf(RAM + 0x1000), BigInt(HYP) | LEAF)
    expect(whole()).toEqual([
      'device 1: the second stage maps 0x40000000 to 0x40001000, not to itself',
      'device 1: the second stage maps 0x40001000 to 0x40200000: page 0x40200000 belongs to the hypervisor',
    ])
  })

  test('registers of an SMMU', () => {
    put(leaf(RAM), 0x905_1000n | LEAF)
    expect(whole()).toEqual([
      'device 1: the second stage maps 0x40000000 to 0x9051000: page 0x9051000 registers of an SMMU',
    ])
  })

  test.each([STRTAB_STE_0_CFG_BYPASS, STRTAB_STE_0_CFG_S1_TRANS])('configuration %i has no second stage', config => {
    configure(config)
    expect(whole()).toEqual(['device 1: its stream table entry has no second stage: it reaches all of memory'])
  })

  test('a donated page that is still mapped: who, which page, and the entries on the way', () => {
    donate()
    put(leaf(DONATED), BigInt(DONATED) | LEAF)
    expect(whole()).toEqual(['device 1: the second stage maps 0x40005000: page 0x40005000 belongs to VM 3'])
    const [{ page, stream, walk }] = oracle.summary().violations
    expect(page).toBe('0x40005000')
    expect(stream).toEqual({ smmu: 0, sid: 1, device: 'device 1' })
    expect(walk.map(line => line.replace(/:.*/, ''))).toEqual([
      'STRTAB_BASE 0x40300000, STRTAB_BASE_CFG 0x4',
      'STE 0x40300040',
      `S2 level 0 for IN 0x40200000 = 0x40201003`,
      `S2 level 1 for IN 0x40201008 = 0x40202003`,
      `S2 level 2 for IN 0x40202000 = 0x40203003`,
      `S2 level 3 for IN 0x40203028 = 0x400057ff`,
    ])
  })

  test('a block that holds one page of somebody else', () => {
    put(TABLE + 2 * PAGE, BigInt(RAM) | (LEAF & ~2n))
    expect(whole()).toEqual([])
    donate(RAM + 0x1f_f000)
    expect(whole()).toEqual([
      'device 1: the second stage maps 0x40000000 (2097152 bytes): page 0x401ff000 belongs to VM 3',
    ])
  })

  test('a table that leads into itself ends', () => {
    put(TABLE + 2 * PAGE + 8, BigInt(TABLE) | 3n)
    // Descriptors of tables, read as leaves, permit nothing.
    expect(whole()).toEqual([])
  })

  test('a second stage that nobody can look at as a whole: what it reaches is not known', () => {
    for (let i = 0; i < 64; i++) put(TABLE + 8 * i, BigInt(TABLE) | 3n)
    expect(whole()).toContain(
      'device 1: the second stage has more than 4100 tables, or leads into itself: what it reaches is not known',
    )
  })

  test('an event queue where a VM has its page', () => {
    registers.set(R.ARM_SMMU_CR0ACK, R.CR0_SMMUEN | R.CR0_EVTQEN)
    registers.set(R.ARM_SMMU_EVTQ_BASE, QUEUE | 8)
    expect(whole()).toEqual([])
    donate(QUEUE + PAGE)
    expect(whole()).toEqual([
      'SMMU 0 writes its event queue at 0x40100000, 8192 bytes: page 0x40101000 belongs to VM 3',
    ])
  })

  test('nothing is said about a policy that does not isolate', () => {
    configure(STRTAB_STE_0_CFG_BYPASS)
    oracle.judge(false)
    expect(whole()).toEqual([])
    expect(oracle.summary().unjudged).toBe('the policy does not isolate')
  })
})

describe('samples', () => {
  test('find what the whole finds, a part at a time', () => {
    donate()
    put(leaf(RAM + 0x1000), BigInt(HYP) | LEAF)
    for (let i = 0; i < 4; i++) oracle.sample(smmus())
    expect(messages()).toEqual([
      'device 1: the second stage maps 0x40001000 to 0x40200000: page 0x40200000 belongs to the hypervisor',
    ])
  })

  test('come to all of a second stage that is larger than one of them', () => {
    // 40 tables of level 3 for the first of them; the last one has an entry that leads elsewhere.
    const spare = (i: number) => HYP + 0x4_0000 + i * PAGE
    for (let i = 1; i <= 40; i++) put(TABLE + 2 * PAGE + 8 * i, BigInt(spare(i)) | 3n)
    put(spare(40) + 8 * 511, BigInt(HYP) | LEAF)
    oracle.sample(smmus())
    expect(messages()).toEqual([])
    for (let i = 0; i < 3; i++) oracle.sample(smmus())
    expect(messages()).toHaveLength(1)
  })

  test('look at the pages that changed hands last each time', () => {
    for (let i = 0; i < 40; i++) put(TABLE + 2 * PAGE + 8 * (i + 1), BigInt(HYP + 0x4_0000 + i * PAGE) | 3n)
    oracle.sample(smmus())
    donate()
    put(leaf(DONATED), BigInt(DONATED) | LEAF)
    oracle.sample(smmus())
    expect(messages()).toEqual(['device 1: the second stage maps 0x40005000: page 0x40005000 belongs to VM 3'])
  })

  test('the same violation is told once', () => {
    configure(STRTAB_STE_0_CFG_BYPASS)
    for (let i = 0; i < 3; i++) oracle.sample(smmus())
    expect(oracle.summary()).toMatchObject({ samples: 3, more: 0, violations: [{ kind: 'tables: no stage 2' }] })
  })
})

describe('pages that change hands', () => {
  test('a donation and its reclaim, done right', () => {
    donate()
    expect(oracle.summary().vmPages).toBe(1)
    expect(changedCanary(memory, DONATED)).toBeUndefined()
    expect(whole()).toEqual([])
    reclaim()
    expect(whole()).toEqual([])
    expect(oracle.summary().vmPages).toBe(0)
  })

  test('a page of a VM that somebody wrote, found by the next look, and when it is taken back', () => {
    donate()
    put(DONATED + 0x40, 0n)
    const found = ['page 0x40005000 of VM 3 was written by somebody else: 2 words from offset 0x40']
    expect(whole()).toEqual(found)
    oracle.begin()
    oracle.judge(true)
    donate()
    put(DONATED + 0x40, 0n)
    reclaim()
    expect(messages().slice(0, 1)).toEqual(found)
  })

  test('not zeroed before it was opened to vCPUs', () => {
    donate()
    oracle.moving('reclaim', DONATED, PAGE, VM)
    oracle.opening(DONATED, PAGE)
    oracle.guard.remove(DONATED, PAGE)
    bytes.fill(0, DONATED - RAM, DONATED - RAM + PAGE)
    oracle.moved('reclaim', DONATED, PAGE, VM, true)
    expect(messages()).toEqual(['0x40005000 came back from VM 3 with its contents'])
  })

  test('a vCPU that writes at once into a page that was given back is no leak', () => {
    donate()
    oracle.moving('reclaim', DONATED, PAGE, VM)
    bytes.fill(0, DONATED - RAM, DONATED - RAM + PAGE)
    oracle.opening(DONATED, PAGE)
    oracle.guard.remove(DONATED, PAGE)
    put(DONATED, 1n)
    oracle.moved('reclaim', DONATED, PAGE, VM, true)
    expect(messages()).toEqual([])
  })

  test('a guard that is not the map', () => {
    oracle.moving('donate', DONATED, PAGE, VM)
    oracle.moved('donate', DONATED, PAGE, VM, true)
    expect(messages()).toEqual(['0x40005000 belongs to VM 3 and is open to vCPUs'])
    oracle.guard.add(RAM, PAGE)
    put(leaf(DONATED), 0n)
    oracle.guard.add(DONATED, PAGE)
    expect(whole()).toContain('0x40000000 belongs to the host and is kept from vCPUs')
  })

  test('a donation that was refused changes nothing', () => {
    oracle.moving('donate', DONATED, PAGE, VM)
    oracle.moved('donate', DONATED, PAGE, VM, false)
    expect(whole()).toEqual([])
    expect(oracle.summary().vmPages).toBe(0)
  })

  test('one whose end nobody told: nothing is said of the page', () => {
    oracle.moving('donate', DONATED, PAGE, VM)
    oracle.guard.add(DONATED, PAGE)
    const next = new IsolationOracle({ memory, carveout: { base: HYP, size: PAGE }, frames: [], device: () => 'x' })
    next.adopt(oracle.state)
    next.judge(true)
    expect(whole()).toEqual([])
    next.hypervisorWrites(DONATED, 8)
    next.whole(smmus())
    expect(next.summary().violations.map(({ page }) => page)).not.toContain('0x40005000')
  })

  test('a successor knows what was donated', () => {
    donate()
    const next = new IsolationOracle({
      memory,
      carveout: { base: HYP, size: SIZE - (HYP - RAM) },
      frames: [],
      device: () => 'x',
    })
    next.adopt(structuredClone(oracle.state))
    next.judge(true)
    put(leaf(DONATED), BigInt(DONATED) | LEAF)
    next.whole(smmus())
    expect(next.summary().violations).toMatchObject([{ kind: 'tables: stage 2', page: '0x40005000' }])
  })

  test('the hypervisor has no business in a page of a VM but to empty it', () => {
    donate()
    oracle.hypervisorReads(DONATED - 4, 8)
    expect(messages()).toEqual(['the hypervisor reads 8 bytes at 0x40004ffc, 0x40005000 belongs to VM 3'])
    oracle.moving('reclaim', DONATED, PAGE, VM)
    oracle.hypervisorWrites(DONATED, PAGE)
    expect(messages()).toHaveLength(1)
  })
})

test('a canary knows its page, and zeros are none', () => {
  expect(changedCanary(memory, DONATED)).toEqual({ offset: 0, words: 1024 })
  fillCanary(memory, DONATED, 2 * PAGE)
  const page = new Uint8Array(PAGE)
  memory.read(DONATED, page, 0, PAGE)
  memory.write(DONATED + PAGE, page, 0, PAGE)
  expect(changedCanary(memory, DONATED)).toBeUndefined()
  expect(changedCanary(memory, DONATED + PAGE)).toBeDefined()
})
