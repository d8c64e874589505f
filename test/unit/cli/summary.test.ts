// SPDX-License-Identifier: Apache-2.0
/** What the report for people says of EL2: that SMMU and EL2 agree only where they were compared. */
import { expect, test } from 'vitest'
import { el2Lines } from '../../../server/cli/summary.ts'
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
