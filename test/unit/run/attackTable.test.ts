// SPDX-License-Identifier: Apache-2.0
import { describe, expect, test } from 'vitest'
import type { GuestEvent } from '../../../server/machine/guestEvents.ts'
import { AttackTable, attackFailure, attackOutcome, deviceReached, UNKNOWN } from '../../../server/run/attackTable.ts'
import {
  EVT_ID_PERMISSION_FAULT,
  EVT_ID_TRANSLATION_FAULT,
  EVTQ_ENT_WORDS,
  emptyEvent,
  encodeEvent,
} from '../../../server/smmu/events.ts'

const ADDRESS = 0x483e6000

let seq = 0
const attack = (fields: Partial<GuestEvent>): GuestEvent => ({
  seq: seq++,
  event: 'attack',
  ok: true,
  who: 'dma',
  what: 'read',
  target: 'secret',
  address: `0x${ADDRESS.toString(16)}`,
  result: 'zeros',
  from: 1000,
  to: 2000,
  ...fields,
})
const checked = (changed: number): GuestEvent => ({ seq: seq++, event: 'pvm', ok: true, state: 'checked', changed })

function event(table: AttackTable, time: number, overrides: Partial<ReturnType<typeof emptyEvent>> = {}): void {
  const words = new Uint32Array(EVTQ_ENT_WORDS)
  const record = { ...emptyEvent(EVT_ID_TRANSLATION_FAULT, 0x28), s2: true, rnw: true, ipa: ADDRESS, ...overrides }
  encodeEvent(record, words)
  table.record({ kind: 'event', smmu: 0, time, bytes: new Uint8Array(words.buffer) })
}

function stoppedBy(row: GuestEvent, table = new AttackTable(), watched = true): string | null | undefined {
  return table.report([row], watched)?.attacks[0]?.stoppedBy
}

describe('what stopped a device', () => {
  test('an event of the SMMU for the page and the direction, within the attack’s time', () => {
    const table = new AttackTable()
    event(table, 1500)
    expect(stoppedBy(attack({}), table)).toBe('SMMU: F_TRANSLATION at stage 2')
  })

  test.each([
    ['before', 999, {}],
    ['after', 2001, {}],
    ['another page', 1500, { ipa: ADDRESS + 4096 }],
    ['the other direction', 1500, { rnw: false }],
    ['stage 1', 1500, { s2: false }],
    ['another event', 1500, { id: EVT_ID_PERMISSION_FAULT }],
  ])('not by an event %s', (_, time, overrides) => {
    const table = new AttackTable()
    event(table, time, overrides)
    expect(stoppedBy(attack({}), table)).toBeNull()
  })

  test('nothing, when data came all the same', () => {
    const table = new AttackTable()
    event(table, 1500)
    expect(stoppedBy(attack({ result: 'reached' }), table)).toBeNull()
  })

  test('not known, when nobody saw the events', () => {
    expect(stoppedBy(attack({}), new AttackTable(), false)).toBe(UNKNOWN)
    expect(stoppedBy(attack({ result: 'reached' }), new AttackTable(), false)).toBeNull()
  })
})

test.each([
  ['secret', 'SIGSEGV', 'EL2: SIGSEGV'],
  ['carveout', 'SIGBUS', 'CPU guard: SIGBUS'],
  ['el2', 'zeros', 'EL2: the load faulted'],
  ['secret', 'zeros', null],
  ['secret', 'reached', null],
])('a CPU that attacks %s and sees %s', (target, result, expected) => {
  expect(stoppedBy(attack({ who: 'cpu', target, result }))).toBe(expected)
})

describe('the verdict', () => {
  const verdict = (events: readonly GuestEvent[]) => {
    const report = new AttackTable().report(events, true)
    return report && attackFailure(report)
  }
  const stopped = attack({ who: 'cpu', result: 'SIGSEGV' })

  test('nothing reached, nothing changed', () => {
    expect(verdict([stopped, attack({ target: 'own', result: 'reached' }), checked(0)])).toBeUndefined()
  })
  test('something reached', () => {
    expect(verdict([stopped, attack({ result: 'reached' }), checked(0)])).toBe(
      'dma read of secret at 0x483e6000 was not stopped (reached)',
    )
  })
  test('without an event, zeros prove nothing', () => {
    expect(verdict([attack({}), checked(0)])).toBe('dma read of secret at 0x483e6000 was not stopped (zeros)')
  })
  test('a page of the attacker’s own that is out of reach', () => {
    expect(verdict([attack({ who: 'cpu', target: 'lent', result: 'SIGSEGV' }), checked(0)])).toBe(
      'cpu read of lent at 0x483e6000 was stopped: EL2: SIGSEGV',
    )
  })
  test('a secret that changed', () => {
    expect(verdict([stopped, checked(2)])).toBe("2 words of the protected VM's secret were changed")
  })
  test('a VM that was not asked', () => {
    expect(verdict([stopped])).toBe('the protected VM did not say whether its secret is unchanged')
  })
  test('no attack, no table', () => {
    expect(new AttackTable().report([checked(0)], true)).toBeUndefined()
  })
})

test.each([
  ['stopped', {}, true, undefined, false],
  ['reached, and the policy says that it isolates', { result: 'reached' }, true, 'isolation-violation', true],
  ['reached, and nobody says so', { result: 'reached' }, false, undefined, true],
  ['reached by the CPU', { who: 'cpu', result: 'reached' }, true, 'isolation-violation', false],
  ['its own', { target: 'own', result: 'reached' }, true, undefined, false],
])('the outcome of what is %s', (_, fields, isolated, outcome, reached) => {
  const table = new AttackTable()
  event(table, 1500)
  const report = table.report([attack(fields), checked(0)], true)
  expect(attackOutcome(report, isolated)?.outcome).toBe(outcome)
  expect(report && deviceReached(report)).toBe(reached)
})

test('events without end fill no memory: the first 10,000 count', () => {
  const table = new AttackTable()
  for (let i = 0; i < 10_000; i++) event(table, 500)
  event(table, 1500)
  expect(stoppedBy(attack({}), table)).toBeNull()
})
