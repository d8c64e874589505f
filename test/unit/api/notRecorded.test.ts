// SPDX-License-Identifier: Apache-2.0
/** A machine of the server whose recording the disk refuses: the server's log, the machine's state and the counters say so. */
import { EventEmitter } from 'node:events'
import type { FileHandle } from 'node:fs/promises'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { launch } from '../../../server/api/launch.ts'
import { ARM_SMMU_GBPA } from '../../../server/smmu/registers.ts'
import { type Harness, startApp } from './harness.ts'

/** Why the disk takes nothing. */
const disk = vi.hoisted(() => ({ full: false }))

vi.mock('node:fs/promises', async original => {
  const real = await original<typeof import('node:fs/promises')>()
  const open = async (...args: Parameters<typeof real.open>): Promise<FileHandle> => {
    const file = await real.open(...args)
    const write = file.writev.bind(file)
    file.writev = (async (...given: Parameters<typeof write>) => {
      if (disk.full) throw Object.assign(new Error('ENOSPC: no space left on device'), { code: 'ENOSPC' })
      return write(...given)
    }) as unknown as FileHandle['writev']
    return file
  }
  return { ...real, open }
})

/** A machine that runs, and whose recording cannot be made. */
const machine = {
  session: Object.assign(new EventEmitter(), { ended: Promise.resolve(), notRecorded: undefined }),
  record: async () => {
    throw new Error("EROFS: read-only file system, open '/runs/trace'")
  },
}
vi.mock('../../../server/run/files.ts', async original => ({
  ...(await original<object>()),
  machineFiles: async () => ({ kernel: { version: '6.12' } }),
}))
vi.mock('../../../server/run/runningMachine.ts', () => ({ RunningMachine: { start: async () => machine } }))

test('a recording that cannot be made', async () => {
  const said: string[] = []
  const say = (line: string) => said.push(line)
  await launch({}, { say }, new AbortController().signal, () => {})
  const why = "EROFS: read-only file system, open '/runs/trace'"
  expect(said).toEqual([`NOT RECORDED: ${why}`])
  expect(machine.session.notRecorded).toBe(why)
})

let server: Harness
beforeEach(async () => {
  server = await startApp()
})
afterEach(() => {
  disk.full = false
  return server.close()
})

const events = () =>
  server.manager.history.events.read(1, 100, undefined).items.filter(({ kind }) => kind === 'recording')

test('a disk that fills, and has room again', async () => {
  const { manager, qemu } = server
  /** What the machine does is in the file, or refused. */
  const written = async () => {
    await qemu.read(ARM_SMMU_GBPA, 4)
    await server.settle()
    await manager.recordedSegments()
    manager.sample()
  }
  await written()
  expect(manager.status().notRecorded).toBeNull()
  disk.full = true
  await written()
  expect(manager.status().notRecorded).toBe('ENOSPC: no space left on device')
  expect(manager.counters().refused).toBeGreaterThan(0)
  expect(events()).toMatchObject([{ name: 'not recorded', text: 'ENOSPC: no space left on device' }])
  const metrics = await (await fetch(`${server.url}/metrics`)).text()
  expect(metrics).toMatch(/^smmu_cosim_trace_records_refused_total [1-9]/m)
  expect(metrics).toMatch(/^smmu_cosim_recording_refused 1$/m)
  disk.full = false
  await expect.poll(() => written().then(() => manager.status().notRecorded), { timeout: 10_000 }).toBeNull()
  expect(events().map(({ name }) => name)).toEqual(['not recorded', 'recorded again'])
})
