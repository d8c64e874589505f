// SPDX-License-Identifier: Apache-2.0
/**
 * The trace ring: how the trap thread reports without waiting. One producer, one consumer, one SharedArrayBuffer.
 *
 * Positions are counted in 32-bit words modulo 2^32. The producer writes a record into free words and then moves `head`
 * with one atomic store; the consumer moves `tail`. A record never spans the end of the buffer: filler goes before it. A
 * record for which there is no room is counted; as soon as there is room again, a `lost` record takes their place.
 */
import { crc32 } from 'node:zlib'
import { RecordWriter } from './generated/records.ts'
import { decodeRecord, type Layout, layoutAt, type RecordViews, sizeAt } from './layout.ts'
import type { TraceRecord } from './records.ts'

/** Int32 indices of the control part. Head and tail are on cache lines of their own. */
const HEAD = 0
const TAIL = 16
const LOST = 32
/** Float64 index: hrtime of the ring's creation, ns. */
const EPOCH = 24
const CONTROL_BYTES = 256

const FILLER = 0

/** The consumer frees words in steps of so many. */
const GIVE_BACK = 1024

/** Most bytes of guest memory in one record. */
export const CHUNK = 16384

/** Of a longer write only a digest is kept: page tables, zeroed pages. Replay makes the bytes again. */
export const KEPT_WRITE = 512

const ENCODER = new TextEncoder()
/** For any bytes, and without a view of a part of them, which would be a new object. */
const { copy } = Buffer.prototype
const ZEROS = new Uint8Array(1 << 16)

/** CRC-32; 0 for bytes that are all 0, which are many and are found faster. */
export function digest(bytes: Uint8Array): number {
  for (let at = 0; at < bytes.length; at += ZEROS.length) {
    const part = bytes.subarray(at, at + ZEROS.length)
    if (Buffer.compare(part, part.length === ZEROS.length ? ZEROS : ZEROS.subarray(0, part.length)) !== 0) {
      return crc32(bytes)
    }
  }
  return 0
}

/** Default size of the ring's data, bytes: seconds of traps, or the tables of a large idmap. */
export const RING_BYTES = 1 << 24

/** @param bytes size of the data part, a power of two of at least 64 KiB. */
export function createRing(bytes = RING_BYTES): SharedArrayBuffer {
  if (bytes < 4 * CHUNK || (bytes & (bytes - 1)) !== 0) throw new RangeError(`ring of ${bytes} bytes`)
  const buffer = new SharedArrayBuffer(CONTROL_BYTES + bytes)
  new Float64Array(buffer)[EPOCH] = Number(process.hrtime.bigint())
  return buffer
}

/** The server's clock: ns since the ring was created, the same on every thread. */
function clock(buffer: SharedArrayBuffer): () => number {
  const epoch = new Float64Array(buffer, 0, CONTROL_BYTES / 8)[EPOCH] ?? 0
  const shift = Number(process.hrtime.bigint()) - epoch - performance.now() * 1e6
  return () => Math.round(performance.now() * 1e6 + shift)
}

function views(buffer: SharedArrayBuffer) {
  return {
    control: new Int32Array(buffer, 0, CONTROL_BYTES / 4),
    words: new Uint32Array(buffer, CONTROL_BYTES),
    doubles: new Float64Array(buffer, CONTROL_BYTES),
    bytes: new Uint8Array(buffer, CONTROL_BYTES),
  }
}

/**
 * The trap thread's end; its methods are the kinds of records.ts. None waits, throws, or allocates.
 */
export class RingWriter extends RecordWriter {
  /** ns since the ring was created. */
  readonly now: () => number
  protected readonly words: Uint32Array
  protected readonly doubles: Float64Array
  protected readonly encoded = new Uint8Array(CHUNK)
  readonly #control: Int32Array
  readonly #bytes: Uint8Array
  readonly #capacity: number
  #head = 0
  /** The consumer's position when last looked at; looked at again only when it seems to matter. */
  #tail = 0
  /** Words of filler before the record being written. */
  #filler = 0
  #lost = 0
  /** The position behind the last root. */
  #closed = 0

  constructor(buffer: SharedArrayBuffer) {
    super()
    const { control, words, doubles, bytes } = views(buffer)
    this.#control = control
    this.words = words
    this.doubles = doubles
    this.#bytes = bytes
    this.#capacity = words.length
    this.now = clock(buffer)
    this.goOn()
  }

  /** Goes on where the ring stands: another thread may have written to it since, though never at the same time. */
  goOn(): void {
    this.#head = Atomics.load(this.#control, HEAD)
    this.#tail = Atomics.load(this.#control, TAIL)
    this.#closed = this.#head
  }

  /**
   * An access to guest memory, in as many records as it takes.
   * @param bytes what was read or written, `length` bytes from `offset`
   */
  memoryAccess(write: boolean, address: number, bytes: Uint8Array, offset: number, length: number, ok: boolean): void {
    if (!ok) this.memory(write, address, length, 0, 0, false, bytes, 0, 0)
    else if (length <= (write ? KEPT_WRITE : CHUNK)) {
      this.memory(write, address, length, 0, 0, true, bytes, offset, length)
    } else if (write) {
      this.memory(true, address, length, 0, digest(bytes.subarray(offset, offset + length)), true, bytes, 0, 0)
    } else {
      for (let done = 0; done < length; done += CHUNK) {
        this.memory(false, address, length, done, 0, true, bytes, offset + done, Math.min(CHUNK, length - done))
      }
    }
  }

  protected encode(text: string): number {
    return ENCODER.encodeInto(text, this.encoded).written
  }

  protected copy(to: number, source: Uint8Array, from: number, count: number): void {
    const bytes = this.#bytes
    if (count > 64) copy.call(source, bytes, to, from, from + count)
    else for (let i = 0; i < count; i++) bytes[to + i] = source[from + i] ?? 0
  }

  protected reserve(kind: number, words: number): number {
    if (this.#lost !== 0 && !this.#settle()) return this.#lose()
    const capacity = this.#capacity
    let at = this.#head & (capacity - 1)
    const filler = capacity - at < words ? capacity - at : 0
    if (!this.#room(words + filler)) return this.#lose()
    if (filler !== 0) {
      this.words[at] = FILLER | (filler << 8)
      at = 0
    }
    this.#filler = filler
    this.words[at] = kind | (words << 8)
    return at
  }

  #room(words: number): boolean {
    const limit = (this.#head + words - this.#capacity) | 0
    if (((this.#tail - limit) | 0) >= 0) return true
    this.#tail = Atomics.load(this.#control, TAIL)
    return ((this.#tail - limit) | 0) >= 0
  }

  protected publish(words: number): void {
    this.#head = (this.#head + this.#filler + words) | 0
    Atomics.store(this.#control, HEAD, this.#head)
  }

  protected close(words: number): void {
    this.publish(words)
    this.#closed = this.#head
  }

  /** Where the next record goes, modulo 2^32: another one when something was written. */
  get position(): number {
    return this.#head
  }

  /** Nothing was written behind the last root. */
  get closed(): boolean {
    return this.#head === this.#closed
  }

  #lose(): -1 {
    this.#lost++
    Atomics.add(this.#control, LOST, 1)
    return -1
  }

  /** Writes the `lost` record. Waits until half of the ring is free, so that losses are few and long. */
  #settle(): boolean {
    if (!this.#room(this.#capacity >> 1)) return false
    const count = this.#lost
    this.#lost = 0
    this.lost(count)
    return true
  }
}

/** The consumer's end. */
export class RingReader implements RecordViews {
  /** ns since the ring was created. */
  readonly now: () => number
  readonly words: Uint32Array
  readonly doubles: Float64Array
  readonly bytes: Uint8Array
  readonly #control: Int32Array

  constructor(buffer: SharedArrayBuffer) {
    const { control, words, doubles, bytes } = views(buffer)
    this.#control = control
    this.words = words
    this.doubles = doubles
    this.bytes = bytes
    this.now = clock(buffer)
  }

  /** Records lost since the ring was created, modulo 2^32. */
  get lost(): number {
    return Atomics.load(this.#control, LOST) >>> 0
  }

  /** Share of the ring that is in use, 0 to 1. */
  get fill(): number {
    return ((Atomics.load(this.#control, HEAD) - Atomics.load(this.#control, TAIL)) | 0) / this.words.length
  }

  /**
   * Hands every record that is there to `visit`, which sees it in place at word `at` and must not keep it. To be called
   * every 20 to 50 ms.
   * @returns the number of records.
   */
  drain(visit: (layout: Layout, at: number) => void): number {
    const head = Atomics.load(this.#control, HEAD)
    let tail = Atomics.load(this.#control, TAIL)
    let given = tail
    let count = 0
    while (tail !== head) {
      const at = tail & (this.words.length - 1)
      const layout = layoutAt(this.words, at)
      if (layout !== undefined) {
        visit(layout, at)
        count++
      }
      tail = (tail + sizeAt(this.words, at)) | 0
      if (((tail - given) | 0) >= GIVE_BACK) {
        Atomics.store(this.#control, TAIL, tail)
        given = tail
      }
    }
    Atomics.store(this.#control, TAIL, tail)
    return count
  }

  /** Copies the record at word `at` into an object. */
  decode(layout: Layout, at: number): TraceRecord {
    return decodeRecord(this, layout, at)
  }
}
