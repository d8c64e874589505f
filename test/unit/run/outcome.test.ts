// SPDX-License-Identifier: Apache-2.0
import { describe, expect, test } from 'vitest'
import type { SessionEnd } from '../../../server/control/session.ts'
import type { GuestEvent } from '../../../server/machine/guestEvents.ts'
import type { WorkloadEntry } from '../../../server/machine/workload.ts'
import {
  execFailure,
  machineFailure,
  panicOf,
  streamlessFailure,
  withPanic,
  workloadFailure,
} from '../../../server/run/outcome.ts'

const OK: SessionEnd = { qemu: { code: 0, signal: null, asked: false }, qemuErrors: '', sections: {} }
const DIED: SessionEnd = { ...OK, qemu: { code: 1, signal: null, asked: false }, qemuErrors: 'no such device' }
const KILLED: SessionEnd = { ...OK, qemu: { code: null, signal: 'SIGKILL', asked: true } }
const SERVER = { serverError: 'the trap thread ended' }

describe('why a machine ended: the first cause', () => {
  test.each([
    ['by itself', OK, undefined],
    ['told to', KILLED, undefined],
    ['QEMU with an error', DIED, { outcome: 'qemu-died', message: 'QEMU ended with exit code 1: no such device' }],
    [
      'QEMU killed by somebody else',
      { ...OK, qemu: { code: null, signal: 'SIGSEGV', asked: false } } satisfies SessionEnd,
      { outcome: 'qemu-died', message: 'QEMU ended with SIGSEGV: no message' },
    ],
    ['the server, and QEMU after it', { ...DIED, ...SERVER }, { outcome: 'server-died', message: SERVER.serverError }],
    ['a panic, which ends all', { ...KILLED, ...SERVER, panic: 'HYP_X' }, { outcome: 'hyp-panic', message: 'HYP_X' }],
  ])('%s', (_what, end, expected) => {
    expect(machineFailure(end)).toEqual(expected)
  })

  const interrupted = { outcome: 'interrupted', message: 'Ctrl-C' } as const
  const hung = { outcome: 'guest-hung', message: 'too long' } as const
  test.each([
    ['a person, whatever follows', { ...KILLED, ...SERVER }, interrupted, 'interrupted'],
    ['a person after a panic', { ...KILLED, panic: 'HYP_X' }, interrupted, 'hyp-panic'],
    ['the time-out', KILLED, hung, 'guest-hung'],
    ['the time-out, because the server is gone', { ...KILLED, ...SERVER }, hung, 'server-died'],
  ])('ended by %s', (_what, end, stopped, outcome) => {
    expect(machineFailure(end, stopped)?.outcome).toBe(outcome)
  })
})

describe('what went wrong with the workload', () => {
  const event = (name: string, more: Partial<GuestEvent> = {}): GuestEvent => ({
    seq: 1,
    event: name,
    ok: true,
    ...more,
  })
  const read: WorkloadEntry = { device: 'nvme', operation: 'read', bytes: 1, sha256: '', expected: '', ok: true }
  test.each([
    ['nothing', [event('done')], [read], undefined],
    ['a check', [event('done')], [read, { ...read, ok: false, error: 'other bytes' }], 'nvme read: other bytes'],
    ['a step', [event('mount', { ok: false, error: 'EIO' }), event('done')], [read], 'guest step "mount": EIO'],
    ['no end', [event('userspace')], [read], 'the guest ended without saying that it was done'],
  ])('%s', (_what, events, entries, message) => {
    expect(workloadFailure(events, entries)).toEqual(message && { outcome: 'guest-failed', message })
  })
})

describe('a kernel panic', () => {
  test.each([
    [
      '[    5.123456] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100',
      'Attempted to kill init! exitcode=0x00000100',
    ],
    ['Kernel panic - not syncing: VFS: Unable to mount root fs', 'VFS: Unable to mount root fs'],
    ['[    5.1] arm-smmu-v3: event', undefined],
    ['', undefined],
  ])('in a line of the console: %s', (line, reason) => expect(panicOf(line)).toBe(reason))

  const hung = { outcome: 'guest-hung', message: 'too long' } as const
  const died = { outcome: 'server-died', message: 'gone' } as const
  const panicked = { outcome: 'guest-failed', message: 'kernel panic: oh' }
  test.each([
    ['is what a run that ended by itself ends with', undefined, 'oh', panicked],
    ['explains a guest that hangs', hung, 'oh', panicked],
    ['follows from a server that died', died, 'oh', died],
    ['did not happen', hung, undefined, hung],
  ])('%s', (_what, failure, reason, expected) => expect(withPanic(failure, reason)).toEqual(expected))
})

test.each([
  ['did well', 0, [], undefined],
  ['failed', 3, [], 'the command ended with exit code 3'],
  ['never began', undefined, [{ seq: 1, event: 'share', ok: false, error: 'no 9p' }], 'guest step "share": no 9p'],
  ['was cut short', undefined, [], 'the guest ended before the command did'],
])('a command that %s', (_what, code, events, message) =>
  expect(execFailure(events, code)).toEqual(message && { outcome: 'guest-failed', message }),
)

test('a workload that the policy did not see', () => {
  const message = 'no device of the workload went through the SMMU'
  expect(streamlessFailure(['strtab', 'stage2'], [])).toEqual({ outcome: 'guest-failed', message })
  expect(streamlessFailure(['strtab'], [{ sid: 8 }])).toBeUndefined()
  // A policy that has no stream table does not know streams.
  expect(streamlessFailure(['cmdq'], [])).toBeUndefined()
  expect(streamlessFailure(undefined, undefined)).toBeUndefined()
})
