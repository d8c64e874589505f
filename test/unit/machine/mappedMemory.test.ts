// SPDX-License-Identifier: Apache-2.0
import { closeSync, readSync, writeSync } from 'node:fs'
import { Worker } from 'node:worker_threads'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { FileMemory } from '../../../server/machine/fileMemory.ts'
import { MappedMemory } from '../../../server/machine/mappedMemory.ts'
import { detach, type SharedFile, sharedFile, unmap, view } from '../../../server/machine/sharedMemory.ts'
import type { GuestMemory } from '../../../server/smmu/memory.ts'

const SIZE = 1 << 20
const BASE = 0x4000_0000
/** Two ranges that lie in the file the other way round, with a hole between them in the machine. */
const RAM = [
  { base: BASE, size: SIZE / 2, offset: SIZE / 2 },
  { base: BASE + SIZE, size: SIZE / 2, offset: 0 },
]

let file: SharedFile
let memory: ArrayBuffer
beforeEach(() => {
  file = sharedFile('test', SIZE)
  memory = view(file)
})
afterEach(() => {
  detach(memory)
  unmap(file)
  closeSync(file.fd)
})

test('reads and writes what the file has, as by system calls', () => {
  const mapped = new MappedMemory(memory, RAM)
  const called = new FileMemory(file.fd, RAM)
  const anywhere = fc.record({
    address: fc.oneof(
      fc.integer({ min: BASE - 64, max: BASE + 2 * SIZE }),
      fc.constantFrom(0, BASE + SIZE / 2 - 8, BASE + SIZE - 8, BASE + 1.5 * SIZE - 8, 2 ** 53 - 1),
    ),
    length: fc.integer({ min: 0, max: 100 }),
    at: fc.integer({ min: 0, max: 28 }),
    fill: fc.integer({ min: 0, max: 255 }),
  })
  fc.assert(
    fc.property(anywhere, ({ address, length, at, fill }) => {
      const written = new Uint8Array(128).fill(fill)
      const ok = mapped.write(address, written, at, length)
      const seen = (from: GuestMemory) => {
        const bytes = new Uint8Array(128)
        return [from.read(address, bytes, at, length), bytes]
      }
      expect(seen(mapped)).toEqual(seen(called))
      expect(seen(mapped)[0]).toBe(ok)
      if (ok) expect(seen(called)[1]).toEqual(new Uint8Array(128).fill(fill, at, at + length))
    }),
  )
})

test('RAM that is not all in the file is refused', () => {
  expect(() => new MappedMemory(memory, [{ base: BASE, size: SIZE, offset: 1 }])).toThrow(
    'RAM at 0x40000000 is beyond the 1048576 bytes that are mapped',
  )
})

test('what is read is a copy, and too small a buffer is no success', () => {
  const mapped = new MappedMemory(memory, RAM)
  const bytes = new Uint8Array(8)
  mapped.write(BASE, new Uint8Array(8).fill(1), 0, 8)
  mapped.read(BASE, bytes, 0, 8)
  mapped.write(BASE, new Uint8Array(8).fill(2), 0, 8)
  expect(bytes).toEqual(new Uint8Array(8).fill(1))
  expect(mapped.read(BASE, bytes, 4, 8)).toBe(false)
  expect(mapped.write(BASE, bytes, 4, 8)).toBe(false)
})

/** Stores each of two values to every aligned doubleword of a page, again and again, as a guest's CPU may. */
const HAMMER = `
const { workerData } = require('node:worker_threads')
const ffi = process.getBuiltinModule('node:ffi')
const words = new BigUint64Array(ffi.toArrayBuffer(workerData.address, 4096, false))
const stop = new Int32Array(workerData.stop)
while (Atomics.load(stop, 0) === 0) {
  for (const value of [0x1111111111111111n, 0xeeeeeeeeeeeeeeeen]) {
    for (let i = 0; i < words.length; i++) Atomics.store(words, i, value)
  }
  Atomics.add(stop, 1, 1)
}
`

describe('a doubleword that is stored meanwhile', () => {
  const stop = new Int32Array(new SharedArrayBuffer(8))
  let worker: Worker
  beforeEach(async () => {
    stop.fill(0)
    worker = new Worker(HAMMER, { eval: true, workerData: { address: file.address, stop: stop.buffer } })
    await expect.poll(() => Atomics.load(stop, 1)).toBeGreaterThan(10)
  })
  afterEach(async () => {
    Atomics.store(stop, 0, 1)
    await worker.terminate()
  })

  // A command, an STE, a level-1 descriptor, a run of descriptors, a page; and what begins in the middle of a cache line.
  test.each([
    [0, 8],
    [8, 16],
    [64, 64],
    [24, 104],
    [8, 520],
    [0, 4096],
  ])('is read as a whole: %i bytes in, %i bytes', (at, length) => {
    const mapped = new MappedMemory(memory, [{ base: 0, size: SIZE, offset: 0 }])
    const bytes = Buffer.alloc(4096)
    const seen = new Set<string>()
    const end = performance.now() + 300
    const before = Atomics.load(stop, 1)
    while (performance.now() < end) {
      mapped.read(at, bytes, 0, length)
      for (let word = 0; word < length; word += 8) {
        const value = bytes.readUInt32LE(word)
        if (value !== bytes.readUInt32LE(word + 4)) seen.add(bytes.toString('hex', word, word + 8))
      }
    }
    expect(Atomics.load(stop, 1)).toBeGreaterThan(before)
    expect([...seen]).toEqual([])
  })

  test('is written as a whole', () => {
    const mapped = new MappedMemory(memory, [{ base: 0, size: SIZE, offset: 0 }])
    const source = Buffer.alloc(64, 0x77)
    const words = new BigUint64Array(memory, 0, 8)
    const seen = new Set<bigint>()
    for (const end = performance.now() + 300; performance.now() < end; ) {
      mapped.write(0, source, 0, 64)
      for (let i = 0; i < 8; i++) seen.add(Atomics.load(words, i))
    }
    const whole = ['1111111111111111', '7777777777777777', 'eeeeeeeeeeeeeeee']
    const found = [...seen].map(value => value.toString(16))
    expect(found).toContain(whole[1])
    expect(found.filter(value => !whole.includes(value))).toEqual([])
  })

  test('of the file, by system calls, too', () => {
    const bytes = Buffer.alloc(64)
    for (const end = performance.now() + 300; performance.now() < end; ) {
      readSync(file.fd, bytes, 0, 64, 0)
      for (let word = 0; word < 64; word += 8) expect(bytes.readUInt32LE(word)).toBe(bytes.readUInt32LE(word + 4))
    }
    writeSync(file.fd, bytes, 0, 8, 0)
  })
})
