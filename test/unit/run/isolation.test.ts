// SPDX-License-Identifier: Apache-2.0
import { expect, test } from 'vitest'
import type { Agreement } from '../../../server/oracle/agreement.ts'
import { notJudged } from '../../../server/run/isolation.ts'
import type { El2Report } from '../../../server/trap/el2Oracle.ts'
import type { OracleReport } from '../../../server/trap/oracleReport.ts'

const times = { p50: 1, p90: 1, p99: 1, max: 1 }
const oracle = (more: Partial<OracleReport> = {}): OracleReport => ({
  ...{ samples: 3, wholes: 1, hypervisorPages: 1, vmPages: 0, violations: [], more: 0, sampleUs: times },
  ...more,
})
const agreement: Agreement = { pages: 1, kept: 0, hypervisor: 0, untouched: 0, wrong: 0, disagreements: [] }
const el2 = (found: Agreement | null): El2Report => ({
  ...{ registers: null, changes: 0, serverUs: times, checks: 0, agreement: found },
})

test.each([
  ['what was looked at', { oracle: oracle() }, false, undefined],
  ['what was looked at once, at the end', { oracle: oracle({ samples: 0 }) }, false, undefined],
  [
    'a policy that claims nothing',
    { oracle: oracle({ unjudged: 'it claims nothing' }) },
    false,
    /nothing was judged: it claims nothing/,
  ],
  ['a machine at which nobody looked', { oracle: oracle({ samples: 0, wholes: 0 }) }, false, /nothing was looked at/],
  ['a trap thread that said nothing', {}, false, /nobody looked/],
  ["EL2's tables, compared", { oracle: oracle(), el2: el2(agreement) }, true, undefined],
  ['an EL2 without tables for its host', { oracle: oracle(), el2: el2(null) }, true, /were not compared/],
  ['an EL2 of which nothing is known', { oracle: oracle() }, true, /were not compared/],
])('whether --oracle has judged: %s', (_name, sections, withEl2, message) => {
  const ending = notJudged(sections, withEl2)
  expect(ending?.outcome).toBe(message && 'not-judged')
  if (message !== undefined) expect(ending?.message).toMatch(message)
})
