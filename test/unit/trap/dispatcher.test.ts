// SPDX-License-Identifier: Apache-2.0
/** What goes from one machine to the next on the same thread, and what does not; and what the trace shows of it. */
import { once } from 'node:events'
import { closeSync, linkSync, openSync, readdirSync, readlinkSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { Id } from '../../../protocol/generated/messages.ts'
import { TrapLog } from '../../../server/api/trapLog.ts'
import { TrapThread } from '../../../server/control/trapThread.ts'
import { passthrough } from '../../../server/hypervisor/passthrough/policy.ts'
import { privateFolder } from '../../../server/machine/scratch.ts'
import { createCounters } from '../../../server/trace/counters.ts'
import { NO_MACHINE } from '../../../server/trace/format.ts'
import { type Group, groups } from '../../../server/trace/groups.ts'
import type { TraceRecord } from '../../../server/trace/records.ts'
import { Replay } from '../../../server/trace/replay.ts'
import { createRing, RingReader } from '../../../server/trace/ring.ts'
import { Breakpoints } from '../../../server/trap/breakpoints.ts'
import type { Release } from '../../../server/trap/operations.ts'
import { FakeQemu } from './fakeQemu.ts'

let folder: string
let thread: TrapThread
let ring: RingReader

const RAM_BASE = 0x4000_0000
const DESCRIPTION = {
  ...NO_MACHINE,
  ram: [{ base: RAM_BASE, size: 1 << 20 }],
  smmus: [{ base: 0x0905_0000, size: 0x2_0000 }],
}

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
  qemu.meanwhile = () => qemu.predictedRead(0x9c, 9)
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
    qemu.predictedRead(0x9c, 9)
  }
  await thread.call('registers', 0, 'hardware', [0x20, 0x24])
  expect(await lines()).toEqual(['hardware', 'hardware', 'request', 'trap 1: 9'])
})

test('a guest that reads without end during an operation is recorded whole', async () => {
  const qemu = await machine()
  await records()
  qemu.meanwhile = () => {
    qemu.meanwhile = undefined
    for (let i = 0; i < 5_000; i++) qemu.predictedRead(0x9c, 9)
  }
  await thread.call('registers', 0, 'hardware', [0x20])
  const traps = (await records()).flatMap(record => (record.kind === 'trap' ? [record.seq] : []))
  expect(traps).toEqual(Array.from({ length: 5_000 }, (_, i) => i + 1))
})

/** As a replay and as the dashboard see it: numbers of traps with what is in them, kinds of the rest. */
async function holdAndInspect(qemu: FakeQemu, offset: number, access: 'read' | 'write', how: Release): Promise<void> {
  const held = once(thread, 'held')
  const match = { on: 'register', offset, access } as const
  await thread.call('addBreakpoint', { match, skip: 0, once: true, enabled: true })
  const answer = access === 'read' ? qemu.read(offset, 4) : qemu.write(offset, 4, 0x11)
  await held
  await thread.call('registers', 0, 'hardware', [0x24])
  await thread.call('release', how)
  await answer
}

test.each<[string, number, 'read' | 'write', Release]>([
  ['a read that went on', 0x20, 'read', { action: 'continue' }],
  ['a read that got another answer', 0x20, 'read', { action: 'continue', value: { lo: 99, hi: 0 } }],
  ['a read that was aborted', 0x20, 'read', { action: 'abort' }],
  ['a write that went on', 0x28, 'write', { action: 'continue' }],
  ['a write of another value', 0x28, 'write', { action: 'continue', value: { lo: 99, hi: 0 } }],
  ['a write that was dropped', 0x28, 'write', { action: 'drop' }],
  ['a write that was aborted', 0x28, 'write', { action: 'abort' }],
])(
  '%s after it was held replays as it was, and the log has what was done for it',
  async (_name, offset, access, how) => {
    const qemu = await FakeQemu.connect(join(folder, 'trap'))
    await qemu.hello()
    await qemu.reset()
    await holdAndInspect(qemu, offset, access, how)
    await qemu.read(0x20, 4)
    await thread.call('held')
    const log = new TrapLog()
    const list: TraceRecord[] = []
    ring.drain((layout, at) => {
      list.push(ring.decode(layout, at))
      log.fromRing(ring, layout, at)
    })
    const found: Group[] = []
    const replay = new Replay(DESCRIPTION, passthrough, {}, { warnings: [] })
    for (const { group, divergence } of replay.run(groups(list))) {
      expect(divergence?.differences ?? []).toEqual([])
      found.push(group)
    }
    const shape = ({ root, children }: Group) => [root.kind, ...children.map(({ kind }) => kind)]
    const decided = access === 'read' ? ['hardware', 'breakpoint'] : ['breakpoint', 'hardware']
    const trap = ['trap', ...(how.action !== 'continue' && access === 'write' ? ['breakpoint'] : decided)]
    const asked = ['request', 'hardware']
    const order = access === 'read' ? [trap, asked] : [asked, trap]
    // Before a breakpoint is set the hardware is looked at, so that QEMU asks again.
    expect(found.map(shape)).toEqual([['reset'], asked, ...order, ['trap', 'hardware']])
    const logged = Array.from({ length: log.next - log.oldest }, (_, i) => log.group(log.oldest + i))
    expect(logged.map(group => group && shape(group))).toEqual([['reset'], asked, asked, trap, ['trap', 'hardware']])
  },
)

test('a decided trap that is held when the machine goes is on the trace', async () => {
  const qemu = await machine()
  await records()
  const held = once(thread, 'held')
  const match = { on: 'register', offset: 0x20, access: 'read' } as const
  await thread.call('addBreakpoint', { match, skip: 0, once: true, enabled: true })
  qemu.read(0x20, 4).catch(() => {})
  await held
  const gone = once(thread, 'disconnected')
  qemu.socket.destroy()
  await gone
  expect((await lines()).slice(-3)).toEqual(['hardware', 'breakpoint', 'trap 1: 0'])
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

test.each<[string, (qemu: FakeQemu) => Promise<unknown>]>([
  ['the control thread', () => thread.call('registers', 0, 'hardware', [0x20])],
  ['a trap', qemu => qemu.read(0x20, 4)],
])('a machine that ends while it is asked because of %s says so all the same', async (_, ask) => {
  const qemu = await machine()
  qemu.serves = false
  const ended = once(thread, 'disconnected')
  const told = once(thread, 'shutdown')
  const asked = qemu.received.length
  ask(qemu).catch(() => {})
  await expect.poll(() => qemu.received.slice(asked).map(({ type }) => type)).toEqual([Id.hwRead])
  qemu.shutdown()
  await told
  expect((await ended)[1]).toBe(true)
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
  // Its memory is the file, through a name of its own.
  linkSync(path, `${path}.qemu`)
  qemu.ram = openSync(`${path}.qemu`, 'r')
  const ram = [{ base: RAM_BASE, size: 1 << 20, path, offset: 0 }]
  expect(await qemu.hello([1, 1], { ram })).toMatchObject({ type: Id.welcome })
  expect(open()).toHaveLength(1)
  const gone = once(thread, 'disconnected')
  qemu.socket.destroy()
  await gone
  expect(open()).toEqual([])
  closeSync(qemu.ram)
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
