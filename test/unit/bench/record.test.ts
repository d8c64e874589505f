// SPDX-License-Identifier: Apache-2.0
import { expect, test } from 'vitest'
import { duration, quietEnough } from '../../bench/record.ts'

test.each([0, 0.29, 0.3])('a load of %d is quiet enough', load => {
  expect(() => quietEnough(load)).not.toThrow()
})

// 60 s · ln(load ÷ 0.3)
test.each([
  [0.31, 'load 0.31, at most 0.3; when nothing else runs, wait 2 s'],
  [0.6, 'wait 42 s'],
  [2, 'wait 114 s'],
])('a load of %d is not, and it says how long to wait', (load, text) => {
  expect(() => quietEnough(load)).toThrow(text)
})

test.each([
  [0.2, '1 s'],
  [89, '89 s'],
  [90, '2 min'],
  [5_370, '1 h 30 min'],
  [7_500, '2 h 5 min'],
])('%d s are %s', (seconds, text) => {
  expect(duration(seconds)).toBe(text)
})
