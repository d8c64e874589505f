// SPDX-License-Identifier: Apache-2.0
/** Recordings of the policy `partition`: they replay, are walked on, and bring along what its warnings mean. */
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { guestOnly, partition } from '../../../../server/hypervisor/partition/policy.ts'
import { WARNINGS } from '../../../../server/hypervisor/partition/smmu.ts'
import type { PolicyFactory } from '../../../../server/policy/policy.ts'
import { warningById } from '../../../../server/policy/warnings.ts'
import { IDR0_S2P } from '../../../../server/smmu/registers.ts'
import { cut } from '../../../../server/trace/cut.ts'
import { describeChildren } from '../../../../server/trace/describe.ts'
import { groups } from '../../../../server/trace/groups.ts'
import { TraceReader } from '../../../../server/trace/reader.ts'
import { RecordedMachine } from '../../../../server/trace/recordedMachine.ts'
import { Replay } from '../../../../server/trace/replay.ts'
import { warningsOf } from '../../../../server/trace/warnings.ts'
import { bootRecording, folder, type RecordedBench } from '../../trace/synthetic.ts'
import { RAM_BASE, STE } from '../pkvm/support.ts'
import { FOREIGN, GUEST, GUEST_TOO, NOBODY, two, VAULT } from './support.ts'

const shared: PolicyFactory = (machine, context) => partition(machine, context, two(machine))

function script(bench: RecordedBench): void {
  const { host } = bench
  bench.reset()
  for (const offset of [0x0, 0x4, 0xc, 0x14, 0x18]) bench.read(offset)
  host.boot()
  host.attach(GUEST, STE.bypass)
  host.attach(FOREIGN, STE.bypass)
  host.attach(NOBODY, STE.s1)
  host.attach(GUEST_TOO, STE.nested)
  host.commands([0x04, 0, 31, 0], [0x30, 0, 0, 0], [0x46, 0, 0, 0])
  bench.read(0x9c)
  bench.read(0x1_0000)
}

async function recorded(more: object = { warnings: WARNINGS }): Promise<string> {
  const path = join(folder(), 'trace')
  await bootRecording(path, {}, script, { policy: 'partition', ...more }, shared)
  return path
}

function differences(path: string, factory: PolicyFactory): string[] {
  const { header, ...reader } = TraceReader.open(path)
  const run = new Replay(header.machine, factory, {}, { warnings: warningsOf(header) })
  const items = groups(TraceReader.open(path).records())
  expect(reader.problems).toEqual([])
  return [...run.run(items)].flatMap(({ divergence }) => divergence?.differences.map(({ subject }) => subject) ?? [])
}

/** What `trace show --warnings` says of warnings. */
function told(path: string): string[] {
  const reader = TraceReader.open(path)
  const lines = [...groups(reader.records())].flatMap(group =>
    'root' in group ? describeChildren(group, false, warningsOf(reader.header)) : [],
  )
  return lines.filter(line => line.startsWith('WARNING'))
}

test('the same policy does the same; another one is found out', async () => {
  const path = await recorded()
  expect(differences(path, shared)).toEqual([])
  const alone: PolicyFactory = (machine, context) => partition(machine, context, guestOnly(machine))
  expect(differences(path, alone)).not.toEqual([])
  const showsMore: PolicyFactory = (machine, context) => {
    const policy = shared(machine, context)
    return {
      ...policy,
      access(trap) {
        policy.access(trap)
        if (trap.offset === 0) trap.lo |= IDR0_S2P
      },
    }
  }
  expect(differences(path, showsMore)).toEqual(['outcome of R IDR0'])
})

test('its warnings are told by name, from the recording itself', async () => {
  const path = await recorded()
  const names = told(path).join('\n')
  expect(names.match(/PART_\w+/g)).toEqual([
    'PART_STREAM',
    'PART_STREAM',
    'PART_STREAM',
    'PART_STREAM',
    'PART_REGISTER',
  ])
  expect(names).toMatch(/PART_STREAM \(server\S+\) sid=0x10 config=0x0/)
  expect(names).not.toContain('HYP_')
  const part = join(folder(), 'part')
  await cut(TraceReader.open(path), Number.POSITIVE_INFINITY, part)
  expect(told(part)).toEqual(told(path))
})

test('a recording without a table is from when only pkvm had warnings', async () => {
  const path = await recorded({})
  const { header } = TraceReader.open(path)
  const [first] = WARNINGS
  expect(warningById(warningsOf(header), first?.id ?? 0)?.code).toMatch(/^HYP_/)
})

test.each([
  ['the guest, to its memory', GUEST, RAM_BASE, 'translated'],
  ['the guest, elsewhere', GUEST, VAULT.base, 'fault'],
  ['another partition', FOREIGN, VAULT.base, 'translated'],
  ['nobody', NOBODY, RAM_BASE, 'abort'],
])('a walk on it for %s', async (_name, sid, iova, outcome) => {
  const reader = TraceReader.open(await recorded())
  const machine = new RecordedMachine(reader.header.machine, shared).through(groups(reader.records()))
  expect(machine.problem).toBeUndefined()
  expect(machine.walk({ smmu: 0, sid, iova: BigInt(iova), write: true })).toMatchObject({ outcome })
})
