// SPDX-License-Identifier: Apache-2.0
/** One end of the ring (protocol/README.md, "The ring"): the area, its counters, bytes in and out, and who sleeps. No socket in it. */
import { Buffer } from 'node:buffer'
import { ProtocolError } from '../../protocol/errors.ts'
import { enums } from '../../protocol/messages.ts'

/** Bytes of each direction. */
export const CAPACITY = 256 * 1024
const HEADER = 4096

/** Bytes of the whole area. */
export const areaSize = (capacity: number): number => HEADER + 2 * capacity

/** Indices of the words; each has a cache line of its own. */
export const WORD = {
  toQemuTail: 0x00 / 4,
  toQemuHead: 0x40 / 4,
  toServerTail: 0x80 / 4,
  toServerHead: 0xc0 / 4,
  serverSleeps: 0x100 / 4,
  qemuSleeps: 0x140 / 4,
} as const

/** Bits of a `Sleeps` word: what wakes. */
export const BYTES = 1
export const ROOM = 2

/**
 * The other end may write anything anywhere at any time: what this end writes it keeps in private memory, a counter of the other end is
 * read once and checked, and bytes are copied out once.
 */
export class RingEnd {
  readonly #words: Int32Array
  readonly #out: Buffer
  readonly #in: Buffer
  readonly #capacity: number
  readonly #outTail: number
  readonly #outHead: number
  readonly #inTail: number
  readonly #inHead: number
  readonly #sleeps: number
  readonly #theirSleeps: number
  readonly #bell: () => void
  /** Bytes put in, and taken out, so far; as 32-bit integers that wrap. */
  #tail = 0
  #head = 0

  /**
   * @param area all 0 at first, `areaSize` of a power of two
   * @param bell wakes the other end
   */
  constructor(area: ArrayBuffer | SharedArrayBuffer, end: 'server' | 'qemu', bell: () => void) {
    const capacity = (area.byteLength - HEADER) / 2
    const server = end === 'server'
    this.#words = new Int32Array(area, 0, HEADER / 4)
    const [toQemu, toServer] = [Buffer.from(area, HEADER, capacity), Buffer.from(area, HEADER + capacity, capacity)]
    this.#out = server ? toQemu : toServer
    this.#in = server ? toServer : toQemu
    this.#capacity = capacity
    this.#outTail = server ? WORD.toQemuTail : WORD.toServerTail
    this.#outHead = server ? WORD.toQemuHead : WORD.toServerHead
    this.#inTail = server ? WORD.toServerTail : WORD.toQemuTail
    this.#inHead = server ? WORD.toServerHead : WORD.toQemuHead
    this.#sleeps = server ? WORD.serverSleeps : WORD.qemuSleeps
    this.#theirSleeps = server ? WORD.qemuSleeps : WORD.serverSleeps
    this.#bell = bell
  }

  /** Bytes that can be taken. @throws ProtocolError when the other end's counter is out of range */
  get available(): number {
    return this.#within((Atomics.load(this.#words, this.#inTail) - this.#head) | 0, 'tail', this.#head)
  }

  /** Bytes that can be put in. @throws ProtocolError when the other end's counter is out of range */
  get room(): number {
    const used = (this.#tail - Atomics.load(this.#words, this.#outHead)) | 0
    return this.#capacity - this.#within(used, 'head', this.#tail)
  }

  /** Takes bytes, into `into` from `at` on. @returns how many, maybe 0. @throws ProtocolError */
  read(into: Uint8Array, at: number): number {
    const count = Math.min(this.available, into.length - at)
    if (count <= 0) return 0
    const start = this.#head & (this.#capacity - 1)
    const first = Math.min(count, this.#capacity - start)
    this.#in.copy(into, at, start, start + first)
    if (first < count) this.#in.copy(into, at + first, 0, count - first)
    this.#head = (this.#head + count) | 0
    Atomics.store(this.#words, this.#inHead, this.#head)
    this.#wake(ROOM)
    return count
  }

  /** Puts in bytes `at` to `end` of `from`. @returns how many there is room for, maybe 0. @throws ProtocolError */
  write(from: Buffer, at: number, end: number): number {
    const count = Math.min(this.room, end - at)
    if (count <= 0) return 0
    const start = this.#tail & (this.#capacity - 1)
    const first = Math.min(count, this.#capacity - start)
    from.copy(this.#out, start, at, at + first)
    if (first < count) from.copy(this.#out, 0, at + first, at + count)
    this.#tail = (this.#tail + count) | 0
    Atomics.store(this.#words, this.#outTail, this.#tail)
    this.#wake(BYTES)
    return count
  }

  /**
   * This end is about to sleep until its bell rings.
   * @param bits what is to wake it: BYTES, ROOM
   * @returns false: it need not, it is there already. @throws ProtocolError
   */
  sleep(bits: number): boolean {
    Atomics.store(this.#words, this.#sleeps, bits)
    if (((bits & BYTES) === 0 || this.available === 0) && ((bits & ROOM) === 0 || this.room === 0)) return true
    this.awake()
    return false
  }

  /** This end sleeps no longer, whatever woke it. */
  awake(): void {
    Atomics.store(this.#words, this.#sleeps, 0)
  }

  /** This end moved a counter. Both are stored and loaded in one order for all: one of the two ends notices the other. */
  #wake(bit: number): void {
    if ((Atomics.load(this.#words, this.#theirSleeps) & bit) === 0) return
    Atomics.store(this.#words, this.#theirSleeps, 0)
    this.#bell()
  }

  #within(count: number, what: 'head' | 'tail', mine: number): number {
    if (count >= 0 && count <= this.#capacity) return count
    const theirs = what === 'tail' ? mine + count : mine - count
    const [from, to] = what === 'tail' ? [mine, mine + this.#capacity] : [mine - this.#capacity, mine]
    const text = `ring counter ${what} ${theirs >>> 0}, expected ${from >>> 0} to ${to >>> 0}`
    throw new ProtocolError(enums.error.ring[0], text)
  }
}
