// SPDX-License-Identifier: Apache-2.0
/** The ring of the real QEMU (protocol/README.md, "The ring"), against a server's end that does what the real one never does. */

import { once } from 'node:events'
import { closeSync, ftruncateSync, openSync, readdirSync, readFileSync } from 'node:fs'
import { type AddressInfo, createServer } from 'node:net'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import {
  encodeCheckpoint,
  encodeGuardAdd,
  encodeGuardRemove,
  encodeHold,
  encodeHwPost,
  encodeHwRead,
  encodeHwWrite,
  encodeInvalidate,
  encodeIrq,
  encodeMemRead,
  encodeMemWrite,
  encodeQuit,
  encodeReply,
  encodeRingOpen,
  encodeWelcome,
  Id,
  type MessageFromQemu,
} from '../../protocol/generated/messages.ts'
import { enums } from '../../protocol/messages.ts'
import { SANDBOX } from '../../server/machine/qemu.ts'
import { memoryFile, sealSize } from '../../server/machine/sharedMemory.ts'
import { ARM_SMMU_CR0, ARM_SMMU_CR1, ARM_SMMU_IDR0, ARM_SMMU_STRTAB_BASE } from '../../server/smmu/registers.ts'
import { Random } from '../fuzz/random.ts'
import { QtestMachine, RAM, SMMU } from './machine.ts'
import { type Encode, Peer } from './peer.ts'
import { areaSize, Ring, sendDescriptors, WORD } from './ring.ts'
import { serve } from './server.ts'

const [RING] = enums.feature.ring
const [OK] = enums.status.ok
const [RANGE] = enums.status.range
const [UNSUPPORTED] = enums.status.unsupported
const CAPACITY = 64 << 10
const MIB = 1 << 20

let machine: QtestMachine
let peer: Peer
beforeEach(async () => {
  machine = new QtestMachine()
  peer = await Peer.listen(machine.socket)
})
afterEach(async () => {
  peer.close()
  await machine.dispose()
})

/** Starts QEMU with this server, up to where vCPUs would run. */
async function start(
  properties: readonly string[] = [],
  features: number = RING,
  args: readonly string[] = [],
): Promise<void> {
  const started = machine.start({ properties, args })
  await Promise.race([started, peer.started(features)])
  await started
}

async function startRing(properties: readonly string[] = [], capacity = CAPACITY): Promise<Ring> {
  await start(properties)
  const ring = new Ring(capacity)
  expect(await peer.openRing(ring)).toBe(OK)
  return ring
}

/** An access of the guest; what comes of it does not matter when QEMU ends. */
const touch = (): Promise<bigint | undefined> => machine.qtest.read(SMMU, 4).catch(() => undefined)

/** A trap and its answer. */
async function trap(value: number): Promise<void> {
  const read = touch()
  peer.reply(await peer.next(Id.trapRead), value)
  expect(await read).toBe(BigInt(value))
}

const sleep = (ms: number): Promise<void> => new Promise(resolve => setTimeout(resolve, ms))

/** What QEMU says from now on. */
function words(): () => string {
  const { length } = machine.errors
  return () => machine.errors.slice(length)
}

/** Welcomes a QEMU that was lost, and gives it a new ring. */
async function again(): Promise<Ring> {
  peer.welcome(await peer.first(Id.hello), RING)
  const ring = new Ring(CAPACITY)
  expect(await peer.openRing(ring)).toBe(OK)
  return ring
}

test('carries what the socket carries', async () => {
  const BUFFER = RAM + MIB
  const requests: readonly Encode[] = [
    (out, seq) => encodeHwRead(out, seq, 0, ARM_SMMU_IDR0, 4),
    (out, seq) => encodeHwWrite(out, seq, 0, ARM_SMMU_STRTAB_BASE, 8, 0, RAM),
    (out, seq) => encodeHwRead(out, seq, 0, ARM_SMMU_STRTAB_BASE, 8),
    (out, seq) => encodeMemWrite(out, seq, BUFFER, Buffer.from('a ring of bytes')),
    (out, seq) => encodeMemRead(out, seq, BUFFER, 20),
    (out, seq) => encodeMemRead(out, seq, 0, 20),
    (out, seq) => encodeIrq(out, seq, 0, 0),
    (out, seq) => encodeInvalidate(out, seq, 0, 0, 0),
    (out, seq) => encodeGuardAdd(out, seq, BUFFER, 4096),
    (out, seq) => encodeGuardRemove(out, seq, BUFFER, 4096),
    (out, seq) => encodeHwPost(out, seq, 0, ARM_SMMU_CR1, 1, ARM_SMMU_CR1, 2, 3),
    (out, seq) => encodeCheckpoint(out, seq, Buffer.alloc(100_000)),
    (out, seq) => encodeHold(out, seq),
  ]
  const answers = requests.length - 3 + 1
  const said: MessageFromQemu[] = []
  const hear = async (count: number) => {
    for (let i = 0; i < count; i++) said.push(await peer.next(Id.done, Id.data, Id.postMismatch))
  }
  /** The same once more, beside a trap, with one write; then one by one while nothing is outstanding. */
  const all = async () => {
    const read = touch()
    const access = await peer.next(Id.trapRead)
    peer.send(...requests)
    await hear(answers)
    peer.reply(access, 0xabcd)
    expect(await read).toBe(0xabcdn)
    for (const request of requests.slice(0, -3)) {
      peer.send(request)
      await hear(1)
    }
    const write = machine.qtest.write(SMMU + ARM_SMMU_CR0, 4, 5)
    const written = await peer.next(Id.trapWrite)
    said.push(written)
    peer.reply(written)
    await write
    const heard = said.splice(0)
    return heard.map(message => ({ ...message, seq: 0, ...('time' in message && { time: 0, lastTrapNs: 0 }) }))
  }
  await start()
  const socket = await all()
  expect(await peer.openRing(new Ring(CAPACITY))).toBe(OK)
  expect(await all()).toEqual(socket)
  expect(socket.length).toBe(answers + requests.length - 3 + 1)
})

test.each([
  ['that always sleeps', 0],
  ['that polls', 50],
])('QEMU %s and a server that always sleeps: no wake-up is lost', async (_, spin) => {
  const ring = await startRing([`spin-us=${spin}`])
  for (let i = 0; i < 500; i++) await trap(i)
  for (let i = 0; i < 200; i++) expect(await peer.ask((out, seq) => encodeHwRead(out, seq, 0, 0, 4))).toBe(OK)
  // It was woken for what came, and not for what was taken out.
  expect(ring.bells).toBeGreaterThan(100)
  expect(ring.bells).toBeLessThan(750)
})

test('frames longer than a ring, both ways at once', async () => {
  await startRing([], 4096)
  const read = touch()
  const access = await peer.next(Id.trapRead)
  const bytes = Buffer.alloc(MIB - 64)
  for (let i = 0; i < bytes.length; i++) bytes[i] = (i * 7 + (i >> 8)) & 0xff
  const reads = 3
  peer.send(
    (out, seq) => encodeMemWrite(out, seq, RAM, bytes),
    ...Array.from({ length: reads }, (): Encode => (out, seq) => encodeMemRead(out, seq, RAM, bytes.length)),
  )
  expect((await peer.next(Id.done)).status).toBe(OK)
  for (let i = 0; i < reads; i++) expect(bytes.equals((await peer.next(Id.data)).bytes)).toBe(true)
  peer.reply(access, 7)
  expect(await read).toBe(7n)
})

describe('agreement', () => {
  /** A file of `size` bytes in memory; sealed or not. */
  const file = (size: number, sealed = true): number => {
    const fd = memoryFile('test')
    ftruncateSync(fd, size)
    if (sealed) sealSize(fd)
    return fd
  }

  test.each<[name: string, fds: () => number[], size: number]>([
    ['no descriptor', () => [], areaSize(CAPACITY)],
    ['two descriptors', () => [file(areaSize(CAPACITY)), file(areaSize(CAPACITY))], areaSize(CAPACITY)],
    ['five descriptors', () => Array.from({ length: 5 }, () => file(areaSize(CAPACITY))), areaSize(CAPACITY)],
    ['a file that is not sealed', () => [file(areaSize(CAPACITY), false)], areaSize(CAPACITY)],
    ['a file on disk', () => [openSync(machine.ramFile, 'r+')], areaSize(CAPACITY)],
    ['no file at all', () => [openSync('/dev/null', 'r+')], areaSize(CAPACITY)],
    ['a shorter file', () => [file(areaSize(CAPACITY) - 4096)], areaSize(CAPACITY)],
    ['a longer file', () => [file(areaSize(CAPACITY) + 4096)], areaSize(CAPACITY)],
    ['no power of two', () => [file(areaSize(12 << 10))], areaSize(12 << 10)],
    ['an odd size', () => [file(areaSize(CAPACITY) + 1)], areaSize(CAPACITY) + 1],
    ['rings of 2 KiB', () => [file(areaSize(2048))], areaSize(2048)],
    ['rings of 2 MiB', () => [file(areaSize(2 << 20))], areaSize(2 << 20)],
    ['no rings', () => [file(4096)], 4096],
    ['nothing', () => [file(0)], 0],
    ['the largest number', () => [file(areaSize(CAPACITY))], 0xffff_ffff],
  ])('%s: status range, and the socket stays', async (_, makeFds, size) => {
    await start()
    const fds = makeFds()
    expect(await peer.openRing(new Ring(CAPACITY), fds, size)).toBe(RANGE)
    for (const fd of fds) closeSync(fd)
    await trap(1)
  })

  test('under the sandbox that the server starts QEMU with', async () => {
    await start([], RING, ['-sandbox', SANDBOX])
    expect(await peer.openRing(new Ring(CAPACITY))).toBe(OK)
    await trap(1)
  })

  test.each([4096, MIB])('rings of %i bytes', async capacity => {
    await startRing([], capacity)
    await trap(1)
  })

  test('not named in welcome: unsupported', async () => {
    await start([], 0)
    expect(await peer.openRing(new Ring(CAPACITY))).toBe(UNSUPPORTED)
    await trap(1)
  })

  test.each([
    ['ring=on', RING],
    ['ring=off', 0],
  ])('%s: whether QEMU offers it', async (property, feature) => {
    const started = machine.start({ properties: [property] })
    const hello = await peer.next(Id.hello)
    expect(hello.features & RING).toBe(feature)
    peer.welcome(hello, RING)
    peer.reply(await peer.next(Id.reset))
    await started
    expect(await peer.openRing(new Ring(CAPACITY))).toBe(feature ? OK : UNSUPPORTED)
    await trap(1)
  })

  test('over TCP QEMU does not offer it', async () => {
    const path = join(machine.folder, 'tcp')
    const features: number[] = []
    const statuses: number[] = []
    const server = await serve(path, (message, out) => {
      if (message.type === Id.hello) {
        features.push(message.features & RING)
        encodeWelcome(out, message.seq, 1, RING, 'tcp')
      } else if (message.type === Id.reset) {
        encodeReply(out, message.seq, 0, 0, 0)
        encodeRingOpen(out, 1, areaSize(CAPACITY))
      } else if (message.type === Id.done) statuses.push(message.status)
      else if (message.type === Id.trapRead) encodeReply(out, message.seq, 0, 0, 5)
    })
    const [handler] = server.listeners('connection')
    const tcp = createServer(handler as () => void).listen(0, '127.0.0.1')
    await once(tcp, 'listening')
    await machine.start({ addr: `127.0.0.1:${(tcp.address() as AddressInfo).port}` })
    expect(await machine.qtest.read(SMMU, 4)).toBe(5n)
    expect([features, statuses]).toEqual([[0], [UNSUPPORTED]])
    server.close()
    tcp.close()
  })

  test.each([
    ['in the ring', true],
    ['after one that was refused', false],
  ])('ringOpen twice, %s, is an error', async (_, first) => {
    await start()
    const ring = new Ring(CAPACITY)
    expect(await peer.openRing(ring, first ? [ring.file.fd] : [])).toBe(first ? OK : RANGE)
    const read = touch()
    await peer.next(Id.trapRead)
    peer.send((out, seq) => encodeRingOpen(out, seq, areaSize(CAPACITY)))
    expect((await peer.next(Id.error)).code).toBe(enums.error.state[0])
    await read
    expect(await machine.exit()).toBe(1)
    expect(machine.errors).toMatch(/ringOpen, a second time/)
  })

  test('frames on the socket behind ringOpen are an error', async () => {
    await start()
    const ring = new Ring(CAPACITY)
    const hwRead = peer.pack((out, seq) => encodeHwRead(out, seq, 0, 0, 4))
    const open = peer.openRing(ring).catch(() => {})
    peer.socket.write(hwRead)
    await open
    await touch()
    expect(await machine.exit()).toBe(1)
    expect(machine.errors).toMatch(/doorbell|expected nothing after it/)
  })
})

describe('descriptors that nobody asked for', () => {
  const open = () => readdirSync(`/proc/${machine.pid}/fd`).length

  test.each([
    ['while ringOpen may come', RING],
    ['when it was not agreed on', 0],
  ])('%s: QEMU keeps none of them', async (_, features) => {
    await start([], features)
    await trap(1)
    const before = open()
    const fd = openSync('/dev/null', 'r')
    for (let i = 0; i < 50; i++) {
      const bytes = peer.pack((out, seq) => encodeHwRead(out, seq, 0, 0, 4))
      sendDescriptors(peer.socket, bytes, Array(1 + (i % 3)).fill(fd))
      expect((await peer.next(Id.done)).status).toBe(OK)
    }
    closeSync(fd)
    expect(open()).toBe(before)
  })

  test('and of those that it asked for it keeps none either', async () => {
    await start(['reconnect-ms=30000'])
    await trap(1)
    const before = open()
    const maps = () => readFileSync(`/proc/${machine.pid}/maps`, 'utf8').match(/memfd:ring/g)?.length ?? 0
    for (let i = 0; i < 5; i++) {
      expect(await peer.openRing(new Ring(CAPACITY))).toBe(OK)
      await trap(i)
      expect([open(), maps()]).toEqual([before, 1])
      peer.cut()
      peer.welcome(await peer.next(Id.hello), RING)
    }
    await trap(1)
    expect([open(), maps()]).toEqual([before, 0])
  })
})

describe('a server that writes anything anywhere', () => {
  /** What may be written at any time; the test itself goes by toServer.tail. */
  const WORDS = [WORD.toQemuTail, WORD.toQemuHead, WORD.toServerHead, WORD.serverSleeps, WORD.qemuSleeps]

  test.each<[word: 'toQemuTail' | 'toServerHead', value: (ring: Ring) => number]>([
    ['toQemuTail', () => 0],
    ['toQemuTail', ring => ring.put - 1],
    ['toQemuTail', ring => ring.put + CAPACITY + 1],
    ['toQemuTail', ring => ring.put + 2 * CAPACITY],
    ['toQemuTail', () => 0x7fff_ffff],
    ['toQemuTail', () => 0x8000_0000],
    ['toQemuTail', () => 0xffff_ffff],
    ['toServerHead', ring => ring.taken + 1],
    ['toServerHead', ring => ring.taken - CAPACITY - 1],
    ['toServerHead', () => 0x7fff_ffff],
    ['toServerHead', () => 0x8000_0000],
    ['toServerHead', () => 0xfffe_0000],
  ])('counter %s out of range (case %#): an error that names it; the next server goes on', async (word, value) => {
    const ring = await startRing(['reconnect-ms=30000'])
    await trap(1)
    const said = words()
    const read = touch()
    await peer.next(Id.trapRead)
    const bad = value(ring) >>> 0
    const name = word === 'toQemuTail' ? 'toQemu.tail' : 'toServer.head'
    // A head matters to QEMU when it has something to put in.
    if (word === 'toServerHead') {
      ring.store(WORD.toServerHead, bad)
      ring.force(
        peer.pack((out, seq) => encodeHwRead(out, seq, 0, 0, 4)),
        peer.socket,
      )
    } else {
      ring.store(WORD.toQemuTail, bad)
      peer.socket.write(Buffer.alloc(1))
      const error = await peer.next(Id.error)
      expect([error.code, error.text]).toEqual([enums.error.ring[0], expect.stringContaining(`0x${bad.toString(16)},`)])
    }
    await again()
    expect(said()).toContain(`ring counter ${name} is 0x${bad.toString(16)}, expected`)
    peer.reply(await peer.next(Id.trapRead), 0x77)
    expect(await read).toBe(0x77n)
  })

  test('bytes that nobody wrote are frames like any others', async () => {
    const ring = await startRing(['reconnect-ms=30000'])
    await trap(1)
    const said = words()
    const read = touch()
    await peer.next(Id.trapRead)
    ring.store(WORD.toQemuTail, ring.put + CAPACITY)
    peer.socket.write(Buffer.alloc(1))
    expect((await peer.next(Id.error)).code).toBe(enums.error.frame[0])
    await again()
    expect(said()).toContain('length: expected 1 to 1048576')
    peer.reply(await peer.next(Id.trapRead), 0x77)
    expect(await read).toBe(0x77n)
  })

  test.each(
    (['toQemuHead', 'toServerTail', 'serverSleeps', 'qemuSleeps'] as const).flatMap(word =>
      [0, 1, 2, 3, CAPACITY, 0x7fff_ffff, 0x8000_0000, 0xffff_fffc, 0xffff_ffff].map(value => [word, value] as const),
    ),
  )('%s is %i: QEMU does not go by it, or wakes somebody for nothing', async (word, value) => {
    const ring = await startRing()
    await trap(1)
    const read = touch()
    const access = await peer.next(Id.trapRead)
    ring.store(WORD[word], value)
    ring.force(
      peer.pack(out => encodeReply(out, access.seq, OK, 0, 0x55)),
      peer.socket,
    )
    expect(await read).toBe(0x55n)
    const next = touch()
    await sleep(50)
    peer.look()
    peer.reply(await peer.next(Id.trapRead), 0x66)
    expect(await next).toBe(0x66n)
  })

  test('no room, and then there is', async () => {
    const ring = await startRing()
    await trap(1)
    const read = touch()
    const access = await peer.next(Id.trapRead)
    ring.store(WORD.toServerHead, ring.taken - CAPACITY)
    ring.force(
      peer.pack((out, seq) => encodeHwRead(out, seq, 0, 0, 4)),
      peer.socket,
    )
    await sleep(100)
    expect(peer.unread).toEqual([])
    ring.store(WORD.toServerHead, ring.taken)
    expect(ring.load(WORD.qemuSleeps) & 2).toBe(2)
    peer.socket.write(Buffer.alloc(1))
    await peer.next(Id.done)
    peer.reply(access, 3)
    expect(await read).toBe(3n)
  })

  test('at random, for a while: each access is answered, by this server or the next', async () => {
    let ring = await startRing(['reconnect-ms=60000', 'reply-timeout-ms=2000'])
    const random = new Random(18)
    const hostile = () => {
      const near = [ring.put, ring.taken, 0, CAPACITY, 2 ** 31][random.below(5)] ?? 0
      return (near + random.below(2) * random.below(2 * CAPACITY) - random.below(3)) >>> 0
    }
    let lost = 0
    /** The trap, from a QEMU that may have to be welcomed first. */
    const asked = async () => {
      for (;;) {
        if (has(Id.hello)) {
          lost++
          ring = await again()
        } else if (has(Id.trapRead)) return peer.first(Id.trapRead)
        else await sleep(1)
      }
    }
    const has = (type: number) => peer.unread.some(message => message.type === type)
    for (let round = 0; round < 150; round++) {
      const read = touch()
      let answered = false
      void read.then(() => {
        answered = true
      })
      const access = await asked()
      const { socket } = peer
      for (let left = 1 + random.below(4); left > 0; left--) {
        const what = random.below(8)
        if (what < 5) {
          ring.store(WORDS[random.below(WORDS.length)] ?? 0, hostile())
        } else if (what < 7) {
          const garbage = Uint8Array.from({ length: random.below(40) }, () => random.below(256))
          ring.copyIn(garbage, ring.put + random.below(20))
        } else ring.copyIn(peer.pack((out, seq) => encodeHwRead(out, seq, 0, 0, 4)))
        if (random.below(2)) socket.write(Buffer.alloc(1))
      }
      await sleep(random.below(3))
      // It says what is true again. Did QEMU believe it meanwhile, it is lost.
      ring.store(WORD.toServerHead, ring.taken)
      ring.force(
        peer.pack(out => encodeReply(out, access.seq, OK, 0, round)),
        socket,
      )
      peer.look()
      while (!answered && !has(Id.hello)) await sleep(1)
      if (!answered) peer.reply(await asked(), round)
      expect(await read).toBe(BigInt(round))
    }
    expect(lost).toBeGreaterThan(5)
    expect(lost).toBeLessThan(140)
  })

  test('a byte on the socket that is no doorbell', async () => {
    await startRing()
    const read = touch()
    await peer.next(Id.trapRead)
    peer.socket.write(Buffer.from([0, 0, 1]))
    expect((await peer.next(Id.error)).code).toBe(enums.error.ring[0])
    await read
    expect(await machine.exit()).toBe(1)
    expect(machine.errors).toMatch(/doorbell/)
  })

  test('all the same when nothing is outstanding', async () => {
    const ring = await startRing()
    await trap(1)
    // The main loop is at the socket again.
    await sleep(100)
    ring.store(WORD.toQemuTail, 0xffff_0000)
    peer.socket.write(Buffer.alloc(1))
    expect(await machine.exit()).toBe(1)
    expect(machine.errors).toMatch(/ring counter toQemu.tail is 0xffff0000/)
  })
})

describe('a server that stands still', () => {
  test.each<[name: string, act: (ring: Ring) => void]>([
    ['says nothing', () => {}],
    [
      'stops in the middle of a frame',
      ring =>
        ring.force(
          peer.pack((out, seq) => encodeMemWrite(out, seq, RAM, Buffer.alloc(100))).subarray(0, 60),
          peer.socket,
        ),
    ],
    [
      'stops in the middle of a length',
      ring => ring.force(peer.pack((out, seq) => encodeHold(out, seq)).subarray(0, 2), peer.socket),
    ],
    [
      'only rings',
      () => {
        const bells = setInterval(() => peer.socket.destroyed || peer.socket.write(Buffer.alloc(100)), 1)
        peer.socket.once('close', () => clearInterval(bells))
      },
    ],
  ])('%s: the time limit, and a signal', async (_, act) => {
    const ring = await startRing(['reply-timeout-ms=1000', 'reconnect-ms=60000'])
    const said = words()
    const read = touch()
    await peer.next(Id.trapRead)
    act(ring)
    const began = Date.now()
    peer.welcome(await peer.next(Id.hello), RING)
    expect(Date.now() - began).toBeGreaterThan(900)
    expect(Date.now() - began).toBeLessThan(3000)
    expect(said()).toContain('no answer within 1000 ms')
    const second = new Ring(CAPACITY)
    expect(await peer.openRing(second)).toBe(OK)
    await peer.next(Id.trapRead)
    act(second)
    const signalled = Date.now()
    machine.kill('SIGTERM')
    await machine.exit()
    expect(Date.now() - signalled).toBeLessThan(900)
    await read
    // The last message is in the ring when QEMU is gone.
    await peer.first(Id.shutdown)
  })

  test.each([
    ['the time limit', undefined],
    ['a signal', 'SIGTERM' as const],
  ])('takes nothing out of a full ring: %s', async (_, signal) => {
    await startRing([`reply-timeout-ms=${signal ? 60_000 : 500}`], 4096)
    const read = touch()
    await peer.next(Id.trapRead)
    peer.stopReading()
    peer.send(...Array.from({ length: 20 }, (): Encode => (out, seq) => encodeMemRead(out, seq, RAM, 1000)))
    await sleep(200)
    const signalled = Date.now()
    if (signal) machine.kill(signal)
    const code = await machine.exit()
    await read
    expect(Date.now() - signalled).toBeLessThan(2000)
    if (signal) return
    expect(code).toBe(1)
    expect(machine.errors).toMatch(/does not take what QEMU sends/)
  })

  test('hold: longer than the time limit', async () => {
    await startRing(['reply-timeout-ms=300'])
    const read = touch()
    const access = await peer.next(Id.trapRead)
    peer.send(encodeHold)
    await sleep(800)
    peer.reply(access, 9)
    expect(await read).toBe(9n)
  })
})

describe('a server that dies', () => {
  test('in the middle of a frame', async () => {
    const ring = await startRing()
    const read = touch()
    const access = await peer.next(Id.trapRead)
    ring.force(peer.pack(out => encodeReply(out, access.seq, OK, 0, 1)).subarray(0, 8), peer.socket)
    peer.cut()
    await read
    expect(await machine.exit()).toBe(1)
    expect(machine.errors).toMatch(/connection closed by the server/)
  })

  test.each([true, false])('after its answer, having rung (%s): the answer counts', async rings => {
    const ring = await startRing(['reconnect-ms=30000'])
    const read = touch()
    const access = await peer.next(Id.trapRead)
    const answer = peer.pack(out => encodeReply(out, access.seq, OK, 0, 0x99))
    if (rings) ring.force(answer, peer.socket)
    else {
      ring.copyIn(answer)
      ring.store(WORD.toQemuTail, ring.put + answer.length)
    }
    peer.cut()
    expect(await read).toBe(0x99n)
    // What is asked next is for its successor.
    const next = touch()
    await again()
    peer.reply(await peer.next(Id.trapRead), 0x9a)
    expect(await next).toBe(0x9an)
  })

  test('after quit: QEMU ends with its code', async () => {
    const ring = await startRing()
    const read = touch()
    await peer.next(Id.trapRead)
    ring.force(
      peer.pack((out, seq) => encodeQuit(out, seq, 7, 'enough')),
      peer.socket,
    )
    peer.cut()
    await read
    expect(await machine.exit()).toBe(7)
    expect(machine.errors).toMatch(/enough/)
  })

  test('while nothing is outstanding', async () => {
    await startRing(['reconnect-ms=30000'])
    await trap(1)
    await sleep(100)
    peer.cut()
    await again()
    await trap(2)
  })
})
