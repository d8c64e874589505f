// SPDX-License-Identifier: Apache-2.0
import { expect, test } from 'vitest'
import type { TrapRow } from '../../../server/api/schemas/trace.ts'
import { type Line, linesOf, runText } from '../../../server/web/src/trapRuns.ts'

let next = 1
const row = (part: Partial<TrapRow>): TrapRow => {
  const id = next++
  return { id, seq: id, kind: 'trap', us: 2, text: '', nested: 0, warnings: [], commands: [], aborted: false, ...part }
}
const cons = (part: Partial<TrapRow> = {}) => row({ register: 'CMDQ_CONS', write: false, ...part })
const prod = (commands: readonly string[], part: Partial<TrapRow> = {}) =>
  row({
    register: 'CMDQ_PROD',
    write: true,
    commands: commands.map(command => ({ command, verdict: 'kept', count: 1 })),
    ...part,
  })
const invalidation = () => [prod(['TLBI_NH_VA', 'SYNC']), cons()]
const shape = (lines: readonly Line[]) =>
  lines.map(line =>
    line.kind === 'run' ? `run ${line.rows.length}` : `${line.inRun ? 'in ' : ''}${line.row.register}`,
  )

test('invalidations are one line between what is not routine', () => {
  const rows = [row({ register: 'CR0', write: true }), ...invalidation(), ...invalidation(), prod(['CFGI_STE', 'SYNC'])]
  const lines = linesOf(rows, () => false)
  expect(shape(lines)).toEqual(['CR0', 'run 4', 'CMDQ_PROD'])
  expect(lines.map(({ before }) => before?.id)).toEqual([undefined, rows[0]?.id, rows[4]?.id])
  expect(shape(linesOf(rows, () => true))).toEqual([
    'CR0',
    'run 4',
    ...['in CMDQ_PROD', 'in CMDQ_CONS', 'in CMDQ_PROD', 'in CMDQ_CONS'],
    'CMDQ_PROD',
  ])
  expect(runText(rows.slice(1, 5))).toEqual([
    ['TLBI_NH_VA', 2],
    ['SYNC', 2],
    ['CONS read', 2],
  ])
})

test('three rows stand for themselves', () => {
  expect(shape(linesOf([...invalidation(), cons()], () => false))).toEqual(['CMDQ_PROD', 'CMDQ_CONS', 'CMDQ_CONS'])
})

test.each<[string, TrapRow]>([
  ['a warning', cons({ warnings: ['HYP_CMD'] })],
  ['an abort', cons({ aborted: true })],
  ['a slow trap', cons({ us: 1_001 })],
  ['a command that was dropped', prod([], { commands: [{ command: 'TLBI_NH_VA', verdict: 'dropped', count: 1 }] })],
  ['a command that is no invalidation', prod(['CFGI_CD'])],
  ['a write of CMDQ_PROD without commands', prod([])],
  ['a write of CMDQ_CONS', cons({ write: true })],
  ['a reset', row({ kind: 'reset' })],
])('%s is never drawn in', (_, odd) => {
  const lines = linesOf([...invalidation(), ...invalidation(), odd, ...invalidation(), ...invalidation()], () => false)
  expect(lines.map(({ kind }) => kind)).toEqual(['run', 'row', 'run'])
})

test('no run goes across traps that were not sent', () => {
  const before = [...invalidation(), ...invalidation()]
  next += 100
  const after = [...invalidation(), ...invalidation()]
  expect(shape(linesOf([...before, ...after], () => false))).toEqual(['run 4', 'run 4'])
})
