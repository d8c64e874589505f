// SPDX-License-Identifier: Apache-2.0
import { expect, test } from 'vitest'
import { commandWords, streamEntries } from '../../../server/trace/groupMemory.ts'
import { groups, isGroup } from '../../../server/trace/groups.ts'
import { type RecordOf, type TraceRecord, verdict } from '../../../server/trace/records.ts'

const trap = (seq: number, time: number): TraceRecord => ({
  kind: 'trap',
  seq,
  time,
  start: time,
  duration: 5,
  smmu: 0,
  cpu: 0,
  write: 1,
  offset: 0x98,
  size: 4,
  lo: 0,
  hi: 0,
  aborted: 0,
  pcLo: 0,
  pcHi: 0,
  lastTrapNs: 0,
  released: 0,
})
const command = (opcode: number, result: number = verdict.kept): TraceRecord => {
  return { kind: 'command', smmu: 0, opcode, verdict: result }
}
const memory = (
  write: 0 | 1,
  address: number,
  bytes: Uint8Array,
  rest: Partial<RecordOf<'memory'>> = {},
): TraceRecord => {
  return { kind: 'memory', write, address, length: bytes.length, done: 0, digest: 0, ok: 1, bytes, ...rest }
}
const gerror = (time: number): TraceRecord => ({ kind: 'gerror', smmu: 0, time, gerror: 1, gerrorn: 0 })
const words = (...values: number[]) => new Uint8Array(Uint32Array.from(values).buffer)

/** The shape of a time line: numbers of traps with what is in them, kinds of the rest. */
const shape = (records: TraceRecord[]) =>
  [...groups(records)].map(item => {
    if (!isGroup(item)) return item.kind
    const { root, children, whole } = item
    return [root.kind === 'trap' ? root.seq : root.kind, ...children.map(({ kind }) => kind), ...(whole ? [] : ['…'])]
  })

test('what was done for a decision goes with it, and nothing else', () => {
  const console: TraceRecord = { kind: 'console', start: 1, text: 'hello' }
  const lost: TraceRecord = { kind: 'lost', count: 3 }
  expect(
    shape([
      memory(0, 0, words(1)),
      command(3),
      trap(1, 100),
      console,
      trap(2, 200),
      gerror(250),
      memory(0, 0, words(1)),
      gerror(310),
      trap(3, 300),
      command(3),
      lost,
      command(4),
      trap(4, 400),
      trap(5, 500),
      gerror(600),
    ]),
  ).toEqual([
    [1, 'memory', 'command'],
    'console',
    [2],
    'gerror',
    [3, 'memory', 'gerror'],
    'command',
    'lost',
    [4, 'command', '…'],
    [5],
    'gerror',
  ])
})

test('what was done for a held trap goes with it, whatever was asked for meanwhile', () => {
  const stop = (seq: number, decided: 0 | 1): TraceRecord => ({ kind: 'breakpoint', id: 1, seq, start: 1, decided })
  const asked: TraceRecord[] = [
    memory(0, 0, words(1)),
    {
      ...{ kind: 'request', request: 0, result: 0, start: 1, duration: 1 },
      ...{ v0: 0, v1: 0, v2: 0, v3: 0 },
    } as TraceRecord,
  ]
  const console: TraceRecord = { kind: 'console', start: 1, text: 'hello' }
  // Decided before, so that it comes first.
  expect(shape([command(3), stop(1, 1), ...asked, console, trap(1, 100), ...asked])).toEqual([
    [1, 'command', 'breakpoint'],
    ['request', 'memory'],
    'console',
    ['request', 'memory'],
  ])
  // Decided after it was asked for.
  expect(shape([stop(1, 0), ...asked, console, command(3), trap(1, 100)])).toEqual([
    ['request', 'memory'],
    'console',
    [1, 'breakpoint', 'command'],
  ])
  // Both, one behind the other.
  expect(shape([stop(1, 0), ...asked, command(3), stop(1, 1), ...asked, trap(1, 100), trap(2, 200)])).toEqual([
    ['request', 'memory'],
    [1, 'breakpoint', 'command', 'breakpoint'],
    ['request', 'memory'],
    [2],
  ])
  // It was never answered: the machine is gone, or records are.
  expect(shape([command(3), stop(1, 1), ...asked])).toEqual(['command', 'breakpoint', ['request', 'memory']])
  expect(shape([command(3), stop(1, 1), trap(5, 100)])).toEqual(['command', 'breakpoint', [5]])
  expect(shape([command(3), stop(1, 1), { kind: 'lost', count: 3 }, trap(1, 100)])).toEqual([
    'command',
    'breakpoint',
    'lost',
    [1, '…'],
  ])
})

test('the words of commands are found in what was read, in one part or in several, or not at all', () => {
  const sync = words(0x46, 0, 0, 0)
  const tlbi = words(0x12, 0, 0x1000, 0)
  const ste = words(0x0b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
  const two = Buffer.concat([tlbi, sync])
  const found = (...children: TraceRecord[]) => commandWords(children).map(w => w && [...w])
  expect(found(memory(0, 16, two), command(0x12), command(0x46))).toEqual([
    [0x12, 0, 0x1000, 0],
    [0x46, 0, 0, 0],
  ])
  // The end of the queue between them, an entry and its descriptor before them, own commands among them.
  expect(
    found(
      memory(0, 8, words(1, 2)),
      memory(0, 0, ste),
      memory(0, 4080, tlbi),
      memory(0, 0, sync),
      command(0x03, verdict.own),
      command(0x12),
      command(0x46, verdict.dropped),
    ),
  ).toEqual([
    [0x12, 0, 0x1000, 0],
    [0x46, 0, 0, 0],
  ])
  // A long read in parts, as the ring splits it.
  const part = (bytes: Uint8Array, done: number) => memory(0, 0, bytes, { length: 32, done })
  expect(found(part(tlbi, 0), part(sync, 16), command(0x12), command(0x46)).length).toBe(2)
  expect(found(part(tlbi, 0), part(sync, 16), command(0x12), command(0x46))[1]).toEqual([0x46, 0, 0, 0])
  // Not there: not guessed.
  expect(found(command(0x12), command(0x46))).toEqual([undefined, undefined])
  expect(found(memory(0, 0, words(0x13, 0, 0, 0)), command(0x12))).toEqual([undefined])
  expect(found(memory(0, 0, tlbi, { ok: 0, bytes: new Uint8Array() }), command(0x12))).toEqual([undefined])
})

const entry = (first: number) => new Uint8Array(BigUint64Array.from([BigInt(first), 1n, 2n, 3n, 4n, 5n, 6n, 7n]).buffer)
const stream = (hostConfig: number, shadowConfig: number): TraceRecord => {
  return { kind: 'stream', smmu: 0, sid: 8, hostConfig, shadowConfig }
}
/** First words of the host's entry and of the shadow, of the last record. */
const entries = (...children: TraceRecord[]) => {
  const { host, shadow } = streamEntries(children, children.length - 1)
  return [host?.[0], shadow?.[0]]
}

test('a shadowed entry is what was written over what was there', () => {
  const children = [
    memory(0, 0x1000, entry(0x0b)),
    memory(0, 0x9040, new Uint8Array(64)),
    memory(1, 0x9048, entry(0).subarray(8)),
    memory(1, 0x8000, words(3, 8, 1, 0, 0x46, 0, 0, 0)),
    memory(1, 0x9040, entry(0x0f).subarray(0, 8)),
    memory(1, 0x8020, words(3, 8, 1, 0, 0x46, 0, 0, 0)),
    stream(5, 7),
  ]
  const found = streamEntries(children, children.length - 1)
  expect([...(found.host ?? [])]).toEqual([0x0bn, 1n, 2n, 3n, 4n, 5n, 6n, 7n])
  expect([...(found.shadow ?? [])]).toEqual([0x0fn, 1n, 2n, 3n, 4n, 5n, 6n, 7n])
  expect(streamEntries([command(3)], 0)).toEqual({ host: undefined, shadow: undefined })
})

test('of several streams each has its own entries, also those that were not written', () => {
  const [bypass, s2, abort, invalid] = [0x09, 0x0d, 0x01, 0x0c]
  const first = [memory(0, 0x1000, entry(bypass)), memory(0, 0x9000, entry(s2)), stream(4, 6)]
  expect(entries(...first)).toEqual([9n, 13n])
  expect(entries(...first, stream(4, 6))).toEqual([undefined, undefined])
  expect(entries(...first, memory(0, 0x1040, entry(abort)), memory(0, 0x9040, entry(0x2001)), stream(0, 0))).toEqual([
    1n,
    0x2001n,
  ])
  // Only one was read: it is the host's.
  expect(entries(...first, memory(0, 0x1040, entry(abort)), stream(0, 0))).toEqual([1n, undefined])
  expect(entries(...first, memory(0, 0x1040, entry(abort)), stream(0, 6))).toEqual([1n, undefined])
  // A shadow whose host nobody read.
  const written = [memory(0, 0x9040, entry(0)), memory(1, 0x9040, entry(s2).subarray(0, 8))]
  expect(entries(...written, stream(4, 6))).toEqual([undefined, 13n])
  // What was written is not the host's, whatever is in it.
  const other = [memory(0, 0x9000, entry(0)), memory(1, 0x9000, entry(0x1000 | bypass).subarray(0, 8))]
  expect(entries(memory(0, 0x1040, entry(bypass)), ...other, ...written, stream(4, 6))).toEqual([9n, 13n])
  expect(entries(memory(0, 0x1040, entry(invalid)), ...written, stream(0xffff_ffff, 6))).toEqual([12n, 13n])
})
