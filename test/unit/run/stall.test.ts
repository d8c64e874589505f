// SPDX-License-Identifier: Apache-2.0
/** A guest that waits in vain is told from one that computes, sleeps, is slow, or was held. */
import { expect, test } from 'vitest'
import { type Access, Stall } from '../../../server/run/stall.ts'
import { ARM_SMMU_CMDQ_CONS, ARM_SMMU_CMDQ_PROD, ARM_SMMU_CR0ACK } from '../../../server/smmu/registers.ts'

/** An access at a second; `line`: one of the console instead. */
type Step = Partial<Access> & { readonly at: number; readonly line?: boolean }

function run(...steps: readonly Step[]): string[] {
  const said: string[] = []
  const stall = new Stall(message => said.push(message))
  for (const { at, line, ...access } of steps) {
    if (line) stall.record({ kind: 'console', start: at * 1e9, text: 'x' })
    else stall.access({ smmu: 0, write: false, offset: ARM_SMMU_CMDQ_CONS, value: 0x7b, start: at * 1e9, ...access })
  }
  return said
}

const seconds = (count: number, from = 0): Step[] => Array.from({ length: count + 1 }, (_, i) => ({ at: from + i }))
const prod = (at: number, value: number): Step => ({ at, write: true, offset: ARM_SMMU_CMDQ_PROD, value })

/** As Linux: it gives up a CMD_SYNC after a second, says so, and sends the next one. */
const timeouts = (count: number): Step[] =>
  Array.from({ length: count }, (_, i): Step[] => [
    prod(i, 0x7d + 2 * i),
    { at: i + 0.1 },
    { at: i + 0.9 },
    { at: i + 0.95, line: true },
  ]).flat()

const QUEUE = /^the guest waits for the SMMU in vain: its commands are not consumed: CMDQ_CONS has been 0x7b for 30 s/

test.each<[string, readonly Step[], RegExp | undefined]>([
  ['CMD_SYNCs that time out, each with a line on the console', timeouts(40), QUEUE],
  ['the same for not so long', timeouts(29), undefined],
  [
    'a loop at one register',
    seconds(31).map(step => ({ ...step, offset: ARM_SMMU_CR0ACK, value: 0 })),
    /CR0ACK, which has been 0x0 for 30 s/,
  ],
  [
    'the same register of two SMMUs in turn',
    seconds(60).map(step => ({ ...step, smmu: step.at % 2, offset: ARM_SMMU_CR0ACK, value: 0 })),
    undefined,
  ],
  [
    'the same, while the console goes on',
    seconds(60).flatMap(({ at }) => [
      { at, offset: ARM_SMMU_CR0ACK, value: 0 },
      { at, line: true },
    ]),
    undefined,
  ],
  [
    'a queue that is empty',
    [prod(0, 0x7b), ...seconds(60).flatMap(({ at }) => [{ at }, { at, line: true }])],
    undefined,
  ],
  ['a queue that moves, slowly', [prod(0, 0x100), ...seconds(60).map(({ at }) => ({ at, value: at >> 4 }))], undefined],
  [
    'looks that are far apart: a trap was held',
    [prod(0, 0x80), { at: 1 }, { at: 20 }, { at: 40 }, { at: 60 }],
    undefined,
  ],
  [
    'another SMMU that moves does not help',
    timeouts(40).flatMap(step => [
      step,
      { ...step, line: false, smmu: 1, value: Math.round(step.at * 10), offset: ARM_SMMU_CMDQ_CONS, write: false },
    ]),
    QUEUE,
  ],
])('%s', (_, steps, expected) => {
  expect(run(...steps)).toEqual(expected === undefined ? [] : [expect.stringMatching(expected)])
})

test('one that goes on all the same, or is reset, waits no longer', () => {
  const said: string[] = []
  const stall = new Stall(
    message => said.push(message),
    () => said.push('goes on'),
  )
  const look = (at: number, value: number) =>
    stall.access({ smmu: 0, write: false, offset: ARM_SMMU_CMDQ_CONS, value, start: at * 1e9 })
  stall.access({ smmu: 0, write: true, offset: ARM_SMMU_CMDQ_PROD, value: 0x80, start: 0 })
  for (let at = 0; at <= 40; at++) look(at, 0x7b)
  expect(said).toEqual([expect.stringMatching(QUEUE)])
  look(41, 0x80)
  expect(said.slice(1)).toEqual(['goes on'])
  stall.access({ smmu: 0, write: true, offset: ARM_SMMU_CMDQ_PROD, value: 0x90, start: 42e9 })
  for (let at = 42; at <= 80; at++) look(at, 0x80)
  expect(said).toHaveLength(3)
  stall.record({ kind: 'reset', cause: 0, start: 81e9, duration: 1, time: 0 } as never)
  expect(said.slice(3)).toEqual(['goes on'])
})
