// SPDX-License-Identifier: Apache-2.0
/**
 * The state that a checkpoint of `partition` holds, as JSON. Whoever keeps it may have changed it: nothing of it is used before all of it
 * has the shape that `save` gave it.
 */
import type { StreamInfo } from '../../policy/inspect.ts'
import { hex } from '../../smmu/bits.ts'
import { STRTAB_STE_DWORDS } from '../../smmu/ste.ts'
import type { GuestRegisters } from './smmu.ts'

/** Of one SMMU. */
export interface SavedSmmu {
  readonly own: GuestRegisters
  readonly streams: readonly StreamInfo[]
}

/** What the layout of the carve-out depends on: IDR5.OAS and IDR1.SIDSIZE. */
export type Sizes = readonly (readonly [oas: number, sidBits: number])[]

export interface SavedState {
  readonly partitions: unknown
  readonly sizes: Sizes
  /** By SMMU, as many as `sizes`. */
  readonly saved: readonly SavedSmmu[]
}

const MAX_OAS = 7
const MAX_SID_BITS = 32
const WORD = /^0x[0-9a-f]{1,16}$/

export function save(state: SavedState): Uint8Array {
  const words = (_: string, value: unknown) => (value instanceof BigUint64Array ? [...value].map(hex) : value)
  return Buffer.from(JSON.stringify(state, words))
}

/** @param smmus how many the machine has. @throws Error */
export function load(checkpoint: Uint8Array, smmus: number): SavedState {
  const { partitions, sizes, saved } = fields(JSON.parse(Buffer.from(checkpoint).toString()), 'the state')
  return {
    partitions,
    sizes: list(sizes, 'sizes', smmus).map(pair => {
      const [oas, sidBits] = list(pair, 'sizes', 2)
      return [number(oas, 'OAS', MAX_OAS), number(sidBits, 'SIDSIZE', MAX_SID_BITS)]
    }),
    saved: list(saved, 'saved', smmus).map((value, smmu) => {
      const { own, streams } = fields(value, 'an SMMU')
      const { baseLo, baseHi, cfg, cr0 } = fields(own, "the guest's registers")
      return {
        own: {
          baseLo: number(baseLo, 'STRTAB_BASE'),
          baseHi: number(baseHi, 'STRTAB_BASE'),
          cfg: number(cfg, 'STRTAB_BASE_CFG'),
          cr0: number(cr0, 'CR0'),
        },
        streams: list(streams, 'streams').map(stream => loadStream(stream, smmu)),
      }
    }),
  }
}

function loadStream(value: unknown, smmu: number): StreamInfo {
  const stream = fields(value, 'a stream')
  if (stream.smmu !== smmu) throw refused('the SMMU of a stream')
  return {
    smmu,
    sid: number(stream.sid, 'a StreamID'),
    trap: number(stream.trap, 'the trap of a stream', Number.MAX_SAFE_INTEGER),
    host: ste(stream.host),
    shadow: ste(stream.shadow),
  }
}

function ste(value: unknown): BigUint64Array {
  const words = list(value, 'an STE', STRTAB_STE_DWORDS).map(word => {
    if (typeof word !== 'string' || !WORD.test(word)) throw refused('a word of an STE')
    return BigInt(word)
  })
  return BigUint64Array.from(words)
}

function fields(value: unknown, what: string): Readonly<Record<string, unknown>> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw refused(what)
  return value as Record<string, unknown>
}

/** @param length how many there must be; any number when it is left out */
function list(value: unknown, what: string, length?: number): readonly unknown[] {
  if (!Array.isArray(value) || (length !== undefined && value.length !== length)) throw refused(what)
  return value
}

function number(value: unknown, what: string, max = 0xffff_ffff): number {
  if (typeof value !== 'number' || !Number.isInteger(value) || value < 0 || value > max) throw refused(what)
  return value
}

function refused(what: string): Error {
  return new Error(`the checkpoint is damaged: ${what}`)
}
