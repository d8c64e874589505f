// SPDX-License-Identifier: Apache-2.0
import { afterEach, beforeEach, expect, test } from 'vitest'
import { type Harness, startApp } from './harness.ts'

let server: Harness
beforeEach(async () => {
  server = await startApp()
})
afterEach(() => server.close())

const guestEvents = () =>
  server.manager.history.events.read(1, 100, undefined).items.filter(({ kind }) => kind === 'guest')

test('what the guest’s kernel says of itself is a state, and an event; the worst counts', async () => {
  expect(server.manager.status().guest).toBeNull()
  server.say('[    1.0] Internal error: Oops: 0000000096000004 [#1] SMP\n')
  await expect.poll(() => server.manager.status().guest).toBe('oops')
  server.say('[    2.0] Kernel panic - not syncing: Attempted to kill init!\n[    3.0] Internal error: Oops: again\n')
  await expect.poll(() => guestEvents().length).toBe(3)
  expect(server.manager.status().guest).toBe('panic')
  expect(guestEvents()[1]).toMatchObject({
    name: 'guest panic',
    text: '[    2.0] Kernel panic - not syncing: Attempted to kill init!',
    time: expect.any(Number),
  })
})

test('what the workload reports is not what the kernel says', async () => {
  server.say('@cosim {"seq":1,"event":"x","ok":true,"note":"Kernel panic - not syncing"}\nplain\n')
  await expect.poll(() => server.manager.status().step).toBe('x')
  expect(server.manager.status().guest).toBeNull()
  expect(guestEvents()).toEqual([])
})

test('a reset begins anew, and is an event', async () => {
  server.say('Kernel panic - not syncing: x\n')
  await expect.poll(() => server.manager.status().guest).toBe('panic')
  await server.qemu.reset()
  await server.settle()
  const resets = server.manager.history.events.read(1, 100, undefined).items.filter(({ kind }) => kind === 'reset')
  expect(resets.map(({ text }) => text)).toEqual(['machine reset'])
})
