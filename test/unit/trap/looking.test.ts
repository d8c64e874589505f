// SPDX-License-Identifier: Apache-2.0
import { describe, expect, test } from 'vitest'
import { Looking } from '../../../server/trap/looking.ts'

/** A clock of our own. A look costs 1 µs. */
class Clock {
  now = 1_000
  readonly looking: Looking

  constructor(processors = 2) {
    this.looking = new Looking(processors, () => this.now)
  }

  /** A message, found by a doorbell that comes after `ms`. */
  woken(ms: number): void {
    this.now += ms
    this.looking.woken()
    this.looking.begin()
    this.looking.found()
  }

  /** Looks until that no longer pays, or `ms` have passed. @param late ms that a look is held up. @returns ms */
  look(ms: number, late = 0): number {
    const start = this.now
    while (this.now < start + ms && this.looking.pays()) this.now += 0.001 + late
    return this.now - start
  }
}

test('looks for 0.3 ms after a message', () => {
  const clock = new Clock()
  clock.woken(0.1)
  expect(clock.look(100)).toBeCloseTo(0.3, 2)
})

test('not before the first one, and not for a bell without a message', () => {
  const clock = new Clock()
  clock.looking.woken()
  clock.looking.begin()
  expect(clock.look(100)).toBe(0)
})

test('no longer while messages come rarely, until one comes early', () => {
  const clock = new Clock()
  for (let i = 0; i < 5; i++) clock.woken(5)
  expect(clock.look(100)).toBe(0)
  clock.woken(0.2)
  expect(clock.look(100)).toBeCloseTo(0.3, 2)
})

test('never on the only processor', () => {
  const clock = new Clock(1)
  clock.woken(0.1)
  expect(clock.look(100)).toBe(0)
})

describe('while others want the processors', () => {
  const crowd = (clock: Clock) => {
    for (let i = 0; i < 100; i++) {
      clock.woken(0.1)
      clock.look(1, 0.3)
    }
  }

  test('it rests, for a bounded time', () => {
    const clock = new Clock()
    crowd(clock)
    clock.woken(0)
    expect(clock.look(1)).toBe(0)
    for (let i = 0; i < 20; i++) crowd(clock)
    const start = clock.now
    do clock.woken(0.1)
    while (clock.look(1) === 0)
    expect(clock.now - start).toBeLessThan(17_000)
  })
})
