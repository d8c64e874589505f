// SPDX-License-Identifier: Apache-2.0
import { ProtocolError } from './errors.ts'
import { enums, MAX_FRAME, MAX_LIST, MAX_STRING } from './messages.ts'

/** Bytes of the length in front of a payload. */
const HEADER = 4

/** The longest frame with its length, bytes. */
export const MAX_ON_WIRE = HEADER + MAX_FRAME

/** Room that both directions start with; hot frames are far below it. */
const INITIAL = 64 * 1024

/** For any bytes, and without a view of a part of them, which would be a new object. */
const { copy } = Buffer.prototype

/** Little-endian, and without the floating-point sum of Buffer's own method, which would be a new object for each frame. */
function uint32(bytes: Uint8Array, at: number): number {
  return (bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24)) >>> 0
}

/**
 * Cuts a byte stream into payloads. It holds at most one whole frame and what arrived together with it; a length that is
 * out of range is refused before anything is allocated for it.
 *
 * Either `push` chunks, or read into `buffer` from `prepare()` on and `commit`; then take frames while `next()` is true.
 */
export class FrameReader {
  /** Holds the payload that `next` found, at `start` to `end`, until the next call of any method. */
  buffer: Buffer = Buffer.allocUnsafe(INITIAL)
  start = 0
  end = 0
  /** Bytes up to here have been taken, and bytes up to #filled have arrived. */
  #taken = 0
  #filled = 0

  /** Bytes that arrived and were not taken yet. */
  get pending(): number {
    return this.#filled - this.#taken
  }

  /** @returns where in `buffer` the next bytes go: there is room for one at least, and all up to its end may be used */
  prepare(): number {
    this.#reserve(1)
    return this.#filled
  }

  /** `count` bytes were put where `prepare` said. */
  commit(count: number): void {
    this.#filled += count
  }

  /** Adds the first `length` bytes of `chunk`. Take all frames before the next push, so that no backlog grows. */
  push(chunk: Uint8Array, length: number = chunk.length): void {
    this.#reserve(length)
    copy.call(chunk, this.buffer, this.#filled, 0, length)
    this.#filled += length
  }

  /**
   * @returns whether a whole payload is there, now at `start` to `end` of `buffer`
   * @throws ProtocolError (frame) when the length is 0 or above MAX_FRAME
   */
  next(): boolean {
    const available = this.#filled - this.#taken
    if (available < HEADER) return false
    const length = uint32(this.buffer, this.#taken)
    if (length === 0 || length > MAX_FRAME) {
      throw new ProtocolError(enums.error.frame[0], `frame length ${length}, expected 1 to ${MAX_FRAME}`)
    }
    if (available < HEADER + length) return false
    this.start = this.#taken + HEADER
    this.end = this.start + length
    this.#taken = this.end
    return true
  }

  /** Takes what is there behind the last frame, as it is: until the next call of any method. */
  takeRest(): Buffer {
    const rest = this.buffer.subarray(this.#taken, this.#filled)
    this.#taken = this.#filled
    return rest
  }

  /** Makes room for `count` bytes more: by moving what is not taken yet to the front, then by growing. */
  #reserve(count: number): void {
    if (this.#taken === this.#filled) this.#taken = this.#filled = 0
    if (this.#filled + count <= this.buffer.length) return
    const pending = this.#filled - this.#taken
    const source = this.buffer
    if (pending + count > source.length) {
      this.buffer = Buffer.allocUnsafe(Math.max(pending + count, Math.min(2 * source.length, MAX_ON_WIRE)))
    }
    source.copy(this.buffer, 0, this.#taken, this.#filled)
    this.#taken = 0
    this.#filled = pending
  }
}

/** More than the integers and headers of a message or of a record take together; kept free, so they need no check. */
const SLACK = 256

/** Most bytes that wait in a FrameWriter: the largest frame behind a buffer of others. */
const MAX_PENDING = MAX_ON_WIRE + INITIAL

/** Where arrays would have their one-byte length, which they lack. */
const ARRAY = 0xdb

/**
 * Frames in the making, for the generated encoders: any number of them, sent with one write of `buffer` up to `length`,
 * then `reset`. A frame that fails leaves no bytes behind. All integers are written in their shortest encoding.
 */
export class FrameWriter {
  buffer: Buffer = Buffer.allocUnsafe(INITIAL)
  /** Bytes of whole frames. */
  length = 0
  #position = 0
  #message = ''

  /** Forgets all frames. */
  reset(): void {
    this.length = 0
  }

  /** @throws RangeError when `seq` is not an integer of 1 to 0xffffffff */
  begin(message: string, id: number, arity: number, seq: number): void {
    this.#message = message
    if (seq === 0) this.#fail('seq', '0 is not an integer of 1 to 4294967295')
    this.#position = this.length + HEADER
    this.#reserve(0)
    this.array(arity)
    this.uint(id, 0xff, 'type')
    this.uint(seq, 0xffff_ffff, 'seq')
  }

  /** @throws RangeError when the frame is longer than MAX_FRAME */
  end(): void {
    const size = this.#position - this.length - HEADER
    if (size > MAX_FRAME) this.#fail('frame', `${size} bytes, at most ${MAX_FRAME} are possible`)
    const { buffer, length } = this
    buffer[length] = size
    buffer[length + 1] = size >>> 8
    buffer[length + 2] = size >>> 16
    buffer[length + 3] = size >>> 24
    this.length = this.#position
  }

  /**
   * @param max at most 0xffffffff
   * @throws RangeError when `value` is not an integer of 0 to `max`
   */
  uint(value: number, max: number, field: string): void {
    if (value >>> 0 !== value || value > max) this.#fail(field, `${value} is not an integer of 0 to ${max}`)
    if (value < 0x80) {
      this.#byte(value)
    } else {
      this.#sized(0xcc, value)
    }
  }

  /** As `uint`, up to 2^53 - 1. */
  u53(value: number, max: number, field: string): void {
    if (value <= 0xffff_ffff) {
      this.uint(value, max, field)
      return
    }
    if (!Number.isSafeInteger(value) || value > max) this.#fail(field, `${value} is not an integer of 0 to ${max}`)
    this.buffer[this.#position] = 0xcf
    this.buffer.writeUInt32BE(Math.floor(value / 0x1_0000_0000), this.#position + 1)
    this.buffer.writeUInt32BE(value >>> 0, this.#position + 5)
    this.#position += 9
  }

  str(text: string, field: string): void {
    const bytes = Buffer.from(text)
    if (bytes.length > MAX_STRING) this.#fail(field, `${bytes.length} bytes, at most ${MAX_STRING} are possible`)
    if (!text.isWellFormed() || text.includes('\0')) this.#fail(field, 'not well-formed text without NUL')
    if (bytes.length < 0x20) {
      this.#byte(0xa0 | bytes.length)
    } else {
      this.#sized(0xd9, bytes.length)
    }
    this.#bytes(bytes)
  }

  bin(bytes: Uint8Array, max: number, field: string): void {
    if (bytes.length > max) this.#fail(field, `${bytes.length} bytes, at most ${max} are possible`)
    this.#sized(0xc4, bytes.length)
    this.#bytes(bytes)
  }

  /** An array of records, each an array of `arity` elements that `write` writes. */
  list<T>(records: readonly T[], arity: number, field: string, write: (writer: this, record: T) => void): void {
    if (records.length > MAX_LIST) this.#fail(field, `${records.length} records, at most ${MAX_LIST} are possible`)
    this.array(records.length)
    for (const record of records) {
      this.#reserve(0)
      this.array(arity)
      write(this, record)
    }
  }

  array(count: number): void {
    if (count < 0x10) {
      this.#byte(0x90 | count)
    } else {
      this.#sized(ARRAY, count)
    }
  }

  #byte(value: number): void {
    this.buffer[this.#position++] = value
  }

  /** `value` in one, two or four bytes, after the first byte of a family of three encodings. */
  #sized(family: number, value: number): void {
    const buffer = this.buffer
    let position = this.#position
    if (value < 0x100 && family !== ARRAY) {
      buffer[position++] = family
    } else {
      if (value < 0x1_0000) {
        buffer[position++] = family + 1
      } else {
        buffer[position++] = family + 2
        buffer[position++] = value >>> 24
        buffer[position++] = value >>> 16
      }
      buffer[position++] = value >>> 8
    }
    buffer[position++] = value
    this.#position = position
  }

  #bytes(bytes: Uint8Array): void {
    this.#reserve(bytes.length)
    this.buffer.set(bytes, this.#position)
    this.#position += bytes.length
  }

  /** Makes room for `count` bytes and SLACK. */
  #reserve(count: number): void {
    const needed = this.#position + count + SLACK
    if (needed > this.buffer.length) this.#grow(needed)
  }

  #grow(needed: number): void {
    if (needed > MAX_PENDING)
      this.#fail('frame', `${needed} bytes wait to be sent, at most ${MAX_PENDING} are possible`)
    const grown = Buffer.allocUnsafe(Math.min(Math.max(needed, 2 * this.buffer.length), MAX_PENDING))
    this.buffer.copy(grown, 0, 0, this.#position)
    this.buffer = grown
  }

  #fail(field: string, text: string): never {
    throw new RangeError(`${this.#message}.${field}: ${text}`)
  }
}
