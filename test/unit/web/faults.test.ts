// SPDX-License-Identifier: Apache-2.0
import { expect, test } from 'vitest'
import type { Span } from '../../../server/api/schemas/faults.ts'
import { catalogue } from '../../../server/faults/catalogue.ts'
import { parseFile } from '../../../server/faults/load.ts'
import { effectRows } from '../../../server/web/src/faultEffect.ts'
import { ruleText } from '../../../server/web/src/ruleText.ts'

test.each(catalogue().map(({ name, rules }) => ({ name, rules })))(
  'rules of $name as text are the same rules',
  ({ rules }) => {
    expect(parseFile(ruleText(rules), 'text').rules).toEqual(rules)
  },
)

test('text that YAML takes for something else is quoted', () => {
  const rules = ['yes', 'a: b', '0x10', '- x', 'null', '# no', 'Kernel panic: {'].map((console, i) => ({
    name: `rule-${i}`,
    where: { at: 'machine' as const },
    when: { console: console.replace('{', '\\{') },
    what: { do: 'warn' as const, warning: 'HYP_UNMAP' },
  }))
  expect(parseFile(ruleText(rules), 'text').rules).toEqual(rules)
})

const span = (seconds: number, more: Partial<Span>): Span => ({
  from: '2026-01-01T00:00:00.000Z',
  seconds,
  traps: 0,
  aborted: 0,
  gerrors: 0,
  guardFaults: 0,
  warnings: [],
  events: [],
  disk: null,
  ...more,
})

const rowOf = (name: string, before: Span, since: Span) =>
  effectRows({ before, since, over: false }).find(row => row.name === name)

test.each([
  ['came with the fault', 'Aborted traps', {}, { aborted: 3 }, 'new'],
  ['was there before', 'Aborted traps', { aborted: 1 }, { aborted: 3 }, 'none'],
  ['stopped', 'Traps', { traps: 100 }, {}, 'stopped'],
  ['too rare to tell', 'Traps', { traps: 4 }, {}, 'none'],
  ['a warning of before only', 'Warning W', { warnings: [{ code: 'W', expected: false, count: 50 }] }, {}, 'stopped'],
  ['an event of since only', 'Event E', {}, { events: [{ name: 'E', count: 1 }] }, 'new'],
  ['an unknown number', 'Disk reads', {}, { disk: { reads: 7, writes: 0, bytes: 0, failed: 0 } }, 'none'],
] as const)('effect: %s', (_what, name, before, since, change) => {
  expect(rowOf(name, span(10, before as Partial<Span>), span(10, since as Partial<Span>))?.change).toBe(change)
})

test('effect: rates are of each span, and of none that had no time', () => {
  expect(rowOf('Traps', span(10, { traps: 50 }), span(0, { traps: 0 }))).toMatchObject({ rates: [5, null] })
  expect(rowOf('Disk reads', span(10, {}), span(5, {}))).toMatchObject({ before: null, rates: [null, null] })
})
