// SPDX-License-Identifier: Apache-2.0
/** A recording on a disk that fills, and has room again. */
import type { FileHandle } from 'node:fs/promises'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterEach, expect, test, vi } from 'vitest'
import { groups, isGroup } from '../../../server/trace/groups.ts'
import { TraceReader } from '../../../server/trace/reader.ts'
import { Recorder } from '../../../server/trace/recorder.ts'
import { folder, header, trap } from './synthetic.ts'

/** Bytes that the disk still takes. */
const disk = vi.hoisted(() => ({ room: Number.POSITIVE_INFINITY }))

vi.mock('node:fs/promises', async original => {
  const real = await original<typeof import('node:fs/promises')>()
  const open = async (...args: Parameters<typeof real.open>): Promise<FileHandle> => {
    const file = await real.open(...args)
    const write = file.write.bind(file)
    // As write(2) does: it takes what there is room for, and fails when there is none.
    file.writev = (async (buffers: readonly Uint8Array[], position: number) => {
      const bytes = Buffer.concat(buffers)
      if (disk.room <= 0) throw Object.assign(new Error('ENOSPC: no space left on device'), { code: 'ENOSPC' })
      const taken = Math.min(bytes.length, disk.room)
      disk.room -= taken
      await write(bytes, 0, taken, position)
      return { bytesWritten: taken, buffers }
    }) as unknown as FileHandle['writev']
    return file
  }
  return { ...real, open }
})

afterEach(() => {
  disk.room = Number.POSITIVE_INFINITY
  vi.restoreAllMocks()
})

/** A recorder, and a clock that goes on when it is told to. */
async function start(path: string, limit?: number) {
  const { machine, ...rest } = header
  const said: string[] = []
  const say = (message: string) => said.push(message)
  const recorder = await Recorder.open({ path, header: rest, say, ...(limit !== undefined && { limit }) })
  recorder.describe(machine)
  let now = 1
  vi.spyOn(performance, 'now').mockImplementation(() => now)
  let seq = 0
  const outcome = { write: 1, aborted: 0, lastTrapNs: 0, released: 0, duration: 300 }
  return {
    recorder,
    said,
    /** Traps, each with a command, in a block of their own. */
    async block(traps: number) {
      for (let i = 0; i < traps; i++) {
        seq++
        recorder.record({ kind: 'command', smmu: 0, opcode: seq & 0xff, verdict: 0 })
        recorder.record({ ...trap, ...outcome, start: seq, kind: 'trap', seq })
      }
      await recorder.sync()
    },
    pass: (ms: number) => {
      now += ms
    },
    count: () => 2 * seq,
  }
}

/** Checks that records are in order, with nothing missing that is not said; returns what is said to be missing. */
function check(path: string, written: number): number {
  const reader = TraceReader.open(path)
  let next = 0
  let lost = 0
  for (const item of groups(reader.records())) {
    if (isGroup(item) && item.root.kind === 'trap') {
      const { seq } = item.root
      const [command] = item.children
      if (command?.kind === 'command') expect(command.opcode).toBe(seq & 0xff)
      expect(seq * 2).toBe(next + 1 + item.children.length)
      next = seq * 2
    } else if (!isGroup(item) && item.kind === 'lost') {
      lost += item.count
      next += item.count
    } else if (!isGroup(item) && item.kind === 'command') next++
    else throw new Error('what is this?')
  }
  expect(reader.problems.filter(({ damage }) => damage)).toEqual([])
  expect(next).toBe(written)
  return lost
}

test('a gap is said where it is, and everything else is there', async () => {
  const path = join(folder(), 'trace')
  const { recorder, said, block, pass, count } = await start(path)
  await block(10)
  disk.room = 100
  await block(10)
  // It is said when it happens, once, with the reason.
  expect(said).toEqual([`NOT RECORDED from here on: ${path}: ENOSPC: no space left on device`])
  // What comes before the next try is not even tried.
  await block(5)
  pass(1001)
  await block(0)
  disk.room = Number.POSITIVE_INFINITY
  pass(1001)
  await block(7)
  const summary = await recorder.close()
  expect(check(path, count())).toBe(30)
  expect(summary).toMatchObject({
    refused: 30,
    lost: 0,
    records: 64 - 30 + 1,
    error: expect.stringMatching(/ENOSPC/),
  })
  expect(said.slice(1)).toEqual([`recorded again: ${path}: 30 records are missing`])
})

test('a disk that stays full: what is there can be read, and the file says what it can', async () => {
  const path = join(folder(), 'trace')
  const { recorder, block } = await start(path)
  await block(10)
  disk.room = 100
  await block(10)
  const summary = await recorder.close()
  expect(summary).toMatchObject({ records: 20, refused: 20 })
  const reader = TraceReader.open(path)
  expect([...reader.records()]).toHaveLength(20)
  expect(reader.problems.map(({ message }) => message)).toEqual([
    'the recording was not ended: it goes on, was killed, or the file is cut off',
  ])
})

test('a disk that is full at the end of a segment', async () => {
  const path = join(folder(), 'trace')
  const { recorder, block, pass, count } = await start(path, 80_000)
  for (let i = 0; i < 3; i++) await block(100)
  disk.room = 200
  await block(100)
  pass(1001)
  disk.room = 0
  await block(100)
  pass(1001)
  disk.room = Number.POSITIVE_INFINITY
  for (let i = 0; i < 3; i++) await block(100)
  const summary = await recorder.close()
  expect(summary.segments).toBeGreaterThan(1)
  expect(check(path, count())).toBe(400)
})

test('property: whenever the disk fills, and whenever it has room again', async () => {
  const step = fc.oneof(
    fc.record({ room: fc.oneof(fc.constant(Number.POSITIVE_INFINITY), fc.nat(3000)) }),
    fc.record({ traps: fc.integer({ min: 1, max: 40 }) }),
    fc.record({ ms: fc.constantFrom(1, 600, 1001) }),
  )
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 40 }), async steps => {
      const path = join(folder(), 'trace')
      disk.room = Number.POSITIVE_INFINITY
      const { recorder, block, pass, count } = await start(path, 12_000_000)
      for (const each of steps) {
        if ('room' in each) disk.room = each.room
        else if ('ms' in each) pass(each.ms)
        else await block(each.traps)
      }
      disk.room = Number.POSITIVE_INFINITY
      const summary = await recorder.close()
      expect(check(path, count())).toBe(summary.refused)
      expect(summary.lost).toBe(0)
    }),
    { numRuns: 200 },
  )
})
