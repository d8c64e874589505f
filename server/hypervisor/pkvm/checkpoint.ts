// SPDX-License-Identifier: Apache-2.0
/**
 * The hypervisor's state in a few hundred bytes, so that a server that is restarted goes on where the one before it was.
 * Tables are not in it: they live in guest memory. 32-bit little-endian words:
 *
 *     header | command queue of each SMMU | all the rest
 *
 * The rest changes seldom and is kept encoded, so that a checkpoint after a command costs next to nothing.
 */
import { crc32 } from 'node:zlib'
import type { Machine } from '../../machine/ports.ts'
import { SERIES_STEPS, type SeriesStep } from '../../policy/policy.ts'
import { CMDQ_STATE_WORDS } from './cmdq.ts'
import { type IdmapState, OUTPUT_BITS } from './idmap.ts'
import type { PageRange, PageStateName } from './ownership.ts'
import { SMMU_STATE_WORDS, type Smmu } from './smmu.ts'
import { STRTAB_STATE_WORDS } from './strtab.ts'

export const CHECKPOINT_VERSION = 2
const MAGIC = 0x5048_4843
const HEADER_WORDS = 8
/** Word of the checksum. */
const CHECKSUM = 3
const STE_WORDS = 16
const WORD = 2 ** 32

const STATES: readonly PageStateName[] = ['not RAM', 'owned', 'shared', 'hyp', 'vm']

/** What a checkpoint holds besides the state of the SMMUs, which save and restore themselves. */
export interface HypervisorState {
  readonly isolated: boolean
  readonly guarded: boolean
  /** What has begun and must be finished. */
  readonly operation: PageOperation | null
  readonly idmap: IdmapState | null
  readonly pool: {
    readonly limit: number
    readonly peak: number
    readonly failures: number
    readonly runs: readonly number[]
  }
  /** Pages that are not plainly the host's. */
  readonly ranges: readonly PageRange[]
}

/** A donation or reclaim: PAGE_DONATE or PAGE_RECLAIM. */
export interface PageOperation {
  readonly operation: number
  readonly base: number
  readonly size: number
  readonly vm: number
}

/** A checkpoint that cannot be restored. */
export class CheckpointError extends Error {
  override readonly name = 'CheckpointError'
}

class Writer {
  words = new Uint32Array(256)
  length = 0

  room(count: number): void {
    if (this.length + count <= this.words.length) return
    const grown = new Uint32Array(2 * (this.length + count))
    grown.set(this.words)
    this.words = grown
  }

  put(value: number): void {
    this.room(1)
    this.words[this.length++] = value
  }

  /** An unsigned integer below 2^53. */
  putLong(value: number): void {
    this.put(value % WORD)
    this.put(Math.floor(value / WORD))
  }
}

class Reader {
  readonly words: Uint32Array
  at: number

  constructor(words: Uint32Array, at: number) {
    this.words = words
    this.at = at
  }

  take(): number {
    if (this.at >= this.words.length) throw new CheckpointError('the checkpoint is shorter than it says')
    return this.words[this.at++]
  }

  takeLong(): number {
    const lo = this.take()
    return this.take() * WORD + lo
  }

  /** A number of things of `words` words each that follow. */
  takeCount(words: number): number {
    const count = this.take()
    if (count * words > this.words.length - this.at) throw new CheckpointError('the checkpoint is shorter than it says')
    return count
  }

  /** `count` words lie ahead. */
  need(count: number): void {
    if (this.at + count > this.words.length) throw new CheckpointError('the checkpoint is shorter than it says')
  }
}

/** Continues a checksum over words `from` to `to`; every single word that differs makes it another one. */
function checksum(words: Uint32Array, from: number, to: number, sum: number): number {
  for (let i = from; i < to; i++) sum = (Math.imul(sum ^ words[i], 0x0100_0193) + i) >>> 0
  return sum
}

/** The checksum that belongs into word CHECKSUM: header, rest, command queues, in this order. */
export function checkpointChecksum(words: Uint32Array): number {
  const rest = Math.min(words.length, HEADER_WORDS + words[7] * CMDQ_STATE_WORDS)
  const header = checksum(words, CHECKSUM + 1, HEADER_WORDS, 0)
  return checksum(words, HEADER_WORDS, rest, checksum(words, rest, words.length, header))
}

/** What two machines must agree on for a checkpoint of one to be good on the other. */
function fingerprint(machine: Machine, upTo: SeriesStep, granule: number): number {
  const { memory, carveout, smmus } = machine
  const parts = [memory.ram, carveout, smmus, upTo, granule].map(part => JSON.stringify(part, ['base', 'size']))
  return crc32(parts.join())
}

export class Checkpoint {
  readonly #smmus: readonly Smmu[]
  readonly #fingerprint: number
  readonly #granule: number
  readonly #upTo: SeriesStep
  #buffer = new Uint32Array(0)
  #bytes = new Uint8Array(0)
  /** Checksum of the part that changes seldom, and where it begins. */
  #restChecksum = 0
  readonly #rest: number

  constructor(machine: Machine, smmus: readonly Smmu[], upTo: SeriesStep, granule: number) {
    this.#smmus = smmus
    this.#fingerprint = fingerprint(machine, upTo, granule)
    this.#upTo = upTo
    this.#granule = granule
    this.#rest = HEADER_WORDS + smmus.length * CMDQ_STATE_WORDS
  }

  /** Encodes the part that changes seldom. */
  encode(state: HypervisorState): void {
    const writer = new Writer()
    writer.put(
      (state.isolated ? 1 : 0) |
        (state.guarded ? 2 : 0) |
        (state.idmap === null ? 0 : 4) |
        (state.operation === null ? 0 : 8),
    )
    if (state.operation !== null) {
      const { operation, base, size, vm } = state.operation
      writer.put(operation)
      for (const value of [base, size, vm]) writer.putLong(value)
    }
    if (state.idmap !== null) {
      const { root, outputBits, bigEndian, tables, ramBytes, deviceBytes, unmappedBytes, buildUs } = state.idmap
      writer.putLong(root)
      writer.put(outputBits)
      writer.put(bigEndian ? 1 : 0)
      writer.put(tables)
      writer.putLong(ramBytes)
      writer.putLong(deviceBytes)
      writer.putLong(unmappedBytes)
      writer.putLong(buildUs)
    }
    const { limit, peak, failures, runs } = state.pool
    for (const value of [limit, peak, failures, runs.length, ...runs]) writer.put(value)
    writer.put(state.ranges.length)
    for (const { base, size, state: name, vm, pins } of state.ranges) {
      writer.putLong(base)
      writer.putLong(size)
      writer.put(STATES.indexOf(name) | (pins << 8))
      writer.putLong(vm)
    }
    for (const smmu of this.#smmus) {
      writer.room(SMMU_STATE_WORDS + STRTAB_STATE_WORDS)
      writer.length = smmu.save(writer.words, writer.length)
      writer.length = smmu.strtab.save(writer.words, writer.length)
      writer.put(smmu.strtab.streams.size)
      for (const { sid, trap, host } of smmu.strtab.streams.values()) {
        writer.put(sid)
        writer.putLong(trap)
        writer.room(STE_WORDS)
        writer.words.set(new Uint32Array(host.buffer), writer.length)
        writer.length += STE_WORDS
      }
    }
    const length = this.#rest + writer.length
    if (this.#buffer.length < length) {
      this.#buffer = new Uint32Array(2 * length)
    }
    const words = this.#buffer
    words.set(writer.words.subarray(0, writer.length), this.#rest)
    words[0] = MAGIC
    words[1] = CHECKPOINT_VERSION
    words[2] = length
    words[4] = this.#fingerprint
    words[5] = SERIES_STEPS.indexOf(this.#upTo)
    words[6] = this.#granule
    words[7] = this.#smmus.length
    this.#restChecksum = checksum(words, this.#rest, length, checksum(words, CHECKSUM + 1, HEADER_WORDS, 0))
    this.#bytes = new Uint8Array(words.buffer, 0, 4 * length)
  }

  /** The checkpoint with the command queues as they are now; good until the next call. */
  finish(): Uint8Array {
    const words = this.#buffer
    let at = HEADER_WORDS
    for (const smmu of this.#smmus) at = smmu.cmdq.save(words, at)
    words[CHECKSUM] = checksum(words, HEADER_WORDS, this.#rest, this.#restChecksum)
    return this.#bytes
  }

  /**
   * Takes a checkpoint apart; the SMMUs are restored, the rest is returned.
   * @throws CheckpointError when it is not one, is damaged, of another version, or of another machine.
   */
  decode(checkpoint: Uint8Array): HypervisorState {
    if (checkpoint.length < 4 * HEADER_WORDS || checkpoint.length % 4 !== 0) {
      throw new CheckpointError(`${checkpoint.length} bytes are no checkpoint`)
    }
    const words = new Uint32Array(checkpoint.slice().buffer)
    const [magic, version, length, sum, print, step, granule, smmus] = words
    if (magic !== MAGIC) throw new CheckpointError('this is no checkpoint of the hypervisor')
    if (version !== CHECKPOINT_VERSION) {
      throw new CheckpointError(`the checkpoint has version ${version}, this hypervisor reads ${CHECKPOINT_VERSION}`)
    }
    if (length !== words.length) throw new CheckpointError('the checkpoint is shorter than it says')
    if (sum !== checkpointChecksum(words)) throw new CheckpointError('the checkpoint is damaged')
    if (step !== SERIES_STEPS.indexOf(this.#upTo) || granule !== this.#granule) {
      const upTo = SERIES_STEPS[step] ?? 'an unknown step'
      throw new CheckpointError(`the checkpoint was made until ${upTo} with a granule of ${granule}`)
    }
    if (smmus !== this.#smmus.length || print !== this.#fingerprint) {
      throw new CheckpointError('the checkpoint is of a machine with other memory or SMMUs')
    }
    return this.#decodeRest(words)
  }

  #decodeRest(words: Uint32Array): HypervisorState {
    const reader = new Reader(words, this.#rest)
    const flags = reader.take()
    const operation: PageOperation | null =
      (flags & 8) === 0
        ? null
        : { operation: reader.take(), base: reader.takeLong(), size: reader.takeLong(), vm: reader.takeLong() }
    const idmap: IdmapState | null =
      (flags & 4) === 0
        ? null
        : {
            root: reader.takeLong(),
            outputBits: reader.take(),
            bigEndian: reader.take() === 1,
            tables: reader.take(),
            ramBytes: reader.takeLong(),
            deviceBytes: reader.takeLong(),
            unmappedBytes: reader.takeLong(),
            buildUs: reader.takeLong(),
          }
    const [limit, peak, failures] = [reader.take(), reader.take(), reader.take()]
    const runs = Array.from({ length: reader.takeCount(1) }, () => reader.take())
    const ranges = Array.from({ length: reader.takeCount(7) }, (): PageRange => {
      const base = reader.takeLong()
      const size = reader.takeLong()
      const state = reader.take()
      return { base, size, state: STATES[state & 0xff] ?? 'not RAM', pins: state >>> 8, vm: reader.takeLong() }
    })
    let at = HEADER_WORDS
    for (const smmu of this.#smmus) {
      reader.need(SMMU_STATE_WORDS + STRTAB_STATE_WORDS)
      reader.at = smmu.restore(words, reader.at)
      at = smmu.cmdq.restore(words, at)
      reader.at = smmu.strtab.restore(words, reader.at)
      const streams = reader.takeCount(3 + STE_WORDS)
      for (let i = 0; i < streams; i++) {
        const sid = reader.take()
        const trap = reader.takeLong()
        const host = new BigUint64Array(words.slice(reader.at, reader.at + STE_WORDS).buffer)
        reader.at += STE_WORDS
        smmu.strtab.streams.set(sid, { sid, host, shadow: smmu.strtab.readShadow(sid) ?? host.slice(), trap })
      }
    }
    if (reader.at !== words.length) throw new CheckpointError('the checkpoint is longer than it should be')
    if (idmap !== null && !OUTPUT_BITS.includes(idmap.outputBits)) {
      throw new CheckpointError(`the checkpoint has an idmap of ${idmap.outputBits} output bits`)
    }
    return {
      isolated: (flags & 1) !== 0,
      guarded: (flags & 2) !== 0,
      operation,
      idmap,
      pool: { limit, peak, failures, runs },
      ranges,
    }
  }
}
