// SPDX-License-Identifier: Apache-2.0
import { expect, test } from 'vitest'
import { violationsOf } from '../../../server/sessions/violations.ts'

const judged = { samples: 3, wholes: 1, hypervisorPages: 9, vmPages: 0, violations: [], more: 0 }
const found = { kind: 'page', message: 'nvme reaches page 0x1000', walk: [] }

test.each([
  ['nothing is known', {}, []],
  ['all is as it should be', { oracle: judged, isolated: true }, []],
  [
    'something was reached',
    { oracle: { ...judged, violations: [found], more: 2 }, isolated: true },
    ['nvme reaches page 0x1000', 'and 2 more'],
  ],
  [
    'the policy could not isolate, and nothing was judged',
    { oracle: { ...judged, samples: 0, wholes: 0, unjudged: 'the policy does not isolate' }, isolated: false },
    ['the policy says that it does not isolate'],
  ],
  ['EL2 stopped the machine', { el2: { violation: 'page 0x2000' } }, ['EL2 and the SMMU do not agree: page 0x2000']],
])('%s', (_what, sections, expected) => {
  expect(violationsOf(sections)).toEqual(expected)
})
