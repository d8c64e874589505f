// SPDX-License-Identifier: Apache-2.0
/** What is refused before a machine is started. */
import { spawnSync } from 'node:child_process'
import { rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, expect, test } from 'vitest'
import { privateFolder } from '../../../server/machine/scratch.ts'

const MAIN = fileURLToPath(new URL('../../../server/cli/main.ts', import.meta.url))
const folder = privateFolder(tmpdir(), 'faults-')
afterAll(() => rmSync(folder, { recursive: true }))

const own = join(folder, 'own.yaml')
writeFileSync(own, 'rules: [{ name: a, where: { at: table, table: ste }, what: { do: drop } }]')

test.each([
  ['a file of rules in a prefix that has no such thing', ['run', own, '--until', 'cmdq'], /needs strtab/],
  ['one of several jobs', ['run', 'sync-hangs', own, '--until', 'cmdq'], /own\.yaml .*needs strtab/],
  ['a campaign of which nothing is left', ['campaign', own, '--until', 'cmdq'], /needs strtab/],
])('%s', (_name, args, reason) => {
  const all = [MAIN, 'faults', ...args, '--database', join(folder, 'campaigns.db')]
  const { status, stderr } = spawnSync(process.execPath, all, { encoding: 'utf8' })
  expect([status, stderr]).toEqual([1, expect.stringMatching(reason)])
})
