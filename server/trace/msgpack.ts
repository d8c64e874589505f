// SPDX-License-Identifier: Apache-2.0
/**
 * Records as msgpack: an array of the kind's id and its fields in order. Numbers are unsigned integers in their shortest
 * encoding (anything else is a float 64), `bytes` is bin, `text` is str. Reading accepts just that.
 */
import { type Layout, layouts, payloadAt, type RecordViews } from './layout.ts'
import type { StoredType, TraceRecord } from './records.ts'

const TWO_32 = 0x1_0000_0000
const INITIAL = 1 << 17

const layoutOf = new Map(layouts.flatMap(layout => (layout ? [[layout.name as string, layout] as const] : [])))

/** More than any kind has. */
const MOST_FIELDS = 32

/** Bytes of a number at most. */
const LONGEST_NUMBER = 9

/** Records in the making. */
export class Packer {
  buffer = Buffer.allocUnsafe(INITIAL)
  length = 0

  /** A record of the ring, at word `at`. */
  fromRing(ring: RecordViews, layout: Layout, at: number): void {
    const { words, doubles } = ring
    this.#start(layout)
    for (const { type, word } of layout.fields) {
      if (type === 'u32') this.#uint(words[at + word] ?? 0)
      else if (type === 'f64') this.#number(doubles[(at + word) >> 1] ?? 0)
      else this.#payload(payloadAt(ring, at + word), type)
    }
  }

  record(record: TraceRecord): void {
    const layout = layoutOf.get(record.kind)
    if (layout === undefined) return
    const values = record as unknown as Record<string, number | string | Uint8Array>
    this.#start(layout)
    for (const { name, type } of layout.fields) {
      const value = values[name] ?? 0
      if (typeof value === 'number') this.#number(value)
      else this.#payload(typeof value === 'string' ? Buffer.from(value) : value, type)
    }
  }

  /** Makes room for everything but payloads, and writes the array's head and the kind. */
  #start({ id, fields }: Layout): void {
    this.#reserve(4 + fields.length * LONGEST_NUMBER)
    const { buffer } = this
    if (fields.length < 15) buffer[this.length++] = 0x91 + fields.length
    else {
      buffer[this.length++] = 0xdc
      buffer[this.length++] = 0
      buffer[this.length++] = fields.length + 1
    }
    buffer[this.length++] = id
  }

  #number(value: number): void {
    if (value >= 0 && value < TWO_32 && value >>> 0 === value) return this.#uint(value)
    const { buffer, length } = this
    if (value >= 0 && Number.isSafeInteger(value)) {
      buffer[length] = 0xcf
      put32(buffer, length + 1, value / TWO_32)
      put32(buffer, length + 5, value)
    } else {
      buffer[length] = 0xcb
      buffer.writeDoubleBE(value, length + 1)
    }
    this.length = length + 9
  }

  #uint(value: number): void {
    const { buffer, length } = this
    if (value < 0x80) {
      buffer[length] = value
      this.length = length + 1
    } else if (value < 0x100) {
      buffer[length] = 0xcc
      buffer[length + 1] = value
      this.length = length + 2
    } else if (value < 0x10000) {
      buffer[length] = 0xcd
      buffer[length + 1] = value >>> 8
      buffer[length + 2] = value
      this.length = length + 3
    } else {
      buffer[length] = 0xce
      put32(buffer, length + 1, value)
      this.length = length + 5
    }
  }

  #payload(bytes: Uint8Array, type: StoredType): void {
    const count = bytes.length
    this.#reserve(count + MOST_FIELDS * LONGEST_NUMBER)
    const first = type === 'text' ? 0xd9 : 0xc4
    const size = count < 0x100 ? 0 : count < 0x10000 ? 1 : 2
    this.buffer[this.length++] = first + size
    for (let shift = (1 << size) * 8 - 8; shift >= 0; shift -= 8) this.buffer[this.length++] = count >>> shift
    this.buffer.set(bytes, this.length)
    this.length += count
  }

  #reserve(count: number): void {
    const needed = this.length + count
    if (needed <= this.buffer.length) return
    const grown = Buffer.allocUnsafe(Math.max(needed, this.buffer.length * 2))
    this.buffer.copy(grown, 0, 0, this.length)
    this.buffer = grown
  }
}

/** The low 32 bits of `value`, big-endian. */
function put32(buffer: Buffer, at: number, value: number): void {
  buffer[at] = value >>> 24
  buffer[at + 1] = value >>> 16
  buffer[at + 2] = value >>> 8
  buffer[at + 3] = value
}

/** What is at the position is no record; `cut`: it might be the beginning of one. */
export class RecordError extends Error {
  readonly cut: boolean

  constructor(message: string, cut: boolean) {
    super(message)
    this.name = 'RecordError'
    this.cut = cut
  }
}

/** Reads records one after the other. */
export class Unpacker {
  /** Where the next record starts. */
  position = 0
  readonly #buffer: Buffer
  /** Of the record being read. */
  readonly #values: unknown[] = new Array(MOST_FIELDS).fill(0)

  constructor(buffer: Buffer) {
    this.#buffer = buffer
  }

  get done(): boolean {
    return this.position >= this.#buffer.length
  }

  /**
   * Reads a record. Fields that the writer did not know yet are 0 or empty; those that we do not know are ignored.
   * @returns undefined when it is of a kind that this version does not know
   * @throws RecordError; `position` is then still at the start of the record
   */
  next(): TraceRecord | undefined {
    const start = this.position
    try {
      return this.#record()
    } catch (error) {
      this.position = start
      throw error
    }
  }

  #record(): TraceRecord | undefined {
    const first = this.#byte()
    const count = first === 0xdc ? this.#integer(2) : first & 0x0f
    if ((first !== 0xdc && (first & 0xf0) !== 0x90) || count === 0) throw new RecordError('no record', false)
    const id = this.#value()
    const layout = typeof id === 'number' ? layouts[id] : undefined
    if (layout === undefined) {
      for (let i = 1; i < count; i++) this.#value()
      return undefined
    }
    let field = 0
    for (const { name, type } of layout.fields) {
      const value = field + 1 < count ? this.#value() : type === 'text' ? '' : type === 'bytes' ? new Uint8Array() : 0
      const expected = type === 'text' ? 'string' : type === 'bytes' ? 'object' : 'number'
      if (typeof value !== expected || (type === 'u32' && Number(value) >>> 0 !== value)) {
        throw new RecordError(`${layout.name}.${name} is not ${type}`, false)
      }
      this.#values[field++] = value
    }
    for (let i = field + 1; i < count; i++) this.#value()
    return layout.make(this.#values)
  }

  #value(): number | string | Uint8Array {
    const first = this.#byte()
    if (first < 0x80) return first
    switch (first) {
      case 0xcc:
        return this.#integer(1)
      case 0xcd:
        return this.#integer(2)
      case 0xce:
        return this.#integer(4)
      case 0xcf:
        return this.#integer(4) * TWO_32 + this.#integer(4)
      case 0xcb:
        return this.#take(8).readDoubleBE(0)
      case 0xc4:
      case 0xc5:
      case 0xc6:
        return new Uint8Array(this.#take(this.#integer(1 << (first - 0xc4))))
      case 0xd9:
      case 0xda:
      case 0xdb:
        return this.#take(this.#integer(1 << (first - 0xd9))).toString()
      default:
        throw new RecordError(`0x${first.toString(16)} is no field`, false)
    }
  }

  #byte(): number {
    const value = this.#buffer[this.position]
    if (value === undefined) throw new RecordError('the record is cut off', true)
    this.position++
    return value
  }

  #integer(bytes: number): number {
    let value = 0
    for (let i = 0; i < bytes; i++) value = value * 256 + this.#byte()
    return value
  }

  #take(count: number): Buffer {
    const end = this.position + count
    if (end > this.#buffer.length) throw new RecordError('the record is cut off', true)
    const bytes = this.#buffer.subarray(this.position, end)
    this.position = end
    return bytes
  }
}
