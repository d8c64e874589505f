// SPDX-License-Identifier: Apache-2.0
/** What the catalogue expects, and what the README says of it. */
import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { catalogue } from '../../../server/faults/catalogue.ts'
import { bootsFresh, FRESH_MS } from '../../../server/sessions/session.ts'
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

describe('load does not decide a verdict', () => {
  const fresh = catalogue().filter(bootsFresh)
  const seconds = ({ session }: (typeof fresh)[number]) => session?.timeout ?? FRESH_MS / 1000

  test('only a warning while the SMMU is probed is waited for less long than a boot usually is', () => {
    const shorter = fresh.filter(entry => seconds(entry) < FRESH_MS / 1000)
    expect(shorter.filter(({ expect }) => expect !== 'hyp-warning').map(({ name }) => name)).toEqual([])
    for (const entry of shorter) expect(seconds(entry), entry.name).toBeGreaterThanOrEqual(60)
  })

  test('where the driver polls an acknowledgement that never comes, there is time for that on a busy machine', () => {
    const polls = fresh.filter(({ rules }) =>
      rules.some(({ where, when, what }) => {
        if (where.at !== 'register' || when?.times !== 'always') return false
        const acknowledgement = where.access === 'read' && /^ARM_SMMU_(CR0|IRQ_CTRL)ACK$/.test(String(where.register))
        return acknowledgement || (where.register === 'ARM_SMMU_CR0' && what.do === 'drop')
      }),
    )
    expect(polls.map(({ name }) => name)).toEqual(['cr0ack-stuck', 'irq-ctrlack-stuck', 'smmuen-lost'])
    // 50 s of polling were seen, before and after which the guest boots.
    for (const entry of polls) expect(seconds(entry), entry.name).toBeGreaterThanOrEqual(180)
  })
})

test('the README has a row for each of them, with these verdicts and a reason', () => {
  const [, table = ''] = /^### Entries with more than one verdict$([\s\S]*?)^##/m.exec(README) ?? []
  const rows = [...table.matchAll(/^\| `([a-z0-9-]+)` +\| ([a-z, -]+?) +\| (.+?) +\|/gm)]
  expect(rows.map(([, name, verdicts]) => [name, verdicts])).toEqual(
    several.map(({ name, verdicts }) => [name, verdicts.join(', ')]),
  )
  for (const [, name, , reason = ''] of rows) expect(reason.length, name).toBeGreaterThan(20)
})
