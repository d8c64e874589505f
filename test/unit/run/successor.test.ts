// SPDX-License-Identifier: Apache-2.0
/** Both kernels of a machine with kexec are checked, each by its own events and against what the disks held then. */
import { createHash } from 'node:crypto'
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import type { GuestEvent } from '../../../server/machine/guestEvents.ts'
import { privateFolder } from '../../../server/machine/scratch.ts'
import { Workload } from '../../../server/machine/workload.ts'
import { BothWorkloads } from '../../../server/run/successor.ts'

const DISK = 8192
const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')

test('a kernel and its successor', async () => {
  const folder = privateFolder(tmpdir(), 'successor-test-')
  const workload = await Workload.create(folder, 'seed', { disk: DISK, file: 4096 })
  try {
    const kernel = Buffer.from('a kernel')
    const initramfs = Buffer.from('an initramfs')
    workload.addSuccessor(kernel, initramfs)
    expect(workload.append(0)).toContain('cosim.kexec=8:12')
    expect(workload.deviceArguments.join(' ')).toContain('serial=cosim-kexec,')
    const disk = readFileSync(join(folder, 'kexec.img'))
    expect([disk.length, disk.toString('latin1', 0, 8), disk.toString('latin1', 1 << 20, (1 << 20) + 12)]).toEqual([
      ...[2 << 20, 'a kernel', 'an initramfs'],
    ])

    const image = join(folder, 'virtio-blk.img')
    const events: GuestEvent[] = []
    const both = new BothWorkloads(workload, 'kdump')
    const add = (event: string, fields: Partial<GuestEvent> = {}) => {
      events.push({ seq: events.length, event, ok: true, ...fields })
      both.added(events)
    }
    const write = (seed: string) => {
      const lines = Array.from({ length: DISK / 2 / 512 }, (_, i) => `${`${seed} ${i}`.padEnd(511)}\n`).join('')
      writeFileSync(image, Buffer.concat([readFileSync(image).subarray(0, DISK / 2), Buffer.from(lines)]))
      add('write', { name: 'virtio-blk', bytes: DISK / 2 })
    }
    const read = () => add('device', { name: 'virtio-blk', bytes: DISK, sha256: sha256(readFileSync(image)) })
    const outcome = () =>
      both
        .entries(events)
        .filter(({ device }) => device === 'virtio-blk' || device === 'kexec')
        .map(({ device, operation, ok, successor }) => `${device} ${operation} ${ok}${successor ? ' again' : ''}`)

    add('module', { ok: false, error: 'x' })
    add('userspace')
    read()
    write('seed')
    expect(both.asked('sysrq triggered crash')).toBe(false)
    add('successor', { name: 'kdump', sha256: sha256(Buffer.concat([kernel, initramfs])) })
    // It was read right, and never started.
    const first = ['virtio-blk read true', 'virtio-blk write true', 'kexec read true']
    expect(outcome()).toEqual([...first, 'virtio-blk read false again', 'virtio-blk write false again'])
    expect(both.asked('sysrq triggered crash')).toBe(true)
    expect(both.asked('Attempted to kill init!')).toBe(false)
    expect(both.report(events)).toEqual({ start: 'kdump', kernel: null, bootMs: null })
    add('userspace', { kernel: '6.12-second' })
    add('vmcore', { bytes: 4096 })
    // A panic of the successor is one, whatever it says.
    expect(both.asked('sysrq triggered crash')).toBe(false)
    expect(both.report(events)).toEqual({
      start: 'kdump',
      kernel: '6.12-second',
      bootMs: expect.any(Number),
      vmcore: 4096,
    })
    read()
    write('seed-1')
    expect(outcome()).toEqual([...first, 'virtio-blk read true again', 'virtio-blk write true again'])
    expect(both.entries(events).filter(({ ok }) => ok)).toHaveLength(5)
  } finally {
    workload.close()
    rmSync(folder, { recursive: true })
  }
})
