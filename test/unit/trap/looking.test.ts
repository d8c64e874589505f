// SPDX-License-Identifier: Apache-2.0
import { describe, expect, test } from 'vitest'
import { Looking } from '../../../server/trap/looking.ts'

/** A clock of our own. A look costs 1 µs. */
class Clock {
  now = 1_000
  /** Times at which others were let run, and how long they take, ms. */
  readonly given: number[] = []
  others = 0
  readonly looking: Looking

  constructor(processors = 2) {
    const give = () => {
      this.given.push(this.now)
      this.now += this.others
    }
    this.looking = new Looking(processors, () => this.now, give)
  }

  /** A message, found by a doorbell that comes after `ms`. */
  woken(ms: number): void {
    this.now += ms
    this.looking.begin()
    this.looking.found()
  }

  /** Looks until that no longer pays, or `ms` have passed. @returns ms */
  look(ms: number): number {
    const start = this.now
    while (this.now < start + ms && this.looking.pays()) this.now += 0.001
    return this.now - start
  }

  /** Messages, one every 0.1 ms. @param late ms that each waits when it is looked for. @returns how many of them were looked for */
  messages(count: number, late = 0): number {
    let looked = 0
    for (let i = 0; i < count; i++) {
      if (!this.looking.pays()) this.woken(0.1)
      else {
        looked++
        this.look(0.1)
        this.now += late
        this.looking.seen()
        this.looking.found()
      }
    }
    return looked
  }
}

test('looks for half a ms after a message', () => {
  const clock = new Clock()
  clock.messages(2)
  expect(clock.look(100)).toBeCloseTo(0.5, 2)
})

test('not before the first one, and not for a bell without a message', () => {
  const clock = new Clock()
  clock.looking.begin()
  expect(clock.look(100)).toBe(0)
})

test('no longer while messages come rarely, until one comes early', () => {
  const clock = new Clock()
  clock.messages(2)
  for (let i = 0; i < 3; i++) clock.woken(5)
  expect(clock.look(100)).toBeGreaterThan(0.4)
  clock.woken(5)
  expect(clock.look(100)).toBe(0)
  clock.woken(0.2)
  expect(clock.look(100)).toBeCloseTo(0.5, 2)
})

test('never on the only processor', () => {
  const clock = new Clock(1)
  clock.messages(2)
  expect(clock.look(100)).toBe(0)
})

describe('others', () => {
  test('may run while it looks, but not where traps follow one another', () => {
    const clock = new Clock()
    clock.messages(2)
    const start = clock.now
    clock.look(100)
    expect(clock.given.length).toBeGreaterThan(50)
    expect(clock.given[0] - start).toBeGreaterThan(0.02)
    expect(clock.given[1] - clock.given[0]).toBeGreaterThan(0.005)
    expect(clock.given[1] - clock.given[0]).toBeLessThan(0.01)
  })

  test('who keep the processor do not keep it from looking while no message waits', () => {
    const clock = new Clock()
    clock.messages(2)
    clock.others = 3
    expect(clock.look(100)).toBeGreaterThan(3)
    clock.woken(0)
    clock.others = 0
    expect(clock.messages(100)).toBe(100)
  })

  test('nor while a message waits for no longer than a wake-up takes', () => {
    const clock = new Clock()
    clock.messages(2)
    expect(clock.messages(10_000, 0.018)).toBe(10_000)
  })

  test('do when messages wait for ms: it sleeps for a number of messages', () => {
    const clock = new Clock()
    clock.messages(2)
    expect(clock.messages(1, 2)).toBe(1)
    // The message at hand was the first of them.
    expect(clock.messages(31)).toBe(0)
    expect(clock.messages(100)).toBe(100)
  })

  test('what was won before is lost first, up to 1.5 ms', () => {
    const clock = new Clock()
    clock.messages(1_000)
    expect(clock.messages(1, 2.9)).toBe(1)
    expect(clock.messages(5)).toBe(5)
    clock.messages(1_000)
    clock.messages(1, 3.1)
    expect(clock.messages(31)).toBe(0)
  })

  test('waits that are short, but not won back, add up', () => {
    const clock = new Clock()
    clock.messages(2)
    // Each loses 0.1 ms.
    expect(clock.messages(46, 0.12)).toBeLessThan(17)
    expect(clock.messages(5)).toBe(5)
  })

  test('are disturbed ever more rarely while they stay, and looks come back when they have gone', () => {
    const clock = new Clock()
    clock.messages(100)
    clock.messages(10_000, 5)
    expect(clock.messages(20_480, 5)).toBeLessThanOrEqual(41)
    // At most so many messages are slept for.
    clock.messages(512)
    expect(clock.messages(1_000)).toBeGreaterThan(900)
    // And as many that were looked for make it forget.
    clock.messages(1_024)
    clock.messages(1, 5)
    expect(clock.messages(31)).toBe(0)
    expect(clock.messages(10)).toBe(10)
  })
})
