// SPDX-License-Identifier: Apache-2.0
/** What the guest reports of the workload is compared with what the host has. */
import { createHash } from 'node:crypto'
import { readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { GuestEvent } from '../../../server/machine/guestEvents.ts'
import { privateFolder } from '../../../server/machine/scratch.ts'
import { Workload } from '../../../server/machine/workload.ts'

let folder: string
let workload: Workload
beforeAll(async () => {
  folder = privateFolder(tmpdir(), 'workload-test-')
  workload = await Workload.create(folder, 'seed', { disk: 8192, file: 4096 })
})
afterAll(() => {
  workload.close()
  rmSync(folder, { recursive: true })
})

const fetched = (fields: Readonly<Record<string, unknown>>) =>
  workload
    .check([{ seq: 0, event: 'net', ok: true, name: 'e1000e', bytes: 4096, fetchMs: 7, ...fields }])
    .find(({ device }) => device === 'e1000e')

test('a card that was reset on the way has fetched the file, and says so', () => {
  const sha256 = fetched({})?.expected
  const note = 'no lease before the card was reset: carrier 0, sent 0, received 0, interrupts 2 0 2'
  expect(fetched({ sha256, note })).toMatchObject({ ok: true, ms: 7, note })
  expect(fetched({ sha256 })).not.toHaveProperty('note')
})

test('of a duration that is none, nothing is said', () => {
  for (const fetchMs of ['soon', null, {}, Number.POSITIVE_INFINITY]) expect(fetched({ fetchMs })?.ms).toBe(0)
})

test('other bytes, and no word at all, are failures', () => {
  expect(fetched({ sha256: '00' })).toMatchObject({ ok: false, error: expect.stringContaining('the bytes differ') })
  expect(workload.check([]).map(({ ok, error }) => [ok, error])).toEqual(
    Array.from({ length: 5 }, () => [false, 'the guest reported nothing']),
  )
})

test('all devices at a time: what they read, in whole passes and after them, is what the host has, and none may be missing', async () => {
  const place = privateFolder(tmpdir(), 'load-test-')
  const loaded = await Workload.create(place, 'seed', { disk: 2 << 20, file: 600 << 10 }, ['ahci', 'igb'])
  try {
    loaded.addLoad(300)
    expect(loaded.append(0)).toMatch(/ cosim\.parts=2 cosim\.load=300$/)
    const image = (name: string) => readFileSync(join(place, `${name}.img`))
    const half = (bytes: Buffer) => bytes.subarray(0, bytes.length / 2)
    const lines = (seed: string, bytes: number) =>
      Buffer.from(Array.from({ length: bytes / 512 }, (_, i) => `${`${seed} ${i}`.padEnd(511)}\n`).join(''))
    const [, port] = /:(\d+)\/file/.exec(loaded.append(0)) ?? []
    const fetched = async (path: string) => {
      const answer = await fetch(`http://127.0.0.1:${port}${path}`)
      return answer.ok ? Buffer.from(await answer.arrayBuffer()) : answer.status
    }
    const [file, ...parts] = await Promise.all(['/file', '/file/0', '/file/1', '/file/2'].map(fetched))
    if (!Buffer.isBuffer(file)) throw new Error(`status ${file}`)
    expect(parts).toEqual([file.subarray(0, 512 << 10), file.subarray(512 << 10), 404])
    const [read, write] = [512 << 10, 128 << 10]
    /** Device, what it did, the bytes of one pass, how large their parts are, and how many there were after the last whole pass. */
    const reads: readonly (readonly [string, string, Buffer, number, number])[] = [
      ['nvme', 'read', image('nvme'), read, 3],
      ['virtio-blk', 'read', half(image('virtio-blk')), read, 1],
      ['virtio-blk', 'write', lines('seed', 1 << 20), write, 5],
      ['ahci', 'read', half(image('ahci')), read, 0],
      ['ahci', 'write', lines('seed-ahci', 256 << 10), write, 1],
      ...['virtio-net', 'e1000e', 'igb'].map(name => [name, 'fetch', file, read, 1] as const),
    ]
    const hash = (bytes: Buffer | string) => createHash('sha256').update(bytes).digest('hex')
    const sumOf = (bytes: Buffer, size: number, parts = Math.ceil(bytes.length / size)) =>
      hash(Array.from({ length: parts }, (_, i) => `${hash(bytes.subarray(i * size, (i + 1) * size))}\n`).join(''))
    const events = reads.map(([name, operation, bytes, size, parts], seq) => {
      const sums = { sha256: sumOf(bytes, size), parts, partsSha256: sumOf(bytes, size, parts) }
      return { seq, event: 'load', ok: true, name, operation, passes: 3, ...sums, ms: 7 }
    })
    const of = (told: readonly GuestEvent[]) => loaded.check(told).filter(({ passes }) => passes !== undefined)
    expect(of(events).map(({ device, operation, ok }) => [device, operation, ok])).toEqual(
      reads.map(([name, operation]) => [name, operation, true]),
    )
    expect(of(events).map(({ bytes }) => bytes)).toEqual([
      ...[3 * (2 << 20) + 3 * read, 3 * (1 << 20) + read, 2 * (3 * (1 << 20) + 5 * write)],
      ...[3 * (256 << 10), 2 * (3 * (256 << 10) + write)],
      ...Array.from({ length: 3 }, () => 3 * (600 << 10) + read),
    ])
    for (const [index, [, , , , parts]] of reads.entries()) {
      const others = reads.map((_, i) => i !== index)
      const but = (change: object) => of(events.map((event, i) => (i === index ? { ...event, ...change } : event)))
      expect(but({ sha256: '00' }).map(({ ok }) => ok)).toEqual(others)
      expect(but({ partsSha256: '00' }).map(({ ok }) => ok)).toEqual(parts === 0 ? others.map(() => true) : others)
      expect(but({ passes: 0, sha256: '' })[index]).toMatchObject({ ok: parts > 0, passes: 0 })
      expect(but({ passes: 0, parts: 0 })[index]).toMatchObject({ ok: false, error: 'nothing in that time' })
      // A guest may say anything.
      expect(but({ passes: 'x', parts: -1 })[index]).toMatchObject({ ok: false, bytes: 0 })
      expect(of(events.toSpliced(index, 1))[index]).toMatchObject({ ok: false, passes: 0 })
    }
  } finally {
    loaded.close()
    rmSync(place, { recursive: true })
  }
})
