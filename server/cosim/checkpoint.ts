// SPDX-License-Identifier: Apache-2.0
/**
 * What QEMU keeps for the server, so that another one can go on: the policy's own state in an envelope that says whose it
 * is and how far it reaches. Little-endian 32-bit words:
 *
 *     magic | version | bytes | CRC-32 of what follows
 *     request | last | status | value lo | value hi | trap lo | trap hi | length of the texts | length of the state
 *     session and policy, in UTF-8, a line each | state of the policy
 *
 * `request` is the message that QEMU gets its answer to right behind the checkpoint (0: none), and that answer with it:
 * should the answer be lost, the repeated request is answered again without being carried out again.
 */
import { crc32 } from 'node:zlib'
import { MAX_CHECKPOINT } from '../../protocol/messages.ts'

export const CHECKPOINT_VERSION = 1

const MAGIC = 0x4d53_4f43
const CHECKED = 16
const HEADER = 13 * 4
const WORD = 2 ** 32

/** What an envelope says. */
export interface Envelope {
  readonly session: string
  readonly policy: string
  /** Request that was carried out, with its answer; 0: none. */
  readonly request: number
  readonly status: number
  readonly lo: number
  readonly hi: number
  /** The newest request of QEMU that the server knew of. */
  readonly last: number
  /** Traps so far. */
  readonly trap: number
  /** The policy's own; empty when it keeps none. */
  readonly state: Uint8Array
}

/** Why a machine cannot be taken over, for a person. */
export class CannotResume extends Error {
  override readonly name = 'CannotResume'
}

/** Makes envelopes in a buffer of its own; nothing is allocated while the state keeps its size. */
export class CheckpointWriter {
  #buffer = Buffer.alloc(4096)
  readonly #texts: Buffer

  constructor(session: string, policy: string) {
    this.#texts = Buffer.from(`${session}\n${policy}`)
  }

  /** @returns the checkpoint, good until the next call. @throws RangeError when it is larger than QEMU keeps. */
  write(
    state: Uint8Array,
    request: number,
    last: number,
    status: number,
    hi: number,
    lo: number,
    trap: number,
  ): Uint8Array {
    const texts = this.#texts
    const length = HEADER + texts.length + state.length
    if (length > MAX_CHECKPOINT)
      throw new RangeError(`the checkpoint has ${length} bytes, QEMU keeps ${MAX_CHECKPOINT}`)
    if (length > this.#buffer.length) this.#buffer = Buffer.alloc(2 * length)
    const out = this.#buffer
    out.writeUInt32LE(MAGIC, 0)
    out.writeUInt32LE(CHECKPOINT_VERSION, 4)
    out.writeUInt32LE(length, 8)
    out.writeUInt32LE(request, 16)
    out.writeUInt32LE(last, 20)
    out.writeUInt32LE(status, 24)
    out.writeUInt32LE(lo, 28)
    out.writeUInt32LE(hi, 32)
    out.writeUInt32LE(trap % WORD, 36)
    out.writeUInt32LE(Math.floor(trap / WORD), 40)
    out.writeUInt32LE(texts.length, 44)
    out.writeUInt32LE(state.length, 48)
    out.set(texts, HEADER)
    out.set(state, HEADER + texts.length)
    out.writeUInt32LE(crc32(out.subarray(CHECKED, length)), 12)
    return out.subarray(0, length)
  }
}

/** @throws CannotResume for bytes that no CheckpointWriter of this version made. */
export function readCheckpoint(bytes: Uint8Array): Envelope {
  const from = Buffer.from(bytes)
  if (from.length === 0) throw new CannotResume('QEMU has no checkpoint of its former server')
  if (from.length < HEADER || from.readUInt32LE(0) !== MAGIC)
    throw new CannotResume('its checkpoint is not one of ours')
  const version = from.readUInt32LE(4)
  if (version !== CHECKPOINT_VERSION) {
    throw new CannotResume(`its checkpoint has version ${version}, this server reads ${CHECKPOINT_VERSION}`)
  }
  const texts = from.readUInt32LE(44)
  const state = from.readUInt32LE(48)
  if (from.readUInt32LE(8) !== from.length || HEADER + texts + state !== from.length) {
    throw new CannotResume('its checkpoint is cut short')
  }
  if (crc32(from.subarray(CHECKED)) !== from.readUInt32LE(12)) throw new CannotResume('its checkpoint is damaged')
  const [session = '', policy = ''] = from.toString('utf8', HEADER, HEADER + texts).split('\n')
  return {
    session,
    policy,
    request: from.readUInt32LE(16),
    last: from.readUInt32LE(20),
    status: from.readUInt32LE(24),
    lo: from.readUInt32LE(28),
    hi: from.readUInt32LE(32),
    trap: from.readUInt32LE(40) * WORD + from.readUInt32LE(36),
    state: new Uint8Array(from.subarray(HEADER + texts)),
  }
}
