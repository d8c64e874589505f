// SPDX-License-Identifier: Apache-2.0
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { pkvm } from '../../../server/hypervisor/policy/pkvm.ts'
import type { PolicyFactory, PolicyOptions } from '../../../server/hypervisor/policy/policy.ts'
import { groups } from '../../../server/trace/groups.ts'
import { TraceReader } from '../../../server/trace/reader.ts'
import { type Divergence, Replay } from '../../../server/trace/replay.ts'
import { bootRecording, folder } from './synthetic.ts'

function replay(path: string, factory: PolicyFactory, options: PolicyOptions = {}) {
  const reader = TraceReader.open(path)
  const replayed = new Replay(reader.header.machine, factory, options)
  const divergences: Divergence[] = []
  for (const { divergence } of replayed.run(groups(reader.records()))) if (divergence) divergences.push(divergence)
  expect(reader.problems).toEqual([])
  return { replayed, divergences }
}

const subjects = (divergences: readonly Divergence[]) => [
  ...new Set(divergences.flatMap(({ differences }) => differences.map(({ subject }) => subject))),
]

test.each(['mmio', 'cmdq', 'strtab', 'queues', 'nested'] as const)('%s: the same policy does the same', async until => {
  const path = join(folder(), 'trace')
  await bootRecording(path, { until })
  const { replayed, divergences } = replay(path, pkvm, { until })
  expect(divergences).toEqual([])
  expect(replayed.traps).toBeGreaterThan(40)
  expect(replayed.unknownReads).toBe(0)
})
test('debug', async () => {
  const path = join(folder(), 'trace')
  await bootRecording(path)
  const { replayed, divergences } = replay(path, pkvm, { until: 'cmdq' })
  for (const d of divergences) console.log(d.group.root, JSON.stringify(d.differences, null, 1))
  console.log(subjects(divergences), replayed.unknownReads)
})
