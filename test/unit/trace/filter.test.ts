// SPDX-License-Identifier: Apache-2.0
/** What a filter takes a group to be about. */
import { expect, test } from 'vitest'
import { describeRoot, touches } from '../../../server/trace/describe.ts'
import { matches } from '../../../server/trace/filter.ts'
import type { Group } from '../../../server/trace/groups.ts'
import { type RecordOf, request, type TraceRecord, verdict } from '../../../server/trace/records.ts'

const reset: RecordOf<'reset'> = { kind: 'reset', cause: 0, time: 0, start: 0, duration: 0 }
const group = (...children: TraceRecord[]): Group => ({ root: reset, children, whole: true })

/** A command of the host, and the read that shows it. */
function command(...words: [number, number, number, number]): TraceRecord[] {
  const bytes = new Uint8Array(Uint32Array.from(words).buffer)
  return [
    { kind: 'memory', write: 0, address: 0, length: 16, done: 0, digest: 0, ok: 1, bytes },
    { kind: 'command', smmu: 0, opcode: words[0] & 0xff, verdict: verdict.kept },
  ]
}

test.each<[string, Group, readonly number[]]>([
  ['CFGI_STE', group(...command(0x03, 8, 1, 0)), [8]],
  ['CFGI_STE_RANGE of four', group(...command(0x04, 9, 1, 0)), [8, 9, 10, 11]],
  ['CFGI_ALL, of none in particular', group(...command(0x04, 0, 31, 0)), []],
  ['TLBI_NH_VA', group(...command(0x12, 8, 0, 0)), []],
  ['an event', group({ kind: 'event', smmu: 0, time: 0, bytes: Uint8Array.of(0x10, 0, 0, 0, 9, 0, 0, 0) }), [9]],
  ['an event of a damaged recording', group({ kind: 'event', smmu: 0, time: 0, bytes: new Uint8Array() }), [0]],
])('streams of %s', (_name, item, expected) => {
  const found = Array.from({ length: 16 }, (_, sid) => sid).filter(sid => matches(item, { sid }))
  expect(found).toEqual(expected)
})

const asked = (which: number, v0: number, v1: number, v2: number): RecordOf<'request'> => ({
  ...{ kind: 'request', request: which, result: 0, start: 0, duration: 1500 },
  ...{ v0, v1, v2, v3: 0 },
})

test('a donation is about pages; a register that is not as posted is not', () => {
  const item = (root: Group['root']): Group => ({ root, children: [], whole: true })
  expect(touches(item(asked(request.donate, 0x1000, 0x2000, 1)), 0x2000, 0x2001)).toBe(true)
  expect(touches(item(asked(request.postMismatch, 0, 0x9c, 5)), 0x10, 0x20)).toBe(false)
})

test.each([
  [asked(request.donate, 0x1000, 0x2000, 1), 'request: donate 0x1000 +2 pages vm 1: OK  1.5 µs'],
  [asked(request.resume, 0, 0, 0), 'request: resume  1.5 µs'],
  [asked(request.postMismatch, 0, 0x9c, 5), 'request: post mismatch: smmu0 CMDQ_CONS is 0x5  1.5 µs'],
  [asked(request.other, 0, 0, 0), 'request: inspection  1.5 µs'],
])('%s in words', (root, text) => {
  expect(describeRoot(root)).toBe(text)
})
