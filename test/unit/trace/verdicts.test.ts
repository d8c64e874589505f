// SPDX-License-Identifier: Apache-2.0
/** What became of a command of the host, from the rule that decided to everybody who shows it. */
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { TrapLog } from '../../../server/api/trapLog.ts'
import { Verdicts } from '../../../server/api/verdicts.ts'
import { pkvm } from '../../../server/hypervisor/pkvm/policy.ts'
import { HYP_WARNINGS } from '../../../server/hypervisor/pkvm/warnings.ts'
import type { PolicyFactory } from '../../../server/policy/policy.ts'
import { COMMAND_DROPPED, COMMAND_KEPT } from '../../../server/policy/report.ts'
import {
  CMDQ_OP_CMD_SYNC,
  CMDQ_OP_TLBI_EL2_ALL,
  CMDQ_OP_TLBI_NH_VA,
  CMDQ_SYNC_0_CS,
  CMDQ_SYNC_0_CS_IRQ,
} from '../../../server/smmu/commands.ts'
import { cut } from '../../../server/trace/cut.ts'
import { describeChildren } from '../../../server/trace/describe.ts'
import { diff } from '../../../server/trace/diff.ts'
import { type Group, groups, isGroup } from '../../../server/trace/groups.ts'
import { Pump } from '../../../server/trace/pump.ts'
import { TraceReader } from '../../../server/trace/reader.ts'
import { Recorder } from '../../../server/trace/recorder.ts'
import { type TraceRecord, verdict } from '../../../server/trace/records.ts'
import { Replay } from '../../../server/trace/replay.ts'
import { createRing, RingWriter } from '../../../server/trace/ring.ts'
import { stats } from '../../../server/trace/stats.ts'
import { bootRecording, folder, RecordedBench } from './synthetic.ts'

/** CMD_SYNC with an MSI, which pKVM takes away. */
const SYNC_IRQ = [CMDQ_OP_CMD_SYNC | (CMDQ_SYNC_0_CS_IRQ << CMDQ_SYNC_0_CS.shift), 0x1234, 0x4000_0000, 0]
const COMMANDS = [[CMDQ_OP_TLBI_NH_VA, 0, 0x5000, 0], [CMDQ_OP_TLBI_EL2_ALL, 0, 0, 0], SYNC_IRQ]

function script(bench: RecordedBench): void {
  bench.reset()
  bench.host.boot()
  bench.host.commands(...COMMANDS)
}

async function recorded(): Promise<string> {
  const path = join(folder(), 'trace')
  await bootRecording(path, {}, script)
  return path
}

/** The same recording as an older version wrote it, which knew of no rewritten command. */
async function older(path: string, change: (record: TraceRecord) => TraceRecord = record => record): Promise<string> {
  const reader = TraceReader.open(path)
  const { machine, segment: _, ...header } = reader.header
  const old = join(folder(), 'old')
  const recorder = await Recorder.open({ path: old, header, format: 1 })
  recorder.describe(machine)
  for (const record of reader.records()) {
    const rewritten = record.kind === 'command' && record.verdict === verdict.rewritten
    recorder.record(change(rewritten ? { ...record, verdict: verdict.kept } : record))
  }
  await recorder.close()
  return old
}

function differences(path: string, factory: PolicyFactory = pkvm) {
  const reader = TraceReader.open(path)
  const run = new Replay(
    reader.header.machine,
    factory,
    {},
    { rewritten: reader.tellsRewritten, warnings: HYP_WARNINGS },
  )
  return [...run.run(groups(reader.records()))].flatMap(({ divergence }) => divergence?.differences ?? [])
}

test('kept, rewritten and dropped are told apart in the trace and its numbers', async () => {
  const reader = TraceReader.open(await recorded())
  const last = [...groups(reader.records())].findLast(item => isGroup(item)) as Group
  expect(describeChildren(last, false, HYP_WARNINGS).filter(line => line.startsWith('host cmd'))).toEqual([
    'host cmd  TLBI_NH_VA vmid=0 asid=0 addr=0x5000',
    'host cmd  TLBI_EL2_ALL  DROPPED',
    'host cmd  SYNC cs=irq msi=0x40000000 data=0x1234  REWRITTEN',
  ])
  const { commands } = stats(reader.records(), reader.header)
  expect(commands).toMatchObject({ TLBI_NH_VA: 1, 'TLBI_EL2_ALL (dropped)': 1, 'SYNC (rewritten)': 1, SYNC: 2 })
})

test('the queues of a live machine have them by entry', () => {
  const ring = createRing(1 << 22)
  const pump = new Pump(ring)
  const log = new TrapLog()
  const verdicts = new Verdicts(log)
  log.onGroup = entry => verdicts.group(entry)
  pump.add(log)
  const bench = new RecordedBench(new RingWriter(ring))
  bench.reset()
  bench.host.boot()
  const first = bench.host.prod
  bench.host.commands(...COMMANDS)
  pump.drain()
  pump.close()
  const [kept, dropped, rewritten] = COMMANDS.map((_, i) => verdicts.host(0, first + i))
  expect([kept?.verdict, dropped?.verdict, rewritten?.verdict]).toEqual(['kept', 'dropped', 'rewritten'])
  expect(dropped?.shadow).toBe(-1)
  expect(verdicts.shadow(0, kept?.shadow ?? -1)).toBe('kept')
  expect(verdicts.shadow(0, rewritten?.shadow ?? -1)).toBe('rewritten')
})

/** A hypervisor that lets the MSI pass, and one that drops the command. */
const passesMsi: PolicyFactory = (machine, context) =>
  pkvm(machine, context, { commands: { [CMDQ_OP_CMD_SYNC]: () => () => COMMAND_KEPT } })
const dropsSync: PolicyFactory = (machine, context) =>
  pkvm(machine, context, { commands: { [CMDQ_OP_CMD_SYNC]: () => () => COMMAND_DROPPED } })

test('replay compares all three', async () => {
  const path = await recorded()
  expect(differences(path)).toEqual([])
  const subject = 'host cmd SYNC'
  expect(differences(path, passesMsi)).toContainEqual({
    subject,
    recorded: 'host cmd SYNC rewritten',
    replayed: 'host cmd SYNC kept',
  })
})

test('of an older recording it compares what that tells', async () => {
  const path = await older(await recorded())
  const reader = TraceReader.open(path)
  expect([reader.format, reader.tellsRewritten]).toEqual([1, false])
  expect(differences(path)).toEqual([])
  // What the hardware got is still compared.
  expect(differences(path, passesMsi).map(({ subject }) => subject)).toEqual(['hypervisor memory W +32'])
  expect(differences(path, dropsSync)).toContainEqual({
    subject: 'host cmd SYNC',
    recorded: 'host cmd SYNC not dropped',
    replayed: 'host cmd SYNC dropped',
  })
})

test('a part of an older recording does not tell more than the whole', async () => {
  const path = join(folder(), 'cut')
  await cut(TraceReader.open(await older(await recorded())), 10, path)
  expect(TraceReader.open(path).tellsRewritten).toBe(false)
  await cut(TraceReader.open(await recorded()), 10, path)
  expect(TraceReader.open(path).tellsRewritten).toBe(true)
})

test('an old and a new recording of the same run differ only in what both tell', async () => {
  const path = await recorded()
  const hunks = (a: string, b: string, rewritten: boolean) => [
    ...diff(TraceReader.open(a).records(), TraceReader.open(b).records(), {
      values: true,
      nested: true,
      warnings: [HYP_WARNINGS, HYP_WARNINGS],
      rewritten,
    }),
  ]
  const old = await older(path)
  expect(hunks(old, path, false)).toEqual([])
  expect(hunks(old, path, true).length).toBe(1)
  const dropped = await older(path, record =>
    record.kind === 'command' && record.opcode === CMDQ_OP_TLBI_NH_VA
      ? { ...record, verdict: verdict.dropped }
      : record,
  )
  expect(hunks(dropped, path, false).length).toBe(1)
})

test.each([true, false, undefined, 7])('a rule that gives %s, no verdict: the command is dropped', async given => {
  const untyped = (() => given) as never
  const path = join(folder(), 'trace')
  await bootRecording(path, {}, script)
  const drops: PolicyFactory = (machine, context) =>
    pkvm(machine, context, { commands: { [CMDQ_OP_TLBI_NH_VA]: () => untyped } })
  expect(differences(path, drops)).toContainEqual({
    subject: 'host cmd TLBI_NH_VA',
    recorded: 'host cmd TLBI_NH_VA kept',
    replayed: 'host cmd TLBI_NH_VA dropped',
  })
})
