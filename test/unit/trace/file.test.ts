// SPDX-License-Identifier: Apache-2.0
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { gzipSync } from 'node:zlib'
import fc from 'fast-check'
import { unpackMultiple } from 'msgpackr'
import { expect, test } from 'vitest'
import { BLOCK_HEADER, decodeBlockHeader, FORMAT } from '../../../server/trace/format.ts'
import { join as joinSegments } from '../../../server/trace/join.ts'
import { Packer, Unpacker } from '../../../server/trace/msgpack.ts'
import { MAX_UNPACKED, TraceError, TraceReader } from '../../../server/trace/reader.ts'
import { newHeader, Recorder } from '../../../server/trace/recorder.ts'
import { type FieldType, kinds, type TraceRecord } from '../../../server/trace/records.ts'
import { CHUNK, type RingWriter } from '../../../server/trace/ring.ts'
import { folder, header, recording, trap } from './synthetic.ts'

const number = fc.oneof(fc.nat(300), fc.nat(2 ** 31), fc.constant(2 ** 32 - 1))
const field: Record<FieldType, fc.Arbitrary<number | string | Uint8Array>> = {
  u32: number,
  flag: fc.nat(1),
  f64: fc.oneof(number, fc.maxSafeNat(), fc.constant(-1), fc.double({ noNaN: true })),
  bytes: fc.uint8Array({ maxLength: 300 }),
  text: fc.string({ unit: 'grapheme', maxLength: 300 }),
}

const anyRecord: fc.Arbitrary<TraceRecord> = fc.oneof(
  ...Object.entries(kinds).map(([kind, { fields }]) => {
    const values = Object.entries(fields).map(([name, type]) => [name, field[type]] as const)
    return fc.record({ kind: fc.constant(kind), ...Object.fromEntries(values) }) as unknown as fc.Arbitrary<TraceRecord>
  }),
)

/** Traps 1 to `count`, each with a memory read and a hardware write, in one block per four. */
async function traps(writer: RingWriter, drain: () => void, count: number): Promise<void> {
  for (let seq = 1; seq <= count; seq++) {
    writer.memoryAccess(false, 0x4800_0000 + seq, Buffer.alloc(16, seq), 0, 16, true)
    writer.hardware(0, true, seq * 1000 + 10, 200, 0x98, 4, seq, 0, true)
    writer.trap({ ...trap, seq }, seq * 1000, 300, 5000, 0)
    if (seq % 4 === 0) {
      drain()
      await new Promise(resolve => setTimeout(resolve, 210))
      drain()
    }
  }
}

function read(path: string): { records: TraceRecord[]; problems: string[] } {
  const reader = TraceReader.open(path)
  const records = [...reader.records()]
  return { records, problems: reader.problems.map(({ offset, message }) => `${offset}: ${message}`) }
}

const seqs = (records: readonly TraceRecord[]) => records.flatMap(r => (r.kind === 'trap' ? [r.seq] : []))

/** A file with three blocks of four traps, its bytes, and where its blocks are. */
const sample = (() => {
  let made: Promise<{ bytes: Buffer; blocks: number[] }> | undefined
  return () => {
    made ??= (async () => {
      const path = join(folder(), 'sample')
      await recording(path, (writer, pump) => traps(writer, () => pump.drain(), 12))
      const bytes = readFileSync(path)
      const blocks: number[] = []
      for (let at = 0; ; ) {
        const info = decodeBlockHeader(bytes.subarray(at, at + BLOCK_HEADER))
        if (info === undefined) return { bytes, blocks }
        blocks.push(at)
        at += BLOCK_HEADER + info.length
      }
    })()
    return made
  }
})()

test('property: records survive packing, and msgpackr reads them too', () => {
  fc.assert(
    fc.property(fc.array(anyRecord, { maxLength: 20 }), records => {
      const packer = new Packer()
      for (const record of records) packer.record(record)
      const bytes = Buffer.from(packer.buffer.subarray(0, packer.length))
      const unpacker = new Unpacker(bytes)
      const found = []
      while (!unpacker.done) found.push(unpacker.next())
      // -0 becomes 0
      expect(JSON.stringify(found)).toBe(JSON.stringify(records))
      const independent = bytes.length > 0 ? (unpackMultiple(bytes) as unknown[][]) : []
      expect(independent.map(values => values[0])).toEqual(records.map(({ kind }) => kinds[kind].id))
      expect(independent.map(values => values.length)).toEqual(records.map(r => Object.keys(r).length))
    }),
  )
})

test('property: no bytes crash the record reader', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 100 }), bytes => {
      const unpacker = new Unpacker(Buffer.from(bytes))
      try {
        while (!unpacker.done) unpacker.next()
      } catch (error) {
        expect((error as Error).name).toBe('RecordError')
      }
    }),
    { numRuns: 2000 },
  )
})

test('older and newer records: missing fields are 0, further ones ignored, unknown kinds skipped', () => {
  const bytes = Buffer.from([0x92, 16, 5, 0x92, 4, 1, 0x93, 31, 1, 0xc4, 0, 0x94, 16, 6, 7, 8])
  const unpacker = new Unpacker(bytes)
  const found = []
  while (!unpacker.done) found.push(unpacker.next())
  expect(found).toEqual([
    { kind: 'lost', count: 5 },
    { kind: 'guard', add: 1, base: 0, size: 0 },
    undefined,
    { kind: 'lost', count: 6 },
  ])
})

test('a recording is read as it was written', async () => {
  const path = join(folder(), 'trace')
  const summary = await recording(path, (writer, pump) => {
    pump.control('connected', { session: 1 })
    writer.trap(trap, 1000, 2000, 0, 0)
    pump.console('[    0.000000] Booting Linux')
    writer.memoryAccess(false, 4096, Buffer.alloc(3 * CHUNK, 7), 0, 3 * CHUNK, true)
    writer.trap({ ...trap, seq: 2 }, 3000, 2000, 0, 0)
  })
  const { records, problems } = read(path)
  expect(problems).toEqual([])
  expect(records.map(r => r.kind)).toEqual(['control', 'trap', 'console', 'memory', 'memory', 'memory', 'trap'])
  expect(records[1]).toMatchObject({ ...trap, write: 1, aborted: 0, start: 1000, duration: 2000 })
  expect(records[2]).toMatchObject({ text: '[    0.000000] Booting Linux' })
  expect(TraceReader.open(path).header).toEqual({ ...header, segment: 0 })
  expect(summary).toMatchObject({ segments: 1, removed: 0, records: 7, lost: 0, refused: 0 })
  expect(summary.bytes).toBe(readFileSync(path).length)
})

test('blocks that are not wanted are skipped with the index, and without one', async () => {
  const { bytes, blocks } = await sample()
  const path = join(folder(), 'trace')
  expect(blocks.length).toBe(5)
  for (const size of [bytes.length, blocks[4] ?? 0]) {
    writeFileSync(path, bytes.subarray(0, size))
    const reader = TraceReader.open(path)
    const records = [...reader.records(block => block.lastSeq >= 6 && block.firstSeq <= 7)]
    expect(seqs(records)).toEqual([5, 6, 7, 8])
  }
})

test('a compressed file is read, also a truncated one', async () => {
  const { bytes } = await sample()
  const path = join(folder(), 'trace.gz')
  const packed = gzipSync(bytes)
  writeFileSync(path, packed)
  expect(seqs(read(path).records).length).toBe(12)
  writeFileSync(path, packed.subarray(0, packed.length - 40))
  const { records, problems } = read(path)
  expect(seqs(records).length).toBeGreaterThan(4)
  expect(problems.length).toBe(1)
})

test('a small file that unpacks to a large one is refused, in bounded memory and time', () => {
  const path = join(folder(), 'bomb.gz')
  // 2 MiB of it are 2 GiB of zeros: gzip packs a thousand to one, and files of it may stand one after the other.
  const piece = gzipSync(Buffer.alloc(16 << 20))
  writeFileSync(path, Buffer.concat(Array.from({ length: 128 }, () => piece)))
  const before = process.memoryUsage.rss()
  expect(() => TraceReader.open(path)).toThrow(/unpacks to more than 256 MiB: unpack it with gunzip/)
  expect(process.memoryUsage.rss() - before).toBeLessThan(3 * MAX_UNPACKED)
})

test('cut off at any byte: all whole records, and a note where it ends', async () => {
  const { bytes, blocks } = await sample()
  const path = join(folder(), 'trace')
  const whole = seqs(readBytes(path, bytes).records)
  expect(whole.length).toBe(12)
  let last = 12
  for (let size = bytes.length - 1; size >= 0; size--) {
    truncateSync(path, size)
    if (size < (blocks[1] ?? 0)) {
      expect(() => read(path)).toThrow(TraceError)
      continue
    }
    const { records, problems } = read(path)
    expect(problems.length).toBeGreaterThan(0)
    for (const problem of problems) expect(Number.parseInt(problem, 10)).toBeLessThanOrEqual(size)
    const found = seqs(records)
    expect(found).toEqual(whole.slice(0, found.length))
    expect(found.length).toBeGreaterThanOrEqual(last - 1)
    last = found.length
  }
  expect(last).toBe(0)
})

function readBytes(path: string, bytes: Uint8Array) {
  writeFileSync(path, bytes)
  return read(path)
}

test('a damaged block is named and skipped, the others are given', async () => {
  const { bytes, blocks } = await sample()
  const [, , second = 0, third = 0] = blocks
  const path = join(folder(), 'trace')
  const inPayload = Buffer.from(bytes)
  inPayload[second + BLOCK_HEADER + 5] = (inPayload[second + BLOCK_HEADER + 5] ?? 0) ^ 1
  let found = readBytes(path, inPayload)
  expect(seqs(found.records)).toEqual([1, 2, 3, 4, 9, 10, 11, 12])
  expect(found.problems).toEqual([
    `${second}: block 2 (${third - second} bytes, 12 records) is damaged: wrong checksum; skipped`,
  ])
  const inHeader = Buffer.from(bytes)
  inHeader[second + 9] = 0xff
  found = readBytes(path, inHeader)
  expect(seqs(found.records).length).toBe(8)
  expect(found.problems).toEqual([`${second}: no block here; ${third - second} bytes skipped`])
  const missing = Buffer.concat([bytes.subarray(0, second), bytes.subarray(third)])
  found = readBytes(path, missing)
  expect(seqs(found.records).length).toBe(8)
  expect(found.problems[0]).toBe(`${second}: block 2 expected, this is block 3`)
  found = readBytes(path, Buffer.concat([bytes, Buffer.from('trailing')]))
  expect(seqs(found.records).length).toBe(12)
  expect(found.problems).toEqual([`${bytes.length}: 8 bytes after the end`])
})

test('property: no damage crashes the reader or invents a trap', async () => {
  const { bytes } = await sample()
  const path = join(folder(), 'trace')
  const { length } = bytes
  const edit = fc.tuple(fc.nat(length - 1), fc.nat(255))
  fc.assert(
    fc.property(
      fc.array(edit, { minLength: 1, maxLength: 8 }),
      fc.oneof(fc.constant(length), fc.nat(length)),
      (edits, size) => {
        const damaged = Buffer.from(bytes.subarray(0, size))
        for (const [at, value] of edits) if (at < size) damaged[at] = value
        try {
          const found = seqs(readBytes(path, damaged).records)
          // A block that is cut off can't be checked against its checksum.
          if (size === length) expect(found.every((seq, i) => seq > (found[i - 1] ?? 0))).toBe(true)
        } catch (error) {
          if (!(error instanceof TraceError)) throw error
        }
      },
    ),
    { numRuns: 300 },
  )
})

test('foreign, empty and newer files are refused by name', async () => {
  const { bytes } = await sample()
  const path = join(folder(), 'trace')
  const refusal = (content: Uint8Array) => {
    writeFileSync(path, content)
    try {
      TraceReader.open(path)
      return ''
    } catch (error) {
      expect(error).toBeInstanceOf(TraceError)
      return (error as Error).message.replace(path, '')
    }
  }
  expect(refusal(Buffer.alloc(0))).toBe(': the file is empty')
  expect(refusal(Buffer.from('#!/bin/sh\n'))).toBe(': this is no trace of smmu-cosim')
  expect(refusal(Buffer.from([0x1f, 0x8b, 1, 2, 3]))).toMatch(/compressed data is damaged/)
  const newer = Buffer.from(bytes)
  newer.writeUInt16LE(FORMAT + 1, 6)
  const readable = 'this program reads versions 1 to 2'
  expect(refusal(newer)).toBe(`: written in version 3 of the trace format; ${readable}`)
  newer.writeUInt16LE(0, 6)
  expect(refusal(newer)).toBe(`: written in version 0 of the trace format; ${readable}`)
  const damaged = Buffer.from(bytes)
  damaged[BLOCK_HEADER + 3] = 0
  expect(refusal(damaged)).toMatch(/header at byte 0 is damaged/)
  mkdirSync(`${path}.d`)
  expect(() => TraceReader.open(`${path}.d`)).toThrow(/not a file/)
  expect(() => TraceReader.open(`${path}.no`)).toThrow(/ENOENT/)
})

test('rotation keeps the first and the last segments, and says what is missing', async () => {
  const path = join(folder(), 'trace')
  const summary = await recording(path, (writer, pump) => traps(writer, () => pump.drain(), 48), { limit: 4000 })
  expect(summary.segments).toBeGreaterThan(8)
  expect(summary.removed).toBe(summary.segments - 8)
  const reader = TraceReader.open(path)
  const found = seqs([...reader.records()])
  expect(found.slice(0, 5)).toEqual([1, 2, 3, 4, 21])
  expect(found.at(-1)).toBe(48)
  expect(found.length).toBe(32)
  expect(reader.problems).toEqual([
    expect.objectContaining({
      damage: false,
      message: `${summary.removed} segments before this one removed by rotation`,
    }),
  ])
  // A segment by itself is a trace, too; and the next recording of this name removes them all.
  expect(seqs([...TraceReader.open(`${path}.${summary.segments - 1}`).records()]).length).toBe(4)
  await recording(path, writer => writer.trap(trap, 1, 1, 0, 0))
  expect(seqs([...TraceReader.open(path).records()])).toEqual([1])
})

test('the segments of a recording as one file, while it goes on and after', async () => {
  const path = join(folder(), 'trace')
  const whole = join(folder(), 'whole')
  const one = async (recorder: Recorder) => {
    writeFileSync(whole, await buffer(Readable.from(joinSegments(recorder.segments()))))
    const { records, problems } = read(whole)
    expect(problems).toEqual([])
    return records
  }
  const recorder = await Recorder.open({ path, header, limit: 8_000 })
  expect(recorder.segments()).toEqual([])
  recorder.describe(header.machine)
  const block = async (from: number) => {
    for (let seq = from; seq < from + 4; seq++) {
      const outcome = { write: 1, aborted: 0, lastTrapNs: 0, released: 0, start: seq * 1000, duration: 300 }
      recorder.record({ ...trap, ...outcome, kind: 'trap', seq })
      // Blocks are closed by size: fill them.
      recorder.record({ kind: 'console', start: seq, text: 'x'.repeat(1 << 16) })
    }
    await recorder.drained()
  }
  await block(1)
  expect(seqs(await one(recorder))).toEqual([1, 2, 3, 4])
  expect(recorder.segments().length).toBe(1)
  for (let from = 5; from < 60; from += 4) await block(from)
  const segments = recorder.segments()
  expect(segments.length).toBeGreaterThan(8)
  const removed = segments.filter(segment => segment.removed)
  expect(removed.length).toBe(segments.length - 8)
  const missing = removed.reduce((sum, { records }) => sum + records, 0)
  const live = await one(recorder)
  const gap = live.findIndex(({ kind }) => kind === 'lost')
  expect(live[gap]).toEqual({ kind: 'lost', count: missing })
  const kept = [...TraceReader.open(path).records()]
  expect(live.toSpliced(gap, 1)).toEqual(kept)
  expect(live.length - 1 + missing).toBe(segments.reduce((sum, { records }) => sum + records, 0))
  await recorder.close()
  expect(await one(recorder)).toEqual(live)
  // Only what is wanted is read, by the index.
  const blocks = [...TraceReader.open(whole).blocks(info => info.lastSeq >= 59)]
  expect(seqs(blocks.flat()).at(-1)).toBe(60)
  expect(blocks.length).toBeLessThan(4)
})

test('what the ring loses is marked at its place and counted', async () => {
  const path = join(folder(), 'trace')
  const produce = (writer: RingWriter, drain: () => void) => {
    const big = Buffer.alloc(CHUNK)
    writer.trap({ ...trap, seq: 1 }, 1, 1, 0, 0)
    for (let i = 0; i < 10; i++) writer.memoryAccess(false, 0, big, 0, CHUNK, true)
    drain()
    writer.trap({ ...trap, seq: 2 }, 2, 1, 0, 0)
    drain()
    for (let i = 0; i < 10; i++) writer.memoryAccess(false, 0, big, 0, CHUNK, true)
  }
  const summary = await recording(path, (writer, pump) => produce(writer, () => pump.drain()), { ring: 4 * CHUNK })
  const { records } = read(path)
  expect(records.map(r => (r.kind === 'lost' ? r.count : r.kind))).toEqual([
    'trap',
    'memory',
    'memory',
    'memory',
    7,
    'trap',
    'memory',
    'memory',
    'memory',
    7,
  ])
  expect(summary.lost).toBe(14)
})

test('a disk that refuses costs records, which are counted, and nothing else', async () => {
  const summary = await recording('/dev/full', async (writer, pump) => {
    for (let seq = 1; seq <= 4; seq++) {
      writer.trap({ ...trap, seq }, seq, 1, 0, 0)
      pump.drain()
      await new Promise(resolve => setTimeout(resolve, 210))
      pump.drain()
    }
  })
  expect(summary).toMatchObject({ records: 0, refused: 4, lost: 0, error: expect.stringContaining('ENOSPC') })
  await expect(recording(join(folder(), 'no', 'where'), () => {})).rejects.toThrow('ENOENT')
})

test('large recordings come in blocks that a reader can hold', async () => {
  const path = join(folder(), 'trace')
  await recording(
    path,
    (writer, pump) => {
      for (let seq = 1; seq <= 20_000; seq++) {
        writer.trap({ ...trap, seq }, seq * 1000, 300, 5000, 0)
        if (seq % 5000 === 0) pump.drain()
      }
    },
    { ring: 1 << 21 },
  )
  const reader = TraceReader.open(path)
  const blocks = [...reader.blocks()]
  expect(blocks.length).toBeGreaterThan(2)
  expect(Math.max(...blocks.map(block => block.length))).toBeLessThan(10_000)
  expect(seqs(blocks.flat())).toEqual(Array.from({ length: 20_000 }, (_, i) => i + 1))
})

test('a header says what ran, and when time began', () => {
  const {
    recording: id,
    created,
    epoch,
    versions,
    ...rest
  } = newHeader(5e9, {
    policy: 'pkvm',
    policyOptions: { until: 'cmdq' },
    kernel: '6.12',
    image: '/boot/vmlinuz',
  })
  expect(id).toMatch(/^[0-9a-f-]{36}$/)
  expect(Date.parse(created) - epoch).toBeGreaterThanOrEqual(4999)
  expect(Date.parse(created) - epoch).toBeLessThan(6000)
  expect(Object.keys(versions)).toEqual(['smmu-cosim', 'node'])
  expect(rest).toEqual({ policy: 'pkvm', policyOptions: { until: 'cmdq' }, kernel: '6.12', image: '/boot/vmlinuz' })
})

test('a killed recording is whole up to its last block', async () => {
  const path = join(folder(), 'trace')
  const child = spawn(process.execPath, [fileURLToPath(new URL('./endless.ts', import.meta.url)), path])
  await expect.poll(() => existsSync(path) && statSync(path).size).toBeGreaterThan(200_000)
  child.kill('SIGKILL')
  await once(child, 'close')
  const { records, problems } = read(path)
  const found = seqs(records)
  expect(found.length).toBeGreaterThan(3000)
  expect(found).toEqual(found.map((_, i) => i + 1))
  expect(problems.length).toBe(1)
  expect(problems[0]).toMatch(/: (the recording was not ended|the file is cut off in block)/)
})
