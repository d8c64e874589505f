// SPDX-License-Identifier: Apache-2.0
import { expect, test } from 'vitest'
import { Looking } from '../../../server/trap/looking.ts'
import { Polling } from '../../../server/trap/polling.ts'

/** A clock and an event loop of our own. A reading of the clock costs 0.1 µs, a turn of the loop 5 µs. */
class Loop {
  now = 1000
  looks = 0
  #look: (() => void) | undefined
  readonly polling: Polling

  constructor(processors = 2) {
    const again = (look: () => void) => {
      this.#look = look
    }
    const clock = () => {
      this.now += 0.0001
      return this.now
    }
    this.polling = new Polling(new Looking(processors, clock, () => {}), again, clock)
  }

  /** Time goes by; whoever polls looks all the time. @param late ms that nobody looks, after that */
  pass(ms: number, late = 0): void {
    const end = this.now + ms
    while (this.#look !== undefined && this.now < end) {
      const look = this.#look
      this.#look = undefined
      this.now += 0.005
      this.looks++
      look()
    }
    this.now = Math.max(this.now, end) + late
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

test('polls for half a ms after a message, once two came soon after one another', () => {
  const loop = new Loop()
  loop.message()
  expect(loop.awake).toBe(false)
  loop.pass(0.3)
  loop.message()
  loop.pass(0.4)
  expect(loop.awake).toBe(true)
  loop.pass(0.2)
  expect(loop.awake).toBe(false)
})

test('turns of the event loop follow one another for 20 µs, and are 3 µs apart after that', () => {
  const loop = new Loop()
  loop.messages(2, 0.4)
  loop.message()
  loop.looks = 0
  loop.pass(0.02)
  expect(loop.looks).toBeGreaterThanOrEqual(4)
  loop.looks = 0
  loop.pass(0.4)
  expect(loop.looks).toBeGreaterThan(40)
  expect(loop.looks).toBeLessThan(52)
})

test('where messages wait for a look it sleeps', () => {
  const loop = new Loop()
  loop.messages(2, 0.4)
  // The event loop, or others, let a message wait for so long.
  loop.messages(4, 0.4, 1)
  expect(loop.awake).toBe(false)
  loop.looks = 0
  loop.messages(20, 0.4)
  expect(loop.looks).toBe(0)
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
