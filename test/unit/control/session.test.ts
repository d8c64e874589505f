// SPDX-License-Identifier: Apache-2.0
import { close, open } from 'node:inspector'
import { afterEach, expect, test } from 'vitest'
import { linkProperties } from '../../../server/control/session.ts'

const policy = { name: 'pkvm', options: {}, panicOnWarn: false, carveout: '64M' }

afterEach(() => close())

test('how long QEMU waits for its server', () => {
  expect(linkProperties(policy)).toEqual([])
  expect(linkProperties({ ...policy, reconnectMs: 60_000, properties: ['spin-us=0'] })).toEqual([
    'reconnect-ms=60000',
    'spin-us=0',
  ])
})

test('under a debugger, for as long as somebody may stand at a line', () => {
  open(0)
  expect(linkProperties(policy)).toEqual(['reply-timeout-ms=86400000'])
  // What is asked for comes last, and holds.
  expect(linkProperties({ ...policy, properties: ['reply-timeout-ms=5'] }).at(-1)).toBe('reply-timeout-ms=5')
})
