// SPDX-License-Identifier: Apache-2.0
/** Which kernel a machine gets that is asked for over HTTP without one. */
import type { AddressInfo } from 'node:net'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { createApp } from '../../../server/api/app.ts'
import { MachineManager } from '../../../server/api/machineManager.ts'
import type { WantedFiles } from '../../../server/run/files.ts'

vi.mock('../../../server/run/files.ts', async original => ({
  ...(await original<object>()),
  machineFiles: async ({ kernel }: WantedFiles) => {
    throw new Error(`set-up of ${kernel}`)
  },
}))

const manager = new MachineManager()
let url: string
let close: () => Promise<void>
beforeAll(async () => {
  const { app } = await createApp({ manager, access: { host: '127.0.0.1' }, version: 'test' })
  await app.listen({ host: '127.0.0.1', port: 0 })
  url = `http://127.0.0.1:${(app.server.address() as AddressInfo).port}/api/v1/machine/start`
  close = () => app.close()
})
afterAll(() => close?.())

test.each([
  [{}, '6.12'],
  [{ el2: 'none' }, '6.12'],
  [{ el2: 'pkvm' }, '7.3'],
  [{ el2: 'pkvm', kernel: '6.12' }, '6.12'],
])('%j: %s', async (options, kernel) => {
  const response = await fetch(url, {
    method: 'POST',
    body: JSON.stringify(options),
    headers: { 'content-type': 'application/json' },
  })
  expect([response.status, await response.json()]).toMatchObject([409, { detail: `set-up of ${kernel}` }])
})
