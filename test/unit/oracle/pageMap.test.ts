// SPDX-License-Identifier: Apache-2.0
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { HOST, HYPERVISOR, NOT_RAM, ownerName, PageMap } from '../../../server/oracle/pageMap.ts'

const PAGE = 4096
const RAM = [
  { base: 0, size: 16 * PAGE },
  { base: 2 ** 32, size: 16 * PAGE },
] as const
const CARVEOUT = { base: 4 * PAGE, size: 2 * PAGE }
const FRAMES = [{ base: 2 ** 20, size: 32 * PAGE }]

/** Pages that mean something, and some beside them. */
const page = fc
  .tuple(fc.constantFrom(0, 2 ** 32, 2 ** 20), fc.integer({ min: 0, max: 40 }))
  .map(([base, n]) => base + n * PAGE)
const gift = fc.record({
  base: page,
  pages: fc.integer({ min: 1, max: 6 }),
  owner: fc.integer({ min: 0, max: 0xfffe }),
})

test('each page belongs to whom it was given last', () => {
  fc.assert(
    fc.property(fc.array(gift, { maxLength: 30 }), page, fc.integer({ min: 0, max: PAGE - 1 }), (gifts, at, offset) => {
      const map = new PageMap(RAM, CARVEOUT, FRAMES)
      const isRam = RAM.some(({ base, size }) => at >= base && at < base + size)
      let owner = at >= CARVEOUT.base && at < CARVEOUT.base + CARVEOUT.size ? HYPERVISOR : HOST
      for (const { base, pages, owner: to } of gifts) {
        map.give(base, pages * PAGE, to)
        if (at >= base && at < base + pages * PAGE) owner = to
      }
      expect(map.owner(at + offset)).toBe(isRam ? owner : NOT_RAM)
      const isFrame = at >= 2 ** 20 && at < 2 ** 20 + 32 * PAGE
      expect(map.isFrame(at + offset)).toBe(isFrame)
      expect(map.hostMay(at + offset)).toBe(isRam ? owner === HOST : !isFrame)
      map.reset()
      const low = new Array<number>(16).fill(HOST).fill(HYPERVISOR, 4, 6)
      expect(map.owners.map(owners => [...owners])).toEqual([low, new Array<number>(16).fill(HOST)])
    }),
  )
})

test('the first page of a range that is not the host’s, also of ranges that are larger than what is counted together', () => {
  const ram = [{ base: 2 ** 30, size: 2048 * PAGE }]
  const frame = { base: 2 ** 20, size: 2 * PAGE }
  const index = fc.integer({ min: -40, max: 2100 })
  const range = fc.record({ from: index, pages: fc.integer({ min: 1, max: 2100 }) })
  const gifts = fc.array(fc.record({ from: index, pages: fc.integer({ min: 1, max: 1100 }), owner: fc.nat(2) }))
  fc.assert(
    fc.property(gifts, range, (given, { from, pages }) => {
      const map = new PageMap(ram, { base: 2 ** 30, size: 0 }, [frame])
      for (const gift of given) map.give(2 ** 30 + gift.from * PAGE, gift.pages * PAGE, gift.owner)
      const all = Array.from({ length: pages }, (_, i) => 2 ** 30 + (from + i) * PAGE)
      expect(map.forbidden(all[0], pages * PAGE)).toBe(all.find(at => !map.hostMay(at)) ?? -1)
    }),
  )
  const map = new PageMap(ram, { base: 2 ** 30, size: 0 }, [frame])
  expect([map.forbidden(0, 2 ** 20), map.forbidden(0, 2 ** 20 + 1), map.forbidden(2 ** 20 + PAGE, PAGE)]).toEqual([
    -1,
    2 ** 20,
    2 ** 20 + PAGE,
  ])
})

test('owners have names', () => {
  expect([HOST, HYPERVISOR, NOT_RAM, 7].map(ownerName)).toEqual(['the host', 'the hypervisor', 'nobody', 'VM 7'])
})
