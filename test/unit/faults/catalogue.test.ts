// SPDX-License-Identifier: Apache-2.0
/** What the catalogue expects, and what the README says of it. */
import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { catalogue } from '../../../server/faults/catalogue.ts'
import { GRAVITY } from '../../../server/sessions/verdict.ts'

const README = readFileSync(new URL('../../../server/faults/README.md', import.meta.url), 'utf8')
const several = catalogue().flatMap(({ name, expect }) =>
  typeof expect === 'string' ? [] : [{ name, verdicts: expect }],
)

test('an entry of several verdicts names two or more, the gravest first, each once', () => {
  for (const { name, verdicts } of several) {
    expect(verdicts.length, name).toBeGreaterThan(1)
    expect(verdicts, name).toEqual(GRAVITY.filter(verdict => verdicts.includes(verdict)))
  }
})

test('the README has a row for each of them, with these verdicts and a reason', () => {
  const [, table = ''] = /^### Entries with more than one verdict$([\s\S]*?)^##/m.exec(README) ?? []
  const rows = [...table.matchAll(/^\| `([a-z0-9-]+)` +\| ([a-z, -]+?) +\| (.+?) +\|/gm)]
  expect(rows.map(([, name, verdicts]) => [name, verdicts])).toEqual(
    several.map(({ name, verdicts }) => [name, verdicts.join(', ')]),
  )
  for (const [, name, , reason = ''] of rows) expect(reason.length, name).toBeGreaterThan(20)
})
