// SPDX-License-Identifier: Apache-2.0
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  annotationOf,
  HostStage2,
  type HostStage2Geometry,
  hostStage2Geometry,
  type OwnerChange,
} from '../../../../server/hypervisor/pkvm/hostStage2.ts'
import type { GuestMemory } from '../../../../server/smmu/memory.ts'
import { levelShift } from '../../../../server/smmu/pagetable.ts'

const RAM = { base: 0x4000_0000, size: 64 << 20 }
/** RAM that tables are allocated from. */
const TABLES = RAM.base + (32 << 20)

const registers = (vttbr: bigint, vtcr: bigint) => ({
  vttbrLo: Number(vttbr & 0xffff_ffffn),
  vttbrHi: Number(vttbr >> 32n),
  vtcrLo: Number(vtcr & 0xffff_ffffn),
  vtcrHi: Number(vtcr >> 32n),
})

interface Case {
  readonly name: string
  readonly vtcr: bigint
  readonly geometry: Omit<HostStage2Geometry, 'root'>
}

const T0SZ = (bits: number) => BigInt(64 - bits)
const SL0 = (sl0: number) => BigInt(sl0) << 6n
const TG0 = (tg: number) => BigInt(tg) << 14n
const PS = (ps: number) => BigInt(ps) << 16n
const DS = 1n << 32n
const SL2 = 1n << 33n

const GEOMETRIES: readonly Case[] = [
  {
    name: 'Linux 7.3 on -cpu max: 4 KiB, LPA2, 52 bits, sixteen tables at level 0',
    vtcr: 0x1802e358cn,
    geometry: { granuleShift: 12, startLevel: 0, inputBits: 52, rootBytes: 65536, lpa2: true, wide: false },
  },
  {
    name: '4 KiB, 40 bits, two tables at level 1',
    vtcr: T0SZ(40) | SL0(1) | TG0(0) | PS(2),
    geometry: { granuleShift: 12, startLevel: 1, inputBits: 40, rootBytes: 8192, lpa2: false, wide: false },
  },
  {
    name: '4 KiB, LPA2, 52 bits, level -1',
    vtcr: T0SZ(52) | SL0(0) | SL2 | DS | TG0(0) | PS(6),
    geometry: { granuleShift: 12, startLevel: -1, inputBits: 52, rootBytes: 128, lpa2: true, wide: false },
  },
  {
    name: '16 KiB, 40 bits, level 2 with sixteen tables',
    vtcr: T0SZ(40) | SL0(1) | TG0(2) | PS(2),
    geometry: { granuleShift: 14, startLevel: 2, inputBits: 40, rootBytes: 262144, lpa2: false, wide: false },
  },
  {
    name: '64 KiB, 52 bits',
    vtcr: T0SZ(52) | SL0(2) | TG0(1) | PS(6),
    geometry: { granuleShift: 16, startLevel: 1, inputBits: 52, rootBytes: 8192, lpa2: false, wide: true },
  },
]

describe('where the tables begin, by VTTBR_EL2 and VTCR_EL2', () => {
  test.each(GEOMETRIES)('$name', ({ vtcr, geometry }) => {
    // CnP is set; the rest of the low bits is no address.
    const vttbr = BigInt(TABLES) | 1n
    expect(hostStage2Geometry(registers(vttbr, vtcr))).toEqual({ ...geometry, root: TABLES })
  })

  test('a root above 48 bits, with LPA2', () => {
    expect(hostStage2Geometry(registers(0x0000_1234_0001_0001n | (0x5n << 2n), 0x1802e358cn))).toMatchObject({
      root: 0x5_1234_0001_0000,
    })
  })

  test.each([
    ['a reserved granule', T0SZ(40) | SL0(1) | TG0(3), 'VTCR_EL2.TG0 is reserved'],
    ['a reserved start level', T0SZ(40) | SL0(3) | TG0(1), 'VTCR_EL2.SL0 is reserved'],
    ['too many tables', T0SZ(48) | SL0(1) | TG0(0), 'VTCR_EL2.T0SZ of 16 does not fit a start at level 1'],
    ['too few bits', T0SZ(30) | SL0(2) | TG0(0), 'VTCR_EL2.T0SZ of 34 does not fit a start at level 0'],
  ])('%s is refused', (_, vtcr, reason) => {
    expect(hostStage2Geometry(registers(BigInt(TABLES), vtcr))).toBe(reason)
  })
})

test.each([
  ['what EL2 keeps', 0x2000000000000002n, 0],
  ['the first VM, IPA 0x40000000', 0x2000004000010004n, 1],
  ['the third VM, IPA 0x40001000', 0x2000004000110024n, 3],
  ['another layout', 0x7000000000000000n, 0],
])('annotation of %s', (_, value, vm) => {
  expect(annotationOf(Number(value & 0xffff_ffffn), Number(value >> 32n)).vm).toBe(vm)
})

/** EL2, as far as its tables are concerned, and somebody who looks at every descriptor. */
class Model {
  readonly bytes = new Uint8Array(RAM.size)
  readonly #view = new DataView(this.bytes.buffer)
  readonly watched = new Set<number>()
  readonly stored = new Set<number>()
  readonly geometry: HostStage2Geometry
  readonly registers: ReturnType<typeof registers>
  #next = TABLES

  constructor({ vtcr }: Case) {
    this.registers = registers(BigInt(TABLES) | 1n, vtcr)
    const geometry = hostStage2Geometry(this.registers)
    if (typeof geometry === 'string') throw new Error(geometry)
    this.geometry = geometry
    this.#next += Math.max(geometry.rootBytes, 2 ** geometry.granuleShift)
  }

  readonly memory: GuestMemory = {
    ram: [RAM],
    read: (address, target, at, length) => {
      const from = address - RAM.base
      if (from < 0 || from + length > RAM.size) return false
      target.set(this.bytes.subarray(from, from + length), at)
      return true
    },
    write: () => false,
  }

  watch = (page: number, on: boolean): boolean => {
    if (on) this.watched.add(page)
    else this.watched.delete(page)
    return true
  }

  store(address: number, value: bigint): void {
    this.#view.setBigUint64(address - RAM.base, value, true)
    const page = address - (address % 4096)
    if (this.watched.has(page)) this.stored.add(page)
  }

  load(address: number): bigint {
    return this.#view.getBigUint64(address - RAM.base, true)
  }

  table(): number {
    const bytes = 2 ** this.geometry.granuleShift
    const address = this.#next
    this.#next += bytes
    if (this.#next > RAM.base + RAM.size) this.#next = TABLES + (16 << 20)
    this.bytes.fill(0, address - RAM.base, address - RAM.base + bytes)
    return address
  }

  descriptor(address: number, type: bigint): bigint {
    return BigInt(address) | type
  }

  /** The descriptor's address for an IPA at a level, splitting what is above it. */
  place(ipa: number, level: number): number {
    const { granuleShift, startLevel, root } = this.geometry
    let table = root
    for (let at = startLevel; ; at++) {
      const shift = levelShift(at, granuleShift)
      const index =
        at === startLevel ? Math.floor(ipa / 2 ** shift) : Math.floor(ipa / 2 ** shift) % 2 ** (granuleShift - 3)
      const place = table + 8 * index
      if (at === level) return place
      const old = this.load(place)
      if ((old & 3n) === 3n) table = Number(old & 0xffff_ffff_f000n)
      else {
        table = this.table()
        // A block, or an annotation, of a larger range goes on in each part of it.
        for (let i = 0; i < 2 ** (granuleShift - 3); i++)
          this.store(table + 8 * i, (old & 1n) === 0n ? old : this.#part(old, i, at + 1))
        this.store(place, this.descriptor(table, 3n))
      }
    }
  }

  #part(old: bigint, index: number, level: number): bigint {
    const address =
      (old & 0xffff_ffff_f000n) + BigInt(index) * 2n ** BigInt(levelShift(level, this.geometry.granuleShift))
    return address | (level === 3 ? 3n : 1n)
  }

  /** -1: the host's; by a walk of its own. */
  owner(ipa: number): number {
    const { granuleShift, startLevel, root } = this.geometry
    let table = root
    for (let at = startLevel; ; at++) {
      const shift = levelShift(at, granuleShift)
      const index =
        at === startLevel ? Math.floor(ipa / 2 ** shift) : Math.floor(ipa / 2 ** shift) % 2 ** (granuleShift - 3)
      const value = this.load(table + 8 * index)
      if (at < 3 && (value & 3n) === 3n) {
        table = Number(value & 0xffff_ffff_f000n)
        continue
      }
      if ((value & 1n) === 0n && value !== 0n)
        return annotationOf(Number(value & 0xffff_ffffn), Number(value >> 32n)).vm
      return -1
    }
  }
}

/** Owners by page of RAM, as the changes tell. */
class Map4k {
  readonly #owners = new Map<number, number>()

  apply(changes: readonly OwnerChange[]): void {
    for (const { base, size, vm } of changes) {
      const from = Math.max(base, RAM.base)
      const to = Math.min(base + size, RAM.base + RAM.size)
      for (let page = from; page < to; page += 4096) this.#owners.set(page, vm)
    }
  }

  owner(page: number): number {
    return this.#owners.get(page) ?? -1
  }
}

const HYP = 0x2000000000000002n
const guest = (handle: number, ipa: number) =>
  (2n << 60n) | (BigInt(ipa / 4096) << 20n) | (BigInt(0x1000 + handle) << 4n) | 4n

const step = fc.record({
  /** Page of the first 32 MiB of RAM, which holds no tables. */
  page: fc.integer({ min: 0, max: 8191 }),
  level: fc.integer({ min: 1, max: 3 }),
  what: fc.constantFrom('map', 'annotate', 'guest', 'clear'),
  handle: fc.integer({ min: 0, max: 3 }),
  /** Told at once, or with what comes later. */
  told: fc.boolean(),
})

describe.each(GEOMETRIES)('followed: $name', geometry => {
  test('after each message the owners are those of the tables', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 30 }), steps => {
        const model = new Model(geometry)
        const { granuleShift, startLevel } = model.geometry
        const follower = new HostStage2(model.memory, model.watch)
        const map = new Map4k()
        map.apply(follower.readAll(model.registers))
        for (const { page, level, what, handle, told } of steps) {
          const at = Math.max(level, startLevel, 2)
          const size = 2 ** levelShift(at, granuleShift)
          const address = RAM.base + page * 4096
          const base = address - (address % size)
          if (at < 3 && what !== 'clear' && base + size > TABLES) continue
          const value =
            what === 'map'
              ? BigInt(base) | (at === 3 ? 3n : 1n)
              : what === 'annotate'
                ? HYP
                : what === 'guest'
                  ? guest(handle, base)
                  : 0n
          model.store(model.place(base, at), value)
          if (!told) continue
          const pages = [...model.stored]
          model.stored.clear()
          map.apply(follower.readPages(pages))
          for (let ipa = RAM.base; ipa < TABLES; ipa += 65536) expect(map.owner(ipa)).toBe(model.owner(ipa))
          expect(map.owner(address)).toBe(model.owner(address))
        }
      }),
      { numRuns: 60, seed: 7 },
    )
  })

  test('nothing is read twice when nothing was stored', () => {
    const model = new Model(geometry)
    const follower = new HostStage2(model.memory, model.watch)
    follower.readAll(model.registers)
    expect(follower.readPages([TABLES])).toEqual([])
    expect(follower.readPages([RAM.base])).toEqual([])
  })

  test('a table that is not in RAM is refused', () => {
    const model = new Model(geometry)
    const follower = new HostStage2(model.memory, model.watch)
    const { startLevel } = model.geometry
    if (startLevel >= 3) return
    model.store(model.geometry.root, 0x1000_0000n | 3n)
    expect(() => follower.readAll(model.registers)).toThrow('is not in RAM')
  })

  test('tables that lead to each other come to an end', () => {
    const model = new Model(geometry)
    const follower = new HostStage2(model.memory, model.watch)
    const { root, granuleShift } = model.geometry
    const loop = model.table()
    for (let i = 0; i < 2 ** (granuleShift - 3); i++) model.store(loop + 8 * i, BigInt(loop) | 3n)
    model.store(root, BigInt(loop) | 3n)
    try {
      follower.readAll(model.registers)
    } catch (error) {
      expect(String(error)).toContain("EL2's tables have more than 65536 pages")
    }
    expect(model.watched.size).toBeLessThanOrEqual(65536)
  })
})
