// SPDX-License-Identifier: Apache-2.0
/** Whose tables the second stage is: what is refused before a machine runs, and what a recording says of it. */
import { expect, test } from 'vitest'
import { type PolicyOptions, stage2Options, stage2Problem } from '../../../server/policy/policy.ts'
import { recordedOptions } from '../../../server/trace/recordedOptions.ts'

const shared = { stage2: 'shared' } as const

test.each<[PolicyOptions, string, boolean, string | undefined]>([
  [{}, 'pkvm', true, undefined],
  [{ stage2: 'own' }, 'pkvm', false, undefined],
  [shared, 'pkvm', true, undefined],
  [{ ...shared, populate: 'never', until: 'nested' }, 'full', true, undefined],
  [shared, 'mine.ts', true, undefined],
  [{ populate: 'ahead' }, 'pkvm', true, 'populate: only with stage2 shared'],
  [shared, 'pkvm', false, 'stage2 shared: only with el2 pkvm, whose tables are shared'],
  [shared, 'passthrough', true, 'stage2 shared: policy passthrough has no second stage'],
  [{ ...shared, until: 'queues' }, 'pkvm', true, 'stage2 shared: until queues there is no second stage'],
  [{ ...shared, blocks: true }, 'pkvm', true, 'stage2 shared: EL2 says what is mapped in blocks'],
  [{ ...shared, power: 'keep' }, 'pkvm', true, 'stage2 shared: not with power'],
  [{ ...shared, ats: true }, 'pkvm', true, 'stage2 shared: not with ats'],
])('%j of %s, EL2: %s', (options, policy, el2, problem) => {
  expect(stage2Problem(policy, !policy.endsWith('.ts'), el2, options)).toBe(problem)
})

test('a recording has what was asked for, and means nothing by other words', () => {
  const of = (policyOptions: Record<string, unknown>) => recordedOptions({ policyOptions })
  expect(of({ ...stage2Options({ ...shared, populate: 'never' }) })).toEqual({ stage2: 'shared', populate: 'never' })
  expect(of({ stage2: 'shared' })).toEqual(shared)
  expect(of({ stage2: 'own', populate: 'ahead' })).toEqual({})
  expect(of({ stage2: 'shared', populate: 'later' })).toEqual(shared)
  expect(stage2Options({ stage2: 'own' })).toEqual({})
})
