// SPDX-License-Identifier: Apache-2.0
import { expect, test } from 'vitest'
import { disks, nothing, span } from '../../../server/api/tally.ts'

test('a span is the difference, and names only what came in it', () => {
  const from = {
    ...nothing(1_000),
    traps: 10,
    warnings: [{ code: 'A', expected: true, count: 2 }],
    events: [{ name: 'F_TRANSLATION', count: 1 }],
    disk: { reads: 5, writes: 1, bytes: 4096, failed: 0 },
  }
  const to = {
    ...from,
    at: 3_500,
    traps: 17,
    gerrors: 1,
    warnings: [
      { code: 'A', expected: true, count: 2 },
      { code: 'B', expected: false, count: 3 },
    ],
    events: [{ name: 'F_TRANSLATION', count: 4 }],
    disk: { reads: 6, writes: 1, bytes: 8192, failed: 2 },
  }
  expect(span(from, to)).toEqual({
    from: '1970-01-01T00:00:01.000Z',
    seconds: 2.5,
    traps: 7,
    aborted: 0,
    gerrors: 1,
    guardFaults: 0,
    warnings: [{ code: 'B', expected: false, count: 3 }],
    events: [{ name: 'F_TRANSLATION', count: 3 }],
    disk: { reads: 1, writes: 0, bytes: 4096, failed: 2 },
  })
  expect(span(from, { ...to, disk: null }).disk).toBeNull()
})

test.each([
  [
    'two disks',
    [
      { stats: { rd_operations: 2, rd_bytes: 8, failed_wr_operations: 1 } },
      { stats: { wr_operations: 3, wr_bytes: 1 } },
    ],
    { reads: 2, writes: 3, bytes: 9, failed: 1 },
  ],
  ['one without numbers', [{}], { reads: 0, writes: 0, bytes: 0, failed: 0 }],
  ['something else', 'query-blockstats', null],
])('QEMU’s disks: %s', (_what, answer, sum) => {
  expect(disks(answer)).toEqual(sum)
})
