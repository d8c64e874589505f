// SPDX-License-Identifier: Apache-2.0
/** What a test sees of a machine's trace. */
import { expect, test } from 'vitest'
import { HYP_WARNINGS } from '../../../server/hypervisor/pkvm/warnings.ts'
import { warningByCode } from '../../../server/policy/warnings.ts'
import { CMDQ_OP_CFGI_STE, CMDQ_OP_TLBI_S2_IPA, cfgiSte } from '../../../server/smmu/commands.ts'
import { EVT_ID_TRANSLATION_FAULT, emptyEvent, encodeEvent } from '../../../server/smmu/events.ts'
import { ARM_SMMU_CMDQ_PROD } from '../../../server/smmu/registers.ts'
import { MachineLog, matches } from '../../../server/testing/log.ts'
import { type RecordOf, request, type TraceRecord, verdict } from '../../../server/trace/records.ts'

const newLog = () =>
  new MachineLog(
    () => {},
    (_, sid) => (sid === 8 ? 'edu' : ''),
    () => HYP_WARNINGS,
  )

const trap = (seq: number): RecordOf<'trap'> => ({
  ...{ kind: 'trap', seq, time: 1000, start: 5, duration: 4000, smmu: 0, cpu: 1, write: 1, offset: ARM_SMMU_CMDQ_PROD },
  ...{ size: 4, lo: 3, hi: 0, aborted: 0, pcLo: 0, pcHi: 0, lastTrapNs: 0, released: 0 },
})

/** A read of commands by the hypervisor. */
function memory(words: Uint32Array): TraceRecord {
  const bytes = new Uint8Array(words.buffer)
  return { kind: 'memory', write: 0, address: 0x4000_0000, length: bytes.length, done: 0, digest: 0, ok: 1, bytes }
}

test('events have the names and fields of the specification', () => {
  const log = newLog()
  const words = new Uint32Array(8)
  encodeEvent(
    {
      ...emptyEvent(EVT_ID_TRANSLATION_FAULT, 8),
      s2: true,
      rnw: true,
      class: 2,
      inputLo: 0x8765_4008,
      inputHi: 1,
      ipa: 0x8765_4000,
    },
    words,
  )
  log.record({ kind: 'event', smmu: 0, time: 7, bytes: new Uint8Array(words.buffer) })
  expect([...log.events]).toEqual([
    {
      ...{ type: 'F_TRANSLATION', smmu: 0, sid: 8, device: 'edu', read: true, s2: true, iova: 0x1_8765_4008n },
      ...{ ipa: 0x8765_4000, time: 7, text: expect.stringContaining('F_TRANSLATION sid=0x8 read') },
    },
  ])
})

test('commands belong to the trap that decided them; the hypervisor’s own stand apart', () => {
  const log = newLog()
  const words = new Uint32Array(4)
  cfgiSte(words, 0x18, true)
  log.record(memory(words))
  log.record({ kind: 'command', smmu: 0, opcode: CMDQ_OP_CFGI_STE, verdict: verdict.kept })
  log.record({ kind: 'command', smmu: 0, opcode: CMDQ_OP_TLBI_S2_IPA, verdict: verdict.own })
  log.record(trap(42))
  const said = log.commands.all.map(({ name, verdict: what, sid, trap: seq }) => [name, what, sid, seq])
  expect(said).toEqual([
    ['CFGI_STE', 'kept', 0x18, 42],
    ['TLBI_S2_IPA', 'own', undefined, 42],
  ])
  expect(log.traps.all).toMatchObject([{ seq: 42, register: 'CMDQ_PROD', write: true, value: 3n, cpu: 1 }])
})

test('warnings have their code and values', () => {
  const log = newLog()
  const known = warningByCode(HYP_WARNINGS, 'HYP_UNMAP')
  log.record({ kind: 'warning', id: known?.id ?? 0, smmu: 0, v0: 1, v1: 2, v2: 3, v3: 4 })
  expect(log.warnings.all).toMatchObject([{ code: 'HYP_UNMAP', expected: false }])
})

test('the excerpt ends with what happened last, steps of the test in their place', () => {
  const log = newLog()
  for (let seq = 1; seq <= 100; seq++) log.record(trap(seq))
  log.record({ kind: 'control', start: 0, text: '{"what":"step","text":"hyp.donate"}' })
  log.record({
    ...{ kind: 'request', request: request.donate, result: 0, start: 1, duration: 2 },
    ...{ v0: 0x5000_0000, v1: 4096, v2: 1, v3: 0 },
  })
  const lines = log.excerpt()
  expect(lines.length).toBe(60)
  expect(lines.at(-2)).toContain('hyp.donate')
  expect(lines.at(-1)).toMatch(/donate 0x50000000 .* vm 1: OK/)
  expect(lines.at(-3)).toContain('#100 ')
})

test('a log that is cleared begins anew', () => {
  const log = newLog()
  log.record(trap(1))
  log.traps.clear()
  log.record(trap(2))
  expect(log.traps.all.map(({ seq }) => seq)).toEqual([2])
  expect(log.traps.count).toBe(1)
})

test.each([
  [{ name: 'CFGI_STE' }, true],
  [{ name: /^CFGI/ }, true],
  [{ name: /^TLBI/ }, false],
  [{ value: 3 }, true],
  [{ value: 3n }, true],
  [{ value: 4 }, false],
  [{ name: 'CFGI_STE', value: 4 }, false],
  [{ missing: 1 }, false],
  [{}, true],
])('a pattern %o: %s', (pattern, expected) => {
  expect(matches({ name: 'CFGI_STE', value: 3n }, pattern as object)).toBe(expected)
})
