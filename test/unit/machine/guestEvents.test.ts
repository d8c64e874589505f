// SPDX-License-Identifier: Apache-2.0
import { describe, expect, test } from 'vitest'
import { parseGuestEvent } from '../../../server/machine/guestEvents.ts'

const EVENT = { seq: 3, event: 'waits', ok: true, name: 'ip link', bytes: 4, sha256: '00', error: 'none', note: 'slow' }
const line = (event: unknown) => `[   12.345678] @cosim ${JSON.stringify(event)}`

test('an event, with what else it has', () => {
  expect(parseGuestEvent(line({ ...EVENT, calls: ['any'] }))).toEqual({ ...EVENT, calls: ['any'] })
})

test('texts that go into reports are cut, and a number is one that JSON can tell again', () => {
  const long = 'x'.repeat(5000)
  const cut = long.slice(0, 1000)
  const texts = { event: long, name: long, sha256: long, error: long, note: long }
  expect(parseGuestEvent(line({ ...EVENT, ...texts }))).toEqual({
    ...EVENT,
    ...{ event: cut, name: cut, sha256: cut, error: cut, note: cut },
  })
  for (const field of ['seq', 'bytes'])
    expect(parseGuestEvent(`@cosim {"event":"net","ok":true,"seq":1,"${field}":1e999}`), field).toBeUndefined()
})

describe('a guest may say anything: what is of another type than its fields have is no event', () => {
  test.each(['seq', 'event', 'ok', 'name', 'bytes', 'sha256', 'error', 'note'])('%s', field => {
    for (const value of [null, [], {}, field === 'seq' || field === 'bytes' ? '1' : 1])
      expect(parseGuestEvent(line({ ...EVENT, [field]: value })), JSON.stringify(value)).toBeUndefined()
  })

  test.each([['seq'], ['event'], ['ok']])('without %s', field => {
    expect(parseGuestEvent(line({ ...EVENT, [field]: undefined }))).toBeUndefined()
  })

  test.each(['', '@cosim', '@cosim {', '@cosim {}', '@cosim {"seq":1} more', '@cosim {{}}'])('%j', text => {
    expect(parseGuestEvent(text)).toBeUndefined()
  })
})
