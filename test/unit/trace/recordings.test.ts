// SPDX-License-Identifier: Apache-2.0
/** Beginnings of real boots (recordings/make.ts), replayed against the hypervisor as it is now. */
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { pkvm } from '../../../server/hypervisor/pkvm/policy.ts'
import { HYP_WARNINGS } from '../../../server/hypervisor/pkvm/warnings.ts'
import { SERIES_STEPS, type SeriesStep } from '../../../server/policy/policy.ts'
import {
  ARM_SMMU_CR0,
  ARM_SMMU_STRTAB_BASE,
  ARM_SMMU_STRTAB_BASE_CFG,
  CR0_SMMUEN,
} from '../../../server/smmu/registers.ts'
import { describeRoot } from '../../../server/trace/describe.ts'
import { commandWords, streamEntries } from '../../../server/trace/groupMemory.ts'
import { type Group, groups, isGroup } from '../../../server/trace/groups.ts'
import { TraceReader } from '../../../server/trace/reader.ts'
import { Replay } from '../../../server/trace/replay.ts'
import { ReplaySummary } from '../../../server/trace/replayReport.ts'

const STRTAB: ReadonlySet<number> = new Set([ARM_SMMU_STRTAB_BASE, ARM_SMMU_STRTAB_BASE_CFG])
/** Without a shadow stream table nothing has to be forgotten before. */
const enablesSmmu = ({ offset, write, lo }: { readonly offset: number; readonly write: number; readonly lo: number }) =>
  offset === ARM_SMMU_CR0 && write === 1 && (lo & CR0_SMMUEN) !== 0
const KERNELS = ['6.1', '6.12'] as const
const open = (kernel: string, until: SeriesStep) =>
  TraceReader.open(fileURLToPath(new URL(`recordings/${kernel}-${until}.gz`, import.meta.url)))

function replay(reader: TraceReader, until: SeriesStep) {
  const run = new Replay(
    reader.header.machine,
    pkvm,
    { until },
    { rewritten: reader.tellsRewritten, warnings: HYP_WARNINGS },
  )
  const summary = new ReplaySummary()
  for (const { divergence } of run.run(groups(reader.records()))) if (divergence) summary.add(divergence)
  return { run, summary }
}

const boots = KERNELS.flatMap(kernel => SERIES_STEPS.map(until => [kernel, until] as const))

test.each(boots)('%s until %s: the hypervisor does what it did', (kernel, until) => {
  const reader = open(kernel, until)
  const { run, summary } = replay(reader, until)
  expect(summary.subjects()).toEqual([])
  expect(run.traps).toBe(500)
  expect(run.unknownReads).toBe(0)
  expect(reader.problems).toEqual([])
})

const stages = KERNELS.flatMap(kernel => (['cmdq', 'strtab', 'queues'] as const).map(until => [kernel, until] as const))

test.each(stages)(
  '%s nested, replayed until %s: what the prefix explains is different, and nothing else',
  (kernel, until) => {
    const reader = open(kernel, 'nested')
    const explained = (item: Group) =>
      item.root.kind === 'reset' ||
      item.children.some(child => child.kind === 'stream') ||
      (until === 'cmdq' && item.root.kind === 'trap' && (STRTAB.has(item.root.offset) || enablesSmmu(item.root)))
    const run = new Replay(
      reader.header.machine,
      pkvm,
      { until },
      { rewritten: reader.tellsRewritten, warnings: HYP_WARNINGS },
    )
    const found = [...run.run(groups(reader.records()))]
    expect(found.filter(({ divergence }) => divergence).map(({ group }) => describeRoot(group.root))).toEqual(
      found.filter(({ group }) => explained(group)).map(({ group }) => describeRoot(group.root)),
    )
  },
)

test.each(KERNELS)('%s: every command and every entry is found in what was read', kernel => {
  let commands = 0
  let streams = 0
  for (const item of groups(open(kernel, 'nested').records())) {
    if (!isGroup(item)) continue
    const words = commandWords(item.children)
    expect(words).not.toContain(undefined)
    commands += words.length
    item.children.forEach((child, index) => {
      if (child.kind !== 'stream') return
      const { host, shadow } = streamEntries(item.children, index)
      const config = (entry: BigUint64Array | undefined) => Number(((entry?.[0] ?? 0n) >> 1n) & 7n)
      expect([config(host), config(shadow)]).toEqual([child.hostConfig, child.shadowConfig])
      streams++
    })
  }
  expect(commands).toBeGreaterThan(400)
  expect(streams).toBeGreaterThan(3)
})
