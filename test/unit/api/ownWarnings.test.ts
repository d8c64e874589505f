// SPDX-License-Identifier: Apache-2.0
/** A policy that nobody knows of, with warnings of its own: they are told by name, and can be stopped at. */
import { rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { privateFolder } from '../../../server/machine/scratch.ts'
import { ARM_SMMU_GBPA } from '../../../server/smmu/registers.ts'
import { type Harness, startApp } from './harness.ts'

const url = (path: string) => JSON.stringify(new URL(`../../../server/${path}`, import.meta.url).href)
const MINE = `
import { passthrough } from ${url('hypervisor/passthrough/policy.ts')}
import { defineWarning } from ${url('policy/warnings.ts')}
const warnings = []
const MINE_READ = defineWarning(warnings, 'MINE_READ', 'mine.md#reads', 'It was read.', ['offset', 'size'])
export default (machine, context) => {
  const policy = passthrough(machine, context)
  return {
    ...policy,
    name: 'mine',
    inspect: {
      facilities: new Set(), warnings, faults: { stage2: () => [] },
      sections: () => ({}), streams: () => [], stateLines: () => [], verify: () => [],
    },
    access(trap) {
      if (!trap.write) context.report.warn(MINE_READ, trap.seq, trap.smmu, trap.offset, trap.size, 0, 0)
      policy.access(trap)
    },
  }
}
`

let folder: string
let server: Harness
beforeAll(async () => {
  folder = privateFolder(tmpdir(), 'own-warnings-')
  const policy = join(folder, 'mine.ts')
  writeFileSync(policy, MINE)
  server = await startApp({ policy })
})
afterAll(async () => {
  await server.close()
  rmSync(folder, { recursive: true })
})

const get = async (path: string) => (await fetch(new URL(`/api/v1${path}`, server.url))).json()

test('warnings have code, section, meaning and values; the names that requests can use have them too', async () => {
  await server.qemu.read(ARM_SMMU_GBPA, 4)
  await server.settle()
  const { items } = (await get('/warnings')) as { items: unknown[] }
  expect(items).toEqual([
    expect.objectContaining({
      code: 'MINE_READ',
      section: 'mine.md#reads',
      meaning: 'It was read.',
      values: 'offset=0x44 size=0x4',
      expected: false,
    }),
  ])
  const { items: rows } = (await get('/traps?warnings=true')) as { items: unknown[] }
  expect(rows).toEqual([expect.objectContaining({ register: 'GBPA', warnings: ['MINE_READ'] })])
  const answer = await fetch(new URL('/api/v1/breakpoints', server.url), {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ on: 'warning', warning: 'MINE_READ' }),
  })
  expect(answer.status).toBe(201)
})
