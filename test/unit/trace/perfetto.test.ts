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
import { perfetto, traceTime } from '../../../server/trace/export/perfetto.ts'
import { TraceReader } from '../../../server/trace/reader.ts'
import { bootRecording, folder, recording, trap } from './synthetic.ts'

interface Slice {
  readonly ts: number
  readonly dur: number
  readonly name: string
  readonly depth: number
  readonly parent: Slice | undefined
}

interface Imported {
  readonly threads: ReadonlyMap<string, readonly Slice[]>
  readonly counters: ReadonlyMap<string, number>
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
  const counters = new Map<string, number>()
  for (const { event, ts } of sorted) {
    const { ph, pid, tid, name, args } = event as { ph: string; pid: number; tid: number; name: string; args: object }
    if (event.ts === undefined && ph !== 'M') fail('no time', event)
    if (!Number.isInteger(pid) || pid <= 0 || !Number.isInteger(tid) || tid <= 0) fail('no place', event)
    if ((processOf.get(tid) ?? pid) !== pid) fail('a thread of two processes', event)
    processOf.set(tid, pid)
    if (ph === 'M') {
      const text = (args as { name?: unknown }).name
      if (typeof text !== 'string' || text === '') fail('no name', event)
      else if (name === 'thread_name') names.set(tid, text)
      else if (name !== 'process_name') fail('unknown metadata', event)
    } else if (ph === 'C') {
      for (const [key, value] of Object.entries(args)) {
        if (typeof value !== 'number') fail('a counter that is no number', event)
        counters.set(`${name} ${key}`, (counters.get(`${name} ${key}`) ?? 0) + 1)
      }
    } else if (ph === 'X' || ph === 'i') {
      if (ph === 'i' && event.s !== 't') fail('scope of an instant', event)
      const dur = ph === 'i' ? 0 : nanoseconds(event.dur)
      if (!(dur >= 0)) fail('no duration', event)
      const stack = stacks.get(tid) ?? []
      stacks.set(tid, stack)
      for (let top = stack.at(-1); top !== undefined; top = stack.at(-1)) {
        const end = top.ts + top.dur
        if (end > ts || (end === ts && top.dur === 0 && dur === 0)) break
        stack.pop()
      }
      const parent = stack.at(-1)
      if (parent !== undefined && ts < parent.ts + parent.dur && ts + dur > parent.ts + parent.dur) {
        fail(`overlaps ${parent.name} and is dropped`, event)
        continue
      }
      const slice = { ts, dur, name, depth: stack.length, parent }
      stack.push(slice)
      slices.set(tid, [...(slices.get(tid) ?? []), slice])
    } else fail('unknown phase', event)
  }
  const threads = new Map<string, readonly Slice[]>()
  for (const [tid, list] of slices) {
    const name = names.get(tid)
    if (name === undefined) fail('a thread without a name', tid)
    else threads.set(name, list)
  }
  return { threads, counters, failures }
}

const exported = (reader: TraceReader): Imported => importTrace([...perfetto(reader.header, reader.records())].join(''))

test('a boot: vCPU track with traps, accesses inside them, counters', async () => {
  const path = join(folder(), 'boot')
  await bootRecording(path)
  const reader = TraceReader.open(path)
  const { threads, counters, failures } = exported(reader)
  expect(failures).toEqual([])
  const traps = (threads.get('vCPU 0') ?? []).filter(({ depth }) => depth === 0)
  const records = [...reader.records()]
  const recorded = records.flatMap(r => (r.kind === 'trap' ? [r] : []))
  expect(traps.map(({ ts, dur }) => [ts, dur])).toEqual(recorded.map(({ start, duration }) => [start, duration]))
  const inside = (threads.get('vCPU 0') ?? []).filter(({ name }) => name.startsWith('hardware'))
  expect(inside.length).toBeGreaterThan(50)
  expect(inside.every(({ parent }) => parent !== undefined && / /.test(parent.name))).toBe(true)
  expect(threads.get('machine')?.some(({ name }) => name === 'reset')).toBe(true)
  expect([...counters.keys()].sort()).toEqual(['commands per second', 'traps per second'])
})

const recordings = fileURLToPath(new URL('recordings', import.meta.url))

test.each(readdirSync(recordings).filter(name => name.endsWith('.gz')))('the real boot %s', name => {
  const reader = TraceReader.open(join(recordings, name))
  const { threads, failures } = exported(reader)
  expect(failures).toEqual([])
  expect(threads.get('vCPU 0')?.filter(({ depth }) => depth === 0).length).toBe(500)
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
    fc.property(fc.integer({ min: 0, max: 2 ** 47 }), ns => {
      expect(nanoseconds(JSON.parse(JSON.stringify(traceTime(ns))))).toBe(ns)
    }),
    { numRuns: 5_000 },
  )
})

test('the importer sees what is wrong', () => {
  const events = (list: object[], more = {}) =>
    JSON.stringify({ ...more, traceEvents: list })
      .replace(':[', ':[\n')
      .replaceAll('},{', '},\n{')
      .replace(']}', '\n]}')
  const name = { ph: 'M', pid: 1, tid: 1, name: 'thread_name', args: { name: 'a' } }
  const slice = { ts: 1, dur: 5, ph: 'X', pid: 1, tid: 1, name: 'x' }
  const wrong = (list: object[], more = {}) => importTrace(events([name, ...list], more)).failures[0]
  expect(wrong([slice])).toBeUndefined()
  expect(wrong([slice, { ...slice, ts: 3 }])).toMatch(/overlaps x/)
  expect(wrong([slice, { ...slice, pid: 2, ts: 9 }])).toMatch(/two processes/)
  expect(wrong([{ ...slice, tid: 4 }])).toMatch(/without a name/)
  expect(wrong([{ ...slice, dur: undefined }])).toMatch(/no duration/)
  expect(wrong([{ ...slice, ph: 'i', s: 'x' }])).toMatch(/scope/)
  expect(wrong([slice], { displayTimeUnit: 'ns' })).toMatch(/ns/)
})
