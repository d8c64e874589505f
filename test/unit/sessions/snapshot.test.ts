// SPDX-License-Identifier: Apache-2.0
import { existsSync, mkdirSync, mkdtempSync, rmSync, statSync, truncateSync, utimesSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test, vi } from 'vitest'
import { publish } from '../../../scripts/setup/cache.ts'
import type { Prepared } from '../../../server/sessions/agentMachine.ts'

const home = mkdtempSync(join(tmpdir(), `smmu-cosim-${process.pid}-cache-`))
let snapshots: typeof import('../../../server/sessions/snapshot.ts')
beforeAll(async () => {
  vi.stubEnv('XDG_CACHE_HOME', home)
  vi.resetModules()
  snapshots = await import('../../../server/sessions/snapshot.ts')
})
afterAll(() => {
  vi.unstubAllEnvs()
  rmSync(home, { recursive: true })
})

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
    el2: 'none',
  }
}

test('a snapshot is good for the same machine only', async () => {
  const key = await snapshots.snapshotKey(prepared())
  expect(await snapshots.snapshotKey(prepared())).toBe(key)
  for (const change of [{ qemu: 'another QEMU' }, { until: 'cmdq' as const }, { smp: 2 }]) {
    expect(await snapshots.snapshotKey(prepared(change))).not.toBe(key)
  }
})

test('a snapshot that is not whole, or is not what was made, or says that it is another one, is none', async () => {
  const make = async (name: string, meta: string | undefined, files: readonly string[]) => {
    const made = join(folder, 'made')
    mkdirSync(made)
    for (const file of files) writeFileSync(join(made, file), `${file} of ${name}`)
    if (meta !== undefined) writeFileSync(join(made, 'meta.json'), meta)
    await publish(made, join(folder, name))
  }
  await make('good', '{"key":"good","usualMs":7}', ['ram', 'devices'])
  await make('stale', '{"key":"good","usualMs":7}', ['ram', 'devices'])
  await make('half', '{"key":"half","usualMs":7}', ['ram'])
  await make('torn', '{"key":"to', ['ram', 'devices'])
  await make('bare', undefined, ['ram', 'devices'])
  for (const name of ['changed', 'cut']) await make(name, `{"key":"${name}","usualMs":7}`, ['ram', 'devices'])
  writeFileSync(join(folder, 'changed/ram'), 'RAM of changed')
  truncateSync(join(folder, 'cut/devices'), 3)
  expect(await snapshots.readSnapshot('good', folder)).toMatchObject({ key: 'good', usualMs: 7 })
  for (const name of ['stale', 'half', 'torn', 'bare', 'changed', 'cut', 'absent'])
    expect(await snapshots.readSnapshot(name, folder)).toBeUndefined()
})

test('a snapshot that was removed meanwhile is made again, and one that is used is not the next to go', async () => {
  const signal = new AbortController().signal
  let made = 0
  const savable = {
    ...prepared(),
    label: 'a machine',
    async save({ ram, devices }: { readonly ram: string; readonly devices: string }) {
      made++
      for (const file of [ram, devices]) writeFileSync(file, `a state of ${file}`)
    },
  }
  const ensure = () => snapshots.ensureSnapshot(savable, signal, () => {})
  const [first, same] = await Promise.all([ensure(), ensure()])
  expect([made, same]).toEqual([1, first])
  const place = dirname(first.ram)
  utimesSync(place, 1, 1)
  await ensure()
  expect(statSync(place).mtimeMs).toBeGreaterThan(1000)
  rmSync(place, { recursive: true })
  expect(existsSync((await ensure()).ram)).toBe(true)
  expect(made).toBe(2)
})
