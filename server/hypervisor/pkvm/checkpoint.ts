// SPDX-License-Identifier: Apache-2.0
/**
 * The hypervisor's state in a few hundred bytes (server/hypervisor/README.md, section 16), so that a server that is restarted goes
 * on where the one before it was. Tables are not in it: they live in guest memory. 32-bit little-endian words:
 *
 *     header | command queues of each SMMU | all the rest
 *
 * The rest changes seldom and is kept encoded, so that a checkpoint after a command costs next to nothing.
 */
import { crc32 } from 'node:zlib'
import type { Machine } from '../../machine/ports.ts'
import { SERIES_STEPS, type SeriesStep } from '../../policy/policy.ts'
import { POWER_STATES } from '../../smmu/hardware.ts'
import { STRTAB_STE_SIZE } from '../../smmu/ste.ts'
import { type Choices, choiceBits } from './choices.ts'
import { HOST_CMDQ_STATE } from './hostCmdq.ts'
import { HOST_STRTAB_STATE } from './hostStrtab.ts'
import { IDMAP_STATE, type IdmapState } from './idmap.ts'
import { OUTPUT_BITS } from './idmapGeometry.ts'
import type { PageRange, PageStateName } from './ownership.ts'
import { SMMU_POWER } from './powerState.ts'
import { HOST_QUEUE_STATE } from './queues.ts'
import { SHADOW_CMDQ_STATE } from './shadowCmdq.ts'
import { SHADOW_STRTAB_STATE } from './shadowStrtab.ts'
import { SMMU_FEATURES, SMMU_STATE, type Smmu } from './smmu.ts'
import { StateLayout } from './stateLayout.ts'

export const CHECKPOINT_VERSION = 7
const MAGIC = 0x5048_4843
const HEADER_WORDS = 8
/** Word of the checksum. */
const CHECKSUM = 3
const STE_WORDS = STRTAB_STE_SIZE / 4

const STATES: readonly PageStateName[] = ['not RAM', 'owned', 'shared', 'hyp', 'vm']

/** What a checkpoint holds besides the state of the SMMUs, which save and restore themselves. */
export interface HypervisorState {
  readonly isolated: boolean
  readonly guarded: boolean
  /** What has begun and must be finished. */
  readonly operation: PageOperation | null
  readonly idmap: IdmapState | null
  readonly pool: PoolState & { readonly runs: readonly number[] }
  /** Pages that are not plainly the host's. */
  readonly ranges: readonly PageRange[]
}

/** Of the page pool, besides the runs of pages that are handed out. */
export interface PoolState {
  readonly limit: number
  readonly peak: number
  readonly failures: number
}

/** A donation or reclaim: PAGE_DONATE or PAGE_RECLAIM. */
export interface PageOperation {
  readonly operation: number
  readonly base: number
  readonly size: number
  readonly vm: number
}

/** A PageRange with its state by number. */
type StoredRange = Omit<PageRange, 'state'> & { readonly state: number }

/** A shadowed stream, besides the host's entry. */
interface StoredStream {
  readonly sid: number
  readonly trap: number
}

/** What is there of the parts of HypervisorState that may be absent. */
interface Presence {
  readonly isolated: boolean
  readonly guarded: boolean
  readonly operation: boolean
  readonly idmap: boolean
}

const PRESENCE = new StateLayout<Presence>({ isolated: 'flag', guarded: 'flag', operation: 'flag', idmap: 'flag' })
const OPERATION = new StateLayout<PageOperation>({ operation: 'u32', base: 'u53', size: 'u53', vm: 'u53' })
const POOL = new StateLayout<PoolState>({ limit: 'u32', peak: 'u32', failures: 'u32' })
const RANGE = new StateLayout<StoredRange>({ base: 'u53', size: 'u53', state: 'u32', pins: 'u32', vm: 'u53' })
const STREAM = new StateLayout<StoredStream>({ sid: 'u32', trap: 'u53' })

/** Words of an SMMU's command queues, and of the rest of it without its streams. */
const CMDQ_WORDS = HOST_CMDQ_STATE.words + SHADOW_CMDQ_STATE.words

/** A checkpoint that cannot be restored. */
export class CheckpointError extends Error {
  override readonly name = 'CheckpointError'
}

class Writer {
  words = new Uint32Array(256)
  length = 0

  /** @param count words, not more than there are at first */
  room(count: number): void {
    if (this.length + count <= this.words.length) return
    const grown = new Uint32Array(2 * this.words.length)
    grown.set(this.words)
    this.words = grown
  }

  put(value: number): void {
    this.putBytes(Uint32Array.of(value).buffer)
  }

  putState<S extends object>(layout: StateLayout<S>, state: Readonly<S>): void {
    this.room(layout.words)
    this.length = layout.save(state, this.words, this.length)
  }

  putBytes(bytes: ArrayBufferLike): void {
    const words = new Uint32Array(bytes)
    this.room(words.length)
    this.words.set(words, this.length)
    this.length += words.length
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

  takeState<S extends object>(layout: StateLayout<S>): S {
    this.#need(layout.words)
    const state = layout.load(this.words, this.at)
    this.at += layout.words
    return state
  }

  takeSte(): BigUint64Array {
    this.#need(STE_WORDS)
    const ste = new BigUint64Array(this.words.slice(this.at, this.at + STE_WORDS).buffer)
    this.at += STE_WORDS
    return ste
  }

  /** A number of things of `words` words each that follow. */
  takeCount(words: number): number {
    const count = this.take()
    if (count * words > this.words.length - this.at) throw new CheckpointError('the checkpoint is shorter than it says')
    return count
  }

  /** `count` words lie ahead. */
  #need(count: number): void {
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
  const rest = Math.min(words.length, HEADER_WORDS + words[7] * CMDQ_WORDS)
  const header = checksum(words, CHECKSUM + 1, HEADER_WORDS, 0)
  return checksum(words, HEADER_WORDS, rest, checksum(words, rest, words.length, header))
}

/** What two machines must agree on for a checkpoint of one to be good on the other. */
function fingerprint(machine: Machine, upTo: SeriesStep, granule: number): number {
  const { memory, carveout, smmus } = machine
  const parts = [memory.ram, carveout, smmus, upTo, granule].map(part => JSON.stringify(part, ['base', 'size']))
  return crc32(parts.join())
}

/** What a hypervisor was told to be, as far as its state depends on it. */
export interface Shape {
  readonly upTo: SeriesStep
  readonly granule: number
  /** RAM is mapped in blocks. */
  readonly blocks: boolean
  /** SMMUs may be off: their power is part of the state. */
  readonly power: boolean
  /** The second stage leads to EL2's tables. */
  readonly shared: boolean
  readonly choices: Choices
}

// In the word of the step; from a bit on what the host may do besides what Linux does.
const BLOCKS = 1 << 8
const POWER = 1 << 9
const SHARED = 1 << 10
const CHOICES_SHIFT = 16

const stepWord = ({ upTo, blocks, power, shared, choices }: Shape): number =>
  SERIES_STEPS.indexOf(upTo) |
  (blocks ? BLOCKS : 0) |
  (power ? POWER : 0) |
  (shared ? SHARED : 0) |
  (choiceBits(choices) << CHOICES_SHIFT)

export class Checkpoint {
  readonly #smmus: readonly Smmu[]
  readonly #fingerprint: number
  readonly #granule: number
  readonly #step: number
  readonly #power: boolean
  #buffer = new Uint32Array(0)
  #bytes = new Uint8Array(0)
  /** Checksum of the part that changes seldom, and where it begins. */
  #restChecksum = 0
  readonly #rest: number

  constructor(machine: Machine, smmus: readonly Smmu[], shape: Shape) {
    this.#smmus = smmus
    this.#fingerprint = fingerprint(machine, shape.upTo, shape.granule)
    this.#granule = shape.granule
    this.#step = stepWord(shape)
    this.#power = shape.power
    this.#rest = HEADER_WORDS + smmus.length * CMDQ_WORDS
  }

  /** Encodes the part that changes seldom. */
  encode(state: HypervisorState): void {
    const { isolated, guarded, operation, idmap, pool, ranges } = state
    const writer = new Writer()
    writer.putState(PRESENCE, { isolated, guarded, operation: operation !== null, idmap: idmap !== null })
    if (operation !== null) writer.putState(OPERATION, operation)
    if (idmap !== null) writer.putState(IDMAP_STATE, idmap)
    writer.putState(POOL, pool)
    writer.put(pool.runs.length)
    for (const value of pool.runs) writer.put(value)
    writer.put(ranges.length)
    for (const range of ranges) writer.putState(RANGE, { ...range, state: STATES.indexOf(range.state) })
    for (const smmu of this.#smmus) {
      writer.putState(SMMU_STATE, smmu.state)
      writer.putState(SMMU_FEATURES, smmu.features)
      if (this.#power) writer.putState(SMMU_POWER, smmu.power)
      writer.putState(HOST_QUEUE_STATE, smmu.evtq.registers)
      writer.putState(HOST_QUEUE_STATE, smmu.priq.registers)
      writer.putState(HOST_STRTAB_STATE, smmu.hostStrtab.state)
      writer.putState(SHADOW_STRTAB_STATE, smmu.shadowStrtab.state)
      writer.put(smmu.shadowStrtab.streams.size)
      for (const { sid, trap, host } of smmu.shadowStrtab.streams.values()) {
        writer.putState(STREAM, { sid, trap })
        writer.putBytes(host.buffer)
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
    words[5] = this.#step
    words[6] = this.#granule
    words[7] = this.#smmus.length
    this.#restChecksum = checksum(words, this.#rest, length, checksum(words, CHECKSUM + 1, HEADER_WORDS, 0))
    this.#bytes = new Uint8Array(words.buffer, 0, 4 * length)
  }

  /** The checkpoint with the command queues as they are now; good until the next call. */
  finish(): Uint8Array {
    const words = this.#buffer
    let at = HEADER_WORDS
    // By index: an iterator would be garbage of each trap.
    for (let i = 0; i < this.#smmus.length; i++) {
      const { hostCmdq, shadowCmdq } = this.#smmus[i]
      at = HOST_CMDQ_STATE.save(hostCmdq.registers, words, at)
      at = SHADOW_CMDQ_STATE.save(shadowCmdq.state, words, at)
    }
    words[CHECKSUM] = checksum(words, HEADER_WORDS, this.#rest, this.#restChecksum)
    return this.#bytes
  }

  /**
   * Takes a checkpoint apart; the SMMUs are restored, the rest is returned.
   * @throws CheckpointError when it is not one, is damaged, of another version, or of another machine.
   */
  decode(checkpoint: Uint8Array): HypervisorState {
    if (checkpoint.length % 4 !== 0) {
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
    if (step !== this.#step || granule !== this.#granule) {
      const upTo = SERIES_STEPS[step & (BLOCKS - 1)] ?? 'an unknown step'
      const blocks = (step & BLOCKS) !== 0 ? ' and blocks' : ''
      const power = (step & POWER) !== 0 ? ' and SMMUs that are switched off and on' : ''
      const shared = (step & SHARED) !== 0 ? " and EL2's tables" : ''
      const host = (step ^ this.#step) >>> CHOICES_SHIFT === 0 ? '' : ', for a host that may do other things'
      const made = `until ${upTo} with a granule of ${granule}${blocks}${power}${shared}${host}`
      throw new CheckpointError(`the checkpoint was made ${made}`)
    }
    if (smmus !== this.#smmus.length || print !== this.#fingerprint) {
      throw new CheckpointError('the checkpoint is of a machine with other memory or SMMUs')
    }
    return this.#decodeRest(words)
  }

  #decodeRest(words: Uint32Array): HypervisorState {
    const reader = new Reader(words, this.#rest)
    const present = reader.takeState(PRESENCE)
    const operation = present.operation ? reader.takeState(OPERATION) : null
    const idmap = present.idmap ? reader.takeState(IDMAP_STATE) : null
    const pool = reader.takeState(POOL)
    const runs = Array.from({ length: reader.takeCount(1) }, () => reader.take())
    const ranges = Array.from({ length: reader.takeCount(RANGE.words) }, (): PageRange => {
      const range = reader.takeState(RANGE)
      return { ...range, state: STATES[range.state] ?? 'not RAM' }
    })
    let at = HEADER_WORDS
    for (const smmu of this.#smmus) {
      Object.assign(smmu.state, reader.takeState(SMMU_STATE))
      Object.assign(smmu.features, reader.takeState(SMMU_FEATURES))
      if (this.#power) Object.assign(smmu.power, reader.takeState(SMMU_POWER))
      Object.assign(smmu.evtq.registers, reader.takeState(HOST_QUEUE_STATE))
      Object.assign(smmu.priq.registers, reader.takeState(HOST_QUEUE_STATE))
      smmu.features.sidBits = Math.min(32, smmu.features.sidBits)
      smmu.shadowCmdq.restore(SHADOW_CMDQ_STATE.load(words, at + HOST_CMDQ_STATE.words))
      smmu.hostCmdq.restore(HOST_CMDQ_STATE.load(words, at))
      at += CMDQ_WORDS
      smmu.hostStrtab.restore(reader.takeState(HOST_STRTAB_STATE))
      smmu.shadowStrtab.restore(reader.takeState(SHADOW_STRTAB_STATE))
      const streams = reader.take()
      for (let i = 0; i < streams; i++) {
        const { sid, trap } = reader.takeState(STREAM)
        const host = reader.takeSte()
        const shadow = smmu.shadowStrtab.read(sid) ?? host.slice()
        smmu.shadowStrtab.streams.set(sid, { sid, host, shadow, trap })
      }
    }
    if (reader.at !== words.length) throw new CheckpointError('the checkpoint is longer than it should be')
    if (idmap !== null && !OUTPUT_BITS.includes(idmap.outputBits)) {
      throw new CheckpointError(`the checkpoint has an idmap of ${idmap.outputBits} output bits`)
    }
    if (this.#smmus.some(({ power }) => power.now >= POWER_STATES.length || power.wanted > POWER_STATES.length)) {
      throw new CheckpointError('the checkpoint has an SMMU that is neither on nor off')
    }
    const { isolated, guarded } = present
    return { isolated, guarded, operation, idmap, pool: { ...pool, runs }, ranges }
  }
}
