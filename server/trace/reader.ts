// SPDX-License-Identifier: Apache-2.0
/**
 * Reads trace files, damaged ones too: whatever is whole is given, and `problems` says what isn't, by byte offset. Memory
 * does not grow with the file (but for a compressed one, which is unpacked as a whole).
 */
import { closeSync, constants, fstatSync, openSync, readFileSync, readSync, statSync } from 'node:fs'
import { crc32, gunzipSync, constants as zlib } from 'node:zlib'
import {
  BLOCK_HEADER,
  BLOCK_MAGIC,
  type BlockInfo,
  blockFormat,
  blockType,
  decodeBlockHeader,
  decodeEnd,
  END_BYTES,
  FORMAT,
  FORMAT_TELLS_REWRITTEN,
  INDEX_ENTRY,
  isBlock,
  MAX_PAYLOAD,
  OLDEST_FORMAT,
  parseHeader,
  type TraceHeader,
} from './format.ts'
import { RecordError, Unpacker } from './msgpack.ts'
import type { TraceRecord } from './records.ts'
import { laterSegments, segmentPath } from './segments.ts'
import { counted } from './words.ts'

/** Something wrong with a file. */
export interface Problem {
  readonly path: string
  /** Bytes from the start of the file (of the unpacked one, if it is compressed). */
  readonly offset: number
  readonly message: string
  /** False: by intention, as by rotation. */
  readonly damage: boolean
  /** The file ends too early: so does one that is still being written. */
  readonly early?: true
}

/** The file is no trace, or one that this version cannot read; nothing of it can be shown. */
export class TraceError extends Error {
  constructor(path: string, message: string) {
    super(`${path}: ${message}`)
    this.name = 'TraceError'
  }
}

/** Says whether a block is wanted; others are skipped unread. */
export type Wanted = (block: Readonly<BlockInfo>) => boolean

/** Most bytes that a compressed file may unpack to: it is held in memory, twice while it is unpacked. */
export const MAX_UNPACKED = 256 << 20
const GZIP_MAGIC = 0x1f8b

/** Bytes searched at a time for the next block. */
const SEARCH = 1 << 16

/** A block and where its header is. */
interface Place {
  readonly position: number
  readonly info: BlockInfo
}

/** Bytes of a file, by position. */
interface Source {
  readonly size: number
  /** @returns up to `length` bytes; fewer only at the end. */
  read(position: number, length: number): Buffer
  close(): void
}

function fileSource(fd: number): Source {
  const { size } = fstatSync(fd)
  return {
    size,
    read(position, length) {
      const bytes = Buffer.allocUnsafe(Math.max(0, Math.min(length, size - position)))
      let done = 0
      while (done < bytes.length) {
        const count = readSync(fd, bytes, done, bytes.length - done, position + done)
        if (count === 0) break
        done += count
      }
      return bytes.subarray(0, done)
    },
    close: () => closeSync(fd),
  }
}

function memorySource(bytes: Buffer): Source {
  return { size: bytes.length, read: (position, length) => bytes.subarray(position, position + length), close() {} }
}

/** A recording: one file, or the segments of one. */
export class TraceReader {
  /** Of the first segment. */
  readonly header: TraceHeader
  /** Version of the format. */
  readonly format: number
  /** Bytes on the disk, of all segments. */
  readonly size: number
  /** Grows while blocks are read. */
  readonly problems: Problem[] = []
  readonly #path: string
  readonly #segments: readonly number[]
  /** A segment, by its path. */
  readonly #open: (path: string) => Source

  private constructor(
    path: string,
    { header, format }: ReturnType<typeof readHeader>,
    segments: readonly number[],
    size: number,
    open: (path: string) => Source,
  ) {
    this.#path = path
    this.header = header
    this.format = format
    this.#segments = segments
    this.#open = open
    this.size = size
  }

  /** @throws TraceError when it is no trace, Error when it can't be read. */
  static open(path: string): TraceReader {
    const source = open(path)
    try {
      const first = readHeader(path, source)
      const segments = [0, ...(first.header.segment === 0 ? laterSegments(path) : [])]
      const size = segments.reduce((sum, segment) => sum + statSync(segmentPath(path, segment)).size, 0)
      return new TraceReader(path, first, segments, size, open)
    } finally {
      source.close()
    }
  }

  /**
   * A recording of one file that is in memory, and not compressed.
   * @param name for messages
   * @throws TraceError when it is no trace
   */
  static of(name: string, bytes: Uint8Array): TraceReader {
    const source = memorySource(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length))
    return new TraceReader(name, readHeader(name, source), [0], bytes.length, () => source)
  }

  /** A verdict `kept` means that the command was not rewritten either. */
  get tellsRewritten(): boolean {
    return this.format >= FORMAT_TELLS_REWRITTEN
  }

  /** The records of the blocks that are wanted, in order, block by block. */
  *blocks(wanted?: Wanted): Generator<TraceRecord[]> {
    let expected = 0
    for (const segment of this.#segments) {
      const path = segmentPath(this.#path, segment)
      const source = this.#open(path)
      try {
        if (segment !== 0 && !this.#belongs(path, source)) continue
        if (segment !== expected) {
          const message = `${plural(segment - expected, 'segment')} before this one removed by rotation`
          this.problems.push({ path, offset: 0, message, damage: false })
        }
        expected = segment + 1
        yield* this.#segment(path, source, wanted)
      } finally {
        source.close()
      }
    }
  }

  /** All records of the blocks that are wanted. */
  *records(wanted?: Wanted): Generator<TraceRecord> {
    for (const block of this.blocks(wanted)) yield* block
  }

  #belongs(path: string, source: Source): boolean {
    try {
      return readHeader(path, source).header.recording === this.header.recording
    } catch (error) {
      if (!(error instanceof TraceError)) throw error
      this.#problem(path, 0, 'the header of this segment is damaged')
      return true
    }
  }

  *#segment(path: string, source: Source, wanted: Wanted | undefined): Generator<TraceRecord[]> {
    const blocks = (wanted && readIndex(source)) ?? this.#scan(path, source)
    for (const { position, info } of blocks) {
      if (info.type !== blockType.records || !(wanted?.(info) ?? true)) continue
      const records = this.#block(path, position, info, source.read(position + BLOCK_HEADER, info.length))
      if (records.length > 0) yield records
    }
  }

  /** All blocks from the first on, without trust in anything but their own checksums. */
  *#scan(path: string, source: Source): Generator<Place> {
    let number = 0
    let position = 0
    while (position < source.size) {
      const info = decodeBlockHeader(source.read(position, BLOCK_HEADER))
      if (info === undefined || info.length > MAX_PAYLOAD) {
        const next = findBlock(source, position + 1)
        const early = source.size - position < BLOCK_HEADER
        const what = early ? 'the file is cut off in the header of a block' : 'no block here'
        this.#problem(path, position, `${what}; ${plural(next - position, 'byte')} skipped`, early)
        position = next
        number = -1
        continue
      }
      if (number >= 0 && info.number !== number) {
        this.#problem(path, position, `block ${number} expected, this is block ${info.number}`)
      }
      number = info.number + 1
      yield { position, info }
      const next = position + BLOCK_HEADER + info.length
      if (info.type === blockType.index) return this.#checkEnd(path, source, position, next)
      position = next
    }
    const what = 'the recording was not ended: it goes on, was killed, or the file is cut off'
    this.#problem(path, source.size, what, true)
  }

  #block(path: string, position: number, info: BlockInfo, payload: Buffer): TraceRecord[] {
    const cut = payload.length < info.length
    if (!cut && crc32(payload) !== info.crc) {
      const size = BLOCK_HEADER + info.length
      const content = plural(info.records, 'record')
      this.#problem(
        path,
        position,
        `block ${info.number} (${size} bytes, ${content}) is damaged: wrong checksum; skipped`,
      )
      return []
    }
    const records: TraceRecord[] = []
    const unpacker = new Unpacker(payload)
    let count = 0
    let unknown = 0
    try {
      for (; !unpacker.done; count++) {
        const record = unpacker.next()
        if (record === undefined) unknown++
        else records.push(record)
      }
    } catch (error) {
      if (!(error instanceof RecordError)) throw error
      if (!cut || !error.cut) {
        const at = position + BLOCK_HEADER + unpacker.position
        this.#problem(path, at, `${error.message}; the rest of block ${info.number} is skipped`)
        return records
      }
    }
    if (cut) {
      const end = position + BLOCK_HEADER + payload.length
      this.#problem(
        path,
        end,
        `the file is cut off in block ${info.number}, ${count} of its ${counted(info.records, 'record')} ${count === 1 ? 'is' : 'are'} whole`,
        true,
      )
    }
    if (unknown > 0) {
      this.#problem(path, position, `${plural(unknown, 'record')} of a newer version in block ${info.number} skipped`)
    }
    return records
  }

  #checkEnd(path: string, source: Source, index: number, position: number): void {
    const end = decodeEnd(source.read(position, END_BYTES))
    if (end !== index) {
      const early = source.size < position + END_BYTES
      this.#problem(path, Math.min(position, source.size), 'the end of the file is damaged or cut off', early)
    } else if (position + END_BYTES !== source.size) {
      this.#problem(path, position + END_BYTES, `${plural(source.size - position - END_BYTES, 'byte')} after the end`)
    }
  }

  /** Once, however often the file is read. */
  #problem(path: string, offset: number, message: string, early = false): void {
    const known = this.problems.some(p => p.path === path && p.offset === offset && p.message === message)
    if (!known) this.problems.push({ path, offset, message, damage: true, ...(early && { early }) })
  }
}

function open(path: string): Source {
  const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
  if (!fstatSync(fd).isFile()) {
    closeSync(fd)
    throw new TraceError(path, 'not a file')
  }
  const source = fileSource(fd)
  const start = source.read(0, 2)
  if (start.length < 2 || start.readUInt16BE(0) !== GZIP_MAGIC) return source
  source.close()
  const tooLarge = `unpacks to more than ${MAX_UNPACKED >> 20} MiB: unpack it with gunzip, a file is read piece by piece`
  if (source.size > MAX_UNPACKED) throw new TraceError(path, tooLarge)
  try {
    return memorySource(
      gunzipSync(readFileSync(path), { finishFlush: zlib.Z_SYNC_FLUSH, maxOutputLength: MAX_UNPACKED }),
    )
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ERR_BUFFER_TOO_LARGE') throw new TraceError(path, tooLarge)
    throw new TraceError(path, `the compressed data is damaged: ${(error as Error).message}`)
  }
}

/** @throws TraceError */
function readHeader(path: string, source: Source): { readonly header: TraceHeader; readonly format: number } {
  const start = source.read(0, BLOCK_HEADER)
  if (start.length === 0) throw new TraceError(path, 'the file is empty')
  if (!isBlock(start)) throw new TraceError(path, 'this is no trace of smmu-cosim')
  const format = blockFormat(start)
  if (format < OLDEST_FORMAT || format > FORMAT) {
    const readable = `this program reads versions ${OLDEST_FORMAT} to ${FORMAT}`
    throw new TraceError(path, `written in version ${format} of the trace format; ${readable}`)
  }
  const info = decodeBlockHeader(start)
  const payload = info && info.length <= MAX_PAYLOAD ? source.read(BLOCK_HEADER, info.length) : Buffer.alloc(0)
  if (info?.type !== blockType.header || payload.length !== info.length || crc32(payload) !== info.crc) {
    throw new TraceError(path, 'the header at byte 0 is damaged or cut off; without it nothing can be shown')
  }
  const header = parseHeader(payload.toString())
  if (header === undefined)
    throw new TraceError(path, 'the header at byte 0 is not as this version of the format has it')
  return { header, format }
}

/** @returns undefined when the file was not ended, or its end is damaged. */
function readIndex(source: Source): Place[] | undefined {
  if (source.size < END_BYTES) return undefined
  const position = decodeEnd(source.read(source.size - END_BYTES, END_BYTES))
  if (position === undefined || !(position >= 0 && position < source.size)) return undefined
  const info = decodeBlockHeader(source.read(position, BLOCK_HEADER))
  if (info?.type !== blockType.index || info.length > MAX_PAYLOAD) return undefined
  const payload = source.read(position + BLOCK_HEADER, info.length)
  if (crc32(payload) !== info.crc) return undefined
  const places: Place[] = []
  for (let at = 0; at + INDEX_ENTRY <= payload.length; at += INDEX_ENTRY) {
    const block = decodeBlockHeader(payload.subarray(at + 8, at + INDEX_ENTRY))
    if (block === undefined) return undefined
    places.push({ position: payload.readDoubleLE(at), info: block })
  }
  return places
}

/** Position of the first intact block header from `position` on, or the size of the file. */
function findBlock(source: Source, position: number): number {
  for (; position < source.size; position += SEARCH) {
    const bytes = source.read(position, SEARCH + BLOCK_HEADER)
    for (let at = bytes.indexOf(BLOCK_MAGIC); at >= 0 && at < SEARCH; at = bytes.indexOf(BLOCK_MAGIC, at + 1)) {
      if (decodeBlockHeader(bytes.subarray(at, at + BLOCK_HEADER))) return position + at
    }
  }
  return source.size
}

function plural(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? '' : 's'}`
}
