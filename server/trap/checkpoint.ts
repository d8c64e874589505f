// SPDX-License-Identifier: Apache-2.0
/**
 * What QEMU keeps for the server, so that another one can go on: the policy's own state in an envelope that says whose it
 * is and how far it reaches. Little-endian 32-bit words:
 *
 *     magic | version | bytes | checksum of all that follows
 *     request | last | status | value lo | value hi | trap lo | trap hi | bytes of the texts | bytes of the state
 *     session and policy, in UTF-8, a line each | state of the policy; each padded to whole words
 *
 * `request` is the message that QEMU gets its answer to right behind the checkpoint (0: none), and that answer with it:
 * should the answer be lost, the repeated request is answered again without being carried out again.
 */
import { MAX_CHECKPOINT } from '../../protocol/messages.ts'

export const CHECKPOINT_VERSION = 1

const MAGIC = 0x4d53_4f43
const CHECKED = 4
const HEADER = 13
const TWO_POW_32 = 2 ** 32

const wordsOf = (bytes: number): number => (bytes + 3) >>> 2

/** Every single word that differs makes it another one. */
function checksum(words: Uint32Array, length: number): number {
  let sum = 0
  for (let i = CHECKED; i < length; i++) sum = (Math.imul(sum ^ words[i], 0x0100_0193) + i) >>> 0
  return sum
}

/** What an envelope says of the server that made it, in numbers. */
export interface Progress {
  /** Request that was carried out, with its answer; 0: none. */
  request: number
  status: number
  lo: number
  hi: number
  /** The newest request of QEMU that the server knew of. */
  last: number
  /** Traps so far. */
  trap: number
}

/** What an envelope says. */
export interface Envelope extends Readonly<Progress> {
  readonly session: string
  readonly policy: string
  /** The policy's own; empty when it keeps none. */
  readonly state: Uint8Array
}

export const noProgress = (): Progress => ({ request: 0, status: 0, lo: 0, hi: 0, last: 0, trap: 0 })

/** How a number stands in the header. */
interface Place {
  write(words: Uint32Array, value: number): void
  read(words: Uint32Array): number
}

/** One word. */
const word = (at: number): Place => ({
  write: (words, value) => {
    words[at] = value
  },
  read: words => words[at],
})

/** Two words, the lower one first. */
const long = (at: number): Place => ({
  write: (words, value) => {
    words[at] = value % TWO_POW_32
    words[at + 1] = value / TWO_POW_32
  },
  read: words => words[at + 1] * TWO_POW_32 + words[at],
})

/** Both writing and reading go by it: a number without a place does not compile. */
const PLACES: { readonly [F in keyof Progress]: Place } = {
  request: word(4),
  last: word(5),
  status: word(6),
  lo: word(7),
  hi: word(8),
  trap: long(9),
}
const FIELDS = Object.entries(PLACES) as readonly [keyof Progress, Place][]

/** Bytes of the texts and of the state. */
const TEXT_BYTES = 11
const STATE_BYTES = 12

/** Why a machine cannot be taken over, for a person. */
export class CannotResume extends Error {
  override readonly name = 'CannotResume'
}

/** Makes envelopes in a buffer of its own; nothing is allocated while the state keeps its size. */
export class CheckpointWriter {
  readonly #texts: Uint8Array
  #words = new Uint32Array(1024)
  #bytes = new Uint8Array(this.#words.buffer)
  /** The envelope in `#bytes`. */
  #envelope = this.#bytes
  /** Bytes of the state that `#envelope` was made for. */
  #size = -1

  constructor(session: string, policy: string) {
    this.#texts = Buffer.from(`${session}\n${policy}`)
  }

  /** @returns the checkpoint, good until the next call. @throws RangeError when it is larger than QEMU keeps. */
  write(progress: Readonly<Progress>, state: Uint8Array): Uint8Array {
    if (state.length !== this.#size) this.#reserve(state.length)
    const words = this.#words
    const place = HEADER + wordsOf(this.#texts.length)
    // By index: an iterator and its pairs would be garbage of each trap.
    for (let i = 0; i < FIELDS.length; i++) FIELDS[i][1].write(words, progress[FIELDS[i][0]])
    this.#bytes.set(state, 4 * place)
    words[3] = checksum(words, place + wordsOf(state.length))
    return this.#envelope
  }

  #reserve(size: number): void {
    const texts = this.#texts
    const place = HEADER + wordsOf(texts.length)
    const length = place + wordsOf(size)
    if (4 * length > MAX_CHECKPOINT) {
      throw new RangeError(`the checkpoint has ${4 * length} bytes, QEMU keeps ${MAX_CHECKPOINT}`)
    }
    if (length > this.#words.length) {
      this.#words = new Uint32Array(2 * length)
      this.#bytes = new Uint8Array(this.#words.buffer)
    }
    this.#words.set([MAGIC, CHECKPOINT_VERSION, 4 * length])
    this.#words[TEXT_BYTES] = texts.length
    this.#words[STATE_BYTES] = size
    // The last words of texts and state may be cut short.
    this.#words.fill(0, HEADER, length)
    this.#bytes.set(texts, 4 * HEADER)
    this.#envelope = this.#bytes.subarray(0, 4 * length)
    this.#size = size
  }
}

/** @throws CannotResume for bytes that no CheckpointWriter of this version made. */
export function readCheckpoint(bytes: Uint8Array): Envelope {
  if (bytes.length === 0) throw new CannotResume('QEMU has no checkpoint of its former server')
  const words = new Uint32Array(new Uint8Array(bytes).buffer, 0, bytes.length >>> 2)
  const [magic, version, length, sum] = words
  if (words.length < HEADER || magic !== MAGIC) throw new CannotResume('its checkpoint is not one of ours')
  if (version !== CHECKPOINT_VERSION) {
    throw new CannotResume(`its checkpoint has version ${version}, this server reads ${CHECKPOINT_VERSION}`)
  }
  const texts = words[TEXT_BYTES]
  const size = words[STATE_BYTES]
  const place = 4 * (HEADER + wordsOf(texts))
  if (length !== bytes.length || place + 4 * wordsOf(size) !== bytes.length) {
    throw new CannotResume('its checkpoint is cut short')
  }
  if (checksum(words, words.length) !== sum) throw new CannotResume('its checkpoint is damaged')
  const text = Buffer.from(words.buffer, 4 * HEADER, texts).toString()
  const [session = '', policy = ''] = text.split('\n')
  const state = new Uint8Array(words.buffer, place, size).slice()
  const progress = noProgress()
  for (const [field, { read }] of FIELDS) progress[field] = read(words)
  return { ...progress, session, policy, state }
}
