// SPDX-License-Identifier: Apache-2.0
import { readSync, writeSync } from 'node:fs'
import { Socket, type SocketConstructorOpts } from 'node:net'
import { sendDescriptor } from '../machine/sharedMemory.ts'
import { Polling } from './polling.ts'

/** Bytes that arrive through the event loop at a time. */
const CHUNK = 65536

/** Between two looks the thread sleeps for this part of the time that has passed. */
const SLEEP_PART = 1 / 8
const MAX_SLEEP_MS = 5

/** `read`: no byte is there now. */
export const NOTHING = -1

/** The other end went away. */
export class LinkClosed extends Error {
  constructor(reason: string) {
    super(reason)
    this.name = 'LinkClosed'
  }
}

/**
 * A connection as a stream of bytes, used by one thread. Nothing but `wait` sleeps in the kernel until the peer moves, and
 * that only where somebody else can end the peer: else one that stands still would hold up the end of the thread for ever.
 */
export interface ByteStream {
  /** From now on, the receiver is told of what happens while the thread is idle. */
  start(receiver: Receiver): void
  /**
   * Takes bytes that have arrived already, into `into` from `at` on.
   * @returns how many, or NOTHING
   * @throws LinkClosed
   */
  read(into: Buffer, at: number): number
  /**
   * Sends bytes `at` to `end` of `from`.
   * @returns how many the peer has room for, maybe 0
   * @throws LinkClosed
   */
  write(from: Buffer, at: number, end: number): number
  /**
   * Whether `wait` may be used. Else whoever waits has to look again after a `pause`; on a machine whose processors are all
   * wanted, that is several times slower.
   */
  readonly sleeps: boolean
  /**
   * As `read`, but sleeps until a byte is there.
   * @throws LinkClosed
   */
  wait(into: Buffer, at: number): number
  /** Sleeps between two looks for something that did not come yet. @param waitedMs since the first of them */
  pause(waitedMs: number): void
  close(): void
}

/** Who is told of a stream. */
export interface Receiver {
  /** Bytes arrived: the first `count` of `chunk`, until the call returns. */
  received(chunk: Buffer, count: number): void
  /** Bytes are there to be read, and may be read right into their place. */
  readable(): void
  /** Called once: the peer went away, or broke a rule of the transport (ProtocolError). */
  closed(reason: Error): void
}

/** Node's stream handle, its descriptor, and the switch to blocking mode that process.stdout uses. */
interface StreamHandle {
  readonly fd: number
  setBlocking(on: boolean): void
}

/**
 * A socket. The event loop reads it while the thread is idle; `read` reads the same descriptor while somebody waits. Both are
 * this thread, one after the other, so no byte is lost or out of order. The descriptor is non-blocking whenever the event loop
 * may use it: it may have learned that bytes are there and `read` then took them, and its own read has to find nothing and
 * go on.
 *
 * When the frames go through a ring, it carries the doorbells (ringStream.ts).
 */
export class SocketStream implements ByteStream {
  readonly #accepted: Socket
  readonly #handle: StreamHandle
  readonly #fd: number
  readonly #polling = new Polling()
  #socket: Socket | undefined
  #receiver: Receiver | undefined
  readonly sleeps: boolean

  /**
   * @param accepted a connection of which nothing was read yet; from now on it is the stream's
   * @param sleeps the peer is a process that ends before this thread has to
   */
  constructor(accepted: Socket, sleeps: boolean) {
    this.sleeps = sleeps
    this.#accepted = accepted
    const { _handle: handle } = accepted as unknown as { _handle: StreamHandle }
    this.#handle = handle
    this.#fd = handle.fd
    ;(accepted as unknown as { _handle: null })._handle = null
  }

  start(receiver: Receiver): void {
    this.#receiver = receiver
    const buffer = Buffer.allocUnsafe(CHUNK)
    const callback = (count: number): boolean => {
      this.#polling.arrived()
      this.#receiver?.received(buffer, count)
      this.#polling.done()
      return true
    }
    // The bytes come straight into a buffer: a stream of chunks would cost several turns through its queues for each trap.
    const socket = new Socket({
      handle: this.#handle,
      onread: { buffer, callback },
    } as unknown as SocketConstructorOpts)
    this.#socket = socket
    socket.on('error', error => this.#receiver?.closed(new LinkClosed(error.message)))
    socket.on('close', () => {
      // The listener counts it.
      this.#accepted.destroy()
      this.#receiver?.closed(new LinkClosed('QEMU closed the connection'))
    })
    socket.resume()
  }

  /** From now on somebody else is told, and nothing is looked for: what comes are bells. */
  handOver(receiver: Receiver): void {
    this.#receiver = receiver
    this.#polling.stop()
  }

  /** Sends a frame and with it a descriptor. @returns as `write`. @throws SharedMemoryError */
  offer(frame: Buffer, length: number, descriptor: number): number {
    return sendDescriptor(this.#fd, frame.subarray(0, length), descriptor)
  }

  /** Sends a doorbell, if there is room for one: else the peer has enough of them. */
  ring(): void {
    try {
      writeSync(this.#fd, BELL)
    } catch {} // no room, or nobody there: then its end comes by itself
  }

  wait(into: Buffer, at: number): number {
    this.#handle.setBlocking(true)
    try {
      return this.read(into, at)
    } finally {
      this.#handle.setBlocking(false)
    }
  }

  read(into: Buffer, at: number): number {
    let count: number
    try {
      count = readSync(this.#fd, into, at, into.length - at, null)
    } catch (error) {
      if (isNotNow(error)) return NOTHING
      throw new LinkClosed((error as Error).message)
    }
    if (count === 0) throw new LinkClosed('QEMU closed the connection while its answer was awaited')
    return count
  }

  write(from: Buffer, at: number, end: number): number {
    try {
      return writeSync(this.#fd, from, at, end - at)
    } catch (error) {
      if (isNotNow(error)) return 0
      throw new LinkClosed((error as Error).message)
    }
  }

  pause(waitedMs: number): void {
    // Whoever ends the thread wakes it up.
    Atomics.wait(SLEEP, 0, 0, Math.min(waitedMs * SLEEP_PART, MAX_SLEEP_MS))
  }

  close(): void {
    this.#polling.stop()
    this.#socket?.destroy()
  }
}

const BELL = new Uint8Array(1)
const SLEEP = new Int32Array(new SharedArrayBuffer(4))

const isNotNow = (error: unknown): boolean => (error as NodeJS.ErrnoException).code === 'EAGAIN'
