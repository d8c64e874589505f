// SPDX-License-Identifier: Apache-2.0
/**
 * What EL2 does to its host's stage 2, one step at a time, on the real QEMU: what is told to the server and when, and that
 * devices reach the same afterwards.
 */
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { El2Guest, FAULTED, RAM, TLBI_FORMS } from './el2Guest.ts'

const MiB = 2 ** 20
/** RAM, carve-out included. */
const SIZE = 128 * MiB
/** Where tables are put, each at its own 256 KiB. */
const TABLES = RAM + 16 * MiB
const table = (n: number) => TABLES + n * 256 * 1024
/** The region that the last table maps in pages: nothing else is there. */
const REGION = RAM + 32 * MiB
const PAGE = REGION + 0x8000
const WORD = 0x5ec2e7n

const EL2 = 0x2000000000000002n
const VM = (2n << 60n) | (0x1000n << 4n) | 4n
const RW = 1n << 31n
const HCR_VM = 1n
/** Write-back, inner shareable walks; RES1. */
const VTCR_COMMON = (1n << 31n) | (3n << 12n) | (1n << 10n) | (1n << 8n)

/** AF, S2AP read and write, normal write-back memory. */
const VALID = 0x400n | 0xc0n | 0x3cn
const SHARED = 0x300n

interface Geometry {
  readonly name: string
  readonly vtcr: bigint
  readonly granuleShift: number
  readonly startLevel: number
  /** Shareability is in the descriptors. */
  readonly sh: bigint
}

const GEOMETRIES: readonly Geometry[] = [
  {
    name: '4 KiB, 40 bits, two tables at level 1',
    vtcr: VTCR_COMMON | 24n | (1n << 6n) | (2n << 16n),
    granuleShift: 12,
    startLevel: 1,
    sh: SHARED,
  },
  {
    name: '4 KiB, LPA2, 52 bits, sixteen tables at level 0, as Linux has it',
    vtcr: 0x1_802e_358cn,
    granuleShift: 12,
    startLevel: 0,
    sh: 0n,
  },
  {
    name: '16 KiB, 40 bits, sixteen tables at level 2',
    vtcr: VTCR_COMMON | 24n | (1n << 6n) | (2n << 14n) | (2n << 16n),
    granuleShift: 14,
    startLevel: 2,
    sh: SHARED,
  },
]

const [FIRST] = GEOMETRIES as readonly [Geometry]

/** log2 of the bytes that a descriptor stands for. */
const shift = ({ granuleShift }: Geometry, level: number) => granuleShift + (3 - level) * (granuleShift - 3)

/** Where the descriptor of an address is in its table. */
function slot(geometry: Geometry, level: number, address: number): number {
  const index = Math.floor(address / 2 ** shift(geometry, level))
  return 8 * (level === geometry.startLevel ? index : index % 2 ** (geometry.granuleShift - 3))
}

/** Tables of the host: RAM in blocks at level 2, REGION in pages of which none was touched. */
class Tables {
  readonly geometry: Geometry
  readonly #at: number

  /** @param at number of the first of the places for them */
  constructor(geometry: Geometry, at = 0) {
    this.geometry = geometry
    this.#at = at
  }

  get root(): number {
    return table(this.#at)
  }

  level(level: number): number {
    return table(this.#at + level - this.geometry.startLevel)
  }

  leaf(address: number, level: number): bigint {
    return BigInt(address) | VALID | this.geometry.sh | (level === 3 ? 3n : 1n)
  }

  descriptor(level: number, address: number): number {
    return this.level(level) + slot(this.geometry, level, address)
  }

  put(guest: El2Guest): void {
    const { geometry } = this
    for (let level = geometry.startLevel; level < 2; level++) {
      guest.poke(this.descriptor(level, RAM), BigInt(this.level(level + 1)) | 3n)
    }
    const block = 2 ** shift(geometry, 2)
    for (let at = RAM; at < RAM + SIZE; at += block) guest.poke(this.descriptor(2, at), this.leaf(at, 2))
    guest.poke(this.descriptor(2, REGION), BigInt(this.level(3)) | 3n)
  }

  async enter(guest: El2Guest, cpu = 0): Promise<void> {
    await guest.vtcr(this.geometry.vtcr, cpu)
    await guest.vttbr(BigInt(this.root) | 1n, cpu)
    await guest.hcr(RW | HCR_VM, cpu)
  }

  /** The page of 4 KiB that the descriptor of an address is in. */
  page(level: number, address: number): number {
    const at = this.descriptor(level, address)
    return at - (at % 4096)
  }
}

let guest: El2Guest
afterEach(() => guest.dispose())

/** Devices reach what EL2 lets its host reach. */
async function expectAgreement(kept: number): Promise<void> {
  const { agreement, problem } = await guest.el2()
  expect(problem).toBeUndefined()
  expect(agreement).toMatchObject({ pages: SIZE / 4096, wrong: 0, disagreements: [], kept })
}

describe.each(GEOMETRIES)('$name', geometry => {
  const tables = new Tables(geometry)
  /** Pages of 4 KiB in one of the granule's. */
  const pages = 2 ** (geometry.granuleShift - 12)

  beforeEach(async () => {
    guest = await El2Guest.start()
    tables.put(guest)
    guest.poke(PAGE, WORD)
  })

  test('taken, lent, mapped and given back', async () => {
    // Without HCR_EL2.VM nothing is protected, and nothing told.
    await guest.leave()
    expect(guest.told()).toEqual([])
    await tables.enter(guest)
    await guest.leave()
    expect(guest.told()).toEqual([{ cpu: 0, all: true, pages: [] }])
    expect((await guest.el2()).registers?.vtcr).toBe(`0x${geometry.vtcr.toString(16)}`)
    await expectAgreement(0)
    await guest.leave()
    expect(guest.told()).toEqual([])

    // A page that the host never touched: no TLBI says so.
    await guest.store(tables.descriptor(3, PAGE), VM)
    await guest.leave()
    expect(guest.told()).toEqual([{ cpu: 0, all: false, pages: [tables.page(3, PAGE)] }])
    expect(await guest.owner(PAGE)).toBe('vm 1')
    await expectAgreement(pages)
    expect(await guest.leave(PAGE)).toBe(FAULTED)

    // It comes back untouched, and again mapped.
    await guest.store(tables.descriptor(3, PAGE), 0n)
    await guest.leave()
    expect(await guest.owner(PAGE)).toBe('host')
    await expectAgreement(0)
    await guest.store(tables.descriptor(3, PAGE), tables.leaf(PAGE - (PAGE % 2 ** geometry.granuleShift), 3))
    expect(await guest.leave(PAGE)).toBe(WORD)
    await expectAgreement(0)
    guest.told()

    // Break before make: however many stores, one message, before EL1 runs.
    await guest.store(tables.descriptor(3, PAGE), 0n)
    await guest.tlbi(PAGE)
    await guest.store(tables.descriptor(3, PAGE), EL2)
    expect(guest.told()).toEqual([])
    expect(await guest.leave(PAGE)).toBe(FAULTED)
    expect(guest.told()).toEqual([{ cpu: 0, all: false, pages: [tables.page(3, PAGE)] }])
    expect(await guest.owner(PAGE)).toBe('hyp')
    await expectAgreement(pages)
  })

  test('a block is split, and a page of it taken', async () => {
    await tables.enter(guest)
    await guest.leave()
    guest.told()
    const size = 2 ** shift(geometry, 2)
    const block = REGION + size
    const split = table(8)
    const granule = 2 ** geometry.granuleShift
    for (let i = 0; i < size / granule; i++) guest.poke(split + 8 * i, tables.leaf(block + i * granule, 3))
    await guest.store(tables.descriptor(2, block), 0n)
    await guest.tlbi()
    await guest.store(tables.descriptor(2, block), BigInt(split) | 3n)
    await guest.leave()
    expect(guest.told()).toEqual([{ cpu: 0, all: false, pages: [tables.page(2, block)] }])
    await expectAgreement(0)
    // The new table is watched from now on.
    await guest.store(split + 8 * 3, VM)
    await guest.leave()
    expect(guest.told()).toEqual([{ cpu: 0, all: false, pages: [split] }])
    expect(await guest.owner(block + 3 * granule)).toBe('vm 1')
    await expectAgreement(pages)
    // One large annotation takes its place, and what it was is watched no longer.
    await guest.store(tables.descriptor(2, block), EL2)
    await guest.leave()
    guest.told()
    await expectAgreement(size / 4096)
    await guest.store(split + 8 * 4, VM)
    await guest.leave()
    expect(guest.told()).toEqual([])
    await expectAgreement(size / 4096)
  })
})

test("a VM's tables are no host's, and what EL2 does to the host's meanwhile is told", async () => {
  guest = await El2Guest.start()
  const tables = new Tables(FIRST)
  const vm = new Tables(FIRST, 16)
  tables.put(guest)
  vm.put(guest)
  await tables.enter(guest)
  await guest.leave()
  guest.told()
  await guest.vttbr(BigInt(vm.root) | (1n << 48n))
  await guest.leave()
  expect(guest.told()).toEqual([])
  expect((await guest.el2()).registers?.vttbr).toBe(`0x${(BigInt(tables.root) | 1n).toString(16)}`)
  await guest.store(vm.descriptor(3, PAGE), EL2)
  await guest.leave()
  expect(guest.told()).toEqual([])
  await guest.store(tables.descriptor(3, PAGE), VM)
  await guest.leave()
  expect(guest.told()).toEqual([{ cpu: 0, all: false, pages: [tables.page(3, PAGE)] }])
  expect(await guest.owner(PAGE)).toBe('vm 1')
  // Back to the host, whose tables are known.
  await guest.vttbr(BigInt(tables.root) | 1n)
  await guest.leave()
  expect(guest.told()).toEqual([])
  await expectAgreement(1)
})

test('tables of its host at another place are read from the beginning', async () => {
  guest = await El2Guest.start()
  const tables = new Tables(FIRST)
  const others = new Tables(FIRST, 16)
  tables.put(guest)
  others.put(guest)
  guest.poke(tables.descriptor(3, PAGE), VM)
  guest.poke(others.descriptor(3, PAGE + 4096), VM)
  await tables.enter(guest)
  await guest.leave()
  expect(await guest.owner(PAGE)).toBe('vm 1')
  await guest.vttbr(BigInt(others.root) | 1n)
  await guest.leave()
  expect(guest.told().map(({ all }) => all)).toEqual([true, true])
  expect([await guest.owner(PAGE), await guest.owner(PAGE + 4096)]).toEqual(['host', 'vm 1'])
  await expectAgreement(1)
})

describe('two vCPUs', () => {
  const tables = new Tables(FIRST)

  beforeEach(async () => {
    guest = await El2Guest.start(2)
    tables.put(guest)
    await guest.cpuOn(1)
    await tables.enter(guest)
    await guest.leave()
    await tables.enter(guest, 1)
    await guest.leave(0, 1)
    // The other one was in EL2 when the tables were first read, and may have had a store under way.
    const [first, second, ...more] = guest.told()
    expect(first).toEqual({ cpu: 0, all: true, pages: [] })
    expect(second).toMatchObject({ cpu: 1, all: false })
    expect(second?.pages).toHaveLength(4)
    expect(more).toEqual([])
  })

  test('what one stored is told when the other leaves, and once more when it leaves itself', async () => {
    await guest.store(tables.descriptor(3, PAGE), VM, 1)
    await guest.leave()
    const pages = [tables.page(3, PAGE)]
    expect(guest.told()).toEqual([{ cpu: 0, all: false, pages }])
    expect(await guest.owner(PAGE)).toBe('vm 1')
    await expectAgreement(1)
    await guest.leave(0, 1)
    expect(guest.told()).toEqual([{ cpu: 1, all: false, pages }])
    await guest.leave()
    await guest.leave(0, 1)
    expect(guest.told()).toEqual([])
  })

  test('what both stored in one page', async () => {
    await guest.store(tables.descriptor(3, PAGE), VM)
    await guest.store(tables.descriptor(3, PAGE + 4096), EL2, 1)
    await guest.leave(0, 1)
    expect([await guest.owner(PAGE), await guest.owner(PAGE + 4096)]).toEqual(['vm 1', 'hyp'])
    await guest.leave()
    await expectAgreement(2)
  })
})

describe('tables that the SMMU shares: what EL2 stored is told behind its TLBI', () => {
  const tables = new Tables(FIRST)
  const pages = [tables.page(3, PAGE)]

  /** The host has the page, and QEMU has told so. */
  const start = async (smp: number): Promise<void> => {
    guest = await El2Guest.start(smp, 0, { stage2: 'shared', populate: 'never' })
    tables.put(guest)
    guest.poke(tables.descriptor(3, PAGE), tables.leaf(PAGE, 3))
    guest.poke(PAGE, WORD)
    if (smp > 1) await guest.cpuOn(1)
    for (let cpu = 0; cpu < smp; cpu++) {
      await tables.enter(guest, cpu)
      expect(await guest.leave(PAGE, cpu)).toBe(WORD)
    }
    guest.told()
  }

  test('whichever it is, and then nothing is new when it leaves', async () => {
    await start(1)
    for (const form of TLBI_FORMS) {
      await guest.store(tables.descriptor(3, PAGE), 0n)
      expect(guest.told()).toEqual([])
      await guest.invalidate(form, PAGE)
      expect(guest.told(), form).toEqual([{ cpu: 0, all: false, pages }])
      await guest.invalidate(form, PAGE)
      // The CPU has forgotten as well.
      expect(await guest.leave(PAGE), form).toBe(FAULTED)
      expect(guest.told(), form).toEqual([])
      await guest.store(tables.descriptor(3, PAGE), tables.leaf(PAGE, 3))
      expect(await guest.leave(PAGE), form).toBe(WORD)
      guest.told()
    }
    await expectAgreement(0)
  })

  test('of tables whose server does not share them nothing is told before it leaves', async () => {
    guest = await El2Guest.start()
    tables.put(guest)
    await tables.enter(guest)
    await guest.leave()
    guest.told()
    await guest.store(tables.descriptor(3, PAGE), VM)
    for (const form of TLBI_FORMS) await guest.invalidate(form, PAGE)
    expect(guest.told()).toEqual([])
    await guest.leave()
    expect(guest.told()).toEqual([{ cpu: 0, all: false, pages }])
  })

  test('before there are tables nothing is told', async () => {
    guest = await El2Guest.start(1, 0, { stage2: 'shared', populate: 'never' })
    tables.put(guest)
    for (const form of TLBI_FORMS) await guest.invalidate(form, PAGE)
    expect(guest.told()).toEqual([])
  })

  test('what another vCPU has told of before, too: it may have come too early', async () => {
    await start(2)
    await guest.store(tables.descriptor(3, PAGE), 0n, 1)
    await guest.leave()
    expect(guest.told()).toEqual([{ cpu: 0, all: false, pages }])
    await guest.tlbi(PAGE, 1)
    expect(guest.told()).toEqual([{ cpu: 1, all: false, pages }])
    await guest.tlbi(PAGE, 1)
    await guest.leave(0, 1)
    await guest.leave()
    expect(guest.told()).toEqual([])
  })

  test('a table that is new is not told at once again: nobody who waits has a store under way', async () => {
    await start(1)
    const block = REGION + 2 ** shift(FIRST, 2)
    await guest.store(tables.descriptor(2, block), BigInt(table(8)) | 3n)
    await guest.tlbi()
    expect(guest.told()).toEqual([{ cpu: 0, all: false, pages: [tables.page(2, block)] }])
    await guest.store(table(8), VM)
    await guest.tlbi()
    expect(guest.told()).toEqual([{ cpu: 0, all: false, pages: [table(8)] }])
    expect(await guest.owner(block)).toBe('vm 1')
  })
})
