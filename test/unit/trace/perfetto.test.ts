// SPDX-License-Identifier: Apache-2.0
/**
 * The export as Perfetto's trace processor takes it in. The rules are those of its JSON importer (json_trace_tokenizer,
 * json_trace_parser_impl, slice_tracker), the stricter one where its versions differ: whatever it would drop, refuse or put
 * elsewhere is a failure here.
 */
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { opcodeName } from '../../../server/smmu/commands.ts'
import { perfetto, traceTime } from '../../../server/trace/export/perfetto.ts'
import { MAX_CLOCK } from '../../../server/trace/export/timeline.ts'
import { TraceReader } from '../../../server/trace/reader.ts'
import { verdict } from '../../../server/trace/records.ts'
import { bootRecording, folder, recording, trap } from './synthetic.ts'

interface Slice {
  readonly ts: number
  dur: number
  readonly name: string
  readonly depth: number
  readonly parent: Slice | undefined
  readonly args: string | undefined
}

interface Flow {
  readonly from: Slice
  readonly to: Slice
}

interface Imported {
  readonly threads: ReadonlyMap<string, readonly Slice[]>
  readonly counters: ReadonlyMap<string, readonly (readonly [ts: number, value: number])[]>
  readonly flows: readonly Flow[]
  readonly failures: readonly string[]
}

type Event = Readonly<Record<string, unknown>>

/** Seconds and ns are cut off, not rounded. */
const nanoseconds = (us: unknown): number => Math.trunc(Number(us) * 1000)

function importTrace(text: string): Imported {
  const failures: string[] = []
  const fail = (what: string, event: unknown) => void failures.push(`${what}: ${JSON.stringify(event).slice(0, 200)}`)
  const file = JSON.parse(text) as { traceEvents: Event[]; displayTimeUnit?: string }
  if (file.displayTimeUnit === 'ns') fail('times are taken for ns', file.displayTimeUnit)
  // The time is looked for without decoding the rest: escapes other than the simple ones and arrays before it are errors.
  for (const [, line = ''] of text.matchAll(/^(\{.*\}),?$/gm)) {
    const before = /"ph":"M"/.test(line) ? line : line.slice(0, line.indexOf('"ts":'))
    if (/\\u/.test(before) || /:\[/.test(before.replace(/"args":\{.*/, ''))) fail('unreadable before its time', line)
  }
  const processOf = new Map<number, number>()
  const names = new Map<number, string>()
  const sorted = file.traceEvents.map(event => ({ event, ts: nanoseconds(event.ts ?? 0) })).sort((a, b) => a.ts - b.ts)
  const stacks = new Map<number, Slice[]>()
  const slices = new Map<number, Slice[]>()
  const counters = new Map<string, (readonly [number, number])[]>()
  const flows: Flow[] = []
  const begun = new Map<unknown, Slice>()
  for (const { event, ts } of sorted) {
    const { ph, pid, tid, name, args } = event as { ph: string; pid: number; tid: number; name: string; args: object }
    if (event.ts === undefined && ph !== 'M') fail('no time', event)
    if (typeof name !== 'string' || name === '') fail('no name', event)
    // Whole ns: what is beyond is a small part of one, and never below.
    if (event.ts !== undefined && !(Math.abs(Number(event.ts) * 1000 - ts) < 0.5)) fail('no whole ns', event)
    if (!Number.isInteger(pid) || pid <= 0 || !Number.isInteger(tid) || tid <= 0) fail('no place', event)
    if ((processOf.get(tid) ?? pid) !== pid) fail('a thread of two processes', event)
    processOf.set(tid, pid)
    const stack = stacks.get(tid) ?? []
    stacks.set(tid, stack)
    const parent = stack.at(-1)
    if (ph === 'M') {
      const text = (args as { name?: unknown }).name
      if (typeof text !== 'string' || text === '') fail('no name', event)
      else if (name === 'thread_name') names.set(tid, text)
      else if (name !== 'process_name') fail('unknown metadata', event)
    } else if (ph === 'C') {
      for (const [key, value] of Object.entries(args)) {
        if (typeof value !== 'number') fail('a counter that is no number', event)
        const points = counters.get(`${name} ${key}`) ?? []
        counters.set(`${name} ${key}`, points)
        points.push([ts, value])
      }
    } else if (ph === 'B' || ph === 'i') {
      if (ph === 'i' && event.s !== 't') fail('scope of an instant', event)
      const slice = { ts, dur: 0, name, depth: stack.length, parent, args: JSON.stringify(args) }
      if (ph === 'B') stack.push(slice)
      slices.set(tid, [...(slices.get(tid) ?? []), slice])
    } else if (ph === 'E') {
      // Perfetto looks for the name, speedscope for the arguments, too.
      if (parent?.name !== name || parent.args !== JSON.stringify(args)) fail(`ends not ${parent?.name}`, event)
      else if (ts <= parent.ts) fail('takes no time', event)
      else {
        parent.dur = ts - parent.ts
        stack.pop()
      }
    } else if (ph === 's' || ph === 'f') {
      const from = begun.get(event.id)
      if (event.cat === undefined || event.id === undefined) fail('a flow without id or category', event)
      else if (parent === undefined || (ph === 'f' && event.bp !== 'e')) fail('a flow in no slice', event)
      else if (ph === 's' && from !== undefined) fail('a flow that begins twice', event)
      else if (ph === 's') begun.set(event.id, parent)
      else if (from === undefined) fail('a flow that begins nowhere', event)
      else {
        flows.push({ from, to: parent })
        begun.delete(event.id)
      }
    } else fail('unknown phase', event)
  }
  for (const stack of stacks.values()) for (const { name } of stack) fail('does not end', name)
  for (const id of begun.keys()) fail('a flow that ends nowhere', id)
  // In the file itself the slices of a track come in order, and the values of a counter.
  const latest = new Map<unknown, number>()
  for (const { ph, name, tid, ts } of file.traceEvents) {
    if (ph !== 'B' && ph !== 'E' && ph !== 'C') continue
    if (Number(ts) < (latest.get(`${ph === 'C' ? name : ''} ${tid}`) ?? 0)) fail('goes back in time', { name, ts })
    latest.set(`${ph === 'C' ? name : ''} ${tid}`, Number(ts))
  }
  const threads = new Map<string, readonly Slice[]>()
  for (const [tid, list] of slices) {
    const name = names.get(tid)
    if (name === undefined) fail('a thread without a name', tid)
    else threads.set(name, list)
  }
  return { threads, counters, flows, failures }
}

const exported = (reader: TraceReader): Imported => importTrace([...perfetto(reader.header, reader.records())].join(''))

test('a boot: vCPU track with traps, commands and accesses inside them, counters, flows', async () => {
  const path = join(folder(), 'boot')
  await bootRecording(path)
  const reader = TraceReader.open(path)
  const { threads, counters, flows, failures } = exported(reader)
  expect(failures).toEqual([])
  const slices = threads.get('vCPU 0') ?? []
  const traps = slices.filter(({ depth }) => depth === 0)
  const records = [...reader.records()]
  const recorded = records.flatMap(r => (r.kind === 'trap' ? [r] : []))
  expect(traps.map(({ ts, dur }) => [ts, dur])).toEqual(recorded.map(({ start, duration }) => [start, duration]))
  const inside = slices.filter(({ name }) => name.startsWith('hardware') || name.startsWith('posted'))
  expect(inside.length).toBeGreaterThan(50)
  expect(inside.every(({ parent }) => parent !== undefined && / |CFGI/.test(parent.name))).toBe(true)
  expect(threads.get('machine')?.some(({ name }) => name === 'reset')).toBe(true)
  expect([...counters.keys()].sort()).toEqual([
    'commands per second',
    'smmu0 CMDQ depth value',
    'smmu0 EVTQ depth value',
    'smmu0 outstanding SYNCs value',
    'traps per second',
  ])
  // Each command of the host, in the order of the recording, by its name; those that were dropped lead nowhere.
  const commands = slices.filter(({ parent, args }) => parent?.name === 'W CMDQ_PROD' && args?.includes('"verdict"'))
  const filtered = records.flatMap(r => (r.kind === 'command' && r.verdict !== verdict.own ? [r] : []))
  expect(commands.map(({ name }) => name)).toEqual(filtered.map(({ opcode }) => opcodeName(opcode)))
  const leads = new Set(flows.map(({ from }) => from))
  expect(commands.filter(({ dur }) => dur > 0).map(slice => leads.has(slice))).toEqual(
    commands.filter(({ dur }) => dur > 0).map(({ args }) => !args?.includes('"dropped"')),
  )
  // The test hardware answers in no time: all its writes look posted, and its reads are marks.
  expect(new Set(flows.map(({ to }) => to.name))).toEqual(new Set(['posted W CMDQ_PROD']))
})

const recordings = fileURLToPath(new URL('recordings', import.meta.url))

test.each(readdirSync(recordings).filter(name => name.endsWith('.gz')))('the real boot %s', name => {
  const reader = TraceReader.open(join(recordings, name))
  const { threads, failures } = exported(reader)
  expect(failures).toEqual([])
  expect(threads.get('vCPU 0')?.filter(({ depth }) => depth === 0).length).toBe(500)
})

test('an STE that is written: what the command led to lies in it, and the queue is empty when the host saw that', () => {
  const { threads, counters, flows } = exported(TraceReader.open(join(recordings, '6.12-nested.gz')))
  const slices = threads.get('vCPU 0') ?? []
  const command = slices.find(({ args }) => args?.includes('CFGI_STE sid=0x10 leaf'))
  expect(command?.parent?.args).toContain('"seq":71,')
  expect(slices.filter(({ parent, dur }) => parent === command && dur > 0).map(({ name }) => name)).toEqual([
    'own CFGI_STE',
    'own SYNC',
    'hardware W CMDQ_PROD',
    'hardware R CMDQ_CONS',
    'shadow STE 0x10',
  ])
  const led = (slice: Slice | undefined) => flows.filter(({ from }) => from === slice).map(({ to }) => to)
  expect(led(command).map(({ name }) => name)).toEqual(['posted W CMDQ_PROD'])
  const sync = slices.find(({ parent, name }) => parent === command && name === 'own SYNC')
  expect(led(sync).map(({ name }) => name)).toEqual(['hardware W CMDQ_PROD', 'hardware R CMDQ_CONS'])
  const around = (name: string, from: number) =>
    counters.get(name)?.flatMap(([ts, value]) => (ts >= from && ts < from + 2_000_000 ? [value] : []))
  expect(around('smmu0 CMDQ depth value', command?.ts ?? 0)).toEqual([2, 0, 2])
  expect(around('smmu0 outstanding SYNCs value', command?.ts ?? 0)).toEqual([1, 0, 1])
})

test('a coloured console, a machine that is paused, and times of any kind', async () => {
  const path = join(folder(), 'marks')
  await recording(path, (writer, pump) => {
    writer.trap(trap, 1_000_299, 1_001, 0, 0)
    pump.drain()
    pump.console('\x1b[1;31mred\x1b[m alert\x07 "quoted" \\ ü')
    pump.machine(2)
  })
  const { threads, failures } = exported(TraceReader.open(path))
  expect(failures).toEqual([])
  expect(threads.get('guest console')?.map(({ name }) => name)).toEqual(['red alert "quoted" \\ ü'])
  expect(threads.get('machine')?.map(({ name }) => name)).toContainEqual(expect.stringMatching(/^machine +paused$/))
  expect(threads.get('vCPU 0')?.map(({ ts, dur }) => [ts, dur])).toEqual([[1_000_299, 1_001]])
})

test('property: a time in µs is the same ns after multiplying and cutting', () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: MAX_CLOCK }), ns => {
      expect(nanoseconds(JSON.parse(JSON.stringify(traceTime(ns))))).toBe(ns)
    }),
    { numRuns: 5_000 },
  )
})

test('property: clocks that go back, overlap or end nowhere still make slices that lie in each other', async () => {
  const time = fc.oneof(
    fc.integer({ min: 0, max: 50 }),
    fc.integer({ min: 0, max: 2 ** 40 }),
    fc.constantFrom(2 ** 53, Number.NaN, Number.POSITIVE_INFINITY, -5, 0.5),
  )
  const step = fc.record({
    start: time,
    duration: time,
    cpu: fc.constantFrom(0, 1, 7, 0xffff),
    children: fc.array(
      fc.oneof(
        fc.record({
          kind: fc.constant('hardware' as const),
          start: time,
          duration: fc.nat(1 << 20),
          write: fc.boolean(),
        }),
        fc.record({
          kind: fc.constant('command' as const),
          verdict: fc.nat(3),
          opcode: fc.constantFrom(0x46, 0x12, 3),
        }),
        fc.record({ kind: fc.constant('stream' as const) }),
      ),
      { maxLength: 8 },
    ),
  })
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 12 }), async steps => {
      const path = join(folder(), 'any')
      await recording(path, writer => {
        for (const [seq, { start, duration, cpu, children }] of steps.entries()) {
          for (const child of children) {
            if (child.kind === 'command') writer.command(0, child.opcode, child.verdict)
            else if (child.kind === 'stream') writer.stream(0, 8, 5, 7)
            else writer.hardware(0, child.write, child.start, child.duration, child.write ? 0x98 : 0x9c, 4, 1, 0, true)
          }
          writer.trap({ ...trap, seq, cpu }, start, duration, 0, 0)
        }
      })
      expect(exported(TraceReader.open(path)).failures).toEqual([])
    }),
    // The sum of two times is one as well.
    {
      numRuns: 200,
      examples: [[[{ start: 42, duration: 2 ** 53, cpu: 0, children: Array(3).fill({ kind: 'stream' }) }]]],
    },
  )
})

test('the importer sees what is wrong', () => {
  const events = (list: object[], more = {}) =>
    JSON.stringify({ ...more, traceEvents: list })
      .replace(':[', ':[\n')
      .replaceAll('},{', '},\n{')
      .replace(']}', '\n]}')
  const name = { ph: 'M', pid: 1, tid: 1, name: 'thread_name', args: { name: 'a' } }
  const at = { pid: 1, tid: 1, name: 'x' }
  const slice = [
    { ts: 1, ph: 'B', ...at },
    { ts: 6, ph: 'E', ...at },
  ]
  const wrong = (list: object[], more = {}) => importTrace(events([name, ...list], more)).failures[0]
  expect(wrong(slice)).toBeUndefined()
  const other = slice.map(event => ({ ...event, name: 'y', ts: event.ts + 2 }))
  expect(wrong([...slice, ...other])).toMatch(/ends not y/)
  expect(wrong(slice.map(event => ({ ...event, args: { n: event.ts } })))).toMatch(/ends not x/)
  expect(wrong(slice.slice(0, 1))).toMatch(/does not end/)
  expect(wrong(slice.map(event => ({ ...event, ts: 1 })))).toMatch(/takes no time/)
  expect(wrong([...slice, ...slice.map(event => ({ ...event, pid: 2, ts: event.ts + 9 }))])).toMatch(/two processes/)
  expect(wrong(slice.map(event => ({ ...event, tid: 4 })))).toMatch(/without a name/)
  expect(wrong([...slice.map(event => ({ ...event, ts: event.ts + 9 })), ...slice])).toMatch(/back in time/)
  expect(wrong([{ ts: 1.0006, ph: 'i', s: 't', ...at }])).toMatch(/no whole ns/)
  expect(wrong([{ ts: 1, ph: 'i', s: 'x', ...at }])).toMatch(/scope/)
  const flow = { id: 1, cat: 'flow', ...at }
  const within = (...flows: object[]) => wrong([slice[0], ...flows, slice[1]].map(event => ({ ...event })))
  const begins = { ...flow, ts: 2, ph: 's' }
  const ends = { ...flow, ts: 3, ph: 'f', bp: 'e' }
  expect(within(begins, ends)).toBeUndefined()
  expect(within(begins)).toMatch(/ends nowhere/)
  expect(within(ends)).toMatch(/begins nowhere/)
  expect(within(begins, { ...ends, bp: undefined })).toMatch(/in no slice/)
  expect(wrong([begins, ends])).toMatch(/in no slice/)
  expect(wrong(slice, { displayTimeUnit: 'ns' })).toMatch(/ns/)
})
