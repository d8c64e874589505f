// SPDX-License-Identifier: Apache-2.0
import { randomUUID } from 'node:crypto'
import { type FileHandle, open, rm } from 'node:fs/promises'
import type { WarningTable } from '../policy/warnings.ts'
import {
  type BlockInfo,
  blockType,
  emptyBlock,
  encodeBlockHeader,
  encodeEnd,
  encodeIndexEntry,
  FORMAT,
  type MachineDescription,
  NO_MACHINE,
  type TraceHeader,
} from './format.ts'
import { f64At, type Layout, u32At } from './layout.ts'
import { Packer } from './msgpack.ts'
import type { Sink } from './pump.ts'
import { kinds, type RecordOf, type TraceRecord } from './records.ts'
import type { RingReader } from './ring.ts'
import { laterSegments, segmentPath } from './segments.ts'
import { projectVersion } from './version.ts'
import { counted } from './words.ts'

/** A block is written when it has so many bytes, or is so old in ms. */
const BLOCK_BYTES = 1 << 18
const BLOCK_AGE = 200

/** With so many blocks waiting for the disk, the recorder takes no more. */
const MAX_WAITING = 32

/** ms after which a write that failed is tried again. */
const RETRY = 1000

/** The header of a new recording. @param now of the pump, ns: what `start` counts from was that long ago. */
export function newHeader(
  now: number,
  run: Pick<TraceHeader, 'policy' | 'policyOptions' | 'kernel' | 'image' | 'faults'>,
): RecorderOptions['header'] {
  const created = Date.now()
  return {
    recording: randomUUID(),
    created: new Date(created).toISOString(),
    epoch: created - now / 1e6,
    versions: { 'smmu-cosim': projectVersion(), node: process.version },
    ...run,
  }
}

export interface RecorderOptions {
  readonly path: string
  readonly header: Omit<TraceHeader, 'segment' | 'machine' | 'warnings'>
  /** Version of the format; default: the newest. What was not told in an older recording stays untold in a copy. */
  readonly format?: number
  /** Bytes of all segments together; default 2 GiB. A recording below an eighth of it is one file. */
  readonly limit?: number
  /** Told when the disk begins to refuse what is recorded, and when it takes it again. */
  readonly say?: (message: string) => void
}

const DEFAULT_LIMIT = 2 ** 31
const SEGMENTS = 8

export interface RecorderSummary {
  readonly path: string
  /** Files that were written, and how many of them rotation removed again. */
  readonly segments: number
  readonly removed: number
  /** Written, in all segments. */
  readonly bytes: number
  readonly records: number
  /** Lost because the ring was full, and because the disk refused. */
  readonly lost: number
  readonly refused: number
  /** Why the disk refused, the last time. */
  readonly error?: string
}

/** One file of a recording. */
export interface Segment {
  readonly path: string
  /** Of whole blocks; the file may grow. */
  readonly bytes: number
  readonly records: number
  /** By rotation. */
  readonly removed: boolean
}

interface OpenBlock {
  readonly info: BlockInfo
  readonly packer: Packer
  /** Refused before, which this block says. */
  owed: number
}

function newBlock(format: number): OpenBlock {
  return { info: emptyBlock(blockType.records, 0, format), packer: new Packer(), owed: 0 }
}

/** Writes the trace file. Memory is bounded: what the disk doesn't take in time stays in the ring. */
export class Recorder implements Sink {
  readonly #options: RecorderOptions
  readonly #format: number
  readonly #segmentLimit: number
  #file: FileHandle
  #segment = 0
  #removed = 0
  /** Of the segments before this one. */
  readonly #done: { readonly bytes: number; readonly records: number; removed: boolean }[] = []
  /** Written records, before this segment. */
  #before = 0
  /** Bytes of whole blocks in the current segment. */
  #position = 0
  #bytes = 0
  #blocks = 0
  #index: Buffer[] = []
  /** The block that records go to, and those that wait for the disk. */
  #open: OpenBlock
  readonly #waiting: OpenBlock[] = []
  #opened = performance.now()
  #records = 0
  #lost = 0
  #refused = 0
  /** Refused, and not yet said so in the file. */
  #owed = 0
  /** There may be more in the file than was written as a whole. */
  #torn = false
  #error: string | undefined
  /** The disk refused: until then nothing is written. */
  #retryAt: number | undefined
  /** The disk refuses, which was said; how many records had been refused before. */
  #refusing: { readonly before: number } | undefined
  #writing: Promise<void> | undefined

  #machine: MachineDescription | undefined
  #warnings: () => WarningTable | undefined = () => undefined

  private constructor(options: RecorderOptions, file: FileHandle) {
    this.#options = options
    this.#format = options.format ?? FORMAT
    this.#open = newBlock(this.#format)
    this.#segmentLimit = (options.limit ?? DEFAULT_LIMIT) / SEGMENTS
    this.#file = file
  }

  /** Creates the file, replacing an earlier recording of this name. @throws Error when it cannot be written */
  static async open(options: RecorderOptions): Promise<Recorder> {
    const file = await open(options.path, 'w')
    for (const stale of laterSegments(options.path)) await rm(segmentPath(options.path, stale))
    return new Recorder(options, file)
  }

  /**
   * The machine is known: what came so far, and what comes, can be written.
   * @param warnings of the policy, asked for with every segment: the code may have been replaced
   */
  describe(machine: MachineDescription, warnings: () => WarningTable | undefined = () => undefined): void {
    this.#machine ??= machine
    this.#warnings = warnings
  }

  /** Of the first file. */
  get path(): string {
    return this.#options.path
  }

  /** All files of the recording so far, in order; empty before the machine is known. */
  segments(): Segment[] {
    const { path } = this.#options
    const done = this.#done.map((segment, i) => ({ path: segmentPath(path, i), ...segment }))
    if (this.#position === 0) return done
    const records = this.#records - this.#before
    return [...done, { path: segmentPath(path, this.#segment), bytes: this.#position, records, removed: false }]
  }

  /** Records that the disk refused so far. */
  get refused(): number {
    return this.#refused
  }

  /** Why the disk refuses what is recorded; undefined: it takes it. */
  get refusal(): string | undefined {
    return this.#refusing && this.#error
  }

  get ready(): boolean {
    return this.#waiting.length < MAX_WAITING
  }

  fromRing(reader: RingReader, layout: Layout, at: number): void {
    if (this.#refuses()) return
    const { packer } = this.#open
    packer.fromRing(reader, layout, at)
    this.#count(layout.id)
    if (layout.name === 'trap') {
      this.#trap(reader.words[at + u32At.trap.seq] ?? 0)
      this.#time(reader.doubles[(at >> 1) + f64At.trap.start] ?? 0)
    } else if (layout.name === 'lost') this.#lost += (reader.decode(layout, at) as RecordOf<'lost'>).count
    if (packer.length >= BLOCK_BYTES) this.#seal()
  }

  record(record: TraceRecord): void {
    if (this.#refuses()) return
    this.#open.packer.record(record)
    this.#count(kinds[record.kind].id)
    if ('start' in record) this.#time(record.start)
    if (record.kind === 'trap') this.#trap(record.seq)
    if (record.kind === 'lost') this.#lost += record.count
    if (this.#open.packer.length >= BLOCK_BYTES) this.#seal()
  }

  flush(): void {
    if (performance.now() - this.#opened >= BLOCK_AGE) this.#seal()
    if (this.#waiting.length > 0 && this.#writing === undefined && this.#machine !== undefined) this.#start()
  }

  /** Writes what has come so far, without waiting for a block to fill; nothing before the machine was described. */
  async sync(): Promise<void> {
    if (this.#machine === undefined) return
    this.#seal()
    await this.drained()
  }

  /** Resolves when everything is written that fills a block. */
  async drained(): Promise<void> {
    await this.#writing
    if (this.#waiting.length > 0) this.#start()
    await this.#writing
  }

  /** Writes what is left, then the index. */
  async close(): Promise<RecorderSummary> {
    // What the disk refused is said now if it is to be said at all.
    if (this.#retryAt !== undefined) {
      this.#retryAt = 0
      this.#refuses()
    }
    this.#seal()
    await this.drained()
    await this.#finish().catch(error => this.#fail(error))
    // It would be for the same reason.
    await this.#trim().catch(() => {})
    await this.#file.close().catch(error => this.#fail(error))
    const { path } = this.#options
    return {
      path,
      segments: this.#segment + 1,
      removed: this.#removed,
      bytes: this.#bytes + this.#position,
      records: this.#records,
      lost: this.#lost,
      refused: this.#refused,
      ...(this.#error !== undefined && { error: this.#error }),
    }
  }

  #count(id: number): void {
    const { info } = this.#open
    if (info.records === 0) this.#opened = performance.now()
    info.records++
    info.kinds |= 1 << id
  }

  #trap(seq: number): void {
    const { info } = this.#open
    info.firstSeq ||= seq
    info.lastSeq = seq
  }

  #time(start: number): void {
    const { info } = this.#open
    info.firstStart ||= start
    info.lastStart = start
  }

  /** The block is done: it waits for the disk. */
  #seal(): void {
    if (this.#open.info.records === 0) return
    this.#waiting.push(this.#open)
    this.#open = newBlock(this.#format)
  }

  /** While the disk refuses, records are counted only. Says whether this one is. */
  #refuses(): boolean {
    if (this.#retryAt === undefined) return false
    if (performance.now() < this.#retryAt) {
      this.#refused++
      this.#owed++
      return true
    }
    this.#retryAt = undefined
    const count = this.#owed
    this.#owed = 0
    this.#open.owed = count
    this.#open.packer.record({ kind: 'lost', count })
    this.#count(kinds.lost.id)
    return false
  }

  #start(): void {
    this.#writing = this.#writeWaiting().finally(() => {
      this.#writing = undefined
    })
  }

  async #writeWaiting(): Promise<void> {
    for (let block = this.#waiting.shift(); block !== undefined; block = this.#waiting.shift()) {
      try {
        await this.#write(block)
      } catch (error) {
        this.#fail(error)
        this.#drop([block, ...this.#waiting.splice(0), this.#open])
        this.#open = newBlock(this.#format)
      }
    }
  }

  /** The disk refused a block: what came behind it goes with it, so that there is one gap in its place. */
  #drop(blocks: readonly OpenBlock[]): void {
    for (const { info, owed } of blocks) {
      // The record that says how many are missing is none of them.
      const records = info.records - (owed > 0 ? 1 : 0)
      this.#refused += records
      this.#owed += records + owed
    }
  }

  async #write({ info, packer }: OpenBlock): Promise<void> {
    if (this.#blocks === 0) await this.#writeHeader()
    if (this.#blocks > 1 && this.#position >= this.#segmentLimit) await this.#rotate()
    await this.#append(info, packer.buffer.subarray(0, packer.length))
    this.#records += info.records
    this.#taken()
  }

  async #append(block: BlockInfo, payload: Buffer): Promise<void> {
    block.number = this.#blocks
    const header = encodeBlockHeader(block, payload)
    const entry = encodeIndexEntry(this.#position, header)
    await this.#put([header, payload])
    this.#index.push(entry)
    this.#blocks++
  }

  /** Writes all of it, in one piece, or throws: then the next write goes to the same place. */
  async #put(parts: readonly Buffer[]): Promise<void> {
    const size = parts.reduce((sum, { length }) => sum + length, 0)
    try {
      const { bytesWritten } = await this.#file.writev(parts, this.#position)
      if (bytesWritten < size) {
        // Why it took no more, it says when it is given the rest.
        const rest = Buffer.concat(parts).subarray(bytesWritten)
        const { bytesWritten: more } = await this.#file.writev([rest], this.#position + bytesWritten)
        if (more < rest.length) throw new Error(`the disk took ${bytesWritten + more} of ${size} bytes`)
      }
    } catch (error) {
      this.#torn = true
      throw error
    }
    this.#position += size
  }

  /** Removes what a write that failed has left behind what was written since. */
  async #trim(): Promise<void> {
    if (this.#torn) await this.#file.truncate(this.#position)
    this.#torn = false
  }

  #writeHeader(): Promise<void> {
    const machine = this.#machine ?? NO_MACHINE
    const warnings = this.#warnings()
    const header: TraceHeader = {
      ...this.#options.header,
      segment: this.#segment,
      machine,
      ...(warnings && { warnings }),
    }
    return this.#append(emptyBlock(blockType.header, 0, this.#format), Buffer.from(JSON.stringify(header)))
  }

  async #finish(): Promise<void> {
    if (this.#blocks === 0) await this.#writeHeader()
    await this.#end()
  }

  /** Index and end of the current segment. */
  async #end(): Promise<void> {
    const payload = Buffer.concat(this.#index)
    const block = emptyBlock(blockType.index, this.#blocks, this.#format)
    const header = encodeBlockHeader(block, payload)
    await this.#put([header, payload, encodeEnd(this.#position)])
  }

  /** Begins the next segment; removes the oldest but the first, which holds the start of everything. */
  async #rotate(): Promise<void> {
    const path = segmentPath(this.#options.path, this.#segment + 1)
    const next = await open(path, 'w')
    try {
      await this.#trim()
      await this.#end()
    } catch (error) {
      await next.close()
      await rm(path, { force: true })
      throw error
    }
    await this.#file.close()
    this.#done.push({ bytes: this.#position, records: this.#records - this.#before, removed: false })
    this.#before = this.#records
    this.#bytes += this.#position
    this.#segment++
    this.#position = 0
    this.#blocks = 0
    this.#index = []
    this.#file = next
    await this.#writeHeader()
    const oldest = this.#segment - SEGMENTS + 1
    if (oldest > 0) {
      await rm(segmentPath(this.#options.path, oldest), { force: true })
      const segment = this.#done[oldest]
      if (segment !== undefined) segment.removed = true
      this.#removed++
    }
  }

  #fail(error: unknown): void {
    this.#error = error instanceof Error ? error.message : String(error)
    this.#retryAt = performance.now() + RETRY
    if (this.#refusing !== undefined) return
    this.#refusing = { before: this.#refused }
    this.#options.say?.(`NOT RECORDED from here on: ${this.#options.path}: ${this.#error}`)
  }

  /** The disk took a block. */
  #taken(): void {
    if (this.#refusing === undefined) return
    const missing = this.#refused - this.#refusing.before
    this.#refusing = undefined
    this.#options.say?.(
      `recorded again: ${this.#options.path}: ${counted(missing, 'record is', 'records are')} missing`,
    )
  }
}
