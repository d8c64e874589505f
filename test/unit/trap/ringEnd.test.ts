// SPDX-License-Identifier: Apache-2.0
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { ProtocolError } from '../../../protocol/errors.ts'
import { enums } from '../../../protocol/messages.ts'
import { areaSize, BYTES, RingEnd, ROOM, WORD } from '../../../server/trap/ringEnd.ts'

const CAPACITY = 4096

class Ring {
  readonly area = new SharedArrayBuffer(areaSize(CAPACITY))
  readonly words = new Int32Array(this.area, 0, 1024)
  /** Doorbells that were rung and not taken. */
  bells = { server: 0, qemu: 0 }
  readonly server = new RingEnd(this.area, 'server', () => this.bells.qemu++)
  readonly qemu = new RingEnd(this.area, 'qemu', () => this.bells.server++)
}

const code = (act: () => unknown): number | undefined => {
  try {
    act()
  } catch (error) {
    if (error instanceof ProtocolError) return error.code
    throw error
  }
  return undefined
}

test('any bytes come out as they went in, in both directions, however they are cut', () => {
  const step = fc.record({
    toQemu: fc.boolean(),
    write: fc.boolean(),
    count: fc.oneof(fc.integer({ min: 0, max: 100 }), fc.integer({ min: 0, max: 2 * CAPACITY })),
  })
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), steps => {
      const ring = new Ring()
      const ways = [true, false].map(toQemu => ({
        from: toQemu ? ring.server : ring.qemu,
        to: toQemu ? ring.qemu : ring.server,
        sent: 0,
        taken: 0,
      }))
      for (const { toQemu, write, count } of steps) {
        const way = ways[toQemu ? 0 : 1]
        const bytes = Buffer.alloc(count + 2)
        if (write) {
          for (let i = 0; i < count; i++) bytes[1 + i] = (way.sent + i) * 7
          const sent = way.from.write(bytes, 1, 1 + count)
          expect(sent).toBe(Math.min(count, CAPACITY - (way.sent - way.taken)))
          way.sent += sent
        } else {
          const taken = way.to.read(bytes.subarray(0, count + 1), 1)
          expect(taken).toBe(Math.min(count, way.sent - way.taken))
          for (let i = 0; i < taken; i++) expect(bytes[1 + i]).toBe(((way.taken + i) * 7) & 0xff)
          way.taken += taken
        }
        expect([way.to.available, way.from.room]).toEqual([way.sent - way.taken, CAPACITY - (way.sent - way.taken)])
      }
    }),
  )
})

test('counters wrap', () => {
  const ring = new Ring()
  const bytes = Buffer.alloc(CAPACITY)
  const back = Buffer.alloc(CAPACITY)
  // 2^32 bytes and a little: a quarter of a second of memory copies.
  for (let i = 0; i <= 2 ** 32 / CAPACITY; i++) {
    bytes.writeUInt32LE(i)
    if (ring.server.write(bytes, 0, CAPACITY) !== CAPACITY) throw new Error(`write ${i}`)
    if (ring.qemu.read(back, 0) !== CAPACITY) throw new Error(`read ${i}`)
  }
  expect(back.readUInt32LE()).toBe(2 ** 32 / CAPACITY)
  expect([ring.words[WORD.toQemuTail], ring.words[WORD.toQemuHead]]).toEqual([CAPACITY, CAPACITY])
})

describe('another end that writes anything', () => {
  test('into its counters: what is out of range is an error, and all else stays within the area', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.constantFrom(...Object.values(WORD)), fc.integer(), fc.integer({ min: 0, max: 9000 }))),
        steps => {
          const ring = new Ring()
          let taken = 0
          let put = 0
          for (const [word, value, count] of steps) {
            Atomics.store(ring.words, word, value)
            const bytes = Buffer.alloc(count)
            const tail = (Atomics.load(ring.words, WORD.toServerTail) - taken) | 0
            const read = code(() => {
              const got = ring.server.read(bytes, 0)
              taken = (taken + got) | 0
              expect(got).toBe(Math.min(count, tail))
            })
            expect(read).toBe(tail < 0 || tail > CAPACITY ? enums.error.ring[0] : undefined)
            const used = (put - Atomics.load(ring.words, WORD.toQemuHead)) | 0
            const wrote = code(() => {
              const got = ring.server.write(bytes, 0, count)
              put = (put + got) | 0
              expect(got).toBe(Math.min(count, CAPACITY - used))
            })
            expect(wrote).toBe(used < 0 || used > CAPACITY ? enums.error.ring[0] : undefined)
            code(() => ring.server.sleep(BYTES | ROOM))
          }
        },
      ),
    )
  })

  test('into the counters of this end: they are never read back', () => {
    const ring = new Ring()
    ring.server.write(Buffer.from('abc'), 0, 3)
    ring.qemu.write(Buffer.from('def'), 0, 3)
    ring.words[WORD.toQemuTail] = 77
    ring.words[WORD.toServerHead] = -5
    ring.server.write(Buffer.from('ghi'), 0, 3)
    const bytes = Buffer.alloc(8)
    expect(ring.server.read(bytes, 0)).toBe(3)
    expect([ring.words[WORD.toQemuTail], ring.words[WORD.toServerHead]]).toEqual([6, 3])
    expect(ring.qemu.read(bytes, 0)).toBe(6)
    expect(bytes.toString('latin1', 0, 6)).toBe('abcghi')
  })

  test('the error names the counter', () => {
    const ring = new Ring()
    ring.words[WORD.toServerTail] = CAPACITY + 1
    expect(() => ring.server.available).toThrow(`ring counter tail ${CAPACITY + 1}, expected 0 to ${CAPACITY}`)
    ring.words[WORD.toQemuHead] = 1
    expect(() => ring.server.room).toThrow(`ring counter head 1, expected ${2 ** 32 - CAPACITY} to 0`)
  })
})

test('a bell is rung for what the sleeper waits for, once, and for nothing else', () => {
  const ring = new Ring()
  const one = Buffer.alloc(1)
  ring.qemu.write(one, 0, 1)
  expect(ring.bells.server).toBe(0)
  expect(ring.server.sleep(BYTES)).toBe(false)
  expect(ring.words[WORD.serverSleeps]).toBe(0)
  ring.server.read(one, 0)
  expect(ring.server.sleep(BYTES)).toBe(true)
  ring.server.write(one, 0, 1)
  ring.qemu.read(one, 0)
  expect(ring.bells).toEqual({ server: 0, qemu: 0 })
  ring.qemu.write(one, 0, 1)
  ring.qemu.write(one, 0, 1)
  expect(ring.bells.server).toBe(1)
  const all = Buffer.alloc(CAPACITY)
  expect(ring.qemu.write(all, 0, CAPACITY)).toBe(CAPACITY - 2)
  expect(ring.qemu.sleep(ROOM)).toBe(true)
  ring.server.write(one, 0, 1)
  expect(ring.bells.qemu).toBe(0)
  ring.server.read(one, 0)
  expect(ring.bells.qemu).toBe(1)
})

/**
 * Both ends as programs whose every access to the shared words is a step of its own, and all that can come of all orders of these
 * steps. What Atomics store and load has one order for all, so an order of steps is what can happen. A program says before each step
 * where it stands, private memory included: so two orders that lead to the same are gone on with once. It is RingEnd's code, access by
 * access, with a capacity of 1, so that room is waited for as well.
 */
interface Shared {
  tail: number
  head: number
  /** Of the sender, which waits for room, and of the receiver, which waits for bytes. */
  senderSleeps: number
  receiverSleeps: number
  senderBells: number
  receiverBells: number
}
/** Where a program stands; one that sleeps goes on when its bell rings. */
type Place = string
const asleep = (place: Place): boolean => place.startsWith('asleep')

/** @param early looks who sleeps before it moves its counter, which is wrong */
function* sender(shared: Shared, count: number, early: boolean): Generator<Place, void> {
  for (let tail = 0; tail < count; ) {
    yield `look ${tail}`
    if (tail - shared.head === 1) {
      yield `sleep ${tail}`
      shared.senderSleeps = ROOM
      yield `look again ${tail}`
      if (tail - shared.head === 1) {
        yield `asleep ${tail}`
        shared.senderBells = 0
      }
      yield `awake ${tail}`
      shared.senderSleeps = 0
      continue
    }
    tail++
    let sleeps = 0
    if (early) {
      yield `who sleeps, too early ${tail}`
      sleeps = shared.receiverSleeps
    }
    yield `move ${sleeps} ${tail}`
    shared.tail = tail
    if (!early) {
      yield `who sleeps ${tail}`
      sleeps = shared.receiverSleeps
    }
    if ((sleeps & BYTES) === 0) continue
    yield `clear ${tail}`
    shared.receiverSleeps = 0
    yield `ring ${tail}`
    shared.receiverBells++
  }
}

function* receiver(shared: Shared, count: number): Generator<Place, void> {
  for (let head = 0; head < count; ) {
    yield `look ${head}`
    if (shared.tail === head) {
      yield `sleep ${head}`
      shared.receiverSleeps = BYTES
      yield `look again ${head}`
      if (shared.tail === head) {
        yield `asleep ${head}`
        shared.receiverBells = 0
      }
      yield `awake ${head}`
      shared.receiverSleeps = 0
      continue
    }
    head++
    yield `move ${head}`
    shared.head = head
    yield `who sleeps ${head}`
    if ((shared.senderSleeps & ROOM) === 0) continue
    yield `clear ${head}`
    shared.senderSleeps = 0
    yield `ring ${head}`
    shared.senderBells++
  }
}

/** Everything that can be: how many states, and those from which nobody goes on though not all is done. */
function explore(count: number, early = false): { states: number; stuck: string[] } {
  const seen = new Set<string>()
  const stuck: string[] = []
  const open: (readonly number[])[] = [[]]
  for (let order = open.pop(); order !== undefined; order = open.pop()) {
    const shared = { tail: 0, head: 0, senderSleeps: 0, receiverSleeps: 0, senderBells: 0, receiverBells: 0 }
    const programs = [sender(shared, count, early), receiver(shared, count)]
    const places = programs.map(program => program.next())
    for (const one of order) places[one] = programs[one].next()
    const state = JSON.stringify([shared, places.map(({ value }) => value ?? 'done')])
    if (seen.has(state)) continue
    seen.add(state)
    const can = [0, 1].filter(one => {
      const { value, done } = places[one]
      return !done && !(asleep(value) && (one === 0 ? shared.senderBells : shared.receiverBells) === 0)
    })
    if (can.length === 0 && places.some(({ done }) => !done)) stuck.push(state)
    for (const one of can) open.push([...order, one])
  }
  return { states: seen.size, stuck }
}

describe('sleep and wake-up, in every order of the steps of both ends', () => {
  test('no wake-up is lost', () => {
    const { states, stuck } = explore(5)
    expect(stuck).toEqual([])
    expect(states).toBeGreaterThan(500)
  })

  test('of a sender that looks who sleeps before it moves its counter, one would be', () => {
    expect(explore(1, true).stuck).not.toEqual([])
  })
})
