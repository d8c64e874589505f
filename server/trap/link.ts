// SPDX-License-Identifier: Apache-2.0
import { availableParallelism } from 'node:os'
import { ProtocolError } from '../../protocol/errors.ts'
import { FrameReader, FrameWriter, MAX_ON_WIRE } from '../../protocol/framing.ts'
import {
  Decoder,
  encodeError,
  encodeRingOpen,
  Id,
  type MessageFromQemu as Message,
} from '../../protocol/generated/messages.ts'
import { enums } from '../../protocol/messages.ts'
import { type ByteStream, LinkClosed, NOTHING, type Receiver, SocketStream } from './byteStream.ts'
import { type RingArea, RingStream } from './ringStream.ts'

/** Most messages that wait for the end of a call. */
const MAX_DEFERRED = 16

/** An answer mostly comes within this, and is looked for. On the only processor, the peer could not run meanwhile. */
const LOOK_MS = availableParallelism() > 1 ? 0.03 : 0
/** So many are not looked for after one that came later; twice as many each time in a row, up to a limit. */
const SKIPPED = 4
const MAX_SKIPPED = 1024

/** What the owner of a link does with what arrives. */
export interface LinkHandlers {
  /** Every message that answers nothing, one at a time, in order. */
  message(message: Message): void
  /**
   * Offered each such message that arrives while an answer is awaited. Must not use the link.
   * @returns true when it is dealt with; false: keep it for `message`.
   */
  notice(message: Message): boolean
  /** Called once: LinkClosed, ProtocolError, or what `message` threw. */
  closed(reason: Error): void
}

/**
 * One connection with QEMU: bytes to messages, and messages to whom they belong. A trap arrives through the event loop; from
 * then on the connection is used synchronously, so that a hardware access of the hypervisor is a function call. Whoever reads
 * reads for all: an answer goes to the call that waits for it, everything else to the handlers, in the order of the wire.
 */
export class Link implements Receiver {
  /** Frames are encoded into it; `flush` or `call` sends all of them with one write. */
  readonly out = new FrameWriter()
  #stream: ByteStream
  readonly #in = new FrameReader()
  readonly #decoder = new Decoder('server')
  readonly #deferred: Buffer[] = []
  /** Who takes what arrives: it changes hands when a peer becomes the machine. */
  handlers: LinkHandlers
  /** Until then (performance.now()) an answer is waited for, and for room to send. A machine that stands still is no fault. */
  deadline = Number.POSITIVE_INFINITY
  /** Answers that are not looked for, and how many it will be after the next one that is late. */
  #skip = 0
  #skipNext = SKIPPED
  #seq = 0
  #open = true

  constructor(stream: ByteStream, handlers: LinkHandlers) {
    this.#stream = stream
    this.handlers = handlers
    stream.start(this)
  }

  get open(): boolean {
    return this.#open
  }

  /** The message that `handlers.message` is being given, as it came; until it returns. Not of one that had to wait. */
  get payload(): Uint8Array {
    return this.#in.buffer.subarray(this.#in.start, this.#in.end)
  }

  /** Sequence number for our next request or notice. */
  nextSeq(): number {
    this.#seq = this.#seq === 0xffff_ffff ? 1 : this.#seq + 1
    return this.#seq
  }

  /** Sends what was encoded. @throws LinkClosed */
  flush(): void {
    if (!this.#open) throw new LinkClosed('the connection is closed')
    const { buffer, length } = this.out
    const sent = this.#stream.write(buffer, 0, length)
    if (sent < length) this.#sendRest(buffer, sent, length)
    this.out.reset()
  }

  /** Sends a malformed frame, for fault injection: its length fits, its payload is no message. @throws LinkClosed */
  garble(): void {
    if (this.out.length > 0) this.flush()
    const frame = Buffer.from([4, 0, 0, 0, 0xc1, 0xc1, 0xc1, 0xc1])
    this.#sendRest(frame, 0, frame.length)
  }

  /**
   * Sends what was encoded and waits for the answer to our request `seq`. The answer is valid until the next call.
   * @throws LinkClosed, ProtocolError
   */
  call(seq: number): Message {
    if (this.out.length > 0) this.flush()
    for (;;) {
      while (this.#in.next()) {
        const message = this.#decoder.decode(this.#in.buffer, this.#in.start, this.#in.end)
        if (message.type === Id.done || message.type === Id.data) {
          if (message.seq === seq) return message
          throw new ProtocolError(enums.error.sequence[0], `answer to request ${message.seq}, expected one to ${seq}`)
        }
        if (!this.handlers.notice(message)) {
          // QEMU has one request outstanding at most, and few notices that have to wait: more would only fill our memory.
          if (this.#deferred.length >= MAX_DEFERRED) {
            throw new ProtocolError(enums.error.state[0], `request ${message.seq} while others wait`)
          }
          this.#deferred.push(Buffer.from(this.#in.buffer.subarray(this.#in.start, this.#in.end)))
        }
      }
      this.#readMore()
    }
  }

  /** Tells the peer what it did wrong, if that is the reason, and closes. */
  close(reason: Error): void {
    if (!this.#open) return
    this.#open = false
    if (reason instanceof ProtocolError) {
      this.out.reset()
      encodeError(this.out, this.nextSeq(), reason.code, reason.message)
      try {
        // What does not fit at once is not waited for.
        this.#stream.write(this.out.buffer, 0, this.out.length)
      } catch {} // the peer is gone already
    }
    this.#stream.close()
    this.handlers.closed(reason)
  }

  /**
   * Hands on what arrived during a call that was made outside of a message. Nothing else would: QEMU says no more before its
   * request is answered.
   */
  deliver(): void {
    try {
      this.#deliver()
    } catch (error) {
      this.close(error as Error)
    }
  }

  received(chunk: Buffer, count: number): void {
    this.#in.push(chunk, count)
    this.deliver()
  }

  readable(): void {
    try {
      if (!this.#read()) return
    } catch (error) {
      this.close(error as Error)
      return
    }
    this.deliver()
  }

  closed(reason: Error): void {
    this.close(reason)
  }

  /** Whether QEMU may be asked to use a ring. */
  get mayRing(): boolean {
    return this.#stream instanceof SocketStream
  }

  /**
   * Asks QEMU to send and take its frames through a ring from now on. The area is the link's if it does, for as long as it is open.
   * @returns QEMU's status. @throws LinkClosed, ProtocolError, SharedMemoryError
   */
  openRing(area: RingArea): number {
    const stream = this.#stream
    if (!(stream instanceof SocketStream)) throw new LinkClosed('there is no socket')
    if (this.out.length > 0) this.flush()
    const seq = this.nextSeq()
    encodeRingOpen(this.out, seq, area.size)
    const start = performance.now()
    let sent = 0
    while (sent === 0) {
      sent = stream.offer(this.out.buffer, this.out.length, area.fd)
      if (sent === 0) this.#pause(start)
    }
    this.#sendRest(this.out.buffer, sent, this.out.length)
    this.out.reset()
    const answer = this.call(seq)
    const status = answer.type === Id.done ? answer.status : enums.status.unsupported[0]
    if (status !== enums.status.ok[0]) return status
    // What came behind the answer is not of the stream any more.
    const ring = new RingStream(stream, area, this.#in.takeRest())
    this.#stream = ring
    ring.start(this)
    return status
  }

  /** What waited for the end of a call comes first: it is older than what has not been looked at yet. */
  #deliver(): void {
    while (this.#open) {
      if (this.#deferred.length > 0) {
        const frame = this.#deferred.shift()
        if (frame !== undefined) this.handlers.message(this.#decoder.decode(frame, 0, frame.length))
        continue
      }
      if (!this.#in.next()) return
      const message = this.#decoder.decode(this.#in.buffer, this.#in.start, this.#in.end)
      if (message.type === Id.done || message.type === Id.data) {
        throw new ProtocolError(enums.error.sequence[0], `answer to request ${message.seq}, but none is outstanding`)
      }
      this.handlers.message(message)
    }
  }

  /** @returns whether bytes were there */
  #read(): boolean {
    const at = this.#in.prepare()
    const count = this.#stream.read(this.#in.buffer, at)
    if (count === NOTHING) return false
    this.#in.commit(count)
    return true
  }

  /**
   * Waits for bytes. To look for them is quicker than to sleep and be woken up, while there is a processor for each end; where
   * there is not, it keeps the peer from answering.
   */
  #readMore(): void {
    const start = performance.now()
    const sleeps = this.#stream.sleeps && this.deadline === Number.POSITIVE_INFINITY
    if (this.#skip > 0 && sleeps) this.#skip--
    else if (this.#look(start)) return
    if (!sleeps) {
      while (!this.#read()) this.#pause(start)
      return
    }
    const at = this.#in.prepare()
    this.#in.commit(this.#stream.wait(this.#in.buffer, at))
  }

  /** @returns whether bytes came soon */
  #look(start: number): boolean {
    do {
      if (this.#read()) {
        this.#skipNext = SKIPPED
        return true
      }
    } while (performance.now() - start < LOOK_MS)
    this.#skip = this.#skipNext
    this.#skipNext = Math.min(2 * this.#skipNext, MAX_SKIPPED)
    return false
  }

  /** QEMU may be sending as well: unless somebody reads, both wait for ever. */
  #sendRest(buffer: Buffer, from: number, to: number): void {
    let start = performance.now()
    for (let sent = from; sent < to; ) {
      const count = this.#stream.write(buffer, sent, to)
      sent += count
      if (count > 0 || (this.#in.pending < MAX_ON_WIRE && this.#read())) start = performance.now()
      else this.#pause(start)
    }
  }

  /** @param start when the wait began. @throws LinkClosed when there is no more time */
  #pause(start: number): void {
    const now = performance.now()
    if (now >= this.deadline) throw new LinkClosed('the peer did not answer in time')
    this.#stream.pause(now - start)
  }
}
