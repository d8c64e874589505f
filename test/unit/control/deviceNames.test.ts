// SPDX-License-Identifier: Apache-2.0
/** When QEMU is asked for the StreamIDs of devices, and what is made of its answer. */
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { DeviceNames } from '../../../server/control/deviceNames.ts'
import type { Qmp } from '../../../server/machine/qmp.ts'
import type { NamedDevice } from '../../../server/machine/streams.ts'
import { layouts } from '../../../server/trace/layout.ts'
import { kinds } from '../../../server/trace/records.ts'

beforeEach(() => {
  vi.useFakeTimers()
})
afterEach(() => {
  vi.useRealTimers()
})

const NVME = { smmu: 0, sid: 8, name: 'nvme', model: 'nvme' }
const INVALID = 0xffff_ffff

/** A machine with a card behind a root port, whose bus has this number. */
class Machine {
  bus = 0
  asked = 0
  readonly taken: (readonly NamedDevice[])[] = []
  readonly names = new DeviceNames(
    () => Promise.resolve({ execute: (command: string) => this.#answer(command) } as unknown as Qmp),
    devices => void this.taken.push(devices),
  )

  #answer(command: string): Promise<unknown> {
    if (command !== 'query-pci') return Promise.resolve([{ name: 'nvme', type: 'child<nvme>' }])
    this.asked++
    const device = (bus: number, slot: number, qdev_id: string, more: object = {}) => ({
      ...{ bus, slot, function: 0, class_info: { class: 0x0200 }, id: { vendor: 0x8086, device: 0x10c9 }, qdev_id },
      ...more,
    })
    const below = this.bus === 0 ? {} : { devices: [device(this.bus, 0, 'igb')] }
    const port = device(0, 2, 'port', { pci_bridge: { bus: { secondary: this.bus }, ...below } })
    return Promise.resolve([{ bus: 0, devices: [device(0, 1, 'nvme'), port] }])
  }

  /** The guest writes an entry. */
  configure(sid: number, hostConfig: number): void {
    const words = new Uint32Array([0, 0, sid, hostConfig, 0])
    const layout = layouts[kinds.stream.id]
    if (layout === undefined) throw new Error('no layout')
    const at = (field: string) => layout.fields.find(({ name }) => name === field)?.word ?? 0
    words[at('smmu')] = 0
    words[at('sid')] = sid
    words[at('hostConfig')] = hostConfig
    this.names.fromRing({ words } as never, layout, 0)
  }

  async wait(): Promise<void> {
    await vi.advanceTimersByTimeAsync(1000)
  }
}

test('a stream that has no name makes it ask, once; one that has, or an entry that is not valid, does not', async () => {
  const machine = new Machine()
  machine.names.connected({ devices: [NVME, { ...NVME, sid: 0x10, name: 'port' }] } as never, false)
  machine.configure(8, 5)
  machine.configure(0x300, INVALID)
  await machine.wait()
  expect(machine.asked).toBe(0)

  machine.bus = 3
  machine.configure(0x300, 5)
  machine.configure(0x301, 5)
  await machine.wait()
  expect(machine.asked).toBe(1)
  expect(machine.taken.at(-1)?.map(({ sid, name }) => `${sid.toString(16)} ${name}`)).toEqual([
    '8 nvme',
    '10 port',
    '300 igb',
  ])
  // 0x301 is nobody's, and was asked for.
  machine.configure(0x301, 5)
  await machine.wait()
  expect(machine.asked).toBe(1)
})

test('after a reset all of them are new, and what did not change is not told again', async () => {
  const machine = new Machine()
  machine.names.connected({ devices: [NVME] } as never, false)
  machine.bus = 3
  machine.configure(0x300, 5)
  await machine.wait()
  expect(machine.taken).toHaveLength(1)
  machine.names.look()
  await machine.wait()
  expect([machine.asked, machine.taken.length]).toEqual([2, 1])
  machine.names.reset()
  machine.bus = 4
  machine.configure(0x400, 5)
  await machine.wait()
  expect(machine.taken.at(-1)?.map(({ sid }) => sid)).toContain(0x400)
})

test('a report of the workload makes it ask, and so does a machine that was running before; its end is the end', async () => {
  const machine = new Machine()
  const line = (text: string) => machine.names.record({ kind: 'console', start: 0, text })
  machine.names.connected({ devices: [NVME] } as never, true)
  await machine.wait()
  expect(machine.asked).toBe(1)
  line('[    0.1] Booting Linux')
  await machine.wait()
  expect(machine.asked).toBe(1)
  line('[    5.6] @cosim {"seq":0,"event":"userspace","ok":true}')
  await machine.wait()
  expect(machine.asked).toBe(2)
  machine.names.look()
  machine.names.close()
  machine.names.look()
  await machine.wait()
  expect(machine.asked).toBe(2)
})
