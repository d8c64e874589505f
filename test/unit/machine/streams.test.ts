// SPDX-License-Identifier: Apache-2.0
/** StreamIDs by what QEMU says of its buses, wherever a device sits. test/boot asks a real one. */
import { expect, test } from 'vitest'
import { askForDevices, namedDevices, type PciDevice, type PciRoot } from '../../../server/machine/streams.ts'

const BRIDGE = 0x0604

function device(bus: number, slot: number, qdev_id: string, id: string, more: Partial<PciDevice> = {}): PciDevice {
  const [vendor = 0, model = 0] = id.split(':').map(part => Number.parseInt(part, 16))
  return { bus, slot, function: 0, class_info: { class: 0x0200 }, id: { vendor, device: model }, qdev_id, ...more }
}

const bridge = (
  bus: number,
  slot: number,
  qdev_id: string,
  id: string,
  secondary: number,
  devices: readonly PciDevice[] = [],
): PciDevice =>
  device(bus, slot, qdev_id, id, {
    class_info: { class: BRIDGE },
    pci_bridge: { bus: { secondary }, ...(devices.length > 0 && { devices }) },
  })

const HOST = device(0, 0, '', '1b36:8', { class_info: { class: 0x0600 } })
const ROOT_PORT = '1b36:c'
const IGB = '8086:10c9'

const named = (devices: readonly PciDevice[], used: readonly number[] = []) =>
  namedDevices(
    [{ bus: 0, devices }],
    bus => (bus === 0 ? 0 : undefined),
    new Map([
      ['nvme', 'nvme'],
      ['igb', 'igb'],
      ['e1000', 'e1000'],
    ]),
    (_smmu, sid) => used.includes(sid),
  ).map(({ sid, name }) => `${sid.toString(16)} ${name}`)

test('on the root bus and behind a root port, once the guest has numbered its bus', () => {
  const port = (secondary: number) => bridge(0, 2, 'port', ROOT_PORT, secondary, [device(secondary, 0, 'igb', IGB)])
  const nvme = device(0, 1, 'nvme', '1b36:10')
  expect(named([HOST, nvme, port(3)])).toEqual(['8 nvme', '10 port', '300 igb'])
  // QEMU shows nothing below a bus without a number.
  expect(named([HOST, nvme, bridge(0, 2, 'port', ROOT_PORT, 0)])).toEqual(['8 nvme', '10 port'])
})

test('what nobody named has its address', () => {
  expect(named([device(0, 3, '', '1af4:1041', { function: 5 })])).toEqual(['1d 00:03.5'])
})

test('on a conventional bus the StreamID is the bridge’s, and that comes first', () => {
  const card = device(2, 1, 'e1000', '8086:100e')
  expect(named([bridge(0, 4, 'pci', '1b36:e', 2, [card])])).toEqual(['20 pci', '200 e1000', '208 e1000'])
  // A bridge without a PCIe capability speaks for what is below it with its own.
  expect(named([bridge(0, 4, 'pci', '1b36:1', 2, [card])])).toEqual(['20 pci', '20 e1000', '208 e1000'])
  // The one next to PCIe speaks for all buses below.
  const inner = bridge(2, 3, 'inner', '1b36:1', 5, [device(5, 1, 'e1000', '8086:100e')])
  expect(named([bridge(0, 4, 'pci', '1b36:e', 2, [inner])])).toEqual([
    ...['20 pci', '200 inner', '218 inner', '200 e1000', '508 e1000'],
  ])
})

test('virtual functions that are used are named by their card', () => {
  const vf = (slot: number, fn: number) => device(1, slot, '', 'ffff:ffff', { function: fn })
  const port = (...devices: PciDevice[]) => bridge(0, 2, 'port', ROOT_PORT, 1, devices)
  const functions = [vf(16, 0), vf(16, 2), vf(16, 4)]
  const one = port(device(1, 0, 'igb', IGB), ...functions)
  expect(named([one])).toEqual(['10 port', '100 igb'])
  expect(named([one], [0x180, 0x184])).toEqual(['10 port', '100 igb', '180 igb.vf0', '184 igb.vf2'])
  // Of two cards it is not known whose they are.
  const two = port(device(1, 0, 'igb', IGB), device(1, 1, 'igb', IGB), ...functions)
  expect(named([two], [0x182])).toEqual(['10 port', '100 igb', '108 igb', '182 01:10.2'])
})

test('QEMU is asked for buses and types; each root bus is behind the SMMU of what was described there', async () => {
  const roots: PciRoot[] = [
    { bus: 0, devices: [HOST, device(0, 1, 'nvme', '1b36:10')] },
    { bus: 0x40, devices: [bridge(0x40, 0, 'port', ROOT_PORT, 0x41, [device(0x41, 0, 'igb', IGB)])] },
    { bus: 0x80, devices: [device(0x80, 0, 'past', IGB)] },
  ]
  const execute = (command: string) =>
    Promise.resolve(
      command === 'query-pci'
        ? roots
        : [
            { name: 'type', type: 'string' },
            { name: 'igb', type: 'child<igb>' },
            { name: 'port', type: 'child<pcie-root-port>' },
          ],
    )
  const before = [
    { smmu: 0, sid: 8, name: 'nvme', model: 'nvme' },
    { smmu: 1, sid: 0x4000, name: 'port', model: 'pcie-root-port' },
  ]
  expect(await askForDevices({ execute }, before, () => false)).toEqual([
    { smmu: 0, sid: 8, name: 'nvme', model: '' },
    { smmu: 1, sid: 0x4000, name: 'port', model: 'pcie-root-port' },
    { smmu: 1, sid: 0x4100, name: 'igb', model: 'igb' },
  ])
})
