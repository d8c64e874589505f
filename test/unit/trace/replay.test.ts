// SPDX-License-Identifier: Apache-2.0

import { join } from 'node:path'
import { expect, test } from 'vitest'
import { passthrough } from '../../../server/hypervisor/passthrough/policy.ts'
import { pkvm } from '../../../server/hypervisor/pkvm/policy.ts'
import type { PolicyFactory, PolicyOptions } from '../../../server/policy/policy.ts'
import { COMMAND_DROPPED } from '../../../server/policy/report.ts'
import { CMDQ_OP_TLBI_NH_VA } from '../../../server/smmu/commands.ts'
import { ARM_SMMU_IDR0 } from '../../../server/smmu/registers.ts'
import { groups } from '../../../server/trace/groups.ts'
import { TraceReader } from '../../../server/trace/reader.ts'
import { request } from '../../../server/trace/records.ts'
import { type Divergence, Replay } from '../../../server/trace/replay.ts'
import { warningsOf } from '../../../server/trace/warnings.ts'
import { HOST_L2, MiB, STE } from '../hypervisor/pkvm/support.ts'
import { command, TLBI_NSNH_ALL } from '../smmu/fields.ts'
import { bootRecording, folder, recording, scriptedBoot, trap } from './synthetic.ts'

function replay(path: string, factory: PolicyFactory, options: PolicyOptions = {}) {
  const reader = TraceReader.open(path)
  const replayed = new Replay(reader.header.machine, factory, options, {
    rewritten: reader.tellsRewritten,
    warnings: warningsOf(reader.header),
  })
  const divergences: Divergence[] = []
  for (const { divergence } of replayed.run(groups(reader.records()))) if (divergence) divergences.push(divergence)
  expect(reader.problems).toEqual([])
  return { replayed, divergences }
}

/** What differed, in order, and in which trap (0: not a trap). */
const where = (divergences: readonly Divergence[]) =>
  divergences.map(({ group, differences }) => [
    group.root.kind === 'trap' ? group.root.seq : 0,
    ...new Set(differences.map(({ subject }) => subject)),
  ])

test.each(['mmio', 'cmdq', 'strtab', 'queues', 'nested'] as const)('%s: the same policy does the same', async until => {
  const path = join(folder(), 'trace')
  await bootRecording(path, { until })
  const { replayed, divergences } = replay(path, pkvm, { until })
  expect(divergences).toEqual([])
  expect(replayed.traps).toBe(91)
  expect(replayed.unknownReads).toBe(0)
})

test('translations are no decisions of the policy: they are left out, and counted', async () => {
  const path = join(folder(), 'trace')
  const answer = { status: 1, permissions: 3, pa: 0x4000_0000, addressMask: 0xfff, record: new Uint8Array(32) }
  const request = { smmu: 0, sid: 8, ssid: 0, access: 0, iovaLo: 0x1000, iovaHi: 0, time: 9 }
  await bootRecording(path, {}, (bench, ring) => {
    scriptedBoot(bench)
    for (let i = 0; i < 3; i++) ring.translate(request, 1e12 + i, 5, answer, answer.record, 0, 32)
  })
  const { replayed, divergences } = replay(path, pkvm)
  expect([replayed.translations, replayed.traps, divergences]).toEqual([3, 91, []])
  expect(replayed.roots).toBe(91 + 2)
})

test('an earlier stage differs in what the later ones add, and in nothing else', async () => {
  const path = join(folder(), 'trace')
  await bootRecording(path)
  const { divergences, replayed } = replay(path, pkvm, { until: 'queues' })
  const [atReset, ...later] = where(divergences)
  // No idmap, …
  expect(new Set(divergences[0]?.differences.map(({ replayed }) => replayed))).toEqual(new Set(['—']))
  expect(atReset?.slice(1).every(subject => String(subject).startsWith('hypervisor memory W '))).toBe(true)
  expect(later).toEqual([
    // … so that the L2 table has another place and entries have no second stage, …
    [25, 'hypervisor memory W +16384', 'hypervisor memory W +8', 'hypervisor memory W +56'],
    [87, 'hypervisor memory W +56', 'hypervisor memory W +8'],
    // … and nothing can be taken from it.
    [0, 'result of donate', 'hypervisor memory W +16', 'hypervisor memory W +32', 'hardware W CMDQ_PROD', 'guard add'],
  ])
  expect(divergences[3]?.differences[0]).toEqual({ subject: 'result of donate', recorded: 'OK', replayed: 'ENODEV' })
  expect(replayed.unknownReads).toBe(0)
})

test('a policy that decides otherwise is found out where it does, first place first', async () => {
  const path = join(folder(), 'trace')
  await bootRecording(path)
  const dropsInvalidations: PolicyFactory = (machine, context) =>
    pkvm(machine, context, { commands: { [CMDQ_OP_TLBI_NH_VA]: () => () => COMMAND_DROPPED } })
  const { divergences } = replay(path, dropsInvalidations)
  expect(divergences.length).toBe(20)
  expect(divergences[0]?.differences).toEqual([
    {
      subject: 'host cmd TLBI_NH_VA',
      recorded: 'host cmd TLBI_NH_VA kept',
      replayed: 'host cmd TLBI_NH_VA dropped',
    },
    {
      subject: 'hypervisor memory W +32',
      recorded: expect.stringMatching(/^memory {4}W 0x[0-9a-f]+ \+32 12000000 00000000 00000040 /),
      replayed: '—',
    },
    {
      subject: 'hardware W CMDQ_PROD',
      recorded: expect.stringContaining('0xf'),
      replayed: expect.stringContaining('0xe'),
    },
    {
      subject: 'hypervisor memory W +16',
      recorded: '—',
      replayed: expect.stringMatching(/^memory {4}W 0x[0-9a-f]+ \+16 46200000 /),
    },
  ])
})

test('another answer to the host is an outcome', async () => {
  const path = join(folder(), 'trace')
  await bootRecording(path)
  const showsMore: PolicyFactory = (machine, context) =>
    pkvm(machine, context, {
      registers: {
        [ARM_SMMU_IDR0]: rule => ({
          ...rule,
          read(smmu, access) {
            rule.read?.(smmu, access)
            access.lo |= 1
          },
        }),
      },
    })
  const { divergences } = replay(path, showsMore)
  expect(divergences.map(({ differences }) => differences)).toEqual([
    [{ subject: 'outcome of R IDR0', recorded: '0xd40101a', replayed: '0xd40101b' }],
  ])
})

test('reboots, slow hardware and waits that time out replay the same', async () => {
  const path = join(folder(), 'trace')
  await bootRecording(path, { waitMs: 20 }, bench => {
    scriptedBoot(bench, 2)
    scriptedBoot(bench, 2)
    const [hardware] = bench.hardware
    if (hardware === undefined) return
    hardware.slow = 7
    bench.host.write(0x98, bench.host.place(TLBI_NSNH_ALL, command('SYNC')))
    bench.reset()
    bench.host.boot()
    bench.host.attach(8, STE.s1)
    bench.host.attach(8, STE.abort)
    bench.host.attach(8, STE.s1)
    hardware.stuck = true
    bench.host.commands(command('SYNC'))
  })
  const { divergences, replayed } = replay(path, pkvm, { waitMs: 20 })
  expect(where(divergences)).toEqual([])
  expect(replayed.traps).toBeGreaterThan(100)
})

test('a machine that was looked at before its reset', async () => {
  const path = join(folder(), 'trace')
  await recording(path, writer => writer.request(request.other, 0, 1, 1, 0, 0, 0, 0))
  const looks = [...TraceReader.open(path).records()]
  expect(looks.map(({ kind }) => kind)).toEqual(['request'])
  await bootRecording(path)
  const { header } = TraceReader.open(path)
  const run = new Replay(header.machine, pkvm, {}, { warnings: warningsOf(header) })
  const items = groups([...looks, ...TraceReader.open(path).records()])
  expect([...run.run(items)].filter(({ divergence }) => divergence)).toEqual([])
  expect(run.traps).toBe(91)
})

test('memory that the recording does not show reads as 0, and that is said', async () => {
  const path = join(folder(), 'trace')
  await bootRecording(path, { until: 'mmio' })
  const { divergences, replayed } = replay(path, pkvm, { until: 'nested' })
  expect(divergences.length).toBeGreaterThan(0)
  expect(replayed.unknownReads).toBeGreaterThan(20)
})

test('any policy can replay any recording', async () => {
  const path = join(folder(), 'trace')
  await bootRecording(path)
  const { divergences, replayed } = replay(path, passthrough)
  expect(replayed.traps).toBe(91)
  expect(divergences.length).toBeGreaterThan(20)
})

test('a recording without its start is refused; one with a gap is replayed with that said', async () => {
  const path = join(folder(), 'trace')
  await recording(path, writer => writer.trap(trap, 1, 1, 0, 0))
  expect(() => replay(path, passthrough)).toThrow(
    /needs a recording from the start; this one begins with #1 cpu0 W CMDQ_PROD/,
  )
  await recording(path, writer => writer.request(request.donate, 0, 1, 1, 0, 0, 0, 0))
  expect(() => replay(path, passthrough)).toThrow(/this one begins with request: donate/)
  await bootRecording(path, {}, bench => {
    bench.reset()
    bench.host.boot()
    bench.donate(HOST_L2 + MiB, 4096, 1)
  })
  const records = [...TraceReader.open(path).records()]
  const at = records.findIndex(({ kind }) => kind === 'command')
  records.splice(at - 2, 3, { kind: 'lost', count: 3 })
  const { header } = TraceReader.open(path)
  const run = new Replay(header.machine, pkvm, {}, { warnings: warningsOf(header) })
  const found = [...run.run(groups(records))].filter(({ divergence }) => divergence)
  expect(found.map(({ group }) => group.whole)).toContain(false)
})
