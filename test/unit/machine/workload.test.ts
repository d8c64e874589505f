// SPDX-License-Identifier: Apache-2.0
/** What the guest reports of the workload is compared with what the host has. */
import { rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
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
