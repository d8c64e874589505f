// SPDX-License-Identifier: Apache-2.0
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { ProtocolError } from '../../../protocol/errors.ts'
import { FrameReader, FrameWriter, MAX_ON_WIRE } from '../../../protocol/framing.ts'
import {
  Decoder,
  encodeDone,
  encodeEvent,
  encodeHwRead,
  encodeReply,
  encodeTrapRead,
  Id,
} from '../../../protocol/generated/messages.ts'
import { type ByteStream, LinkClosed, NOTHING, type Receiver } from '../../../server/trap/byteStream.ts'
import { Link } from '../../../server/trap/link.ts'

/** A server that waits so often in a row for a peer that has done all it will do would wait for ever. */
const FOR_EVER = 50

/** A peer and the wire to it, without a kernel between them: it moves when the server looks, and when the test says so. */
class Peer implements ByteStream {
  /** Sent, and not taken by the server. */
  readonly #arriving: Buffer[] = []
  readonly #out = new FrameWriter()
  readonly #in = new FrameReader()
  readonly #decoder = new Decoder('qemu')
  #received: (chunk: Buffer, count: number) => void = () => {}
  #closed: (reason: LinkClosed) => void = () => {}
  #seq = 0
  #pauses = 0
  /** Bytes that it has room for, until it looks. */
  room = Number.POSITIVE_INFINITY
  gone = false
  /** The server closed. */
  hungUp = false
  /** Requests of the server, to be answered. */
  readonly #asked: number[] = []
  readonly traps: number[] = []
  readonly replies: number[] = []
  readonly errors: number[] = []
  /** What it sends in front of an answer, and behind it in the same packet. */
  before: ('trap' | 'event')[] = []
  behind: ('trap' | 'event')[] = []
  events = 0
  readonly sleeps: boolean

  constructor(sleeps = false) {
    this.sleeps = sleeps
  }

  start(receiver: Receiver): void {
    this.#received = (chunk, count) => receiver.received(chunk, count)
    this.#closed = reason => receiver.closed(reason)
  }

  read(into: Buffer, at: number): number {
    const [first] = this.#arriving
    if (first === undefined) {
      if (this.gone) throw new LinkClosed('gone')
      return NOTHING
    }
    this.#pauses = 0
    const count = first.copy(into, at)
    if (count === first.length) this.#arriving.shift()
    else this.#arriving[0] = first.subarray(count)
    return count
  }

  write(from: Buffer, at: number, end: number): number {
    if (this.hungUp || this.gone) throw new LinkClosed('gone')
    const count = Math.min(end - at, this.room)
    this.room -= count
    if (count > 0) this.#pauses = 0
    this.#in.push(Buffer.from(from.subarray(at, at + count)))
    while (this.#in.next()) this.#take()
    return count
  }

  wait(into: Buffer, at: number): number {
    expect(this.sleeps).toBe(true)
    if (!this.arriving) this.answer()
    const count = this.read(into, at)
    if (count === NOTHING) throw new Error('the server sleeps until what will never come')
    return count
  }

  pause(): void {
    if (++this.#pauses > FOR_EVER) throw new Error('the server waits for what will never come')
    this.room = Number.POSITIVE_INFINITY
    this.answer()
  }

  close(): void {
    this.hungUp = true
  }

  /** Whether a trap waits for its reply: then the vCPU makes no other. */
  get waits(): boolean {
    return this.traps.length > this.replies.length
  }

  trap(): void {
    if (this.waits) return
    this.traps.push(++this.#seq)
    encodeTrapRead(this.#out, this.#seq, 0, 0, 0, 4, 0, 0, 0, 0)
  }

  event(): void {
    this.events++
    encodeEvent(this.#out, ++this.#seq, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0)
  }

  /** What was encoded leaves, in packets of `size` bytes. */
  send(size = Number.POSITIVE_INFINITY): void {
    const bytes = Buffer.from(this.#out.buffer.subarray(0, this.#out.length))
    this.#out.reset()
    for (let at = 0; at < bytes.length; at += size) this.#arriving.push(bytes.subarray(at, at + size))
  }

  answer(): void {
    for (const seq of this.#asked.splice(0)) {
      for (const what of this.before.splice(0)) this[what]()
      encodeDone(this.#out, seq, 0, 0, seq * 3)
      for (const what of this.behind.splice(0)) this[what]()
    }
    this.send()
  }

  /** The server's event loop reads one packet: there may be none, where somebody took it since the loop learned of it. */
  turn(): void {
    this.answer()
    const first = this.#arriving.shift()
    if (first !== undefined) this.#received(first, first.length)
    else if (this.gone) this.#closed(new LinkClosed('gone'))
  }

  get arriving(): boolean {
    return this.#arriving.length > 0
  }

  #take(): void {
    const message = this.#decoder.decode(this.#in.buffer, this.#in.start, this.#in.end)
    if (message.type === Id.hwRead) this.#asked.push(message.seq)
    else if (message.type === Id.reply) this.replies.push(message.seq)
    else if (message.type === Id.error) this.errors.push(message.code)
  }
}

/** A server as small as can be: each trap makes some calls, and is answered or held. */
class Server {
  readonly link: Link
  /** Calls that the next traps make, and whether they are held then. */
  readonly plan: { readonly calls: number; readonly held: boolean }[] = []
  readonly seen: number[] = []
  events = 0
  held = 0
  closed: Error | undefined
  #depth = 0

  constructor(stream: ByteStream) {
    this.link = new Link(stream, {
      message: message => {
        expect(this.closed).toBeUndefined()
        // One at a time: nothing is handed on in the middle of something else.
        expect(++this.#depth).toBe(1)
        try {
          if (message.type === Id.event) this.events++
          if (message.type !== Id.trapRead) return
          const { seq } = message
          this.seen.push(seq)
          const { calls, held } = this.plan.shift() ?? { calls: 0, held: false }
          this.call(calls)
          if (held) this.held = seq
          else this.reply(seq)
        } finally {
          this.#depth--
        }
      },
      notice: message => {
        if (message.type !== Id.event) return false
        this.events++
        return true
      },
      closed: reason => {
        expect(this.closed).toBeUndefined()
        this.closed = reason
      },
    })
  }

  call(times: number): void {
    for (let i = 0; i < times; i++) {
      const seq = this.link.nextSeq()
      encodeHwRead(this.link.out, seq, 0, 0, 4)
      expect(this.link.call(seq)).toMatchObject({ type: Id.done, seq, valueLo: seq * 3 })
    }
  }

  reply(seq: number): void {
    encodeReply(this.link.out, seq, 0, 0, 0)
    this.link.flush()
  }

  /** What the control thread asks for, between two turns of the event loop. */
  operate(work: () => void): void {
    if (!this.link.open) return
    try {
      work()
    } catch (error) {
      if (!(error instanceof LinkClosed)) throw error
      this.link.close(error)
    }
    this.link.deliver()
  }

  release(): void {
    const seq = this.held
    this.held = 0
    if (seq !== 0) this.reply(seq)
  }
}

type Step =
  | { readonly do: 'trap'; readonly calls: number; readonly held: boolean; readonly size: number }
  | { readonly do: 'event'; readonly size: number }
  | { readonly do: 'turn' | 'release' | 'leave' | 'retire' }
  | { readonly do: 'crowd'; readonly before: ('trap' | 'event')[]; readonly behind: ('trap' | 'event')[] }
  | { readonly do: 'squeeze'; readonly room: number }
  | { readonly do: 'operate'; readonly calls: number }

const size = fc.oneof(fc.constant(Number.POSITIVE_INFINITY), fc.integer({ min: 1, max: 40 }))
const notices = fc.array(fc.constantFrom<'trap' | 'event'>('trap', 'event', 'event'), { maxLength: 3 })
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 6, arbitrary: fc.record({ do: fc.constant('trap'), calls: fc.nat(3), held: fc.boolean(), size }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('event'), size }) },
  { weight: 8, arbitrary: fc.record({ do: fc.constant('turn') }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('release') }) },
  { weight: 5, arbitrary: fc.record({ do: fc.constant('operate'), calls: fc.nat(3) }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('crowd'), before: notices, behind: notices }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('squeeze'), room: fc.nat(20) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constantFrom('leave', 'retire') }) },
)

function take(step: Step, peer: Peer, server: Server): void {
  switch (step.do) {
    case 'trap':
      if (!peer.waits) server.plan.push({ calls: step.calls, held: step.held })
      peer.trap()
      return peer.send(step.size)
    case 'event':
      peer.event()
      return peer.send(step.size)
    case 'turn':
      return peer.turn()
    case 'crowd':
      peer.before = [...step.before]
      peer.behind = [...step.behind]
      return
    case 'squeeze':
      peer.room = step.room
      return
    case 'operate':
      return server.operate(() => server.call(step.calls))
    case 'release':
      return server.operate(() => server.release())
    case 'leave':
      peer.gone = true
      return
    case 'retire':
      return server.link.close(new LinkClosed('retired'))
  }
}

describe('whatever crosses what', () => {
  test('every trap is seen once and answered, every call gets its own answer, and nobody waits for ever', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), fc.boolean(), (steps, sleeps) => {
        const peer = new Peer(sleeps)
        const server = new Server(peer)
        for (const each of steps) {
          take(each, peer, server)
          // No message is left behind that has arrived as a whole.
          if (server.link.open && !peer.arriving) {
            expect(server.seen).toEqual(peer.traps)
            expect(server.events).toBe(peer.events)
          }
        }
        while (peer.arriving && server.link.open) peer.turn()
        server.operate(() => server.release())
        for (let i = 0; i < 10 && server.link.open; i++) {
          peer.turn()
          server.operate(() => server.release())
        }
        expect(peer.hungUp).toBe(!server.link.open)
        if (!server.link.open) {
          expect(server.closed).toBeInstanceOf(LinkClosed)
          expect(steps.some(({ do: what }) => what === 'leave' || what === 'retire')).toBe(true)
          return
        }
        expect(server.seen).toEqual(peer.traps)
        expect(peer.replies).toEqual(peer.traps)
        expect(server.events).toBe(peer.events)
        expect(peer.errors).toEqual([])
      }),
      { numRuns: 3000 },
    )
  })

  test('a trap that came with the answer to an operation is not left lying', () => {
    const peer = new Peer()
    const server = new Server(peer)
    peer.behind = ['trap']
    server.operate(() => server.call(1))
    expect(server.seen).toEqual(peer.traps)
    expect(peer.replies).toEqual(peer.traps)
  })

  test('a peer that sends while the server sends is read meanwhile, up to one frame', () => {
    const peer = new Peer()
    const server = new Server(peer)
    peer.room = 0
    let reads = 0
    const read = peer.read.bind(peer)
    peer.read = (into, at) => {
      const count = read(into, at)
      if (count !== NOTHING) reads += count
      return count
    }
    const events = 100_000
    for (let i = 0; i < events; i++) {
      peer.event()
      if (i % 1000 === 999) peer.send()
    }
    // It has no room before all that it may send has been taken.
    const pause = peer.pause.bind(peer)
    let taken = -1
    peer.pause = () => {
      if (taken < 0) taken = reads
      pause()
    }
    server.operate(() => server.call(1))
    expect(taken).toBeGreaterThan(MAX_ON_WIRE / 2)
    expect(taken).toBeLessThan(2 * MAX_ON_WIRE)
    while (peer.arriving) peer.turn()
    expect(server.events).toBe(events)
  })

  test('an answer to nothing, or to another request, ends the link with an error', () => {
    for (const outstanding of [false, true]) {
      const peer = new Peer()
      const server = new Server(peer)
      const writer = new FrameWriter()
      encodeDone(writer, 77, 0, 0, 0)
      const frame = Buffer.from(writer.buffer.subarray(0, writer.length))
      if (outstanding) {
        peer.read = (into, at) => frame.copy(into, at)
        expect(() => server.call(1)).toThrow(ProtocolError)
      } else {
        let deliver: (chunk: Buffer, count: number) => void = () => {}
        const stream: ByteStream = {
          start(receiver) {
            deliver = (chunk, count) => receiver.received(chunk, count)
          },
          sleeps: false,
          read: () => NOTHING,
          wait: () => NOTHING,
          write: (from, at, end) => peer.write(from, at, end),
          pause() {},
          close: () => peer.close(),
        }
        const second = new Server(stream)
        deliver(frame, frame.length)
        expect(second.closed).toBeInstanceOf(ProtocolError)
        expect(peer.hungUp).toBe(true)
        expect(peer.errors).toHaveLength(1)
      }
    }
  })
})
