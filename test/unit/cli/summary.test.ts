// SPDX-License-Identifier: Apache-2.0
/** What the report for people says: that SMMU and EL2 agree only where they were compared, and that a run was not of the policy as it is. */
import { expect, test, vi } from 'vitest'
import { el2Lines, oracleLines, printSummary, quirkLines } from '../../../server/cli/summary.ts'
import type { Agreement } from '../../../server/oracle/agreement.ts'
import { qemuText } from '../../../server/run/runReport.ts'
import type { El2Report } from '../../../server/trap/el2Oracle.ts'

const agreement: Agreement = { pages: 100, kept: 10, hypervisor: 5, untouched: 0, wrong: 0, disagreements: [] }
const base = 0x4000_0000
const lines = (more: Partial<El2Report>) =>
  el2Lines({
    ...{ registers: null, changes: 7, serverUs: { p50: 1, p90: 2, p99: 3, max: 4 }, checks: 0, agreement: null },
    ...more,
  }).slice(1)

test.each([
  ['agreement', { agreement }, ['    SMMU and EL2 agree (100 pages checked, 10 of them kept from the host)']],
  [
    'agreement all along',
    { agreement, checks: 3 },
    ['    SMMU and EL2 agree (100 pages checked, 10 of them kept from the host, and 3 times before the end)'],
  ],
  [
    'a page that is reached',
    { agreement: { ...agreement, wrong: 1, disagreements: [{ base, size: 4096, what: 'reached' as const }] } },
    [
      '    SMMU and EL2 DO NOT AGREE on 1 of 100 pages',
      '      devices reach 1 page at 0x40000000, which EL2 or the server keeps from the host',
    ],
  ],
  ['tables that make no sense', { problem: 'no table' }, ['    SMMU and EL2 CANNOT BE COMPARED: no table']],
  ['nothing to compare', {}, [expect.stringMatching(/^ {4}SMMU and EL2 were NOT compared: /)]],
])('%s', (_, more, expected) => expect(lines(more)).toEqual(expected))

test('a run with known defects is not one of the policy as it is', () => {
  expect(quirkLines('pkvm', ['eats', 'queues-unshared'])).toEqual([
    '  WITH KNOWN DEFECTS (--quirk): this is not pkvm as it is',
    '    eats',
    '    queues-unshared',
  ])
})

const looked = { samples: 3, wholes: 2, hypervisorPages: 16, vmPages: 1, more: 0, violations: [] }
const sampleUs = { p50: 100, p90: 200, p99: 300, max: 400 }
const violation = { kind: 'guard', message: 'a page is open', walk: [] }
test.each([
  [
    'nothing',
    {},
    [
      '  oracle: nothing is reached that must not be: 3 samples (p50 100.0 µs, p99 300.0), all of it 2 times, 1 page of VMs',
    ],
  ],
  ['nobody was asked', { unjudged: 'no stage 2' }, ['  oracle: NOTHING WAS JUDGED: no stage 2']],
  [
    'a violation',
    { violations: [violation], more: 2 },
    [expect.stringMatching(/^ {2}oracle: 3 VIOLATIONS: 3 samples/), '    a page is open'],
  ],
])('what the oracle found: %s', (_, more, expected) =>
  expect(oracleLines({ ...looked, sampleUs, ...more })).toEqual(expected),
)

test.each([
  [{ qemu: '10.0.13' }, 'QEMU 10.0.13'],
  [{ qemu: '10.0.13', qemuOwn: { what: 'binary', path: '/b' } }, 'QEMU 10.0.13, the binary /b'],
  [{}, 'QEMU of an unknown version'],
] as const)('which QEMU ran: %j', (run, text) => expect(qemuText(run)).toBe(text))

test('numbers as people read them, and how many accesses QEMU answered', () => {
  const error = vi.spyOn(console, 'error').mockReturnValue()
  const us = { p50: 4.064, p90: 323, p99: 925.6961, max: 14820.256 }
  printSummary({
    ...{ schema: 'smmu-cosim/report/1', outcome: 'ok', policy: 'pkvm', kernel: '6.12', wallMs: 61_551, bootMs: 5890 },
    ...{ qemu: '10.2.2', qemuOwn: { what: 'source', path: '/my/qemu' } },
    traps: {
      ...{ total: 43_788, reads: 43_787, writes: 1, predicted: 21_876, latencyUs: us, serverUs: us },
      byRegister: [{ register: 'CMDQ_CONS', reads: 43_787, writes: 1 }],
      bySmmu: [0, 1].map(smmu => ({
        ...{ smmu, reads: 43_000 * (1 - smmu), writes: 1, predicted: smmu },
        commands: { kept: 1, rewritten: 0, dropped: 0, own: 1200 },
      })),
    },
    workload: [{ device: 'kexec', operation: 'read', bytes: 42 * 2 ** 20, ok: true, sha256: '', expected: '' }],
    bench: [{ device: 'nvme', reads: 1, ms: 2 }],
    console: '/c',
    commands: [{ kept: 1, rewritten: 0, dropped: 0, own: 1234 }],
    guardFaults: { total: 1 },
    isolated: true,
    faults: { rules: [{ rule: 'hang', matches: 1, fired: 1 }], firings: [] },
    recording: { path: '/t', segments: 1, removed: 0, bytes: 639_784, records: 1, lost: 0, refused: 1200 },
  })
  const text = String(error.mock.calls[0])
  error.mockRestore()
  for (const line of [
    '  QEMU 10.2.2, built from the source in /my/qemu',
    '  43,788 accesses, of which 21,876 answered by QEMU: 43,787 reads, 1 write',
    '    SMMU 0: 43,001 accesses; 1 command of the host, 1,200 of the hypervisor',
    '    SMMU 1: 1 access, of which 1 answered by QEMU; 1 command of the host, 1,200 of the hypervisor',
    '    as QEMU saw them  p50 4.1 µs, p90 323.0, p99 925.7, max 14,820.3',
    '  1 command of the host: 1 kept, 0 rewritten, 0 dropped; 1,234 of the hypervisor',
    '    1 access of guarded memory by vCPUs, stopped',
    '  fault   hang fired 1 time (1 match)',
    '  ok     kexec read         42.0 MiB',
    '  bench  nvme               1 read, 2,000.0 µs each',
    '  trace   /t (1 record, 639,784 B, 1,200 LOST)',
  ])
    expect(text.split('\n')).toContain(line)
})
