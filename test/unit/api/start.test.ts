// SPDX-License-Identifier: Apache-2.0
/** What a machine is started with: choices that a policy has, refused in words before anything is fetched or built. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { MachineManager } from '../../../server/api/machineManager.ts'
import { QUIRKS } from '../../../server/hypervisor/pkvm/quirks.ts'
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
