// SPDX-License-Identifier: Apache-2.0
/** What a machine is started with: choices that a policy has, refused in words before anything is fetched or built. */
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, onTestFinished, test, vi } from 'vitest'
import { MachineManager } from '../../../server/api/machineManager.ts'
import { QUIRKS } from '../../../server/hypervisor/pkvm/quirks.ts'
import { privateFolder } from '../../../server/machine/scratch.ts'
import { type Harness, startApp } from './harness.ts'

let server: Harness
beforeAll(async () => {
  server = await startApp()
})
afterAll(() => server.close())

test('known defects are listed, with the versions that have them', async () => {
  const { quirks } = (await (await fetch(`${server.url}/api/v1/info`)).json()) as { readonly quirks: unknown }
  const listed = Object.entries(QUIRKS).map(([name, quirk]) => ({ policy: 'pkvm', name, ...quirk }))
  expect(quirks).toEqual(listed)
})

test.each([
  [{ quirks: ['queue-unshared'] }, /policy pkvm has no quirk "queue-unshared": did you mean queues-unshared\?/],
  [{ policy: 'partition', quirks: ['eats'] }, /policy partition has no quirk "eats": it has none/],
  [{ policy: 'passthrough', oracle: true }, /oracle: policy passthrough, until nested, has no second stage/],
  [{ image: 'Image' }, /image Image: the server was started without a folder of images/],
  [{ initrd: 'initrd' }, /initrd initrd: the server was started without a folder of images/],
  [{ faults: ['cr0ack-stick'] }, /faults: no fault "cr0ack-stick" in the catalogue.*did you mean cr0ack-stuck\?/],
  [{ until: 'queues', oracle: true }, /oracle: policy pkvm, until queues, has no second stage/],
] as const)('%j', async (options, reason) => {
  const manager = new MachineManager()
  await expect(manager.start(options)).rejects.toMatchObject({ status: 422, message: expect.stringMatching(reason) })
  expect(manager.status()).toMatchObject({ state: 'off', end: { outcome: 'failed-to-start' } })
})

test.each([
  [0b010, []],
  [0b100, ['-cpu max']],
])('an image with flags %i has a CPU that has its pages', async (flags, expected) => {
  const folder = privateFolder(tmpdir(), 'start-')
  vi.stubEnv('XDG_STATE_HOME', folder)
  onTestFinished(() => {
    vi.unstubAllEnvs()
    rmSync(folder, { recursive: true })
  })
  const image = Buffer.alloc(4096)
  image.writeUInt32LE(flags, 24)
  image.write('ARM\x64', 56, 'latin1')
  writeFileSync(join(folder, 'Image'), image)
  writeFileSync(join(folder, 'initrd'), 'initrd')
  const qemu = join(folder, 'qemu')
  writeFileSync(qemu, `#!/bin/sh\necho "$@" > '${folder}/said'\nmv '${folder}/said' '${folder}/arguments'\nexit 1\n`, {
    mode: 0o700,
  })
  const manager = new MachineManager({ qemu, imagesFolder: folder })
  if (flags === 0b100) {
    const pkvm = manager.start({ image: 'Image', initrd: 'initrd', el2: 'pkvm' })
    await expect(pkvm).rejects.toMatchObject({
      status: 422,
      message: expect.stringContaining('16 KiB: with --el2 pkvm'),
    })
  }
  await manager.start({ image: 'Image', initrd: 'initrd' }).catch(() => {})
  await expect.poll(() => existsSync(join(folder, 'arguments'))).toBe(true)
  await manager.close()
  const words = readFileSync(join(folder, 'arguments'), 'utf8')
  expect([...words.matchAll(/-cpu \S+/g)].map(([text]) => text)).toEqual(['-cpu cortex-a57', ...expected])
})

test('more of them than there are, and what is no name', async () => {
  const post = (body: object) =>
    fetch(`${server.url}/api/v1/machine/start`, {
      method: 'POST',
      body: JSON.stringify(body),
      headers: { 'content-type': 'application/json' },
    })
  expect((await post({ quirks: Array.from({ length: 65 }, (_, i) => `quirk-${i}`) })).status).toBe(400)
  expect((await post({ quirks: ['../../etc'] })).status).toBe(400)
  for (const name of ['../Image', '/etc/passwd', '.hidden', '', 'a/b']) {
    expect((await post({ image: name })).status, name).toBe(400)
    expect((await post({ initrd: name })).status, name).toBe(400)
    expect((await post({ faults: [`${name}.yaml`] })).status, name).toBe(400)
  }
  // There is a machine already.
  expect((await post({ quirks: ['eats'] })).status).toBe(409)
})
