// SPDX-License-Identifier: Apache-2.0
import { describe, expect, test } from 'vitest'
import { Polling } from '../../../server/trap/polling.ts'

/** A clock and an event loop of our own. A look costs 5 µs. */
class Loop {
  now = 1000
  looks = 0
  #look: (() => void) | undefined
  readonly polling: Polling

  constructor(processors = 2) {
    const again = (look: () => void) => {
      this.#look = look
    }
    this.polling = new Polling(processors, again, () => this.now)
  }

  /** Time goes by; whoever polls looks all the time. @param late ms that the first look is held up */
  pass(ms: number, late = 0): void {
    const end = this.now + ms
    this.now += late
    while (this.#look !== undefined && this.now < end) {
      const look = this.#look
      this.#look = undefined
      this.now += 0.005
      this.looks++
      look()
    }
    this.now = Math.max(this.now, end)
  }

  get awake(): boolean {
    return this.#look !== undefined
  }

  message(): void {
    this.polling.arrived()
    this.polling.done()
  }

  /** Messages, one every `every` ms. */
  messages(count: number, every: number, late = 0): void {
    for (let i = 0; i < count; i++) {
      this.message()
      this.pass(every, late)
    }
  }
}

test('polls for a ms after a message, once two came soon after one another', () => {
  const loop = new Loop()
  loop.message()
  expect(loop.awake).toBe(false)
  loop.pass(0.3)
  loop.message()
  loop.pass(0.9)
  expect(loop.awake).toBe(true)
  loop.pass(0.2)
  expect(loop.awake).toBe(false)
})

test('messages that come rarely are not waited for, until one comes early again', () => {
  const loop = new Loop()
  loop.messages(2, 0.5)
  loop.pass(5)
  loop.looks = 0
  loop.messages(3, 5)
  expect(loop.looks).toBeGreaterThan(0)
  loop.looks = 0
  loop.messages(10, 5)
  expect(loop.looks).toBe(0)
  loop.messages(2, 0.5)
  expect(loop.looks).toBeGreaterThan(0)
})

test('looks without a break for 20 µs, and every 3 µs after that', () => {
  let now = 1000
  let look: (() => void) | undefined
  // Each reading of the clock costs 0.1 µs.
  const clock = () => {
    now += 0.0001
    return now
  }
  const again = (next: () => void) => {
    look = next
  }
  const polling = new Polling(2, again, clock)
  const polled = (from: number, to: number) => {
    const end = now + to - from
    let looks = 0
    for (; look !== undefined && now < end; looks++) {
      const next = look
      look = undefined
      next()
    }
    return looks
  }
  for (let i = 0; i < 2; i++) {
    polling.arrived()
    polling.done()
  }
  expect(polled(0, 0.02)).toBeGreaterThan(150)
  expect(polled(0.02, 0.92)).toBeLessThan(310)
  expect(polled(0.92, 2)).toBeLessThan(40)
  expect(look).toBeUndefined()
})

test('never on the only processor, never after the end', () => {
  const alone = new Loop(1)
  alone.messages(5, 0.1)
  expect(alone.looks).toBe(0)
  const loop = new Loop()
  loop.messages(5, 0.1)
  loop.polling.stop()
  loop.pass(0.1)
  expect(loop.awake).toBe(false)
  loop.messages(5, 0.1)
  expect(loop.awake).toBe(false)
})

describe('where others want the processor', () => {
  /** Which part of `seconds` went by polling, with a message every half ms. */
  const polled = (loop: Loop, seconds: number, late: number) => {
    loop.looks = 0
    loop.messages(seconds * 2000, 0.5, late)
    return (loop.looks * 0.005) / (seconds * 1000)
  }

  test('an interruption now and then is none', () => {
    const loop = new Loop()
    loop.messages(1000, 0.5)
    loop.messages(1, 0.5, 0.4)
    expect(polled(loop, 1, 0)).toBeGreaterThan(0.95)
  })

  test('there is hardly any polling, and it is back a while after they have gone', () => {
    const loop = new Loop()
    polled(loop, 1, 0)
    expect(polled(loop, 100, 0.2)).toBeLessThan(0.02)
    polled(loop, 16, 0)
    expect(polled(loop, 1, 0)).toBeGreaterThan(0.95)
  })
})
