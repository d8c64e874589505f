// SPDX-License-Identifier: Apache-2.0
/** What goes from one machine to the next on the same thread, and what does not; and what the trace shows of it. */
import { once } from 'node:events'
import { readdirSync, readlinkSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { encodeHello, Id } from '../../../protocol/generated/messages.ts'
import { TrapThread } from '../../../server/control/trapThread.ts'
import { privateFolder } from '../../../server/machine/scratch.ts'
import { createCounters } from '../../../server/trace/counters.ts'
import type { TraceRecord } from '../../../server/trace/records.ts'
import { createRing, RingReader } from '../../../server/trace/ring.ts'
import { Breakpoints } from '../../../server/trap/breakpoints.ts'
import { FakeQemu } from './fakeQemu.ts'

let folder: string
let thread: TrapThread
let ring: RingReader

const RAM_BASE = 0x4000_0000

beforeEach(async () => {
  folder = privateFolder(tmpdir(), 'dispatcher-')
  writeFileSync(join(folder, 'ram'), new Uint8Array(1 << 20))
  const buffer = createRing(1 << 20)
  ring = new RingReader(buffer)
  thread = await TrapThread.start({
    listen: join(folder, 'trap'),
    policy: 'passthrough',
    policyOptions: {},
    ramFile: join(folder, 'ram'),
    ring: buffer,
    counters: createCounters(),
    panicOnWarn: false,
  })
})

afterEach(async () => {
  await thread.stop()
  rmSync(folder, { recursive: true })
})

async function machine(): Promise<FakeQemu> {
  const qemu = await FakeQemu.connect(join(folder, 'trap'))
  await qemu.hello()
  await qemu.reset()
  return qemu
}

/** All since the last time. */
async function records(): Promise<TraceRecord[]> {
  // An answer leaves before its record is written.
  await thread.call('held')
  const list: TraceRecord[] = []
  ring.drain((layout, at) => list.push(ring.decode(layout, at)))
  return list
}

/** Kind of each record; of a trap also its number and what it answered. */
const lines = async () => (await records()).map(r => (r.kind === 'trap' ? `trap ${r.seq}: ${r.lo}` : r.kind))

test('a read that QEMU answered while a trap was decided comes behind it, with a number of its own', async () => {
  const qemu = await machine()
  await records()
  qemu.registers.set(0x20, 7)
  qemu.meanwhile = () => qemu.mirrored(0x9c, 9)
  await qemu.read(0x20, 4)
  qemu.meanwhile = undefined
  await qemu.read(0x20, 4)
  expect(await lines()).toEqual(['hardware', 'trap 1: 7', 'trap 2: 9', 'hardware', 'trap 3: 7'])
})

test('a read that QEMU answered during an operation comes behind it', async () => {
  const qemu = await machine()
  await records()
  qemu.meanwhile = () => {
    qemu.meanwhile = undefined
    qemu.mirrored(0x9c, 9)
  }
  await thread.call('registers', 0, 'hardware', [0x20, 0x24])
  expect(await lines()).toEqual(['hardware', 'hardware', 'request', 'trap 1: 9'])
})

test('a guest that reads without end during an operation is recorded whole', async () => {
  const qemu = await machine()
  await records()
  qemu.meanwhile = () => {
    qemu.meanwhile = undefined
    for (let i = 0; i < 5_000; i++) qemu.mirrored(0x9c, 9)
  }
  await thread.call('registers', 0, 'hardware', [0x20])
  const traps = (await records()).flatMap(record => (record.kind === 'trap' ? [record.seq] : []))
  expect(traps).toEqual(Array.from({ length: 5_000 }, (_, i) => i + 1))
})

test('traps are counted from the start of each machine', async () => {
  const first = await machine()
  await first.read(0x20, 4)
  await first.read(0x20, 4)
  const gone = once(thread, 'disconnected')
  first.shutdown()
  await gone
  await records()
  const second = await machine()
  await second.read(0x20, 4)
  expect(await lines()).toEqual(['reset', 'hardware', 'trap 1: 0'])
})

test('a machine that is cut off is no surprise only when that very machine said that it ends', async () => {
  const first = await machine()
  const ended = once(thread, 'disconnected')
  first.shutdown()
  expect((await ended)[1]).toBe(true)
  const second = await machine()
  const cut = once(thread, 'disconnected')
  second.socket.destroy()
  expect((await cut)[1]).toBe(false)
})

test('guest memory is let go of when its machine is gone', async () => {
  const path = join(folder, 'ram')
  const open = () =>
    readdirSync('/proc/self/fd').filter(fd => {
      try {
        return readlinkSync(`/proc/self/fd/${fd}`) === path
      } catch {
        return false // the one that the folder was read through
      }
    })
  const qemu = await FakeQemu.connect(join(folder, 'trap'))
  encodeHello(qemu.out, 1, {
    minVersion: 1,
    maxVersion: 1,
    features: 0,
    session: '',
    resumed: 0,
    lastSeq: 0,
    checkpoint: new Uint8Array(0),
    qemuVersion: 'fake',
    vcpus: 1,
    carveoutBase: 0,
    carveoutSize: 0,
    ram: [{ base: RAM_BASE, size: 1 << 20, path, offset: 0 }],
    smmus: [{ base: 0x0905_0000, size: 0x2_0000, irqEvtq: 1, irqPriq: 2, irqCmdSync: 3, irqGerror: 4 }],
    devices: [],
  })
  expect(await qemu.send(1)).toMatchObject({ type: Id.welcome })
  expect(open()).toHaveLength(1)
  const gone = once(thread, 'disconnected')
  qemu.socket.destroy()
  await gone
  expect(open()).toEqual([])
})

test('a call whose argument is no message fails, and nothing is left waiting', async () => {
  const match = { on: 'register', access: 'any', isMine: () => true } as const
  const spec = { match, skip: 0, once: false, enabled: true }
  await expect(thread.call('addBreakpoint', spec)).rejects.toThrow('could not be cloned')
  expect(await thread.call('breakpoints')).toEqual([])
})

test('an operation of a newer version of the program is refused by name', async () => {
  const call = thread.call.bind(thread) as unknown as (operation: string) => Promise<unknown>
  await expect(call('nonsense')).rejects.toThrow('no operation "nonsense"')
})

test('breakpoints go on in another thread where they stood', () => {
  const before = new Breakpoints()
  before.add({ match: { on: 'register', access: 'read' }, skip: 2, once: false, enabled: true }, 7)
  const trap = { seq: 1, smmu: 0, cpu: 0, write: false, offset: 0, size: 4, time: 0, pcLo: 0, pcHi: 0 }
  const read = { ...trap, lo: 0, hi: 0, aborted: false }
  expect(before.after(read)).toBeUndefined()
  const after = new Breakpoints()
  after.adopt(structuredClone(before.list()))
  expect(after.armed).toBe(true)
  expect(after.after(read)).toBeUndefined()
  expect(after.after(read)).toEqual({ breakpoint: 7, phase: 'after' })
  expect(after.add({ match: { on: 'warning' }, skip: 0, once: false, enabled: true }).id).toBe(8)
})
