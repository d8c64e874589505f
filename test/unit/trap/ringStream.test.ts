// SPDX-License-Identifier: Apache-2.0
/** A trap thread and a QEMU with a ring between them, and what that QEMU may do to it. */
import { once } from 'node:events'
import { readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { Id, type PeerError } from '../../../protocol/generated/messages.ts'
import { enums } from '../../../protocol/messages.ts'
import { TrapThread } from '../../../server/control/trapThread.ts'
import { privateFolder } from '../../../server/machine/scratch.ts'
import { createCounters } from '../../../server/trace/counters.ts'
import { createRing } from '../../../server/trace/ring.ts'
import type { ThreadOptions, TransportUse } from '../../../server/trap/messages.ts'
import { WORD } from '../../../server/trap/ringEnd.ts'
import { FakeQemu } from './fakeQemu.ts'

const REGISTER = 0x20

let folder: string
let thread: TrapThread
const socket = () => join(folder, 'trap')
beforeEach(() => {
  folder = privateFolder(tmpdir(), 'ring-')
})
afterEach(async () => {
  await thread.stop()
  rmSync(folder, { recursive: true })
  // What the server maps it unmaps, however its thread ended; one mapping of each area is that of the QEMU in this process.
  expect(mappings()).toBe(qemus)
})

/** Mappings of rings in this process. */
const mappings = (): number => readFileSync('/proc/self/maps', 'latin1').split('memfd:smmu-cosim ring').length - 1
/** Of QEMUs that were connected so far and took a ring. */
let qemus = 0

async function start(more: Partial<ThreadOptions> = {}): Promise<void> {
  thread = await TrapThread.start({
    listen: socket(),
    policy: 'passthrough',
    policyOptions: {},
    ramFile: join(folder, 'ram'),
    ring: createRing(1 << 20),
    counters: createCounters(),
    panicOnWarn: false,
    ...more,
  })
}

/** A machine that runs, and what its frames go through. */
async function machine(ringStatus: number = enums.status.ok[0]): Promise<{ qemu: FakeQemu; use: TransportUse }> {
  const qemu = await FakeQemu.withRing(socket())
  qemu.ringStatus = ringStatus
  const told = once(thread, 'transport')
  await qemu.hello()
  const [use] = (await told) as [TransportUse]
  await qemu.reset()
  qemu.registers.set(REGISTER, 7)
  if (qemu.area !== undefined) qemus++
  return { qemu, use }
}

const wordsOf = ({ area }: FakeQemu): Int32Array => {
  if (area === undefined) throw new Error('there is no ring')
  return new Int32Array(area, 0, 1024)
}

test('traps and operations go through it, and the socket has nothing but bells', async () => {
  await start()
  const { qemu, use } = await machine()
  expect(use).toEqual({ frames: 'ring', ram: 'wire' })
  const before = qemu.socket.bytesRead
  for (let i = 0; i < 300; i++) expect(await qemu.read(REGISTER, 4)).toMatchObject({ type: Id.reply, valueLo: 7 })
  expect(await thread.call('registers', 0, 'hardware', [REGISTER])).toMatchObject([{ lo: 7 }])
  const words = wordsOf(qemu)
  expect(words[WORD.toServerTail]).toBeGreaterThan(300 * 20)
  expect(words[WORD.toServerHead]).toBe(words[WORD.toServerTail])
  expect(qemu.socket.bytesRead - before).toBeLessThan(1_000)
})

test('frames that are longer than the ring go through it', async () => {
  await start()
  const { qemu } = await machine()
  const memory = await thread.call('memory', 0x4000_0000, 1 << 20)
  expect(memory.length).toBe(1 << 20)
  qemu.memory.fill(0x5a)
  expect(Buffer.from(await thread.call('memory', 0x4000_0000, 1 << 20)).equals(qemu.memory)).toBe(true)
})

test('a thread that has nothing to do sleeps', async () => {
  await start()
  const { qemu } = await machine()
  await qemu.read(REGISTER, 4)
  await expect.poll(() => wordsOf(qemu)[WORD.serverSleeps]).toBe(1)
  const { user, system } = process.cpuUsage()
  await new Promise(resolve => setTimeout(resolve, 1_000))
  const used = process.cpuUsage({ user, system })
  expect((used.user + used.system) / 1e6).toBeLessThan(0.2)
  expect(await qemu.read(REGISTER, 4)).toMatchObject({ valueLo: 7 })
})

describe('what is agreed on', () => {
  test('nothing, with --transport socket', async () => {
    await start({ transport: 'socket' })
    const qemu = await FakeQemu.withRing(socket())
    const told = once(thread, 'transport')
    const welcome = await qemu.hello()
    expect(welcome).toMatchObject({ type: Id.welcome, features: 0 })
    expect(await told).toEqual([{ frames: 'socket', ram: 'wire' }])
  })

  test.each(['auto', undefined] as const)('nothing, with a QEMU that offers none (%s)', async transport => {
    await start(transport && { transport })
    const told = once(thread, 'transport')
    const qemu = await FakeQemu.connect(socket())
    await qemu.hello()
    expect(await told).toEqual([{ frames: 'socket', ram: 'wire', reason: 'QEMU offers none' }])
  })

  test('nothing, with a QEMU that does not take it after all', async () => {
    await start()
    const { qemu, use } = await machine(enums.status.range[0])
    expect(use).toEqual({ frames: 'socket', ram: 'wire', reason: 'QEMU does not take it (status 2)' })
    expect(await qemu.read(REGISTER, 4)).toMatchObject({ valueLo: 7 })
  })

  test('nothing else will do with --transport ring: QEMU offers none', async () => {
    await start({ transport: 'ring' })
    const qemu = await FakeQemu.connect(socket())
    expect(await qemu.hello()).toMatchObject({
      type: Id.refuse,
      text: expect.stringContaining('transport ring: QEMU offers none'),
    })
  })

  test('nothing else will do with --transport ring: QEMU does not take it', async () => {
    await start({ transport: 'ring' })
    const qemu = await FakeQemu.withRing(socket())
    qemu.ringStatus = enums.status.unsupported[0]
    const ended = once(thread, 'refused')
    await qemu.hello().catch(() => {})
    expect((await ended)[0]).toContain('transport ring: QEMU does not take it')
    await expect.poll(() => qemu.received.some(({ type }) => type === Id.quit)).toBe(true)
  })
})

describe('another end that', () => {
  const lost = async (): Promise<string> => String((await once(thread, 'disconnected'))[0])
  const error = (qemu: FakeQemu) => qemu.received.find(({ type }) => type === Id.error) as PeerError | undefined

  test.each([
    ['tail', WORD.toServerTail, 0x7fff_ffff],
    ['tail', WORD.toServerTail, -1],
    ['head', WORD.toQemuHead, 0x100_0000],
  ])('puts nonsense into its %s is told, and the connection ends', async (name, word, value) => {
    await start()
    const { qemu } = await machine()
    const ended = lost()
    // Whoever is asked for something looks at it.
    const asked = thread.call('registers', 0, 'hardware', [REGISTER]).catch(() => {})
    Atomics.store(wordsOf(qemu), word, value)
    for (let over = false; !over; ) {
      Atomics.store(wordsOf(qemu), word, value)
      qemu.socket.write(Buffer.alloc(1))
      void ended.then(() => {
        over = true
      })
      await thread.call('registers', 0, 'hardware', [REGISTER]).catch(() => {})
    }
    expect(await ended).toContain(`ring counter ${name}`)
    await asked
  })

  test('puts other bytes than bells on the socket is told, and the connection ends', async () => {
    await start()
    const { qemu } = await machine()
    const ended = lost()
    qemu.socket.write(Buffer.from([0, 0, 1]))
    expect(await ended).toBe('byte 0x1 beside the ring, expected doorbells')
    await expect.poll(() => error(qemu)?.code).toBe(enums.error.ring[0])
  })

  test('sends no frames is told, and the connection ends', async () => {
    await start()
    const { qemu } = await machine()
    const ended = lost()
    qemu.raw(Buffer.from([4, 0, 0, 0, 0xc1, 0xc1, 0xc1, 0xc1]))
    await ended
    await expect.poll(() => error(qemu)?.code).toBe(enums.error.msgpack[0])
  })

  test('scribbles over everything all the time ends nothing but its connection', async () => {
    await start()
    for (let seed = 1; seed <= 20; seed++) {
      const { qemu } = await machine()
      const words = new Int32Array(qemu.area ?? new ArrayBuffer(0))
      let state = seed
      const ended = lost()
      let over = false
      void ended.then(() => {
        over = true
      })
      while (!over) {
        for (let i = 0; i < 1000; i++) {
          state = (Math.imul(state, 1_103_515_245) + 12_345) | 0
          Atomics.store(words, i % 2 ? (state >>> 8) % 96 : (state >>> 8) % words.length, state)
        }
        qemu.socket.write(Buffer.alloc(1))
        await new Promise(setImmediate)
      }
      qemu.socket.destroy()
    }
    const { qemu } = await machine()
    expect(await qemu.read(REGISTER, 4)).toMatchObject({ valueLo: 7 })
  })

  test('rings without end costs no answer', async () => {
    await start()
    const { qemu } = await machine()
    const bells = Buffer.alloc(1_000)
    for (let i = 0; i < 200; i++) {
      qemu.socket.write(bells)
      expect(await qemu.read(REGISTER, 4)).toMatchObject({ valueLo: 7 })
    }
  })

  test('dies: what it said last counts', async () => {
    await start()
    const { qemu } = await machine()
    const shutdown = once(thread, 'shutdown')
    const ended = once(thread, 'disconnected')
    qemu.shutdown()
    qemu.socket.destroy()
    await shutdown
    expect((await ended)[1]).toBe(true)
  })

  test.each([true, false])('dies while it is asked: the question ends (peerEnds %s)', async peerEnds => {
    await start({ peerEnds })
    const { qemu } = await machine()
    qemu.serves = false
    const asked = thread.call('registers', 0, 'hardware', [REGISTER])
    setTimeout(() => qemu.socket.destroy(), 50)
    await expect(asked).rejects.toThrow()
  })
})

test('a thread that loops is ended by force, and its area goes with it', async () => {
  await start()
  const { qemu } = await machine()
  qemu.serves = false
  void thread.call('registers', 0, 'hardware', [REGISTER]).catch(() => {})
  await new Promise(resolve => setTimeout(resolve, 50))
  expect(mappings()).toBe(qemus + 1)
  await thread.stop()
})
