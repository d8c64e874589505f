// SPDX-License-Identifier: Apache-2.0
/**
 * The trace ring: how the trap thread reports without waiting. One producer, one consumer, one SharedArrayBuffer.
 *
 * Positions are counted in 32-bit words modulo 2^32. The producer writes a record into free words and then moves `head`
 * with one atomic store; the consumer moves `tail`. A record never spans the end of the buffer: filler goes before it. A
 * record for which there is no room is counted; as soon as there is room again, a `lost` record takes their place.
 */
import { crc32 } from 'node:zlib'
import type { Trap } from '../policy/policy.ts'
import { type Layout, layouts, type TraceRecord } from './records.ts'

/** Int32 indices of the control part. Head and tail are on cache lines of their own. */
const HEAD = 0
const TAIL = 16
const LOST = 32
/** Float64 index: hrtime of the ring's creation, ns. */
const EPOCH = 24
const CONTROL_BYTES = 256

const FILLER = 0
const LOST_WORDS = 4

/** The consumer frees words in steps of so many. */
const GIVE_BACK = 1024

/** Most bytes of guest memory in one record. */
export const CHUNK = 16384

/** Of a longer write only a digest is kept: page tables, zeroed pages. Replay makes the bytes again. */
export const KEPT_WRITE = 512

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

/** The trap thread's end. No method waits or throws, and none allocates but for payloads above 64 bytes and texts. */
export class RingWriter {
  /** ns since the ring was created. */
  readonly now: () => number
  readonly #control: Int32Array
  readonly #words: Uint32Array
  readonly #doubles: Float64Array
  readonly #bytes: Uint8Array
  readonly #capacity: number
  #head: number
  /** The consumer's position when last looked at; looked at again only when it seems to matter. */
  #tail: number
  /** Words of filler before the record being written. */
  #filler = 0
  #lost = 0

  constructor(buffer: SharedArrayBuffer) {
    const { control, words, doubles, bytes } = views(buffer)
    this.#control = control
    this.#words = words
    this.#doubles = doubles
    this.#bytes = bytes
    this.#capacity = words.length
    this.#head = Atomics.load(control, HEAD)
    this.#tail = Atomics.load(control, TAIL)
    this.now = clock(buffer)
  }

  trap(trap: Readonly<Trap>, lastTrapNs: number, start: number, duration: number): void {
    const at = this.#reserve(1, 19)
    if (at < 0) return
    const words = this.#words
    const doubles = this.#doubles
    words[at + 1] = trap.seq
    doubles[(at + 2) >> 1] = trap.time
    doubles[(at + 4) >> 1] = start
    doubles[(at + 6) >> 1] = duration
    words[at + 8] = trap.smmu
    words[at + 9] = trap.cpu
    words[at + 10] = trap.write ? 1 : 0
    words[at + 11] = trap.offset
    words[at + 12] = trap.size
    words[at + 13] = trap.lo
    words[at + 14] = trap.hi
    words[at + 15] = trap.aborted ? 1 : 0
    words[at + 16] = trap.pcLo
    words[at + 17] = trap.pcHi
    words[at + 18] = lastTrapNs
    this.#publish(20)
  }

  hardware(
    write: boolean,
    smmu: number,
    offset: number,
    size: number,
    lo: number,
    hi: number,
    ok: boolean,
    start: number,
    duration: number,
  ): void {
    const at = this.#reserve(2, 12)
    if (at < 0) return
    const words = this.#words
    words[at + 1] = smmu
    words[at + 2] = write ? 1 : 0
    this.#doubles[(at + 4) >> 1] = start
    words[at + 6] = duration
    words[at + 7] = offset
    words[at + 8] = size
    words[at + 9] = lo
    words[at + 10] = hi
    words[at + 11] = ok ? 1 : 0
    this.#publish(12)
  }

  /** @param bytes what was read or written, `length` bytes from `offset`. */
  memory(write: boolean, address: number, bytes: Uint8Array, offset: number, length: number, ok: boolean): void {
    if (!ok) this.#memory(write, address, length, 0, 0, false, bytes, 0, 0)
    else if (length <= (write ? KEPT_WRITE : CHUNK)) {
      this.#memory(write, address, length, 0, 0, true, bytes, offset, length)
    } else if (write) {
      this.#memory(true, address, length, 0, digest(bytes.subarray(offset, offset + length)), true, bytes, 0, 0)
    } else {
      for (let done = 0; done < length; done += CHUNK) {
        this.#memory(false, address, length, done, 0, true, bytes, offset + done, Math.min(CHUNK, length - done))
      }
    }
  }

  guard(add: boolean, base: number, size: number): void {
    const at = this.#reserve(4, 6)
    if (at < 0) return
    this.#words[at + 1] = add ? 1 : 0
    this.#doubles[(at + 2) >> 1] = base
    this.#doubles[(at + 4) >> 1] = size
    this.#publish(6)
  }

  /** @param verdict a value of `verdict` (records.ts). */
  command(smmu: number, opcode: number, verdict: number): void {
    const at = this.#reserve(5, 4)
    if (at < 0) return
    this.#words[at + 1] = smmu
    this.#words[at + 2] = opcode
    this.#words[at + 3] = verdict
    this.#publish(4)
  }

  /** Config fields, or -1. */
  stream(smmu: number, sid: number, hostConfig: number, shadowConfig: number): void {
    const at = this.#reserve(6, 5)
    if (at < 0) return
    const words = this.#words
    words[at + 1] = smmu
    words[at + 2] = sid
    words[at + 3] = hostConfig
    words[at + 4] = shadowConfig
    this.#publish(6)
  }

  /** @param record 32 bytes. */
  event(smmu: number, time: number, record: Uint8Array, offset: number): void {
    const at = this.#reserve(7, 13)
    if (at < 0) return
    this.#words[at + 1] = smmu
    this.#doubles[(at + 2) >> 1] = time
    this.#words[at + 4] = 32
    this.#copy((at + 5) << 2, record, offset, 32)
    this.#publish(14)
  }

  gerror(smmu: number, time: number, gerror: number, gerrorn: number): void {
    const at = this.#reserve(8, 6)
    if (at < 0) return
    this.#words[at + 1] = smmu
    this.#doubles[(at + 2) >> 1] = time
    this.#words[at + 4] = gerror
    this.#words[at + 5] = gerrorn
    this.#publish(6)
  }

  guardFault(
    cpu: number,
    address: number,
    size: number,
    write: boolean,
    time: number,
    pcLo: number,
    pcHi: number,
  ): void {
    const at = this.#reserve(9, 10)
    if (at < 0) return
    const words = this.#words
    words[at + 1] = cpu
    this.#doubles[(at + 2) >> 1] = address
    words[at + 4] = size
    words[at + 5] = write ? 1 : 0
    this.#doubles[(at + 6) >> 1] = time
    words[at + 8] = pcLo
    words[at + 9] = pcHi
    this.#publish(10)
  }

  /** @param id of a HypWarning. */
  warning(id: number, smmu: number, v0: number, v1: number, v2: number, v3: number): void {
    const at = this.#reserve(10, 7)
    if (at < 0) return
    const words = this.#words
    words[at + 1] = id
    words[at + 2] = smmu
    words[at + 3] = v0
    words[at + 4] = v1
    words[at + 5] = v2
    words[at + 6] = v3
    this.#publish(8)
  }

  /** @param cause a value of the protocol's `resetCause`. */
  reset(cause: number, time: number, start: number, duration: number): void {
    const at = this.#reserve(11, 8)
    if (at < 0) return
    this.#words[at + 1] = cause
    this.#doubles[(at + 2) >> 1] = time
    this.#doubles[(at + 4) >> 1] = start
    this.#doubles[(at + 6) >> 1] = duration
    this.#publish(8)
  }

  /** As HypReport.pages. */
  pages(operation: number, base: number, size: number, owner: number, result: number): void {
    const at = this.#reserve(12, 8)
    if (at < 0) return
    this.#words[at + 1] = operation
    this.#doubles[(at + 2) >> 1] = base
    this.#doubles[(at + 4) >> 1] = size
    this.#words[at + 6] = owner
    this.#words[at + 7] = result
    this.#publish(8)
  }

  /** @param request a value of `request`; @param result 0, or the error's number. */
  request(request: number, result: number, start: number, duration: number, v0 = 0, v1 = 0, v2 = 0, v3 = 0): void {
    const at = this.#reserve(20, 16)
    if (at < 0) return
    this.#words[at + 1] = request
    this.#words[at + 2] = result
    this.#doubles[(at + 4) >> 1] = start
    this.#doubles[(at + 6) >> 1] = duration
    this.#values(at + 8, v0, v1, v2, v3)
    this.#publish(16)
  }

  /** @param text empty, or why the SMMU can't isolate. */
  probe(smmu: number, text: string): void {
    const bytes = Buffer.from(text).subarray(0, CHUNK)
    const size = 3 + ((bytes.length + 3) >> 2)
    const at = this.#reserve(21, size)
    if (at < 0) return
    this.#words[at + 1] = smmu
    this.#words[at + 2] = bytes.length
    this.#copy((at + 3) << 2, bytes, 0, bytes.length)
    this.#publish(size + (size & 1))
  }

  breakpoint(id: number, seq: number, start: number): void {
    const at = this.#reserve(13, 6)
    if (at < 0) return
    this.#words[at + 1] = id
    this.#words[at + 2] = seq
    this.#doubles[(at + 4) >> 1] = start
    this.#publish(6)
  }

  fault(rule: number, action: number, v0 = 0, v1 = 0, v2 = 0, v3 = 0): void {
    const at = this.#reserve(14, 12)
    if (at < 0) return
    this.#words[at + 1] = rule
    this.#words[at + 2] = action
    this.#values(at + 4, v0, v1, v2, v3)
    this.#publish(12)
  }

  /** @param request fields as the wire's `translate` has them; @param answer as `translated`, `record` 32 bytes. */
  translate(
    request: { smmu: number; sid: number; ssid: number; access: number; iovaLo: number; iovaHi: number; time: number },
    answer: { status: number; permissions: number; pa: number; addressMask: number; record: Uint8Array },
    start: number,
    duration: number,
  ): void {
    const at = this.#reserve(17, 29)
    if (at < 0) return
    const words = this.#words
    const doubles = this.#doubles
    words[at + 1] = request.smmu
    words[at + 2] = request.sid
    words[at + 3] = request.ssid
    words[at + 4] = request.access
    words[at + 5] = request.iovaLo
    words[at + 6] = request.iovaHi
    doubles[(at + 8) >> 1] = request.time
    doubles[(at + 10) >> 1] = start
    doubles[(at + 12) >> 1] = duration
    words[at + 14] = answer.status
    words[at + 15] = answer.permissions
    doubles[(at + 16) >> 1] = answer.pa
    doubles[(at + 18) >> 1] = answer.addressMask
    words[at + 20] = 32
    this.#copy((at + 21) << 2, answer.record, 0, 32)
    this.#publish(30)
  }

  #memory(
    write: boolean,
    address: number,
    length: number,
    done: number,
    digest: number,
    ok: boolean,
    bytes: Uint8Array,
    offset: number,
    count: number,
  ): void {
    const size = 9 + ((count + 3) >> 2)
    const at = this.#reserve(3, size)
    if (at < 0) return
    const words = this.#words
    words[at + 1] = write ? 1 : 0
    this.#doubles[(at + 2) >> 1] = address
    words[at + 4] = length
    words[at + 5] = done
    words[at + 6] = digest
    words[at + 7] = ok ? 1 : 0
    words[at + 8] = count
    this.#copy((at + 9) << 2, bytes, offset, count)
    this.#publish(size + (size & 1))
  }

  #values(at: number, v0: number, v1: number, v2: number, v3: number): void {
    const i = at >> 1
    this.#doubles[i] = v0
    this.#doubles[i + 1] = v1
    this.#doubles[i + 2] = v2
    this.#doubles[i + 3] = v3
  }

  #copy(to: number, source: Uint8Array, from: number, count: number): void {
    const bytes = this.#bytes
    if (count > 64) bytes.set(source.subarray(from, from + count), to)
    else for (let i = 0; i < count; i++) bytes[to + i] = source[from + i] ?? 0
  }

  /**
   * Finds room for a record of `size` words and writes its header.
   * @returns its word index, or -1 when it is lost.
   */
  #reserve(kind: number, size: number): number {
    if (this.#lost !== 0 && !this.#settle()) return this.#lose()
    const even = size + (size & 1)
    const capacity = this.#capacity
    let at = this.#head & (capacity - 1)
    const filler = capacity - at < even ? capacity - at : 0
    if (!this.#room(even + filler)) return this.#lose()
    if (filler !== 0) {
      this.#words[at] = FILLER | (filler << 8)
      at = 0
    }
    this.#filler = filler
    this.#words[at] = kind | (even << 8)
    return at
  }

  #room(words: number): boolean {
    const limit = (this.#head + words - this.#capacity) | 0
    if (((this.#tail - limit) | 0) >= 0) return true
    this.#tail = Atomics.load(this.#control, TAIL)
    return ((this.#tail - limit) | 0) >= 0
  }

  #publish(words: number): void {
    this.#head = (this.#head + this.#filler + words) | 0
    Atomics.store(this.#control, HEAD, this.#head)
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
    const at = this.#reserve(16, LOST_WORDS)
    this.#doubles[(at + 2) >> 1] = count
    this.#publish(LOST_WORDS)
    return true
  }
}

/** The consumer's end. */
export class RingReader {
  /** ns since the ring was created. */
  readonly now: () => number
  readonly words: Uint32Array
  readonly doubles: Float64Array
  readonly bytes: Uint8Array
  readonly #control: Int32Array
  /** Of the record being decoded. */
  readonly #values: unknown[] = []

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
      const header = this.words[at] ?? 0
      const layout = layouts[header & 0xff]
      if (layout !== undefined) {
        visit(layout, at)
        count++
      }
      tail = (tail + (header >>> 8)) | 0
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
    const values = this.#values
    values.length = 0
    for (const { type, word } of layout.fields) {
      if (type === 'u32') values.push(this.words[at + word])
      else if (type === 'f64') values.push(this.doubles[(at + word) >> 1])
      else {
        const bytes = this.payload(at + word)
        values.push(type === 'text' ? Buffer.from(bytes).toString() : new Uint8Array(bytes))
      }
    }
    return layout.make(values)
  }

  /** The bytes behind the length word at `at`, in place. */
  payload(at: number): Uint8Array {
    const start = (at + 1) << 2
    return this.bytes.subarray(start, start + (this.words[at] ?? 0))
  }
}
