// SPDX-License-Identifier: Apache-2.0
import { expect, test } from 'vitest'
import type { Agreement } from '../../../server/oracle/agreement.ts'
import { el2Failure, el2Violation } from '../../../server/run/el2.ts'
import type { El2Report } from '../../../server/trap/el2Oracle.ts'

const agreement = (what?: 'reached' | 'lost' | 'elsewhere'): Agreement => ({
  pages: 100,
  kept: 10,
  untouched: 0,
  hypervisor: 10,
  wrong: what === undefined ? 0 : 1,
  disagreements: what === undefined ? [] : [{ base: 0x4000_0000, size: 4096, what }],
})
const el2 = (more: Partial<El2Report>): { el2: El2Report } => ({
  el2: {
    registers: null,
    changes: 1,
    serverUs: { p50: 1, p90: 1, p99: 1, max: 1 },
    checks: 0,
    agreement: agreement(),
    ...more,
  },
})

test.each([
  ['no EL2', {}, undefined, undefined],
  ['agreement', el2({}), undefined, undefined],
  ['nothing to compare', el2({ agreement: null }), undefined, undefined],
  ['a page that devices reach', el2({ agreement: agreement('reached') }), 'isolation-violation', 'guest-failed'],
  [
    'a page that is mapped elsewhere',
    el2({ agreement: agreement('elsewhere') }),
    'isolation-violation',
    'guest-failed',
  ],
  ['a page that devices have lost', el2({ agreement: agreement('lost') }), undefined, 'guest-failed'],
  ['tables that make no sense', el2({ agreement: null, problem: 'no table' }), 'isolation-violation', undefined],
  ['what stopped the machine', el2({ violation: 'devices reach it' }), 'isolation-violation', undefined],
])('the outcome of %s', (_, sections, grave, other) => {
  expect(el2Violation(sections)?.outcome).toBe(grave)
  expect(el2Failure(sections)?.outcome).toBe(other)
})
