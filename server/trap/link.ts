// SPDX-License-Identifier: Apache-2.0
import { readSync, writeSync } from 'node:fs'
import { Socket, type SocketConstructorOpts } from 'node:net'
import { ProtocolError } from '../../protocol/errors.ts'
import { FrameReader, FrameWriter } from '../../protocol/framing.ts'
import { Decoder, encodeError, Id, type MessageFromQemu as Message } from '../../protocol/generated/messages.ts'
import { enums } from '../../protocol/messages.ts'
import { Polling } from './polling.ts'

/** Most messages that wait for the end of a call. */
const MAX_DEFERRED = 16

/** Bytes that arrive through the event loop at a time. */
const CHUNK = 65536

/** The other end went away. */
export class LinkClosed extends Error {
  constructor(reason: string) {
    super(reason)
    this.name = 'LinkClosed'
  }
}

/** Node's stream handle: its descriptor, and the switch to blocking mode that process.stdout uses. */
interface StreamHandle {
  readonly fd: number
  setBlocking(on: boolean): void
}

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
 * One connection with QEMU. A trap arrives through the event loop; from then on the connection is used synchronously, so
 * that a hardware access of the hypervisor is a function call: the request is written and its answer read with blocking
 * system calls on the same descriptor. One thread does both, so no byte is read twice or out of order.
 */
export class Link {
  /** Frames are encoded into it; `flush` or `call` sends all of them with one write. */
  readonly out = new FrameWriter()
  readonly #socket: Socket
  readonly #fd: number
  readonly #in = new FrameReader()
  readonly #decoder = new Decoder('server')
  readonly #deferred: Buffer[] = []
  readonly #handlers: LinkHandlers
  #seq = 0
  #open = true
  readonly #polling = new Polling()

  /** @param accepted a connection of which nothing was read yet; from now on it is the link's */
  constructor(accepted: Socket, handlers: LinkHandlers) {
    const { _handle: handle } = accepted as unknown as { _handle: StreamHandle }
    handle.setBlocking(true)
    this.#fd = handle.fd
    this.#handlers = handlers
    const buffer = Buffer.allocUnsafe(CHUNK)
    const callback = (count: number): boolean => {
      this.#receive(buffer, count)
      return true
    }
    // The bytes come straight into a buffer: a stream of chunks would cost several turns through its queues for each trap.
    ;(accepted as unknown as { _handle: null })._handle = null
    const socket = new Socket({ handle, onread: { buffer, callback } } as unknown as SocketConstructorOpts)
    this.#socket = socket
    socket.on('error', error => this.close(new LinkClosed(error.message)))
    socket.on('close', () => {
      // The listener counts it.
      accepted.destroy()
      this.close(new LinkClosed('QEMU closed the connection'))
    })
    socket.resume()
  }

  get open(): boolean {
    return this.#open
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
    try {
      for (let done = 0; done < length; ) done += writeSync(this.#fd, buffer, done, length - done)
    } catch (error) {
      throw new LinkClosed((error as Error).message)
    }
    this.out.reset()
  }

  /** Sends a frame that is none, for fault injection: its length fits, its payload is no message. @throws LinkClosed */
  garble(): void {
    if (this.out.length > 0) this.flush()
    try {
      writeSync(this.#fd, Buffer.from([4, 0, 0, 0, 0xc1, 0xc1, 0xc1, 0xc1]))
    } catch (error) {
      throw new LinkClosed((error as Error).message)
    }
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
        if (!this.#handlers.notice(message)) {
          // QEMU has one request outstanding at most, and few notices that have to wait: more would only fill our memory.
          if (this.#deferred.length >= MAX_DEFERRED) {
            throw new ProtocolError(enums.error.state[0], `request ${message.seq} while others wait`)
          }
          this.#deferred.push(Buffer.from(this.#in.buffer.subarray(this.#in.start, this.#in.end)))
        }
      }
      this.#readBlocking()
    }
  }

  /** Tells the peer what it did wrong, if that is the reason, and closes. */
  close(reason: Error): void {
    if (!this.#open) return
    if (reason instanceof ProtocolError) {
      this.out.reset()
      encodeError(this.out, this.nextSeq(), reason.code, reason.message)
      try {
        this.flush()
      } catch {} // the peer is gone already
    }
    this.#open = false
    this.#polling.stop()
    this.#socket.destroySoon()
    this.#handlers.closed(reason)
  }

  #receive(chunk: Buffer, count: number): void {
    this.#polling.arrived()
    try {
      this.#in.push(chunk, count)
      while (this.#open && this.#in.next()) {
        const message = this.#decoder.decode(this.#in.buffer, this.#in.start, this.#in.end)
        if (message.type === Id.done || message.type === Id.data) {
          throw new ProtocolError(enums.error.sequence[0], `answer to request ${message.seq}, but none is outstanding`)
        }
        this.#handlers.message(message)
        this.#replay()
      }
    } catch (error) {
      this.close(error as Error)
    }
    this.#polling.done()
  }

  /** Handles what arrived during a call made outside of a message. */
  replayDeferred(): void {
    try {
      this.#replay()
    } catch (error) {
      this.close(error as Error)
    }
  }

  #replay(): void {
    for (let frame = this.#deferred.shift(); frame && this.#open; frame = this.#deferred.shift()) {
      this.#handlers.message(this.#decoder.decode(frame, 0, frame.length))
    }
  }

  #readBlocking(): void {
    const at = this.#in.prepare()
    const { buffer } = this.#in
    let count: number
    try {
      count = readSync(this.#fd, buffer, at, buffer.length - at, null)
    } catch (error) {
      throw new LinkClosed((error as Error).message)
    }
    if (count === 0) throw new LinkClosed('QEMU closed the connection while its answer was awaited')
    this.#in.commit(count)
  }
}
