// SPDX-License-Identifier: Apache-2.0
/** Operations of the control thread while QEMU talks: two threads and a real socket, so that each run interleaves anew. */
import { once } from 'node:events'
import { rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { Id } from '../../../protocol/generated/messages.ts'
import { TrapThread } from '../../../server/control/trapThread.ts'
import { privateFolder } from '../../../server/machine/scratch.ts'
import { createCounters } from '../../../server/trace/counters.ts'
import { createRing } from '../../../server/trace/ring.ts'
import type { ThreadOptions } from '../../../server/trap/messages.ts'
import { FakeQemu } from './fakeQemu.ts'

/** What takes so long will never come. */
const HANG_MS = 10_000
/** How soon a thread ends that is told to. */
const STOP_MS = 1_000
const REGISTER = 0x20

describe.each([
  ['the socket', false],
  ['a ring', true],
])('through %s', (_how, ring) => {
  let folder: string
  let thread: TrapThread
  const socket = () => join(folder, 'trap')

  beforeEach(() => {
    folder = privateFolder(tmpdir(), 'crossing-')
  })
  afterEach(async () => {
    await inTime(thread.stop(), 'stop')
    rmSync(folder, { recursive: true })
  })

  async function start(source?: string, more: Partial<ThreadOptions> = {}): Promise<void> {
    const file = join(folder, 'policy.ts')
    if (source !== undefined) writeFileSync(file, source)
    thread = await TrapThread.start({
      listen: socket(),
      policy: source === undefined ? 'passthrough' : file,
      policyOptions: {},
      ramFile: join(folder, 'ram'),
      ring: createRing(1 << 20),
      counters: createCounters(),
      panicOnWarn: false,
      ...more,
    })
  }

  async function machine(): Promise<FakeQemu> {
    const qemu = await (ring ? FakeQemu.withRing(socket()) : FakeQemu.connect(socket()))
    await qemu.hello()
    await qemu.reset()
    return qemu
  }

  async function inTime<T>(work: Promise<T>, what: string, ms = HANG_MS): Promise<T> {
    const late = new AbortController()
    try {
      return await Promise.race([
        work,
        sleep(ms, undefined, { signal: late.signal }).then(() => {
          throw new Error(`${what}: nothing within ${ms} ms`)
        }),
      ])
    } finally {
      late.abort()
    }
  }

  /** Numbers that look random, the same ones in each run. */
  function* numbers(seed: number): Generator<number, never> {
    for (let state = seed; ; ) {
      state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0
      yield state >>> 16
    }
  }

  /** Time passes without a turn of this thread's event loop. */
  function spin(us: number): void {
    for (const end = performance.now() + us / 1000; performance.now() < end; );
  }

  const read = (hardware = true) => thread.call('registers', 0, hardware ? 'hardware' : 'host', [REGISTER])

  /** Operations, notices and at most one trap, at moments a few µs apart. @returns what is to come of them */
  function crossing(qemu: FakeQemu, random: Generator<number, never>): Promise<unknown>[] {
    const all: Promise<unknown>[] = []
    let trapped = false
    for (let count = 2 + (random.next().value % 5); count > 0; count--) {
      const what = random.next().value % 3
      if (what === 0 && !trapped) {
        trapped = true
        all.push(qemu.read(REGISTER, 4))
      } else if (what === 1) qemu.event(0x10, 1)
      else all.push(read())
      spin(random.next().value % 30)
    }
    return all
  }

  test.each([false, true])(
    '10,000 operations cross traps and notices, traps are held and released among them (peerEnds %s)',
    async peerEnds => {
      await start(undefined, { peerEnds })
      const qemu = await machine()
      qemu.registers.set(REGISTER, 7)
      const random = numbers(1)
      let operations = 0
      for (let round = 0; operations < 10_000; round++) {
        if (round % 5 !== 4) {
          const all = crossing(qemu, random)
          await inTime(Promise.all(all), `round ${round}`)
          operations += all.length
          continue
        }
        await thread.call('breakNext', true)
        const held = once(thread, 'held')
        const answer = qemu.read(REGISTER, 4)
        await inTime(held, `round ${round}: held`)
        const all: Promise<unknown>[] = []
        for (let i = 0; i < 4; i++) {
          qemu.event(0x10, 1)
          spin(random.next().value % 30)
          all.push(read(i % 2 === 0))
        }
        all.push(thread.call('release', { action: 'continue' }))
        expect(await inTime(answer, `round ${round}: release`)).toMatchObject({ valueLo: 7 })
        await inTime(Promise.all(all), `round ${round}: operations`)
        operations += all.length
      }
    },
  )

  test('a held trap is released after any number of tries', async () => {
    await start()
    const qemu = await machine()
    await thread.call('addBreakpoint', { match: { on: 'event' }, skip: 0, once: true, enabled: true })
    qemu.meanwhile = () => qemu.event(0x10, 1)
    const held = once(thread, 'held')
    const answer = qemu.write(REGISTER, 4, 5)
    await inTime(held, 'held')
    qemu.meanwhile = undefined
    for (let i = 0; i < 1_000; i++) {
      qemu.event(0x10, 1)
      spin(i % 40)
      const wrong = thread.call('release', { action: 'drop' })
      const all = [read(), wrong.catch(error => expect(error.message).toMatch(/carried out already/))]
      await inTime(Promise.all(all), `try ${i}`)
    }
    await thread.call('release', { action: 'continue' })
    expect(await inTime(answer, 'released')).toMatchObject({ type: Id.reply, status: 0 })
  })

  test('the code is replaced 20 times while operations cross traps', async () => {
    await start(undefined, { revive: true })
    let qemu = await machine()
    qemu.registers.set(REGISTER, 9)
    const random = numbers(2)
    for (let round = 0; round < 20; round++) {
      const ends = once(qemu.socket, 'close')
      const all = crossing(qemu, random)
      await inTime(Promise.all(all), `round ${round}`)
      const swap = thread.swap()
      // In the middle of it, a trap and operations: they reach the old code, or the new one, or find nobody.
      spin(random.next().value % 2_000)
      const lost = qemu.read(REGISTER, 4).catch(() => undefined)
      const { seq } = qemu
      const operations = Array.from({ length: 10 }, () => read().catch((error: Error) => error))
      await inTime(ends, `round ${round}: the old code goes`)
      const next = await inTime(qemu.reconnect(socket()), `round ${round}: reconnect`)
      await inTime(swap, `round ${round}: swap`)
      if ((await lost) === undefined) {
        expect(await inTime(next.read(REGISTER, 4, seq), `round ${round}: repeated`)).toMatchObject({ valueLo: 9 })
      }
      await inTime(Promise.all(operations), `round ${round}: operations`)
      qemu = next
    }
  })

  test('a thread that sleeps until its QEMU says something ends with it', async () => {
    await start(undefined, { peerEnds: true })
    const qemu = await machine()
    qemu.serves = false
    qemu.read(REGISTER, 4).catch(() => {})
    await sleep(200)
    const gone = once(thread, 'disconnected')
    qemu.socket.destroy()
    await inTime(gone, 'QEMU is gone')
  })

  describe('stop returns', () => {
    const stops = async () => {
      const start = performance.now()
      await inTime(thread.stop(), 'stop')
      expect(performance.now() - start).toBeLessThan(STOP_MS)
    }

    test('while QEMU does not answer a trap’s access to the hardware', async () => {
      await start()
      const qemu = await machine()
      qemu.serves = false
      const lost = expect(qemu.read(REGISTER, 4)).rejects.toThrow('closed')
      await sleep(50)
      await stops()
      await lost
    })

    test('while QEMU does not answer an operation', async () => {
      await start()
      const qemu = await machine()
      qemu.serves = false
      const operation = expect(read()).rejects.toThrow('the trap thread has ended')
      await sleep(50)
      await stops()
      await operation
    })

    test('while QEMU reads nothing', async () => {
      await start(`export default machine => ({
      name: 'floods', reset() {},
      access() { machine.memory.write(0x4000_0000, Buffer.alloc(1 << 20), 0, 1 << 20) },
    })`)
      const qemu = await machine()
      qemu.socket.pause()
      qemu.read(REGISTER, 4).catch(() => {})
      await sleep(50)
      await stops()
    })

    test('while a trap is held, and while the policy loops', async () => {
      await start()
      const qemu = await machine()
      await thread.call('breakNext', true)
      const held = once(thread, 'held')
      qemu.read(REGISTER, 4).catch(() => {})
      await held
      await stops()
      await start(`export default () => ({ name: 'loops', reset() {}, access() { for (;;); } })`)
      const next = await machine()
      next.read(REGISTER, 4).catch(() => {})
      await sleep(50)
      await stops()
    })

    test('while the code is replaced, at any moment of it', async () => {
      for (const ms of [0, 20, 50, 100, 200, 400]) {
        await start(undefined, { revive: true })
        // It never comes back.
        await machine()
        const swap = thread.swap().catch((error: Error) => error)
        await sleep(ms)
        await stops()
        expect(await inTime(swap, 'swap')).toBeInstanceOf(Error)
      }
    })
  })

  test.each([false, true])(
    'code that waits for a QEMU that stands still is replaced all the same (peerEnds %s)',
    async peerEnds => {
      await start(undefined, { revive: true, patienceMs: 3_000, peerEnds })
      const qemu = await machine()
      qemu.serves = false
      qemu.read(REGISTER, 4).catch(() => {})
      const { seq } = qemu
      await sleep(50)
      const ends = once(qemu.socket, 'close')
      const swap = thread.swap()
      // A thread that sleeps in the kernel goes when QEMU moves again.
      if (peerEnds) {
        await sleep(5_000)
        expect(qemu.socket.destroyed).toBe(false)
        qemu.event(0x10, 1)
      }
      await inTime(ends, 'the old code goes')
      const next = await qemu.reconnect(socket())
      await inTime(swap, 'swap')
      expect(await inTime(next.read(REGISTER, 4, seq), 'repeated')).toMatchObject({ type: Id.reply })
    },
  )
})
