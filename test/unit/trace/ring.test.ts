// SPDX-License-Identifier: Apache-2.0
import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import { crc32 } from 'node:zlib'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { Trap } from '../../../server/policy/policy.ts'
import type { TraceRecord } from '../../../server/trace/records.ts'
import { CHUNK, createRing, KEPT_WRITE, RingReader, RingWriter } from '../../../server/trace/ring.ts'

const SMALL = 4 * CHUNK

const trap: Trap = {
  seq: 7,
  smmu: 1,
  cpu: 0xffff,
  write: true,
  offset: 0x100ac,
  size: 8,
  time: 2 ** 52 + 1,
  pcLo: 0xfeedf00d,
  pcHi: 0xffff8000,
  aborted: true,
  lo: 0xffffffff,
  hi: 0x80000000,
}

function drain(reader: RingReader): TraceRecord[] {
  const records: TraceRecord[] = []
  reader.drain((layout, at) => records.push(reader.decode(layout, at)))
  return records
}

function pattern(length: number, seed: number): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => (i * 31 + seed) & 0xff)
}

test('every record comes out as it went in', () => {
  const ring = createRing(SMALL)
  const writer = new RingWriter(ring)
  const reader = new RingReader(ring)
  const host = pattern(80, 1)
  const answer = { status: 1, permissions: 3, pa: 2 ** 48, addressMask: 0xfff, record: pattern(32, 9) }
  const request = { smmu: 1, sid: 2, ssid: 3, access: 4, iovaLo: 5, iovaHi: 6, time: 7 }
  writer.trap(trap, 2 ** 40, 4e9, 1234, 2)
  writer.hardware(1, false, 3e9, 500, 0x98, 4, 1, 2, false)
  writer.memoryAccess(true, 2 ** 40, host, 16, 5, true)
  writer.memoryAccess(false, 64, host, 0, 8, false)
  writer.guard(true, 4096, 8192)
  writer.command(1, 0x46, 2)
  writer.stream(1, 0x80, -1, 6)
  writer.event(1, 99, host, 3, 32)
  writer.gerror(1, 98, 5, 4)
  writer.guardFault(2, 2 ** 41, 4, true, 97, 1, 2)
  writer.warning(12, 1, 0xffffffff, 1, 2, -22)
  writer.reset(1, 2, 3, 4)
  writer.pages(1, 2 ** 33, 4096, 5, -16)
  writer.request(1, -16, 10, 11, 2 ** 33, 4096, 5, 0)
  writer.probe(1, 'IDR0.S2P is 0 – no stage 2')
  writer.breakpoint(3, 4, 5, true)
  writer.fault(1, 2, 3, 4, 5, 6)
  writer.translate(request, 8, 9, answer, answer.record, 0, 32)
  expect(drain(reader)).toEqual([
    {
      kind: 'trap',
      ...trap,
      write: 1,
      aborted: 1,
      lastTrapNs: 1234,
      released: 2,
      start: 2 ** 40,
      duration: 4e9,
    },
    { kind: 'hardware', smmu: 1, write: 0, start: 3e9, duration: 500, offset: 0x98, size: 4, lo: 1, hi: 2, ok: 0 },
    {
      kind: 'memory',
      write: 1,
      address: 2 ** 40,
      length: 5,
      done: 0,
      digest: 0,
      ok: 1,
      bytes: host.slice(16, 21),
    },
    { kind: 'memory', write: 0, address: 64, length: 8, done: 0, digest: 0, ok: 0, bytes: new Uint8Array() },
    { kind: 'guard', add: 1, base: 4096, size: 8192 },
    { kind: 'command', smmu: 1, opcode: 0x46, verdict: 2 },
    { kind: 'stream', smmu: 1, sid: 0x80, hostConfig: 0xffffffff, shadowConfig: 6 },
    { kind: 'event', smmu: 1, time: 99, bytes: host.slice(3, 35) },
    { kind: 'gerror', smmu: 1, time: 98, gerror: 5, gerrorn: 4 },
    { kind: 'guardFault', cpu: 2, address: 2 ** 41, size: 4, write: 1, time: 97, pcLo: 1, pcHi: 2 },
    { kind: 'warning', id: 12, smmu: 1, v0: 0xffffffff, v1: 1, v2: 2, v3: 0xffffffea },
    { kind: 'reset', cause: 1, time: 2, start: 3, duration: 4 },
    { kind: 'pages', operation: 1, owner: 5, base: 2 ** 33, size: 4096, result: 0xfffffff0 },
    { kind: 'request', request: 1, result: 0xfffffff0, start: 10, duration: 11, v0: 2 ** 33, v1: 4096, v2: 5, v3: 0 },
    { kind: 'probe', smmu: 1, text: 'IDR0.S2P is 0 – no stage 2' },
    { kind: 'breakpoint', id: 3, seq: 4, start: 5, decided: 1 },
    { kind: 'fault', rule: 1, action: 2, v0: 3, v1: 4, v2: 5, v3: 6 },
    {
      kind: 'translate',
      ...request,
      start: 8,
      duration: 9,
      status: 1,
      permissions: 3,
      pa: 2 ** 48,
      addressMask: 0xfff,
      bytes: answer.record,
    },
  ])
  expect(reader.fill).toBe(0)
})

test('a text that is too long ends with a whole character', () => {
  const ring = createRing()
  new RingWriter(ring).probe(0, `a${'🦊'.repeat(CHUNK)}`)
  expect(drain(new RingReader(ring))).toEqual([{ kind: 'probe', smmu: 0, text: `a${'🦊'.repeat(CHUNK / 4 - 1)}` }])
})

test('a writer goes on behind what another one wrote meanwhile', () => {
  const ring = createRing(SMALL)
  const [first, second] = [new RingWriter(ring), new RingWriter(ring)]
  const reader = new RingReader(ring)
  first.command(0, 1, 0)
  second.goOn()
  for (let opcode = 2; opcode < 5; opcode++) second.command(0, opcode, 0)
  first.goOn()
  first.command(0, 5, 0)
  expect(drain(reader).map(record => record.kind === 'command' && record.opcode)).toEqual([1, 2, 3, 4, 5])
  expect(reader.fill).toBe(0)
})

test('long reads are split, long writes keep a digest', () => {
  const ring = createRing()
  const writer = new RingWriter(ring)
  const bytes = pattern(2 * CHUNK + 5, 3)
  writer.memoryAccess(false, 4096, bytes, 1, 2 * CHUNK + 1, true)
  writer.memoryAccess(true, 4096, bytes, 0, bytes.length, true)
  writer.memoryAccess(true, 4096, bytes, 0, KEPT_WRITE, true)
  writer.memoryAccess(true, 4096, new Uint8Array(1 << 20), 3, (1 << 20) - 3, true)
  const records = drain(new RingReader(ring))
  expect(records.map(r => r.kind === 'memory' && [r.write, r.length, r.done, r.bytes.length, r.digest])).toEqual([
    [0, 2 * CHUNK + 1, 0, CHUNK, 0],
    [0, 2 * CHUNK + 1, CHUNK, CHUNK, 0],
    [0, 2 * CHUNK + 1, 2 * CHUNK, 1, 0],
    [1, bytes.length, 0, 0, crc32(bytes)],
    [1, KEPT_WRITE, 0, KEPT_WRITE, 0],
    [1, (1 << 20) - 3, 0, 0, 0],
  ])
  const read = records.flatMap(r => (r.kind === 'memory' && r.write === 0 ? [...r.bytes] : []))
  expect(read).toEqual([...bytes.slice(1, 2 * CHUNK + 2)])
})

test('property: any mix of sizes and drains; what is missing is counted where it is missing', () => {
  const step = fc.oneof(
    { weight: 8, arbitrary: fc.nat(CHUNK) },
    { weight: 4, arbitrary: fc.nat(64) },
    { weight: 1, arbitrary: fc.constant('drain' as const) },
  )
  fc.assert(
    fc.property(fc.array(step, { maxLength: 200 }), steps => {
      const ring = createRing(SMALL)
      const writer = new RingWriter(ring)
      const reader = new RingReader(ring)
      const payload = pattern(CHUNK, 5)
      let sent = 0
      let expected = 0
      const check = () => {
        for (const record of drain(reader)) {
          if (record.kind === 'lost') expected += record.count
          else if (record.kind === 'memory') {
            expect(record.address).toBe(expected++)
            expect(Buffer.compare(record.bytes, payload.subarray(0, record.length))).toBe(0)
          } else throw new Error(record.kind)
        }
      }
      for (const size of steps) {
        if (size === 'drain') check()
        else writer.memoryAccess(false, sent++, payload, 0, size, true)
      }
      check()
      expect(sent - expected).toBeLessThanOrEqual(reader.lost)
      writer.memoryAccess(false, sent++, payload, 0, 1, true)
      check()
      expect(expected).toBe(sent)
    }),
    { numRuns: 300 },
  )
})

test('positions wrap at 2^32 words', () => {
  const ring = createRing(SMALL)
  const control = new Int32Array(ring, 0, 32)
  const near = (2 ** 32 - 40) | 0
  control[0] = near
  control[16] = near
  const writer = new RingWriter(ring)
  const reader = new RingReader(ring)
  for (let seq = 1; seq <= 2000; seq++) {
    writer.trap({ ...trap, seq }, 0, 0, 0, 0)
    if (seq % 100 === 0) expect(drain(reader).map(r => r.kind === 'trap' && r.seq - seq)).toContain(0)
  }
  expect(reader.lost).toBe(0)
})

test('two threads: order kept, nothing invented, losses add up', async () => {
  const total = 300_000
  const ring = createRing(SMALL)
  const worker = new Worker(new URL('./ringProducer.ts', import.meta.url), { workerData: { ring, total } })
  const exit = once(worker, 'exit')
  const reader = new RingReader(ring)
  let next = 0
  let lost = 0
  let running = true
  exit.then(() => {
    running = false
  })
  const take = () =>
    reader.drain((layout, at) => {
      const record = reader.decode(layout, at)
      if (record.kind === 'lost') {
        lost += record.count
        next += record.count
      } else if (record.kind === 'memory') {
        if (record.address !== next) throw new Error(`record ${record.address} in place of ${next}`)
        if (record.bytes.some(byte => byte !== (record.address & 0xff))) throw new Error(`record ${next} is torn`)
        next++
      }
    })
  while (running) {
    take()
    await new Promise(resolve => setImmediate(resolve))
  }
  take()
  expect(next + ((reader.lost - lost) >>> 0)).toBe(total)
})

test('both ends have one clock', () => {
  const ring = createRing(SMALL)
  const a = new RingWriter(ring).now()
  const b = new RingReader(ring).now()
  const c = new RingWriter(ring).now()
  expect(b).toBeGreaterThanOrEqual(a - 50_000)
  expect(c).toBeLessThan(a + 1e9)
  expect(a).toBeGreaterThanOrEqual(0)
})
