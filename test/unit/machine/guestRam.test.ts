// SPDX-License-Identifier: Apache-2.0
import {
  closeSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { GuestRam, RamPool, without } from '../../../server/machine/guestRam.ts'
import { ofThisProcess } from '../../../server/machine/scratch.ts'
import { dataRuns, view } from '../../../server/machine/sharedMemory.ts'

const MiB = 2 ** 20
const PAGE = 4096
const SIZE = 8 * MiB

let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'cosim-test-'))
})
afterEach(() => rmSync(folder, { recursive: true }))

/** A sparse file of SIZE bytes with these pages in it. */
function saved(name: string, pages: Readonly<Record<number, number>>): string {
  const path = join(folder, name)
  const fd = openSync(path, 'wx')
  ftruncateSync(fd, SIZE)
  for (const [page, value] of Object.entries(pages)) {
    writeSync(fd, Buffer.alloc(PAGE, value), 0, PAGE, Number(page) * PAGE)
  }
  closeSync(fd)
  return path
}

function contents(ram: GuestRam): Buffer {
  const bytes = Buffer.alloc(SIZE)
  for (let at = 0; at < SIZE; ) at += readSync(ram.fd, bytes, at, SIZE - at, at)
  return bytes
}

test('RAM of a machine that has ended is as new for the next one: what was saved, and zeros; no room is given back', async () => {
  const [first, second] = [saved('first', { 1: 0x11, 700: 0x77 }), saved('second', { 1: 0x22, 2: 0x22, 2047: 0x99 })]
  const pool = new RamPool()
  const ram = await GuestRam.inMemory(SIZE, first)
  try {
    await ram.reserve()
    expect(contents(ram)).toEqual(readFileSync(first))
    expect(statSync(ofThisProcess(ram.fd)).blocks * 512).toBe(SIZE)
    // The guest writes: where something was saved, and where nothing was.
    for (const page of [1, 3, 4, 1024])
      Buffer.from(view(ram.mapping ?? fail())).fill(0xee, page * PAGE, (page + 1) * PAGE)
    pool.give(ram)
    expect(pool.take(SIZE / 2, undefined)).toBeUndefined()
    expect(pool.take(SIZE, second)).toBe(ram)
    expect(contents(ram).equals(readFileSync(second))).toBe(true)
    pool.give(ram)
    expect(pool.take(SIZE, undefined)).toBe(ram)
    expect(contents(ram).equals(Buffer.alloc(SIZE))).toBe(true)
    expect(statSync(ofThisProcess(ram.fd)).blocks * 512).toBe(SIZE)
    expect(pool.take(SIZE, undefined)).toBeUndefined()
  } finally {
    ram.close()
  }
})

test('a saved file that is larger than RAM is refused, and what the pool has is not used again', async () => {
  const pool = new RamPool()
  const ram = await GuestRam.inMemory(SIZE / 2)
  pool.give(ram)
  const large = saved('large', { 2000: 1 })
  expect(() => pool.take(SIZE / 2, large)).toThrow(`${large}: it has more than the ${SIZE / 2} bytes`)
  expect(pool.take(SIZE / 2, undefined)).toBeUndefined()
})

test('a file with a name goes back to nobody, and a pool that is closed keeps nothing', async () => {
  const pool = new RamPool()
  const named = await GuestRam.atPath(join(folder, 'ram'), SIZE)
  pool.give(named)
  expect(pool.take(SIZE, undefined)).toBeUndefined()
  expect(() => statSync(ofThisProcess(named.fd))).toThrow('ENOENT')
  pool.close()
  const ram = await GuestRam.inMemory(SIZE)
  pool.give(ram)
  expect(() => statSync(ofThisProcess(ram.fd))).toThrow('ENOENT')
})

test('data of a file: what was written, not what was only reserved', async () => {
  const ram = await GuestRam.inMemory(SIZE)
  try {
    await ram.reserve()
    expect(dataRuns(ram.fd)).toEqual([])
    for (const page of [0, 1, 9, SIZE / PAGE - 1]) writeSync(ram.fd, Buffer.alloc(PAGE), 0, PAGE, page * PAGE)
    expect(dataRuns(ram.fd)).toEqual([
      { start: 0, end: 2 * PAGE },
      { start: 9 * PAGE, end: 10 * PAGE },
      { start: SIZE - PAGE, end: SIZE },
    ])
  } finally {
    ram.close()
  }
})

test('runs without others', () => {
  const SPACE = 32
  const flags = fc.array(fc.boolean(), { minLength: SPACE, maxLength: SPACE })
  const runsOf = (set: readonly boolean[]) => {
    const runs: { start: number; end: number }[] = []
    for (let i = 0; i < SPACE; i++) {
      const last = runs.at(-1)
      if (!set[i]) continue
      if (last?.end === i) last.end = i + 1
      else runs.push({ start: i, end: i + 1 })
    }
    return runs
  }
  fc.assert(
    fc.property(flags, flags, (a, b) => {
      const left = without(runsOf(a), runsOf(b))
      const set = Array.from({ length: SPACE }, (_, i) => left.some(({ start, end }) => start <= i && i < end))
      expect(set).toEqual(a.map((flag, i) => flag && !b[i]))
    }),
  )
})

function fail(): never {
  throw new Error('not mapped')
}
