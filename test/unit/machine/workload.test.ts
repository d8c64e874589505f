// SPDX-License-Identifier: Apache-2.0
/** What the guest reports of the workload is compared with what the host has. */
import { createHash } from 'node:crypto'
import { readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
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

test('other bytes, and no word at all, are failures', () => {
  expect(fetched({ sha256: '00' })).toMatchObject({ ok: false, error: expect.stringContaining('the bytes differ') })
  expect(workload.check([]).map(({ ok, error }) => [ok, error])).toEqual(
    Array.from({ length: 5 }, () => [false, 'the guest reported nothing']),
  )
})

test('all devices at a time: what each pass read is what the host has, and none may be missing', async () => {
  const place = privateFolder(tmpdir(), 'load-test-')
  const loaded = await Workload.create(place, 'seed', { disk: 16_384, file: 4096 }, ['ahci', 'igb'])
  try {
    loaded.addLoad(300)
    expect(loaded.append(0)).toMatch(/ cosim\.load=300$/)
    const image = (name: string) => readFileSync(join(place, `${name}.img`))
    const half = (bytes: Buffer) => bytes.subarray(0, bytes.length / 2)
    const lines = (seed: string, bytes: number) =>
      Array.from({ length: bytes / 512 }, (_, i) => `${`${seed} ${i}`.padEnd(511)}\n`).join('')
    const [, port] = /:(\d+)\/file/.exec(loaded.append(0)) ?? []
    const file = Buffer.from(await (await fetch(`http://127.0.0.1:${port}/file`)).arrayBuffer())
    const reads: readonly (readonly [string, string, string | Buffer])[] = [
      ['nvme', 'read', image('nvme')],
      ['virtio-blk', 'read', half(image('virtio-blk'))],
      ['virtio-blk', 'write', lines('seed', 8192)],
      ['ahci', 'read', half(image('ahci'))],
      ['ahci', 'write', lines('seed-ahci', 256 << 10)],
      ...['virtio-net', 'e1000e', 'igb'].map(name => [name, 'fetch', file] as const),
    ]
    const events = reads.map(([name, operation, bytes], seq) => {
      const sha256 = createHash('sha256').update(bytes).digest('hex')
      return { seq, event: 'load', ok: true, name, operation, passes: 3, sha256, ms: 7 }
    })
    const of = (told: typeof events) => loaded.check(told).filter(({ passes }) => passes !== undefined)
    expect(of(events).map(({ device, operation, ok }) => [device, operation, ok])).toEqual(
      reads.map(([name, operation]) => [name, operation, true]),
    )
    expect(of(events).map(({ bytes }) => bytes)).toEqual([
      ...[3 * 16_384, 3 * 8192, 3 * 16_384, 3 * (256 << 10), 3 * (512 << 10)],
      ...[3 * 4096, 3 * 4096, 3 * 4096],
    ])
    for (const [index] of reads.entries()) {
      const wrong = events.map((event, i) => (i === index ? { ...event, sha256: '00' } : event))
      expect(of(wrong).map(({ ok }) => ok)).toEqual(reads.map((_, i) => i !== index))
      expect(of(events.toSpliced(index, 1))[index]).toMatchObject({ ok: false, passes: 0 })
      const idle = events.map((event, i) => (i === index ? { ...event, passes: 0 } : event))
      expect(of(idle)[index]).toMatchObject({ ok: false, error: 'not once' })
    }
  } finally {
    loaded.close()
    rmSync(place, { recursive: true })
  }
})
