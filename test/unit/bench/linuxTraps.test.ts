// SPDX-License-Identifier: Apache-2.0
import { expect, test } from 'vitest'
import type { TraceRecord } from '../../../server/trace/records.ts'
import { linuxBudget, timedTraps } from '../../bench/linuxTraps.ts'

const US = 1000
/** The server's clock is ahead of the guest's by an arbitrary time. */
const AHEAD = 123_456_789

/** @param lastTrapUs round trip of the trap before. */
const trap = (timeUs: number, wayUs: number, ownUs: number, lastTrapUs: number): TraceRecord =>
  ({
    kind: 'trap',
    time: timeUs * US,
    start: timeUs * US + AHEAD + wayUs * US,
    duration: ownUs * US,
    lastTrapNs: lastTrapUs * US,
  }) as TraceRecord

test('a round trip comes with the trap after it, and is split into ways and the server’s own', () => {
  const records = [trap(100, 5, 7, 0), trap(130, 3, 6, 20), trap(1000, 43, 30, 12), trap(1100, 3, 6, 80)]
  expect(timedTraps(records)).toMatchObject([
    { gap: 0, total: 20 * US, way: 2 * US, own: 7 * US },
    { gap: 30 * US, total: 12 * US, way: 0, own: 6 * US },
    { gap: 870 * US, total: 80 * US, way: 40 * US, own: 30 * US },
  ])
})

test('reads that QEMU answered by itself took nobody’s time; a round trip that QEMU does not know is left out', () => {
  const records = [trap(100, 3, 7, 0), trap(105, 9, 0, 0), trap(130, 3, 6, 20), trap(160, 3, 6, 0), trap(190, 3, 6, 15)]
  expect(timedTraps(records).map(({ total, gap }) => [total / US, gap / US])).toEqual([
    [20, 0],
    [15, 30],
  ])
})

test('the budget has the parts of all, of traps in a row, and of those after a pause; what never came is left out', () => {
  const one = { gap: 10 * US, total: 20 * US, way: 5 * US, own: 8 * US }
  const { rows } = linuxBudget([one, one, { gap: 900 * US, total: 100 * US, way: 50 * US, own: 40 * US }])
  expect(rows.map(({ value }) => value)).toEqual([20, 5, 8, 7, 20, 5, 8, 7, 100, 50, 40, 10])
  expect(rows[4].part).toContain('67 % of the traps')
  expect(linuxBudget([one]).rows).toHaveLength(8)
})
