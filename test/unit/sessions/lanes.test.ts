// SPDX-License-Identifier: Apache-2.0
import { expect, test } from 'vitest'
import { inLanes } from '../../../server/sessions/lanes.ts'

/** Items whose steps the test takes: `over`, then `end`. */
class Steps {
  readonly began: number[] = []
  readonly #over = new Map<number, () => void>()
  readonly #ends = new Map<number, PromiseWithResolvers<void>>()

  readonly run = (item: number, over: () => void): Promise<void> => {
    const end = Promise.withResolvers<void>()
    this.began.push(item)
    this.#over.set(item, over)
    this.#ends.set(item, end)
    return end.promise
  }

  async over(item: number): Promise<void> {
    this.#over.get(item)?.()
    await settle()
  }

  async end(item: number): Promise<void> {
    this.#ends.get(item)?.resolve()
    await settle()
  }

  async fail(item: number): Promise<void> {
    this.#ends.get(item)?.reject(new Error(`item ${item}`))
    await settle()
  }
}

const settle = () => new Promise(resolve => setImmediate(resolve))

test('without overlap an item begins when one has ended', async () => {
  const steps = new Steps()
  const all = inLanes([1, 2, 3], 2, false, steps.run)
  expect(steps.began).toEqual([1, 2])
  await steps.over(1)
  expect(steps.began).toEqual([1, 2])
  await steps.end(1)
  expect(steps.began).toEqual([1, 2, 3])
  await steps.end(2)
  await steps.end(3)
  await all
})

test('with overlap the next one begins when one is over, and a third one waits for the end of the first', async () => {
  const steps = new Steps()
  let done = false
  const all = inLanes([1, 2, 3], 1, true, steps.run).then(() => {
    done = true
  })
  expect(steps.began).toEqual([1])
  await steps.over(1)
  expect(steps.began).toEqual([1, 2])
  await steps.over(2)
  expect(steps.began).toEqual([1, 2])
  await steps.end(1)
  expect(steps.began).toEqual([1, 2, 3])
  await steps.end(3)
  expect(done).toBe(false)
  await steps.end(2)
  await all
})

test('once one has failed no other begins, those that run are waited for, and its error is thrown', async () => {
  const steps = new Steps()
  let failure: unknown
  const all = inLanes([1, 2, 3, 4], 2, true, steps.run).catch((error: unknown) => {
    failure = error
  })
  await steps.over(1)
  expect(steps.began).toEqual([1, 2, 3])
  await steps.fail(1)
  await steps.over(2)
  await steps.end(2)
  expect(failure).toBeUndefined()
  expect(steps.began).toEqual([1, 2, 3])
  await steps.end(3)
  await all
  expect(failure).toEqual(new Error('item 1'))
})
