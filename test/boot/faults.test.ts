// SPDX-License-Identifier: Apache-2.0
/** Faults against a real Linux: that they reach it, and that it does what the catalogue says. */
import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import type { FaultStatus } from '../../server/faults/injector.ts'
import type { Report } from '../../server/run/runReport.ts'
import { TraceReader } from '../../server/trace/reader.ts'
import { cosim } from './cli.ts'

type Faulty = Report & { readonly faults: FaultStatus }

async function boot(...args: string[]): Promise<Faulty> {
  const { report, stderr } = await cosim(['boot', ...args])
  if (report === undefined) throw new Error(stderr)
  return report as Faulty
}

test('a command error: Linux skips the command and the work goes on; the firing is in report and trace', async () => {
  const { outcome, workload, faults, console, recording } = await boot('--faults', 'cmdq-err-ill')
  expect(outcome).toBe('ok')
  expect(workload.every(({ ok }) => ok)).toBe(true)
  expect(faults.rules).toMatchObject([{ rule: 'error', fired: 1 }])
  expect(readFileSync(console, 'latin1')).toContain('skipping command in error state')
  const traced = [...TraceReader.open(recording?.path ?? '').records()].filter(({ kind }) => kind === 'fault')
  expect(traced).toHaveLength(1)
})

test('a fault is announced when it fires, and a guest that it leaves waiting is not waited for until --timeout', async () => {
  let before = ''
  const { report, stderr } = await cosim(['boot', '--faults', 'sync-hangs'], {
    onErrors: text => {
      if (!text.includes('guest-hung')) before = text
    },
  })
  expect(before).toMatch(/^smmu-cosim: fault hang fires at trap \d+: host command SYNC/m)
  expect([report?.outcome, report?.message], stderr).toEqual([
    'guest-hung',
    expect.stringMatching(
      /waits for the SMMU in vain: its commands are not consumed: CMDQ_CONS has been 0x\w+ for 30 s/,
    ),
  ])
  expect(report?.wallMs).toBeLessThan(150_000)
})

test('a page that stays mapped when it is donated is seen by the hypervisor’s own check', async () => {
  const { faults } = await boot('--faults', 'donate-unmap-lost')
  // In a fresh boot the rule meets the page's first entry as well.
  expect(new Set(faults.firings.map(({ rule }) => rule))).toEqual(new Set(['unmap', 'donate']))
  expect(faults.firings.at(-1)?.what).toBe('donate 4096 bytes at 0x58000000: OK')
})
