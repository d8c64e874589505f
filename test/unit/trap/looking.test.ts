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

  /** Looks until that no longer pays, or `ms` have passed. @param late ms that the first look is held up. @returns ms */
  look(ms: number, late = 0): number {
    const start = this.now
    this.now += late
    while (this.now < start + ms && this.looking.pays()) this.now += 0.001
    return this.now - start
  }

  /** Messages, one every 0.1 ms. @returns how many of them were looked for */
  messages(count: number, late = 0): number {
    let looked = 0
    for (let i = 0; i < count; i++) {
      if (this.looking.pays()) looked++
      this.woken(0.1)
      if (late > 0) this.look(0.2, late)
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

  test('who are done within µs do not keep it from looking', () => {
    const clock = new Clock()
    clock.messages(2)
    clock.others = 0.05
    expect(clock.look(100)).toBeGreaterThan(0.5)
    clock.woken(0)
    expect(clock.messages(100)).toBe(100)
  })

  test('who keep the processor do: it sleeps at once, and for a number of messages', () => {
    const clock = new Clock()
    clock.messages(2)
    clock.others = 3
    expect(clock.look(100)).toBeLessThan(3.1)
    expect(clock.given.length).toBe(1)
    clock.others = 0
    expect(clock.messages(32)).toBe(0)
    expect(clock.messages(100)).toBe(100)
  })

  test('also where they took it by themselves', () => {
    const clock = new Clock()
    clock.messages(2)
    expect(clock.look(100, 0.2)).toBeCloseTo(0.2, 3)
    expect(clock.messages(32)).toBe(0)
  })

  test('are disturbed ever more rarely while they stay, and looks come back when they have gone', () => {
    const clock = new Clock()
    clock.messages(100)
    clock.messages(10_000, 0.2)
    expect(clock.messages(20_000, 0.2)).toBeLessThan(20)
    // At most so many messages are slept for.
    clock.messages(2_048)
    expect(clock.messages(1_000)).toBe(1_000)
    // And as many kept ones make it forget.
    clock.messages(4_096)
    clock.look(100, 0.2)
    expect(clock.messages(32)).toBe(0)
    expect(clock.messages(10)).toBe(10)
  })
})
