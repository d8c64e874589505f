// SPDX-License-Identifier: Apache-2.0
/** Devices that come and go, with a QEMU that tells of it when the guest is done with them. */
import { EventEmitter } from 'node:events'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { Hotplug } from '../../../server/machine/hotplug.ts'
import type { Qmp } from '../../../server/machine/qmp.ts'

let folder: string
let executed: string[]
let qmp: EventEmitter & { execute: (command: string) => Promise<unknown> }
let hotplug: Hotplug

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'cosim-hotplug-'))
  executed = []
  qmp = Object.assign(new EventEmitter(), {
    execute: async (command: string) => void executed.push(command),
  })
  hotplug = new Hotplug(async () => qmp as unknown as Qmp, folder, 1)
})
afterEach(() => {
  vi.useRealTimers()
  rmSync(folder, { recursive: true })
})

const tell = (data: Readonly<Record<string, string>>, event = 'DEVICE_DELETED') => qmp.emit('event', { event, data })
const settled = () => new Promise(resolve => setImmediate(resolve))

test('a device is gone when QEMU says so, among other events that come at once', async () => {
  const { name } = await hotplug.add('virtio-blk')
  expect(existsSync(join(folder, `${name}.img`))).toBe(true)
  const removed = hotplug.remove(name)
  await settled()
  // What it consists of goes first, and has no id.
  tell({ path: `/machine/peripheral/${name}/virtio-backend` })
  tell({ device: 'slot1.nvme', path: '/machine/peripheral/slot1.nvme' })
  tell({ device: name, path: `/machine/peripheral/${name}` })
  await removed
  expect(executed).toEqual(['blockdev-add', 'device_add', 'device_del', 'blockdev-del'])
  expect(existsSync(join(folder, `${name}.img`))).toBe(false)
  expect(hotplug.plugged).toEqual([])
})

test('one that the guest keeps is told; its slot is free when the guest lets go of it later', async () => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
  const { name } = await hotplug.add('nvme')
  const refused = expect(hotplug.remove(name)).rejects.toThrow('the guest did not let go of slot0.nvme in 20 s')
  await settled()
  vi.advanceTimersByTime(20_000)
  await refused
  expect(hotplug.plugged).toMatchObject([{ name }])
  tell({ device: name })
  await settled()
  expect(hotplug.plugged).toEqual([])
  expect(await hotplug.add('e1000e')).toMatchObject({ name: 'slot0.e1000e' })
})

test('a guest that lets go of a device unasked leaves its slot free, and no backend', async () => {
  const { name } = await hotplug.add('virtio-net')
  tell({ device: name })
  await settled()
  expect(hotplug.plugged).toEqual([])
  expect(executed).toEqual(['netdev_add', 'device_add', 'netdev_del'])
})

test.each([
  ['QEMU has ended', () => qmp.emit('close')],
  ['the guest did not let go of slot0.nvme', () => tell({ device: 'slot0.nvme' }, 'DEVICE_UNPLUG_GUEST_ERROR')],
])('%s: who waits is told at once', async (why, happens) => {
  const { name } = await hotplug.add('nvme')
  const refused = expect(hotplug.remove(name)).rejects.toThrow(why)
  await settled()
  happens()
  await refused
  expect([qmp.listenerCount('event'), qmp.listenerCount('close')]).toEqual([1, 0])
})
