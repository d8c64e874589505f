// SPDX-License-Identifier: Apache-2.0
/** Linux under the policy `partition`: boot, recording, replay, walks, faults, dashboard, and a stream that is not its own. */
import { rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { privateFolder } from '../../server/machine/scratch.ts'
import { warningById } from '../../server/policy/warnings.ts'
import { STRTAB_STE_0_CFG_NESTED } from '../../server/smmu/ste.ts'
import { groups, isGroup } from '../../server/trace/groups.ts'
import { TraceReader } from '../../server/trace/reader.ts'
import type { RecordOf } from '../../server/trace/records.ts'
import { warningsOf } from '../../server/trace/warnings.ts'
import { cosim } from './cli.ts'

let folder: string
beforeAll(() => {
  folder = privateFolder(tmpdir(), 'partition-')
})
afterAll(() => rmSync(folder, { recursive: true }))

/** What the dashboard is told once Linux has configured a device; undefined when the machine ended before. */
async function watched(
  url: string,
): Promise<{ readonly streams: readonly unknown[]; readonly ownership: unknown } | undefined> {
  const get = async (path: string) => (await fetch(new URL(`/api/v1/${path}`, url))).json()
  try {
    for (;;) {
      const { streams = [] } = (await get('smmus/0/streams')) as {
        streams?: readonly { readonly shadow: string | null }[]
      }
      if (streams.some(({ shadow }) => shadow === 'nested'))
        return { streams, ownership: await get('memory/ownership') }
      await sleep(200)
    }
  } catch {
    return undefined
  }
}

/** A stream with a second stage under the guest's first, and the trap that made it so. */
function lastNested(path: string): { sid: number; at: number } {
  let found = { sid: -1, at: 0 }
  for (const item of groups(TraceReader.open(path).records())) {
    if (!isGroup(item) || item.root.kind !== 'trap') continue
    for (const child of item.children)
      if (child.kind === 'stream' && child.shadowConfig === STRTAB_STE_0_CFG_NESTED)
        found = { sid: child.sid, at: item.root.seq }
  }
  return found
}

test('the workload passes; its recording replays without a difference, and is walked on', async () => {
  let seen: ReturnType<typeof watched> | undefined
  const onText = (text: string) => {
    const [, url] = /dashboard at (http:\S+)/.exec(text) ?? []
    if (url !== undefined) seen ??= watched(url)
  }
  const args = ['boot', '--policy', 'partition', '--oracle', '--dashboard', '0']
  const run = await cosim(args, { onOutput: onText, onErrors: onText })
  const { code, report, stderr } = run
  expect(report?.message, stderr).toBeUndefined()
  expect([code, report?.outcome, report?.policy]).toEqual([0, 'ok', 'partition'])
  expect(report?.workload.map(({ ok }) => ok)).toEqual([true, true, true, true, true])
  // When the guest is done; at its end as well, if the registers were read after the last write of the shutdown.
  expect(report?.oracle).toMatchObject({ violations: [] })
  expect(report?.oracle?.wholes).toBeOneOf([1, 2])
  expect((await seen)?.ownership).toMatchObject({ ranges: [{ state: 'owned' }, { state: 'hyp' }] })

  const path = report?.recording?.path ?? ''
  const { header } = TraceReader.open(path)
  expect(header.policy).toBe('partition')
  expect(header.warnings?.map(({ code }) => code)).toEqual(['PART_REGISTER', 'PART_STREAM'])
  const replayed = await cosim(['replay', path])
  expect([replayed.code, replayed.stdout], replayed.stderr).toEqual([0, expect.stringContaining('no difference')])
  const { sid, at } = lastNested(path)
  const walk = ['walk', '--recording', path, '--sid', String(sid), '--iova', '0x40000000', '--at', String(at)]
  const walked = await cosim(walk)
  expect(walked.stdout, walked.stderr).toMatch(/STE .*nested/)
})

test('faults reach it: an entry that is lost', async () => {
  const file = join(folder, 'lost.yaml')
  writeFileSync(
    file,
    'rules:\n  - { name: lost, where: { at: table, table: ste }, when: { nth: 1 }, what: { do: drop } }\n',
  )
  // Linux waits without a limit for a virtio disk that does not answer.
  const { report, stderr } = await cosim(['boot', '--policy', 'partition', '--faults', file, '--timeout', '30'])
  const { faults } = report as unknown as { faults: { rules: unknown } }
  expect(faults?.rules, stderr).toMatchObject([{ rule: 'lost', fired: 1 }])
})

test('a stream of another partition is stopped, and the rest works', async () => {
  const file = join(folder, 'foreign.ts')
  const server = fileURLToPath(new URL('../../server/', import.meta.url))
  writeFileSync(
    file,
    `import { guestOnly, partition } from ${JSON.stringify(`${server}hypervisor/partition/policy.ts`)}
     import type { PolicyFactory } from ${JSON.stringify(`${server}policy/policy.ts`)}
     const foreign: PolicyFactory = (machine, context) => {
       const [guest] = guestOnly(machine)
       const e1000e = machine.devices.find(({ model }) => model === 'e1000e')?.sid ?? -1
       const streams = guest.streams.filter(({ sid }) => sid !== e1000e)
       const [ram, ...rest] = guest.ranges
       const vault = { base: ram.base + ram.size - 0x20_0000, size: 0x20_0000 }
       return partition(machine, context, [
         { ...guest, streams, ranges: [{ ...ram, size: ram.size - vault.size }, ...rest] },
         { name: 'vault', streams: [{ smmu: 0, sid: e1000e }], ranges: [vault] },
       ])
     }
     export default foreign`,
  )
  const { report, stderr } = await cosim(['boot', '--policy', file])
  const failed = report?.workload.filter(({ ok }) => !ok).map(({ device }) => device)
  expect(failed, stderr).toEqual(['e1000e'])
  const { header, ...reader } = TraceReader.open(report?.recording?.path ?? '')
  expect(reader.problems).toEqual([])
  const warnings = [...TraceReader.open(report?.recording?.path ?? '').records()].filter(
    ({ kind }) => kind === 'warning',
  )
  const codes = warnings.map(record => warningById(warningsOf(header), (record as RecordOf<'warning'>).id)?.code)
  expect(new Set(codes)).toEqual(new Set(['PART_STREAM']))
})
