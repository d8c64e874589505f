// SPDX-License-Identifier: Apache-2.0
import { describe, expect, test } from 'vitest'
import type { Verdict } from '../../../server/faults/rule.ts'
import { VERDICTS } from '../../../server/faults/rule.ts'
import { addFinding, type ConsoleFinding, readConsoleLine } from '../../../server/sessions/console.ts'
import { type Evidence, GRAVITY, isExpected, judge } from '../../../server/sessions/verdict.ts'

const check = (ok: boolean) => ({
  device: 'virtio-blk',
  operation: 'read' as const,
  bytes: 1,
  sha256: '',
  expected: '',
  ok,
})

const clean: Evidence = {
  end: 'worked',
  guestEnded: false,
  console: [],
  checks: [check(true)],
  warnings: [],
  events: {},
  gerrors: 0,
  guardFaults: 0,
  waits: [],
  resets: 0,
  interruptions: 0,
  isolation: [],
  armed: true,
  fired: 1,
  firings: [],
  traps: 10,
  workloadMs: 1000,
  waitedMs: 0,
  usualMs: 1000,
}
const line = (verdict: Verdict) => ({ console: [{ verdict, line: 'a line' }] })

describe('from evidence to a verdict', () => {
  test.each<[string, Partial<Evidence>, Verdict]>([
    ['a fault that nobody noticed', {}, 'unaffected'],
    ['no rules, no effect', { armed: false, fired: 0 }, 'unaffected'],
    ['rules that never fired', { fired: 0 }, 'harness-error'],
    ['nobody looked at isolation', { unjudged: 'nobody looked' }, 'harness-error'],
    [
      'nobody looked to the end, but something was found',
      { unjudged: 'nobody looked', isolation: ['a'] },
      'isolation-violation',
    ],
    ['the driver printed something', line('recovered'), 'recovered'],
    ['events, but all data right', { events: { F_TRANSLATION: 2 } }, 'recovered'],
    ['a global error that was acknowledged', { gerrors: 2 }, 'recovered'],
    ['a reset, then the workload', { resets: 1 }, 'recovered'],
    ['the server was away', { interruptions: 1 }, 'recovered'],
    ['four times as slow', { workloadMs: 4001 }, 'degraded'],
    ['as slow, kept waiting by other programs', { workloadMs: 6000, waitedMs: 2000 }, 'unaffected'],
    ['slower than such waits explain', { workloadMs: 6001, waitedMs: 2000 }, 'degraded'],
    ['three times as slow, but not by much', { usualMs: 100, workloadMs: 2900 }, 'unaffected'],
    ['a check that failed', { checks: [check(true), check(false)] }, 'io-error'],
    [
      'a timeout of the driver and a failed check',
      { ...line('driver-timeout'), checks: [check(false)] },
      'driver-timeout',
    ],
    ['an oops', line('guest-oops'), 'guest-oops'],
    ['the guest ended', { end: 'ended', guestEnded: true, checks: [] }, 'guest-panic'],
    ['not done in time', { end: 'deadline', checks: [check(false)] }, 'guest-hung'],
    ['a panic is not called hung', { ...line('guest-panic'), end: 'deadline' }, 'guest-panic'],
    [
      'a warning, whatever the guest did',
      { ...line('guest-panic'), warnings: [{ code: 'X', count: 1, firstValues: '' }] },
      'hyp-warning',
    ],
    ['QEMU died', { end: 'ended', problem: 'QEMU ended with exit code 1' }, 'harness-error'],
    [
      'isolation is gravest',
      { isolation: ['page 0x1000'], problem: 'x', end: 'ended', ...line('guest-panic') },
      'isolation-violation',
    ],
  ])('%s', (_, evidence, verdict) => {
    expect(judge({ ...clean, ...evidence }).verdict).toBe(verdict)
  })

  test('every verdict has its place, and findings are sorted by it', () => {
    expect([...GRAVITY].sort()).toEqual([...VERDICTS].sort())
    const { findings } = judge({ ...clean, checks: [check(false)], isolation: ['a'], gerrors: 1 })
    expect(findings.map(({ verdict }) => verdict)).toEqual(['isolation-violation', 'io-error', 'recovered'])
  })
})

test('a guest that hangs is told with where', () => {
  const waits = ['ip link set eth0 down in napi_disable < virtnet_close']
  const { findings } = judge({ ...clean, end: 'deadline', waits })
  expect(findings[0]?.text).toBe(
    'the workload was not done at the deadline; before that ip link set eth0 down in napi_disable < virtnet_close',
  )
})

describe('console lines', () => {
  test.each<[string, Verdict | undefined]>([
    [
      '[    1.2] arm-smmu-v3 9050000.smmuv3: CMD_SYNC timeout at 0x00000012 [hwprod 0x13, hwcons 0x12]',
      'driver-timeout',
    ],
    ['[    1.2] arm-smmu-v3 9050000.smmuv3: event 0x10 received:', 'recovered'],
    [
      '[    1.2] arm-smmu-v3 9050000.smmuv3: unexpected global error reported (0x00000001), this could be serious',
      'recovered',
    ],
    ['[    0.0] Kernel command line: cosim.devices=nvme nvme_core.io_timeout=10', undefined],
    ['[    1.2] nvme nvme0: controller is down; will reset: CSTS=0x2, PCI_STATUS=0x10', 'driver-timeout'],
    ['[    1.2] arm-smmu-v3 9050000.smmuv3: GBPA not responding to update', 'driver-timeout'],
    ['[    1.2] Kernel panic - not syncing: Attempted to kill init!', 'guest-panic'],
    ['[    1.2] Internal error: synchronous external abort: 0000000096000210 [#1] SMP', 'guest-oops'],
    ['[    1.2] INFO: task dd:71 blocked for more than 120 seconds.', 'guest-hung'],
    ['[    1.2] I/O error, dev vda, sector 8 op 0x0:(READ)', 'io-error'],
    ['[    1.2] arm-smmu-v3 9050000.smmuv3: allocated 65536 entries for cmdq', undefined],
    ['[    1.2] virtio_blk virtio0: [vda] 2048 512-byte logical blocks', undefined],
    ['[   30.1] watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [dd:107]', 'guest-hung'],
    ['[   30.1] BUG: workqueue lockup - pool cpus=0 node=0 flags=0x0 nice=0 stuck for 43s!', 'guest-hung'],
    ['[    1.2] BUG: sleeping function called from invalid context', 'guest-oops'],
    ['[    1.2] arm-smmu-v3 9050000.smmuv3: event: F_TRANSLATION client: 0000:00:01.0 sid: 0x8', 'recovered'],
    ['@cosim {"seq":1,"event":"device","ok":false,"error":"I/O error"}', undefined],
  ])('%s', (text, verdict) => {
    expect(readConsoleLine(text)?.verdict).toBe(verdict)
  })
})

test('a storm of one finding hides no other', () => {
  const findings: ConsoleFinding[] = []
  for (let i = 0; i < 100; i++) addFinding(findings, `[ 1.${i}] nvme0n1: I/O error, dev nvme0n1`, 50)
  expect(addFinding(findings, '[ 2.0] Kernel panic - not syncing: Fatal exception', 50)?.verdict).toBe('guest-panic')
  expect(findings).toHaveLength(51)
})

test('without an expectation every verdict is right but the one that says nothing', () => {
  expect(VERDICTS.filter(verdict => !isExpected(verdict, []))).toEqual(['harness-error'])
  expect(VERDICTS.filter(verdict => isExpected(verdict, ['io-error', 'harness-error']))).toEqual([
    'io-error',
    'harness-error',
  ])
})
