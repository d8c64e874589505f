// SPDX-License-Identifier: Apache-2.0
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { Stall } from '../../../server/run/stall.ts'
import { ARM_SMMU_CR0ACK } from '../../../server/smmu/registers.ts'
import { Pump } from '../../../server/trace/pump.ts'
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

test('one that waits for the SMMU in vain is a state, and so is that it goes on', async () => {
  const add = vi.spyOn(Pump.prototype, 'add')
  const other = await startApp()
  const stall = add.mock.calls.map(([sink]) => sink).find(sink => sink instanceof Stall)
  add.mockRestore()
  try {
    expect(other.manager.status().stalled).toBeNull()
    const look = (s: number, value: number) =>
      stall?.access({ smmu: 0, write: false, offset: ARM_SMMU_CR0ACK, value, start: s * 1e9 })
    for (let s = 100; s <= 140; s++) look(s, 0)
    expect(other.manager.status().stalled).toMatch(/waits for the SMMU in vain: it reads nothing but CR0ACK/)
    look(141, 1)
    expect(other.manager.status().stalled).toBeNull()
    const { items } = other.manager.history.events.read(1, 100, undefined)
    expect(items.map(({ name }) => name)).toEqual(['guest stalled', 'guest goes on'])
  } finally {
    await other.close()
  }
})
