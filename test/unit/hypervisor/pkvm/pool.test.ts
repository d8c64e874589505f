// SPDX-License-Identifier: Apache-2.0
import fc from 'fast-check'
import { beforeEach, describe, expect, test } from 'vitest'
import { PagePool } from '../../../../server/hypervisor/pkvm/pool.ts'
import { EINVAL, ENOMEM, OK } from '../../../../server/policy/result.ts'
import { MiB, RAM_BASE, TestMemory } from './support.ts'

const P = 4096
let memory: TestMemory
let pool: PagePool
beforeEach(() => {
  memory = new TestMemory()
  pool = new PagePool(memory, { base: RAM_BASE + P, size: 64 * P })
  pool.reset()
})

test('a pool that was never reset has all of its pages', () => {
  const fresh = new PagePool(memory, { base: RAM_BASE + P, size: 64 * P })
  expect([fresh.used, fresh.peak, fresh.failures, fresh.generation]).toEqual([0, 0, 0, 0])
  expect([fresh.limit, fresh.free]).toEqual([64, 64])
  expect(fresh.allocate(P)).toBe(RAM_BASE + P)
  expect(fresh.generation).toBe(1)
})

describe('allocate', () => {
  test('lowest address first', () => {
    expect([1, 2, 3].map(() => pool.allocate(P))).toEqual([1, 2, 3].map(n => RAM_BASE + n * P))
  })

  test.each([
    [1, P],
    [P, P],
    [P + 1, 2 * P],
    [3 * P, 4 * P],
    [16384, 16384],
    [65536, 65536],
  ])('%i bytes are aligned to %i', (bytes, alignment) => {
    pool.allocate(P)
    const address = pool.allocate(bytes)
    expect(address % alignment).toBe(0)
    expect(address).toBeGreaterThan(RAM_BASE + P)
  })

  test('gaps before aligned runs are used', () => {
    const large = pool.allocate(8 * P)
    expect(large).toBe(RAM_BASE + 8 * P)
    expect(pool.allocate(P)).toBe(RAM_BASE + P)
    expect(pool.allocate(2 * P)).toBe(RAM_BASE + 2 * P)
  })

  test('zeroed, even where something stood before', () => {
    memory.poke(RAM_BASE + P, new Uint8Array(4 * P).fill(0xff))
    const address = pool.allocate(2 * P)
    expect(memory.peek64(address)).toBe(0n)
    expect(memory.peek64(address + 2 * P - 8)).toBe(0n)
  })

  test('exhausted: ENOMEM, counted, and what is free is still given', () => {
    pool.limit = 4
    expect(pool.allocate(3 * P)).toBeGreaterThan(0)
    expect(pool.allocate(2 * P)).toBe(ENOMEM)
    expect(pool.failures).toBe(1)
    expect(pool.allocate(P)).toBeGreaterThan(0)
    expect(pool.allocate(P)).toBe(ENOMEM)
    expect([pool.used, pool.free, pool.peak]).toEqual([4, 0, 4])
  })

  test('more than there is, and nothing', () => {
    expect(pool.allocate(65 * P)).toBe(ENOMEM)
    expect(pool.allocate(2 ** 50)).toBe(ENOMEM)
    expect(pool.allocate(0)).toBe(ENOMEM)
  })

  test('no run is long enough though enough pages are free', () => {
    for (let i = 0; i < 64; i++) expect(pool.allocate(P)).toBe(RAM_BASE + P + i * P)
    for (let i = 1; i < 64; i += 2) pool.release(RAM_BASE + P + i * P, P)
    expect(pool.free).toBe(32)
    expect(pool.allocate(2 * P)).toBe(ENOMEM)
    expect(pool.allocate(P)).toBe(RAM_BASE + 2 * P)
  })
})

test('release gives pages back, once', () => {
  const address = pool.allocate(2 * P)
  expect(pool.release(address, 2 * P)).toBe(OK)
  expect(pool.release(address, 2 * P)).toBe(EINVAL)
  expect(pool.release(address + 1, P)).toBe(EINVAL)
  expect(pool.release(RAM_BASE, P)).toBe(EINVAL)
  expect(pool.release(RAM_BASE + 64 * P, 2 * P)).toBe(EINVAL)
  expect(pool.allocate(2 * P)).toBe(address)
})

test.each([
  ['the first page', RAM_BASE + P],
  ['the last one', RAM_BASE + 64 * P],
])('%s is given back like any other', (_, address) => {
  for (let i = 0; i < 64; i++) pool.allocate(P)
  expect(pool.used).toBe(64)
  expect(pool.release(address, 0)).toBe(EINVAL)
  expect(pool.release(address, -P)).toBe(EINVAL)
  expect(pool.release(RAM_BASE + 64 * P, 2 * P)).toBe(EINVAL)
  expect(pool.used).toBe(64)
  expect(pool.release(address, P)).toBe(OK)
  expect(pool.used).toBe(63)
  expect(pool.allocate(P)).toBe(address)
})

describe('claim', () => {
  test.each([
    ['below the pool', RAM_BASE, P],
    ['within a page', RAM_BASE + P + 8, P],
    ['beyond its end', RAM_BASE + 64 * P, 2 * P],
  ])('%s: refused, and nothing is taken', (_, address, bytes) => {
    expect(pool.claim(address, bytes)).toBe(EINVAL)
    expect(pool.used).toBe(0)
    expect(pool.runs()).toEqual([])
  })

  test.each([
    ['the first pages', RAM_BASE + P, 0],
    ['the last ones', RAM_BASE + 63 * P, 62],
  ])('%s are handed out, once', (_, address, first) => {
    expect(pool.claim(address, 2 * P)).toBe(OK)
    expect(pool.claim(address, 2 * P)).toBe(OK)
    expect(pool.runs()).toEqual([first, 2])
    expect([pool.used, pool.peak]).toEqual([2, 2])
    expect(pool.allocate(P)).toBe(first === 0 ? RAM_BASE + 3 * P : RAM_BASE + P)
  })

  test('what stood there is gone with a reset', () => {
    memory.poke64(RAM_BASE + 9 * P, 5n)
    expect(pool.claim(RAM_BASE + 9 * P, P)).toBe(OK)
    pool.reset()
    expect(memory.peek64(RAM_BASE + 9 * P)).toBe(0n)
  })
})

test('pages that were put back are zeroed by the next reset; others are not touched', () => {
  memory.poke64(RAM_BASE + 6 * P, 5n)
  expect(pool.restore([5, 1], 10, 3, 2)).toBe(OK)
  expect([pool.used, pool.limit, pool.peak, pool.failures]).toEqual([1, 10, 3, 2])
  pool.reset()
  expect(memory.peek64(RAM_BASE + 6 * P)).toBe(0n)
  expect([pool.used, pool.limit, pool.peak, pool.failures]).toEqual([0, 64, 0, 0])
  let written = 0
  memory.onWrite = () => written++
  pool.reset()
  expect(written).toBe(0)
})

test('what is put back takes the place of what there was', () => {
  pool.allocate(4 * P)
  expect(pool.restore([63, 1, 7], 64, 1, 0)).toBe(OK)
  expect(pool.runs()).toEqual([63, 1])
  expect(pool.used).toBe(1)
  expect(pool.allocate(P)).toBe(RAM_BASE + P)
})

test('reset zeroes what was in use', () => {
  const address = pool.allocate(3 * P)
  memory.poke(address, new Uint8Array(3 * P).fill(1))
  expect(pool.reset()).toBe(true)
  expect(memory.peek64(address + P)).toBe(0n)
  pool.allocate(65 * P)
  pool.limit = 3
  pool.reset()
  expect([pool.used, pool.limit, pool.failures]).toEqual([0, 64, 0])
})

test('what is held is handed out, all of it', () => {
  const address = pool.allocate(2 * P)
  expect(pool.holds(address, 2 * P)).toBe(true)
  expect(pool.holds(address + P, 2 * P)).toBe(false)
  expect(pool.holds(address + 2 * P, P)).toBe(false)
  expect(pool.holds(address + 1, P)).toBe(false)
  expect(pool.holds(RAM_BASE, P)).toBe(false)
  expect(pool.holds(RAM_BASE + 64 * P, 2 * P)).toBe(false)
  pool.reset()
  for (let i = 0; i < 64; i++) pool.allocate(P)
  expect(pool.used).toBe(64)
  expect(pool.holds(RAM_BASE + P, 64 * P)).toBe(true)
  expect(pool.holds(RAM_BASE + 64 * P, P)).toBe(true)
  expect(pool.holds(RAM_BASE + 64 * P, 2 * P)).toBe(false)
})

test('a carve-out that is not page aligned is used for its whole pages', () => {
  pool = new PagePool(memory, { base: RAM_BASE + 1, size: 3 * P })
  expect([pool.base, pool.capacity]).toEqual([RAM_BASE + P, 2])
  expect(new PagePool(memory, { base: RAM_BASE + 1, size: P }).capacity).toBe(0)
})

test('against a model; and runs restore it', () => {
  const step = fc.oneof(
    fc.record({ what: fc.constant('allocate' as const), pages: fc.integer({ min: 1, max: 9 }) }),
    fc.record({ what: fc.constant('release' as const), pages: fc.nat(30) }),
  )
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), steps => {
      pool = new PagePool(memory, { base: RAM_BASE + 3 * P, size: MiB / 4 })
      pool.reset()
      const taken: { base: number; pages: number }[] = []
      for (const { what, pages } of steps) {
        if (what === 'release') {
          const [run] = taken.splice(pages % Math.max(1, taken.length), 1)
          if (run) expect(pool.release(run.base, run.pages * P)).toBe(OK)
          continue
        }
        const base = pool.allocate(pages * P)
        if (base < 0) continue
        expect(base % (2 ** Math.ceil(Math.log2(pages)) * P)).toBe(0)
        for (const other of taken) {
          expect(base + pages * P <= other.base || other.base + other.pages * P <= base).toBe(true)
        }
        taken.push({ base, pages })
      }
      expect(pool.used).toBe(taken.reduce((sum, run) => sum + run.pages, 0))
      const copy = new PagePool(memory, { base: RAM_BASE + 3 * P, size: MiB / 4 })
      expect(copy.restore(pool.runs(), pool.limit, pool.peak, pool.failures)).toBe(OK)
      expect([copy.used, copy.limit, copy.peak, copy.failures]).toEqual([
        pool.used,
        pool.limit,
        pool.peak,
        pool.failures,
      ])
      expect(copy.runs()).toEqual(pool.runs())
      for (const pages of [1, 2, 4]) expect(copy.allocate(pages * P)).toBe(pool.allocate(pages * P))
    }),
  )
})

test.each([[[-1, 2]], [[0, 0]], [[60, 5]]])('runs that cannot be are refused: %s', runs => {
  expect(pool.restore(runs, 10, 0, 0)).toBe(EINVAL)
})
