// SPDX-License-Identifier: Apache-2.0
import { isUtf8 } from 'node:buffer'
import { ProtocolError } from './errors.ts'
import { enums, MAX_LIST, MAX_STRING } from './messages.ts'

/** A message that this end takes. */
export interface Shape {
  readonly name: string
  /** Elements of its array, id and sequence number included. */
  readonly arity: number
}

/** Bytes of a bad payload that its error shows. */
const SHOWN = 24

/** The one byte that starts no msgpack value. */
const INVALID = 0xc1

const hex = (value: number): string => `0x${value.toString(16).padStart(2, '0')}`

/** 32 bits, most significant byte first, as a signed integer. */
const word = (buffer: Uint8Array, at: number): number =>
  (buffer[at] << 24) | (buffer[at + 1] << 16) | (buffer[at + 2] << 8) | buffer[at + 3]

/**
 * Strict reader of one payload, for the generated decoders. Takes unsigned integers in any of their encodings, str, bin
 * and arrays; everything else is a ProtocolError.
 *
 * Why not msgpackr on this path: it reads integers above 2^32 as doubles or BigInts and writes them as float64 or int64,
 * takes types that the protocol does not have, and allocates an array for every message. Here nothing is allocated for
 * integers: those that can be too large for a small integer of V8 come back in a preallocated array, as a returned
 * number above 2^31 would be a new object wherever the call is not inlined.
 */
export class Cursor {
  /** Sequence number of the message at hand. */
  seq = 0
  #buffer: Buffer = Buffer.alloc(0)
  #start = 0
  #end = 0
  #position = 0
  #message = ''
  /** Low and high half of the integer that #integer read last. */
  readonly #halves = new Uint32Array(2)
  readonly #wide = new Float64Array(1)

  /**
   * Starts on the payload buffer[start..end): reads the id and the sequence number, and checks the number of elements.
   * @param shapes messages that this end takes, by id
   * @returns the id
   */
  open(buffer: Buffer, start: number, end: number, shapes: readonly (Shape | undefined)[]): number {
    this.#buffer = buffer
    this.#start = start
    this.#end = end
    this.#position = start
    this.#message = ''
    this.seq = 0
    const count = this.#elements('outermost value')
    if (count < 2) this.#fail(enums.error.arity[0], `${count} elements, expected at least 2`)
    const id = this.u32(0xffff_ffff, 'type')[0]
    const shape = id < shapes.length ? shapes[id] : undefined
    if (shape === undefined) this.#fail(enums.error.type[0], `message ${id} is unknown, or not for this end`)
    this.#message = shape.name
    this.seq = this.u32(0xffff_ffff, 'seq')[0]
    if (this.seq === 0) this.#fail(enums.error.value[0], 'seq: 0, expected at least 1')
    if (count !== shape.arity) this.#fail(enums.error.arity[0], `${count} elements, expected ${shape.arity}`)
    return id
  }

  /** Checks that the payload ends here. */
  close(): void {
    const rest = this.#end - this.#position
    if (rest !== 0) this.#fail(enums.error.msgpack[0], `${rest} bytes follow the array`)
  }

  /** @param max at most 0xffff */
  uint(max: number, field: string): number {
    const position = this.#position
    if (position < this.#end) {
      const head = this.#buffer[position]
      if (head < 0x80 && head <= max) {
        this.#position = position + 1
        return head
      }
    }
    return this.u32(max, field)[0]
  }

  /** @returns an array whose first element is the value, until the next read */
  u32(max: number, field: string): Uint32Array {
    const buffer = this.#buffer
    const position = this.#position
    const halves = this.#halves
    const rest = this.#end - position
    const head = rest > 0 ? buffer[position] : INVALID
    // the encodings that a writer of shortest forms uses for most values, here for speed
    if (head < 0x80) {
      halves[0] = head
      this.#position = position + 1
    } else if (head === 0xce && rest >= 5) {
      halves[0] = word(buffer, position + 1)
      this.#position = position + 5
    } else if (head === 0xcd && rest >= 3) {
      halves[0] = (buffer[position + 1] << 8) | buffer[position + 2]
      this.#position = position + 3
    } else {
      this.#integer(field)
      if (halves[1] !== 0) this.#tooLarge(halves[1], halves[0], max, field)
    }
    if (halves[0] > max) this.#tooLarge(0, halves[0], max, field)
    return halves
  }

  /** @returns an array whose first element is the value, until the next read */
  u53(max: number, field: string): Float64Array {
    this.#integer(field)
    const low = this.#halves[0]
    const high = this.#halves[1]
    const value = high * 0x1_0000_0000 + low
    if (value > max) this.#tooLarge(high, low, max, field)
    this.#wide[0] = value
    return this.#wide
  }

  str(field: string): string {
    const length = this.#blobHeader(field, 'str', MAX_STRING)
    const start = this.#position
    this.#position += length
    const text = this.#buffer.subarray(start, this.#position)
    if (!isUtf8(text) || text.includes(0)) this.#fail(enums.error.value[0], `${field}: expected UTF-8 without NUL`)
    return text.toString()
  }

  /** @returns a copy */
  bin(max: number, field: string): Uint8Array {
    const length = this.#blobHeader(field, 'bin', max)
    const start = this.#position
    this.#position += length
    return new Uint8Array(this.#buffer.subarray(start, this.#position))
  }

  /** An array of records, each an array of `arity` elements that `read` reads. */
  list<T>(arity: number, field: string, read: (cursor: this) => T): T[] {
    const count = this.#elements(field)
    if (count > MAX_LIST) this.#fail(enums.error.value[0], `${field}: ${count} records, expected at most ${MAX_LIST}`)
    const records: T[] = []
    for (let i = 0; i < count; i++) {
      const elements = this.#elements(field)
      if (elements !== arity) {
        this.#fail(enums.error.arity[0], `${field}[${i}]: ${elements} elements, expected ${arity}`)
      }
      records.push(read(this))
    }
    return records
  }

  /** Reads an integer of any unsigned encoding into #halves. */
  #integer(field: string): void {
    const buffer = this.#buffer
    const position = this.#position
    if (position >= this.#end) this.#truncated(field)
    const head = buffer[position]
    let size = 1
    let high = 0
    let low = head
    if (head >= 0x80) {
      if (head < 0xcc || head > 0xcf) this.#wrongType(field, 'an unsigned integer')
      size += 1 << (head - 0xcc)
      this.#need(size, field)
      if (head === 0xcc) {
        low = buffer[position + 1]
      } else if (head === 0xcd) {
        low = (buffer[position + 1] << 8) | buffer[position + 2]
      } else {
        low = word(buffer, position + size - 4)
        if (head === 0xcf) high = word(buffer, position + 1)
      }
    }
    this.#halves[0] = low
    this.#halves[1] = high
    this.#position = position + size
  }

  /** Length of a str or bin, all of which is there. */
  #blobHeader(field: string, type: 'str' | 'bin', max: number): number {
    const position = this.#position
    if (position >= this.#end) this.#truncated(field)
    const head = this.#buffer[position]
    const first = type === 'str' ? 0xd9 : 0xc4
    let length = 0
    let header = 1
    if (type === 'str' && head >= 0xa0 && head <= 0xbf) {
      length = head & 0x1f
    } else if (head >= first && head <= first + 2) {
      header += 1 << (head - first)
      this.#need(header, field)
      length = this.#buffer.readUIntBE(position + 1, header - 1)
    } else {
      this.#wrongType(field, type)
    }
    this.#need(header + length, field)
    if (length > max) this.#fail(enums.error.value[0], `${field}: ${length} bytes, expected at most ${max}`)
    this.#position = position + header
    return length
  }

  /** Elements of the array that starts here. */
  #elements(field: string): number {
    const position = this.#position
    if (position >= this.#end) this.#truncated(field)
    const head = this.#buffer[position]
    if ((head & 0xf0) === 0x90) {
      this.#position = position + 1
      return head & 0x0f
    }
    if (head === 0xdc) {
      this.#need(3, field)
      this.#position = position + 3
      return this.#buffer.readUInt16BE(position + 1)
    }
    if (head === 0xdd) {
      this.#need(5, field)
      this.#position = position + 5
      return this.#buffer.readUInt32BE(position + 1)
    }
    this.#wrongType(field, 'an array')
  }

  #need(bytes: number, field: string): void {
    if (this.#end - this.#position < bytes) this.#truncated(field)
  }

  #truncated(field: string): never {
    this.#fail(enums.error.msgpack[0], `${field}: the payload ends before it does`)
  }

  #wrongType(field: string, expected: string): never {
    const head = this.#buffer[this.#position]
    const code = head === INVALID || this.#position === this.#start ? enums.error.msgpack[0] : enums.error.value[0]
    this.#fail(code, `${field}: starts with ${hex(head)}, expected ${expected}`)
  }

  #tooLarge(high: number, low: number, max: number, field: string): never {
    const value = (BigInt(high) << 32n) | BigInt(low)
    this.#fail(enums.error.value[0], `${field}: ${value}, expected at most ${max}`)
  }

  #fail(code: number, text: string): never {
    const name = this.#message === '' ? 'payload' : `${this.#message} ${this.seq}`
    const size = this.#end - this.#start
    const bytes = this.#buffer.toString('hex', this.#start, this.#start + Math.min(size, SHOWN))
    throw new ProtocolError(code, `${name}: ${text} (${size} bytes: ${bytes}${size > SHOWN ? '…' : ''})`)
  }
}
