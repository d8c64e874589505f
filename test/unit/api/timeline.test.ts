// SPDX-License-Identifier: Apache-2.0
import { expect, test } from 'vitest'
import { timeline } from '../../../server/api/timeline.ts'
import { TrapLog } from '../../../server/api/trapLog.ts'
import { newTrap } from '../../../server/policy/policy.ts'
import { createRing, RingReader, RingWriter } from '../../../server/trace/ring.ts'

/** A log with a trap at each of these times, ns; the ids count from 1. */
function logOf(times: readonly number[]): TrapLog {
  const buffer = createRing(1 << 16)
  const writer = new RingWriter(buffer)
  const reader = new RingReader(buffer)
  const log = new TrapLog()
  for (const [i, time] of times.entries()) writer.trap({ ...newTrap(), seq: i + 1, time }, 0, 1, 0, 0)
  reader.drain((layout, at) => log.fromRing(reader, layout, at))
  return log
}

test('every trap is in one bin, the last one too', () => {
  const line = timeline(logOf([100, 150, 199, 200, 500]), 1, [], { bins: 4 })
  expect(line).toEqual({
    from: 100,
    to: 500,
    first: 100,
    last: 500,
    traps: [3, 1, 0, 1],
    rows: [1, 4, 0, 5],
    marks: [],
  })
})

test('a part of the time: what is outside is not counted, and its ends are', () => {
  const marks = [
    { time: 199, kind: 'reset', text: 'out' },
    { time: 200, kind: 'event', text: 'in' },
  ] as const
  const line = timeline(logOf([100, 200, 250, 300, 301]), 1, marks, { from: 200, to: 300, bins: 2 })
  expect(line).toMatchObject({ traps: [1, 2], rows: [2, 3], first: 100, last: 301, marks: [{ text: 'in' }] })
})

test('traps of the machine before are left out', () => {
  expect(timeline(logOf([900, 950, 10, 20]), 3, [], { bins: 2 })).toMatchObject({ from: 10, to: 20, traps: [1, 1] })
})

test('without traps there is nothing, and no division by it', () => {
  expect(timeline(logOf([]), 1, [], { bins: 2 })).toEqual({
    from: 0,
    to: 1,
    first: 0,
    last: 0,
    traps: [0, 0],
    rows: [0, 0],
    marks: [],
  })
})
