// SPDX-License-Identifier: Apache-2.0
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { startDeadline } from '../../../server/sessions/deadline.ts'

beforeEach(() => {
  vi.useFakeTimers()
})
afterEach(() => {
  vi.useRealTimers()
})

/** @param share of the time in which the machine waits for a processor @returns when the deadline is over, ms */
function overAt(ms: number, share: (at: number) => number): number | undefined {
  const begun = Date.now()
  let over: number | undefined
  startDeadline(
    ms,
    () => share(Date.now() - begun),
    () => {
      over = Date.now() - begun
    },
  )
  vi.advanceTimersByTime(100 * ms)
  return over
}

test('nobody else uses the processors: it is what it is', () => {
  expect(overAt(1000, () => 0)).toBe(1000)
})

test('the machine waited for half of the time: twice as long', () => {
  expect(overAt(1024, at => at / 2)).toBe(2048)
})

test('it waited a while, and then no more', () => {
  expect(overAt(1000, at => Math.min(at, 300))).toBe(1300)
})

test('it waits for nearly all of the time, or somebody says so: four times as long at most', () => {
  expect(overAt(1000, at => at)).toBe(4000)
  expect(overAt(1000, () => Number.POSITIVE_INFINITY)).toBe(4000)
})

test('it is ended before', () => {
  let over = false
  const end = startDeadline(
    1000,
    () => 500,
    () => {
      over = true
    },
  )
  vi.advanceTimersByTime(1200)
  end()
  vi.advanceTimersByTime(10_000)
  expect(over).toBe(false)
})
