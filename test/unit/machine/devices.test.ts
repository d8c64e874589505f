// SPDX-License-Identifier: Apache-2.0
/** Devices beside the usual ones: QEMU's words for them, and what the host expects of them. */
import { rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { DEVICE_NAMES, deviceArguments, inOrder, serialOf } from '../../../server/machine/devices.ts'
import { privateFolder } from '../../../server/machine/scratch.ts'
import { Workload } from '../../../server/machine/workload.ts'

test('each has a backend and comes after the bus that it is on; a comma in a path is written twice', () => {
  const words = deviceArguments(['igb', 'usb-storage'], name => `/a,b/${name}.img`)
  expect(words).toEqual([
    ...['-netdev', 'user,id=igb-net,net=10.0.4.0/24'],
    ...['-device', 'pcie-root-port,id=igb-port,chassis=1', '-device', 'igb,id=igb,bus=igb-port,netdev=igb-net'],
    ...['-drive', 'if=none,id=usb-storage-drive,format=raw,file=/a,,b/usb-storage.img'],
    ...['-device', 'qemu-xhci,id=xhci', '-device', 'usb-bot,id=usb-bot,bus=xhci.0,serial=cosim-usb-storage'],
    ...['-device', 'scsi-hd,id=usb-storage,bus=usb-bot.0,drive=usb-storage-drive'],
  ])
})

test('ids, networks and chassis are different ones, and serial numbers not too long', () => {
  const words = deviceArguments(DEVICE_NAMES, name => name)
  for (const [option, of] of [
    [/(?:^|,)id=([^,]+)/, '-device'],
    [/(?:^|,)id=([^,]+)/, '-drive'],
    [/net=([^,]+)/, '-netdev'],
    [/chassis=(\d+)/, '-device'],
  ] as const) {
    const found = words.flatMap((word, at) => (words[at - 1] === of ? (option.exec(word)?.slice(1) ?? []) : []))
    expect(found.length).toBeGreaterThan(1)
    expect(new Set(found).size, String(option)).toBe(found.length)
  }
  for (const name of DEVICE_NAMES) expect(serialOf(name).length, name).toBeLessThanOrEqual(20)
})

test('a list of names has each once, in the machine’s order', () => {
  expect(inOrder(['ahci', 'igb', 'ahci'])).toEqual(['igb', 'ahci'])
})

test('each is checked by what it moved, and a card by its virtual functions as well', async () => {
  const folder = privateFolder(tmpdir(), 'devices-test-')
  const workload = await Workload.create(folder, 'seed', { disk: 8192, file: 4096 }, ['igb', 'ahci'])
  try {
    const checks = workload.check([]).map(({ device, operation }) => `${device} ${operation}`)
    expect(checks).toEqual([
      ...['virtio-blk read', 'nvme read', 'ahci read', 'virtio-blk write', 'ahci write'],
      ...['virtio-net fetch', 'e1000e fetch', 'igb fetch', 'igb.vf0 fetch', 'igb.vf1 fetch'],
    ])
    const words = workload.append(0)
    expect(words).toContain('cosim.devices=virtio-blk,nvme,virtio-net,e1000e,igb,ahci')
    expect(words).toMatch(/cosim\.url\.igb=http:\/\/10\.0\.4\.2:\d+\/file/)

    const ahci = () =>
      workload
        .check([{ seq: 0, event: 'write', ok: true, name: 'ahci', bytes: 256 << 10 }])
        .find(({ device, operation }) => device === 'ahci' && operation === 'write')
    expect(ahci()).toMatchObject({ ok: false, error: 'the image file does not hold what was written' })
    const lines = Array.from({ length: 512 }, (_, line) => `${`seed-ahci ${line}`.padEnd(511)}\n`).join('')
    writeFileSync(join(folder, 'ahci.img'), Buffer.concat([Buffer.alloc(256 << 10), Buffer.from(lines)]))
    expect(ahci()).toMatchObject({ ok: true })
  } finally {
    workload.close()
    rmSync(folder, { recursive: true })
  }
})
