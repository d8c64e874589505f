// SPDX-License-Identifier: Apache-2.0
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { Prepared } from '../../../server/sessions/agentMachine.ts'
import { readSnapshot, snapshotKey } from '../../../server/sessions/snapshot.ts'

let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), `smmu-cosim-${process.pid}-snapshot-`))
})
afterEach(() => rmSync(folder, { recursive: true, force: true }))

function prepared(change: { qemu?: string; until?: 'cmdq'; smp?: number } = {}): Prepared {
  const file = (name: string, content: string) => {
    const path = join(folder, name)
    writeFileSync(path, content)
    return path
  }
  return {
    description: {
      kernel: '6.12',
      until: change.until ?? 'nested',
      smp: change.smp ?? 1,
      memory: '1G',
      carveout: '64M',
      devices: ['virtio-blk'],
      append: '',
    },
    files: {
      qemu: file('qemu', change.qemu ?? 'a QEMU'),
      kernel: { version: '6.12', image: file('image', 'a kernel') },
      initrd: file('initrd', 'an initramfs'),
    },
    ramDir: '/dev/shm',
  }
}

test('a snapshot is good for the same machine only', async () => {
  const key = await snapshotKey(prepared())
  expect(await snapshotKey(prepared())).toBe(key)
  for (const change of [{ qemu: 'another QEMU' }, { until: 'cmdq' as const }, { smp: 2 }]) {
    expect(await snapshotKey(prepared(change))).not.toBe(key)
  }
})

test('a snapshot that is not whole, or says that it is another one, is none', async () => {
  const make = (name: string, meta: string | undefined, files: readonly string[]) => {
    mkdirSync(join(folder, name))
    for (const file of files) writeFileSync(join(folder, name, file), '')
    if (meta !== undefined) writeFileSync(join(folder, name, 'meta.json'), meta)
  }
  make('good', '{"key":"good","usualMs":7}', ['ram', 'devices'])
  make('stale', '{"key":"good","usualMs":7}', ['ram', 'devices'])
  make('half', '{"key":"half","usualMs":7}', ['ram'])
  make('torn', '{"key":"to', ['ram', 'devices'])
  make('bare', undefined, ['ram', 'devices'])
  expect(await readSnapshot('good', folder)).toMatchObject({ key: 'good', usualMs: 7 })
  for (const name of ['stale', 'half', 'torn', 'bare', 'absent'])
    expect(await readSnapshot(name, folder)).toBeUndefined()
})
