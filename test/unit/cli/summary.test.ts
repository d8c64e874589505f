// SPDX-License-Identifier: Apache-2.0
/** What the report for people says: that SMMU and EL2 agree only where they were compared, and that a run was not of the policy as it is. */
import { expect, test } from 'vitest'
import { el2Lines, oracleLines, quirkLines } from '../../../server/cli/summary.ts'
import type { Agreement } from '../../../server/oracle/agreement.ts'
import type { El2Report } from '../../../server/trap/el2Oracle.ts'

const agreement: Agreement = { pages: 100, kept: 10, hypervisor: 5, wrong: 0, disagreements: [] }
const base = 0x4000_0000
const lines = (more: Partial<El2Report>) =>
  el2Lines({
    ...{ registers: null, changes: 7, serverUs: { p50: 1, p90: 2, p99: 3, max: 4 }, checks: 0, agreement: null },
    ...more,
  }).slice(1)

test.each([
  ['agreement', { agreement }, ['    SMMU and EL2 agree (100 pages checked, 10 of them kept from the host)']],
  [
    'agreement all along',
    { agreement, checks: 3 },
    ['    SMMU and EL2 agree (100 pages checked, 10 of them kept from the host, and 3 times before the end)'],
  ],
  [
    'a page that is reached',
    { agreement: { ...agreement, wrong: 1, disagreements: [{ base, size: 4096, what: 'reached' as const }] } },
    [
      '    SMMU and EL2 DO NOT AGREE on 1 of 100 pages',
      '      devices reach 1 page at 0x40000000, which EL2 or the server keeps from the host',
    ],
  ],
  ['tables that make no sense', { problem: 'no table' }, ['    SMMU and EL2 CANNOT BE COMPARED: no table']],
  ['nothing to compare', {}, [expect.stringMatching(/^ {4}SMMU and EL2 were NOT compared: /)]],
])('%s', (_, more, expected) => expect(lines(more)).toEqual(expected))

test('a run with known defects is not one of the policy as it is', () => {
  expect(quirkLines('pkvm', ['eats', 'queues-unshared'])).toEqual([
    '  WITH KNOWN DEFECTS (--quirk): this is not pkvm as it is',
    '    eats',
    '    queues-unshared',
  ])
})

const looked = { samples: 3, wholes: 2, hypervisorPages: 16, vmPages: 1, more: 0, violations: [] }
const sampleUs = { p50: 100, p90: 200, p99: 300, max: 400 }
const violation = { kind: 'guard', message: 'a page is open', walk: [] }
test.each([
  [
    'nothing',
    {},
    [
      '  oracle: nothing is reached that must not be: 3 samples (p50 100 µs, p99 300), all of it 2 times, 1 pages belong to VMs',
    ],
  ],
  ['nobody was asked', { unjudged: 'no stage 2' }, ['  oracle: NOTHING WAS JUDGED: no stage 2']],
  [
    'a violation',
    { violations: [violation], more: 2 },
    [expect.stringMatching(/^ {2}oracle: 3 VIOLATIONS: 3 samples/), '    a page is open'],
  ],
])('what the oracle found: %s', (_, more, expected) =>
  expect(oracleLines({ ...looked, sampleUs, ...more })).toEqual(expected),
)
