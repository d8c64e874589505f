// SPDX-License-Identifier: Apache-2.0
import { availableParallelism } from 'node:os'
import { ProtocolError } from '../../protocol/errors.ts'
import { enums } from '../../protocol/messages.ts'
import { closeFile, detach, type Mapping, sharedFile, takeShortTurns, unmap, view } from '../machine/sharedMemory.ts'
import { type ByteStream, LinkClosed, NOTHING, type Receiver, type SocketStream } from './byteStream.ts'
import { Looking } from './looking.ts'
import { areaSize, BYTES, CAPACITY, RingEnd } from './ringEnd.ts'

/** After so long without a turn of the event loop it gets one, ms: calls of the main thread and timers wait there. */
const TURN_MS = 1

/** What carries the doorbells. */
type Bells = Pick<SocketStream, 'ring' | 'sleeps' | 'handOver' | 'wait' | 'read' | 'pause' | 'close'>

/** The memory of one ring. */
export interface RingArea {
  readonly size: number
  readonly memory: ArrayBuffer
  /** Open until the other end has it. */
  readonly fd: number
  /** Closes the descriptor. */
  closeFile(): void
  /** Nobody looks at it any more. */
  free(): void
}

/**
 * A new area.
 * @param mapped told of the mapping while there is one: if the thread is ended by force, somebody else has to unmap it
 * @throws SharedMemoryError, Error
 */
export function newRingArea(mapped: (mapping: Mapping, is: boolean) => void): RingArea {
  const size = areaSize(CAPACITY)
  const { fd, address } = sharedFile('smmu-cosim ring', size)
  const mapping = { address, size }
  mapped(mapping, true)
  const memory = view(mapping)
  return {
    size,
    memory,
    fd,
    closeFile: () => closeFile(fd),
    free() {
      detach(memory)
      unmap(mapping)
      mapped(mapping, false)
    },
  }
}

/**
 * The stream of a connection through shared memory. The socket beside it carries doorbells, and its end is the end of the connection.
 *
 * Whenever the thread goes back to the event loop, one of two holds: another look is scheduled, or this end said that it sleeps and
 * found nothing afterwards. So a doorbell comes when there is something.
 */
export class RingStream implements ByteStream {
  readonly #socket: Bells
  readonly #area: Pick<RingArea, 'free'>
  readonly #end: RingEnd
  readonly #looking: Looking
  /** Where doorbells are put. */
  readonly #bells = Buffer.alloc(256)
  #receiver: Receiver | undefined
  #scheduled = false
  /** A look is under way: it ends with the next one scheduled, or with sleep. */
  #within = false
  #closed = false
  /** The socket has ended: what is in the ring is the last. */
  #gone: LinkClosed | undefined

  /** @param rest what came through the socket behind QEMU's answer: doorbells, if anything */
  constructor(
    socket: Bells,
    area: Pick<RingArea, 'memory' | 'free'>,
    rest: Uint8Array,
    looking = new Looking(availableParallelism()),
  ) {
    this.#socket = socket
    this.#area = area
    this.#looking = looking
    this.#end = new RingEnd(area.memory, 'server', () => socket.ring())
    takeShortTurns()
    checkBells(rest, rest.length)
  }

  get sleeps(): boolean {
    return this.#socket.sleeps
  }

  start(receiver: Receiver): void {
    this.#receiver = receiver
    this.#socket.handOver({
      received: (chunk, count) => this.#rung(chunk, count),
      readable() {},
      closed: reason => this.#ended(reason as LinkClosed),
    })
    this.#again()
  }

  read(into: Buffer, at: number): number {
    if (this.#closed) throw new LinkClosed('the connection is closed')
    const count = this.#end.read(into, at)
    this.#again()
    if (count > 0) return count
    if (this.#gone !== undefined) throw this.#gone
    return NOTHING
  }

  wait(into: Buffer, at: number): number {
    for (;;) {
      const count = this.read(into, at)
      if (count !== NOTHING) return count
      if (!this.#end.sleep(BYTES)) continue
      this.#hear(() => this.#socket.wait(this.#bells, 0))
      this.#end.awake()
    }
  }

  write(from: Buffer, at: number, end: number): number {
    if (this.#closed) throw new LinkClosed('the connection is closed')
    return this.#end.write(from, at, end)
  }

  pause(waitedMs: number): void {
    this.#socket.pause(waitedMs)
    this.#hear(() => this.#socket.read(this.#bells, 0))
  }

  close(): void {
    if (this.#closed) return
    this.#closed = true
    this.#socket.close()
    this.#area.free()
  }

  /** Takes doorbells out of the socket, and sees its end. */
  #hear(take: () => number): void {
    this.#again()
    let count: number
    try {
      count = take()
    } catch (error) {
      this.#gone = error as LinkClosed
      return
    }
    if (count !== NOTHING) checkBells(this.#bells, count)
  }

  /** Whoever looked outside of a turn may have taken what was to wake this end. */
  #again(): void {
    if (this.#scheduled || this.#within || this.#closed) return
    this.#scheduled = true
    setImmediate(this.#scheduledTurn)
  }

  readonly #scheduledTurn = (): void => {
    this.#scheduled = false
    this.#turn()
  }

  #rung(chunk: Buffer, count: number): void {
    try {
      checkBells(chunk, count)
    } catch (error) {
      this.#receiver?.closed(error as Error)
      return
    }
    this.#turn()
  }

  /** Hands on what is there, looks for more for a while, and sleeps, or lets the event loop go on. */
  #turn(): void {
    if (this.#closed || this.#within) return
    this.#within = true
    try {
      this.#end.awake()
      if (this.#look()) this.#within = false
      else {
        this.#within = false
        this.#again()
      }
    } catch (error) {
      this.#within = false
      this.#receiver?.closed(error as Error)
    }
  }

  /** @returns whether this end sleeps, or is closed; else it is to look again soon. @throws ProtocolError */
  #look(): boolean {
    const looking = this.#looking
    const until = looking.begin() + TURN_MS
    for (let looked = false; ; ) {
      if (this.#end.available > 0) {
        if (looked) looking.seen()
        looked = false
        this.#receiver?.readable()
        if (this.#closed) return true
        if (looking.found() >= until) return false
      } else if (looking.pays()) looked = true
      else if (this.#end.sleep(BYTES)) return true
    }
  }

  #ended(reason: LinkClosed): void {
    this.#gone = reason
    try {
      // What the ring holds by now counts, a last message for instance; not what somebody may still put in.
      for (let rest = this.#closed ? 0 : this.#end.available; rest > 0 && !this.#closed; ) {
        const before = this.#end.available
        this.#receiver?.readable()
        rest -= Math.max(1, before)
      }
    } catch (error) {
      this.#receiver?.closed(error as Error)
      return
    }
    this.#receiver?.closed(reason)
  }
}

/** @throws ProtocolError when they are none */
function checkBells(bytes: Uint8Array, count: number): void {
  for (let i = 0; i < count; i++) {
    if (bytes[i] !== 0)
      throw new ProtocolError(
        enums.error.ring[0],
        `byte 0x${bytes[i].toString(16)} beside the ring, expected doorbells`,
      )
  }
}
