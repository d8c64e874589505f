// SPDX-License-Identifier: Apache-2.0
/** A recording behind the routes of the API: held against `walk --recording` and `trace stats`, which read it their own way. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { gunzipSync } from 'node:zlib'
import { expect, test } from 'vitest'
import type { TrapRow } from '../../../server/api/schemas/trace.ts'
import { POLICY_NAMES } from '../../../server/policy/load.ts'
import { PAGE_DONATE, PAGE_RECLAIM } from '../../../server/policy/report.ts'
import { EBUSY } from '../../../server/policy/result.ts'
import { compare } from '../../../server/recorded/compare.ts'
import { POLICIES } from '../../../server/recorded/policies.ts'
import { type RecordedFile, Recording } from '../../../server/recorded/recording.ts'
import { commandNumber } from '../../../server/smmu/names.ts'
import * as R from '../../../server/smmu/registers.ts'
import { TraceReader } from '../../../server/trace/reader.ts'
import { recordedMachine } from '../../../server/trace/recordedMachine.ts'
import { request, verdict } from '../../../server/trace/records.ts'
import type { RingWriter } from '../../../server/trace/ring.ts'
import { stats } from '../../../server/trace/stats.ts'
import { folder, header, recording, trap } from '../trace/synthetic.ts'

const fixture = (name: string) => fileURLToPath(new URL(`../trace/recordings/${name}.gz`, import.meta.url))
const fileOf = (name: string): RecordedFile => ({ name, bytes: gunzipSync(readFileSync(fixture(name))) })
const opened = (name: string) => Recording.read(fileOf(name))

/** A recording that is made up. */
async function madeUp(
  write: (writer: RingWriter) => void,
  changed: Partial<typeof header> = {},
): Promise<RecordedFile> {
  const path = join(folder(), 'trace')
  await recording(path, write, { header: { ...header, ...changed } })
  return { name: 'made-up', bytes: readFileSync(path) }
}

const BOOTS = ['6.1-nested', '6.12-nested', '6.12-queues', '6.12-strtab', '6.12-cmdq', '6.12-mmio']

test.each(BOOTS)('%s: walks at any moment are those of walk --recording, forwards and backwards', async name => {
  const mine = await opened(name)
  for (const at of [500, 3, 260, 500, 100, 101, 499]) {
    mine.seek(mine.rowOf(at) ?? -1)
    expect(mine.moment.trap).toBe(at)
    const { machine } = await recordedMachine(fixture(name), at)
    for (const [sid, iova] of [
      [8, '0xffff0000'],
      [0x10, '0x40001000'],
      [0xff00, '0x0'],
    ] as const) {
      for (const table of ['hardware', 'host'] as const) {
        const expected = machine.walk({ smmu: 0, sid, iova: BigInt(iova), write: true, table })
        const query = { sid, iova, access: 'write' as const, table }
        const found = await mine.views.call('GET /smmus/:smmu/walk', { params: { smmu: 0 }, query }).catch(String)
        if (expected.outcome === 'unknown' && expected.steps.length === 0) {
          expect(found, `${table} of ${sid} at ${at}`).toMatch(/not in the recording/)
        } else expect(found, `${table} of ${sid} at ${at}`).toEqual(expected)
      }
    }
  }
})

test.each(BOOTS)('%s: what is counted at the end is what trace stats counts', async name => {
  const reader = TraceReader.open(fixture(name))
  const expected = stats(reader.records(), reader.header)
  const mine = await opened(name)
  mine.seek(mine.rows)
  const found = await mine.views.call('GET /counters')
  expect(found).toMatchObject({
    traps: expected.traps,
    aborted: expected.aborted,
    lost: expected.lost,
    smmus: expected.smmus,
    hardwareReads: expected.hardware.reads,
    hardwareWrites: expected.hardware.writes,
  })
  const registers = found.registers.flatMap(({ register, reads, writes }) => [
    ...(reads > 0 ? [[`R ${register}`, reads]] : []),
    ...(writes > 0 ? [[`W ${register}`, writes]] : []),
  ])
  expect(Object.fromEntries(registers)).toEqual(expected.registers)
  const commands = found.commands.flatMap(({ command, kept, rewritten, dropped, own }) =>
    Object.entries({ '': kept, ' (rewritten)': rewritten, ' (dropped)': dropped, ' (own)': own }).flatMap(
      ([word, count]) => (count > 0 ? [[`${command}${word}`, count]] : []),
    ),
  )
  expect(Object.fromEntries(commands)).toEqual(expected.commands)
  expect(mine.problems).toEqual([])
})

test('a moment is the same whichever way it was reached', async () => {
  const mine = await opened('6.12-nested')
  const smmu = { params: { smmu: 0 } }
  const all = async () =>
    JSON.stringify(
      await Promise.all(
        [
          mine.views.call('GET /smmus/:smmu/registers', smmu),
          mine.views.call('GET /smmus/:smmu/queues', smmu),
          mine.views.call('GET /smmus/:smmu/streams', smmu),
          mine.views.call('GET /smmus/:smmu/streams/:sid', { params: { smmu: 0, sid: 8 } }),
          mine.views.call('GET /memory/ownership'),
          mine.views.call('GET /memory/reach'),
          mine.views.call('GET /counters'),
          mine.views.call('GET /machine'),
        ].map(answer => answer.catch(String)),
      ),
    )
  const forwards: string[] = []
  const rows = Array.from({ length: 12 }, (_, i) => Math.floor((mine.rows * i) / 11))
  for (const row of rows) {
    mine.seek(row)
    forwards.push(await all())
  }
  const backwards: string[] = []
  for (const row of rows.toReversed()) {
    mine.seek(row)
    backwards.push(await all())
  }
  expect(backwards.toReversed()).toEqual(forwards)
  expect(new Set(forwards).size).toBeGreaterThan(6)
})

test('the views have what a machine has: queues with verdicts, entries side by side, tables', async () => {
  const mine = await opened('6.12-nested')
  const { host, shadow } = await mine.views.call('GET /smmus/:smmu/queues', { params: { smmu: 0 } })
  expect(host.shown.length).toBeGreaterThan(10)
  expect(new Set(host.shown.map(({ verdict }) => verdict))).toContain('kept')
  // All that was handed over is consumed once the trap is decided.
  expect(host.pending).toBe(0)
  const kept = host.shown.findLast(({ verdict }) => verdict === 'kept')
  expect(shadow?.shown.find(({ index }) => index === kept?.shadow)?.text).toBe(kept?.text)
  const { streams } = await mine.views.call('GET /smmus/:smmu/streams', { params: { smmu: 0 } })
  expect(streams.find(({ sid }) => sid === 8)).toMatchObject({ host: 's1', shadow: 'nested' })
  const stream = await mine.views.call('GET /smmus/:smmu/streams/:sid', { params: { smmu: 0, sid: 8 } })
  expect(stream.differs).toContain('S2TTB')
  const root = stream.roots.find(({ stage }) => stage === 2)
  if (root === undefined) throw new Error('no root of stage 2')
  const { name: _, ...query } = root
  const table = await mine.views.call('GET /smmus/:smmu/table', { params: { smmu: 0 }, query })
  expect(table.entries.length).toBeGreaterThan(0)
  // Of stage 1 nothing is known, which is not the same as nothing mapped.
  const reach = await mine.views.call('GET /memory/reach')
  expect(reach.find(({ sid }) => sid === 8)).toMatchObject({ mapped: [], unread: 1 })
  expect((await mine.views.call('GET /info')).registers.length).toBeGreaterThan(30)
})

test('rows of traps, details and the time line', async () => {
  const mine = await opened('6.12-nested')
  const { items } = mine.views.stream('traps', 1, 10_000, { commands: ['CFGI_STE'] })
  const rows = items as readonly TrapRow[]
  expect(rows.length).toBeGreaterThan(0)
  const detail = await mine.views.call('GET /traps/:id', { params: { id: rows[0]?.id ?? 0 } })
  expect(detail.children.filter(({ kind }) => kind === 'stream').length).toBeGreaterThan(0)
  const line = await mine.views.call('GET /traps/timeline', { query: { bins: 50 } })
  expect(line.traps.reduce((a, b) => a + b, 0)).toBe(500)
})

test('nothing can be changed', async () => {
  const mine = await opened('6.12-nested')
  const body = { base: '0x50000000', size: 4096, vm: 1 }
  await expect(mine.views.call('POST /memory/donate', { body })).rejects.toThrow('this is a recording')
  await expect(mine.views.call('POST /machine/reset')).rejects.toThrow('this is a recording')
})

test('pages change hands as the recording says, and come back with an earlier moment', async () => {
  const mine = await Recording.read(
    await madeUp(
      writer => {
        writer.reset(0, 0, 1, 1)
        for (const [i, [operation, result]] of (
          [
            [PAGE_DONATE, 0],
            [PAGE_DONATE, -1 >>> 0],
            [PAGE_RECLAIM, 0],
          ] as const
        ).entries()) {
          writer.pages(operation, i === 1 ? 0x6000_0000 : 0x5000_0000, 8192, 7, result)
          writer.trap({ ...trap, seq: i + 1, write: false, offset: R.ARM_SMMU_IDR0 }, 100 * i + 50, 3, 5, 0)
        }
      },
      { policy: 'pkvm', policyOptions: { until: 'nested' } },
    ),
  )
  const vms = async (row: number) => {
    mine.seek(row)
    const { ranges } = await mine.views.call('GET /memory/ownership')
    return ranges.filter(({ state }) => state === 'vm')
  }
  expect(await vms(4)).toEqual([])
  expect(await vms(3)).toEqual([{ base: '0x50000000', size: 8192, state: 'vm', vm: 7 }])
  expect(await vms(2)).toEqual([{ base: '0x50000000', size: 8192, state: 'vm', vm: 7 }])
  expect(await vms(1)).toEqual([])
  // At the first moment none had changed hands yet.
  expect(mine.views.stream('pages', 1, 10).items).toEqual([])
})

test('what records are missing for is not known', async () => {
  const cr0 = (writer: RingWriter, seq: number, value: number) => {
    writer.hardware(0, true, 10 * seq, 1, R.ARM_SMMU_CR0, 4, value, 0, true)
    writer.trap({ ...trap, seq, offset: R.ARM_SMMU_CR0, size: 4, lo: value }, 10 * seq, 3, 5, 0)
  }
  const mine = await Recording.read(
    await madeUp(writer => {
      writer.reset(0, 0, 1, 1)
      cr0(writer, 1, R.CR0_SMMUEN)
      // Trap 2 is not there.
      writer.trap({ ...trap, seq: 3, write: false, offset: R.ARM_SMMU_IDR0 }, 40, 3, 5, 0)
    }),
  )
  const hardware = async () => {
    const rows = await mine.views.call('GET /smmus/:smmu/registers', { params: { smmu: 0 } })
    return rows.find(({ name }) => name === 'CR0')?.hardware
  }
  mine.seek(2)
  expect(await hardware()).toMatchObject({ value: '0x1' })
  mine.seek(3)
  expect(await hardware()).toEqual({ value: null, text: 'not in the recording' })
})

test('commands that were decided count as consumed', async () => {
  const opcode = commandNumber('CFGI_STE') ?? 0
  const mine = await Recording.read(
    await madeUp(writer => {
      writer.reset(0, 0, 1, 1)
      writer.trap({ ...trap, seq: 1, offset: R.ARM_SMMU_CMDQ_BASE, size: 8, lo: 0x4800_0008, hi: 0 }, 10, 3, 5, 0)
      for (let i = 0; i < 3; i++) writer.command(0, opcode, verdict.kept)
      writer.trap({ ...trap, seq: 2, offset: R.ARM_SMMU_CMDQ_PROD, size: 4, lo: 3, hi: 0 }, 20, 3, 5, 0)
    }),
  )
  mine.seek(mine.rows)
  const rows = await mine.views.call('GET /smmus/:smmu/registers', { params: { smmu: 0 } })
  expect(rows.find(({ name }) => name === 'CMDQ_CONS')?.host.value).toBe('0x3')
})

test('a recording that claims to have written gigabytes costs no gigabytes', async () => {
  const machine = { ...header.machine, ram: [{ base: 0x4000_0000, size: 2 ** 38 }] }
  const before = process.memoryUsage().rss
  const mine = await Recording.read(
    await madeUp(
      writer => {
        writer.reset(0, 0, 1, 1)
        for (let i = 0; i < 2; i++) {
          writer.memory(true, 0x1_0000_0000 * (i + 1), 0xffff_f000, 0, 0, true, new Uint8Array(), 0, 0)
        }
        writer.trap({ ...trap, seq: 1 }, 10, 3, 5, 0)
      },
      { machine },
    ),
  )
  expect(mine.rows).toBe(2)
  expect(process.memoryUsage().rss - before).toBeLessThan(1.5 * 2 ** 30)
})

test('damaged files are read as far as they go, and nothing worse happens', async () => {
  const whole = fileOf('6.12-nested')
  let random = 12_345
  const next = (below: number) => {
    random = (Math.imul(random, 1_103_515_245) + 12_345) >>> 0
    return random % below
  }
  for (let round = 0; round < 12; round++) {
    const bytes = Uint8Array.from(whole.bytes)
    for (let i = 0; i < 6; i++) bytes[next(bytes.length)] = next(256)
    const cut = round % 3 === 0 ? bytes.subarray(0, next(bytes.length)) : bytes
    const mine = await Recording.read({ ...whole, bytes: cut }).catch((error: Error) => error)
    if (mine instanceof Error) {
      expect(mine.message).toMatch(/^6\.12-nested: /)
      continue
    }
    for (const row of [0, mine.rows, Math.floor(mine.rows / 2)]) {
      mine.seek(row)
      await mine.views.call('GET /smmus/:smmu/queues', { params: { smmu: 0 } })
      await mine.views.call('GET /counters')
      mine.views.status()
    }
  }
  await expect(Recording.read({ name: 'x', bytes: new Uint8Array(100) })).rejects.toThrow('no trace')
})

test('two recordings: the first difference, with the trap in each', async () => {
  const a = await opened('6.12-nested')
  const b = await opened('6.12-queues')
  expect(compare(a, a)).toEqual({ places: [], more: false })
  const { places } = compare(a, b)
  expect(places.length).toBeGreaterThan(0)
  const [first] = places
  const text = JSON.stringify(first?.sides)
  expect(text).toMatch(/sid 0x8: host s1, shadow nested.*sid 0x8: host s1, shadow s1/)
  const [left] = first?.sides ?? []
  expect(left?.[0]?.trap).toBeGreaterThan(0)
})

test('every policy that has a name is there', () => {
  expect([...POLICIES.keys()].sort()).toEqual([...POLICY_NAMES])
})

test('whether an SMMU was on, how often it was switched, and what was refused', async () => {
  const switched = (writer: RingWriter, state: number, result = 0) =>
    writer.request(request.power, result >>> 0, writer.now(), 0, 0, state, 0, 0)
  const boot = await madeUp(
    writer => {
      writer.reset(0, 1, 0, 0)
      switched(writer, 2)
      switched(writer, 1, EBUSY)
      switched(writer, 0)
      switched(writer, 0)
      switched(writer, 1)
      writer.reset(0, 2, 0, 0)
    },
    { policyOptions: { power: 'keep' } },
  )
  const mine = await Recording.read(boot)
  const moments = []
  for (let row = 1; row <= mine.rows; row++) {
    mine.seek(row)
    const { now } = await mine.views.call('GET /smmus/:smmu/power', { params: { smmu: 0 } })
    const { off, on, refused } = mine.views.counters().power
    moments.push([now, off, on, refused])
  }
  expect(moments).toEqual([
    ['on', 0, 0, 0],
    ['off', 1, 0, 0],
    ['off', 1, 0, 1],
    ['on', 1, 1, 1],
    ['on', 1, 1, 1],
    ['retained', 2, 1, 1],
    ['on', 2, 1, 1],
  ])
  const events = mine.views.stream('events', 1, 100).items
  expect(events.flatMap(({ kind, text }) => (kind === 'power' ? [text] : []))).toEqual([
    'SMMU 0 off: OK',
    'SMMU 0 retained: EBUSY',
    'SMMU 0 on: OK',
    'SMMU 0 on: OK',
    'SMMU 0 retained: OK',
  ])
})

test('of SMMUs that were not to be switched nothing is told', async () => {
  const mine = await Recording.read(await madeUp(writer => writer.reset(0, 1, 0, 0)))
  await expect(mine.views.call('GET /smmus/:smmu/power', { params: { smmu: 0 } })).rejects.toThrow(
    /not to be switched off/,
  )
})
