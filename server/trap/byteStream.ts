// SPDX-License-Identifier: Apache-2.0
import { readSync, writeSync } from 'node:fs'
import { Socket, type SocketConstructorOpts } from 'node:net'
import { availableParallelism } from 'node:os'

/** Bytes that arrive through the event loop at a time. */
const CHUNK = 65536

/** An answer mostly comes within this: it is looked for again at once. On the only processor, the peer could not run meanwhile. */
const LOOK_MS = availableParallelism() > 1 ? 0.05 : 0
/** Then the thread sleeps between two looks, for this part of the time that has passed. */
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
 * A connection as a stream of bytes, used by one thread. No method blocks in the kernel: whoever waits looks again, so that a
 * peer that stands still holds up neither the event loop's own reads nor the end of the thread.
 */
export interface ByteStream {
  /**
   * From now on, bytes that arrive while the thread is idle are handed to `received`, in the first `count` bytes of `chunk`.
   * @param closed called once, when the peer went away while the thread was idle
   */
  start(received: (chunk: Buffer, count: number) => void, closed: (reason: LinkClosed) => void): void
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
  /** Between two looks for something that did not come yet. @param waitedMs since the first of them */
  pause(waitedMs: number): void
  close(): void
}

/** Node's stream handle and its descriptor. */
interface StreamHandle {
  readonly fd: number
}

/**
 * A socket. The event loop reads it while the thread is idle; `read` reads the same descriptor while somebody waits. Both are
 * this thread, one after the other, so no byte is lost or out of order. The descriptor stays non-blocking: when the event loop
 * learned that bytes are there and `read` then took them, the event loop's own read finds nothing and goes on.
 */
export class SocketStream implements ByteStream {
  readonly #accepted: Socket
  readonly #handle: StreamHandle
  readonly #fd: number
  #socket: Socket | undefined

  /** @param accepted a connection of which nothing was read yet; from now on it is the stream's */
  constructor(accepted: Socket) {
    this.#accepted = accepted
    const { _handle: handle } = accepted as unknown as { _handle: StreamHandle }
    this.#handle = handle
    this.#fd = handle.fd
    ;(accepted as unknown as { _handle: null })._handle = null
  }

  start(received: (chunk: Buffer, count: number) => void, closed: (reason: LinkClosed) => void): void {
    const buffer = Buffer.allocUnsafe(CHUNK)
    const callback = (count: number): boolean => {
      received(buffer, count)
      return true
    }
    // The bytes come straight into a buffer: a stream of chunks would cost several turns through its queues for each trap.
    const socket = new Socket({
      handle: this.#handle,
      onread: { buffer, callback },
    } as unknown as SocketConstructorOpts)
    this.#socket = socket
    socket.on('error', error => closed(new LinkClosed(error.message)))
    socket.on('close', () => {
      // The listener counts it.
      this.#accepted.destroy()
      closed(new LinkClosed('QEMU closed the connection'))
    })
    socket.resume()
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
    if (waitedMs < LOOK_MS) return
    // Whoever ends the thread wakes it up.
    Atomics.wait(SLEEP, 0, 0, Math.min(waitedMs * SLEEP_PART, MAX_SLEEP_MS))
  }

  close(): void {
    this.#socket?.destroy()
  }
}

const SLEEP = new Int32Array(new SharedArrayBuffer(4))

const isNotNow = (error: unknown): boolean => (error as NodeJS.ErrnoException).code === 'EAGAIN'
