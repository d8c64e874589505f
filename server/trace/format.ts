// SPDX-License-Identifier: Apache-2.0
/** The trace file's blocks and header. README.md in this folder is the specification. */
import { crc32 } from 'node:zlib'
import type { Hello } from '../../protocol/generated/messages.ts'
import { isWarningTable, type WarningTable } from '../policy/warnings.ts'

/** Version of the format that this program writes. */
export const FORMAT = 2
/** The oldest version that it reads. */
export const OLDEST_FORMAT = 1
/** Before this version a command that was rewritten was recorded as kept. */
export const FORMAT_TELLS_REWRITTEN = 2

export const blockType = { header: 1, records: 2, index: 3 } as const

/** First bytes of a block, and of the end. */
export const BLOCK_MAGIC = Buffer.from('SMTB')
const END_MAGIC = Buffer.from('SMTE')

export const BLOCK_HEADER = 64
export const INDEX_ENTRY = 8 + BLOCK_HEADER
export const END_BYTES = 16

/** Longest payload that a reader takes, bytes. */
export const MAX_PAYLOAD = 1 << 26

/** What the header of a block says. */
export interface BlockInfo {
  type: number
  format: number
  /** Bytes of payload behind the header, and their CRC-32. */
  length: number
  crc: number
  records: number
  /** Bit n: a record of the kind with id n is in the block. */
  kinds: number
  /** Server clock of the first and the last record that has one, ns; 0: none has. */
  firstStart: number
  lastStart: number
  /** Sequence number of the first and the last trap; 0: no trap. */
  firstSeq: number
  lastSeq: number
  /** Of the block in its file, from 0. */
  number: number
}

export function emptyBlock(type: number, number: number, format: number = FORMAT): BlockInfo {
  return {
    type,
    format,
    length: 0,
    crc: 0,
    records: 0,
    kinds: 0,
    firstStart: 0,
    lastStart: 0,
    firstSeq: 0,
    lastSeq: 0,
    number,
  }
}

/** Fills in length and checksums. */
export function encodeBlockHeader(info: BlockInfo, payload: Uint8Array): Buffer {
  info.length = payload.length
  info.crc = crc32(payload)
  const header = Buffer.alloc(BLOCK_HEADER)
  BLOCK_MAGIC.copy(header)
  header.writeUInt16LE(info.type, 4)
  header.writeUInt16LE(info.format, 6)
  header.writeUInt32LE(info.length, 8)
  header.writeUInt32LE(info.crc, 12)
  header.writeUInt32LE(info.records, 16)
  header.writeUInt32LE(info.kinds >>> 0, 20)
  header.writeDoubleLE(info.firstStart, 24)
  header.writeDoubleLE(info.lastStart, 32)
  header.writeUInt32LE(info.firstSeq, 40)
  header.writeUInt32LE(info.lastSeq, 44)
  header.writeUInt32LE(info.number, 48)
  header.writeUInt32LE(crc32(header.subarray(0, 60)), 60)
  return header
}

/** True when a block may start here: the magic is there. */
export function isBlock(bytes: Buffer): boolean {
  return bytes.length >= 4 && bytes.subarray(0, 4).equals(BLOCK_MAGIC)
}

/** The format version of something that `isBlock`, intact or not; 0 when it is cut off. */
export function blockFormat(bytes: Buffer): number {
  return bytes.length >= 8 ? bytes.readUInt16LE(6) : 0
}

/** @param bytes of the header. @returns undefined when it is damaged, or no block header. */
export function decodeBlockHeader(bytes: Buffer): BlockInfo | undefined {
  if (bytes.length < BLOCK_HEADER || !isBlock(bytes)) return undefined
  if (crc32(bytes.subarray(0, 60)) !== bytes.readUInt32LE(60)) return undefined
  return {
    type: bytes.readUInt16LE(4),
    format: blockFormat(bytes),
    length: bytes.readUInt32LE(8),
    crc: bytes.readUInt32LE(12),
    records: bytes.readUInt32LE(16),
    kinds: bytes.readUInt32LE(20),
    firstStart: bytes.readDoubleLE(24),
    lastStart: bytes.readDoubleLE(32),
    firstSeq: bytes.readUInt32LE(40),
    lastSeq: bytes.readUInt32LE(44),
    number: bytes.readUInt32LE(48),
  }
}

/** An entry of the index: where a block is, and its header. */
export function encodeIndexEntry(position: number, header: Uint8Array): Buffer {
  const entry = Buffer.alloc(INDEX_ENTRY)
  entry.writeDoubleLE(position, 0)
  entry.set(header, 8)
  return entry
}

/** The last bytes of a file that was ended: where its index block starts. */
export function encodeEnd(indexOffset: number): Buffer {
  const end = Buffer.alloc(END_BYTES)
  END_MAGIC.copy(end)
  end.writeDoubleLE(indexOffset, 4)
  end.writeUInt32LE(crc32(end.subarray(0, 12)), 12)
  return end
}

/** @returns the offset of the index block, or undefined when this is no end. */
export function decodeEnd(bytes: Buffer): number | undefined {
  if (bytes.length !== END_BYTES || !bytes.subarray(0, 4).equals(END_MAGIC)) return undefined
  return crc32(bytes.subarray(0, 12)) === bytes.readUInt32LE(12) ? bytes.readDoubleLE(4) : undefined
}

/** The machine as QEMU described it at the handshake. */
export interface MachineDescription {
  readonly qemu: string
  /** Bits of the protocol's `feature`. */
  readonly features: number
  readonly vcpus: number
  readonly carveout: { readonly base: number; readonly size: number }
  readonly ram: readonly { readonly base: number; readonly size: number }[]
  readonly smmus: readonly { readonly base: number; readonly size: number }[]
  readonly devices: readonly {
    readonly smmu: number
    readonly sid: number
    readonly name: string
    readonly model: string
  }[]
}

/** Of a recording that ended before QEMU connected. */
export const NO_MACHINE: MachineDescription = {
  qemu: '',
  features: 0,
  vcpus: 0,
  carveout: { base: 0, size: 0 },
  ram: [],
  smmus: [],
  devices: [],
}

export function describeMachine(hello: Hello): MachineDescription {
  return {
    qemu: hello.qemuVersion,
    features: hello.features,
    vcpus: hello.vcpus,
    carveout: { base: hello.carveoutBase, size: hello.carveoutSize },
    ram: hello.ram.map(({ base, size }) => ({ base, size })),
    smmus: hello.smmus.map(({ base, size }) => ({ base, size })),
    devices: hello.devices.map(({ smmu, sid, name, model }) => ({ smmu, sid, name, model })),
  }
}

export interface RecordedFaults {
  readonly rules: readonly unknown[]
  readonly seed: number
}

/** The JSON of a file's first block. */
export interface TraceHeader {
  /** The same in all segments of a recording. */
  readonly recording: string
  /** Number of this file in a recording that was cut into several, from 0. */
  readonly segment: number
  /** ISO 8601, when the recording started. */
  readonly created: string
  /** Wall clock at `start` 0, ms since 1970. */
  readonly epoch: number
  /** Versions of what wrote it, for people: `smmu-cosim`, `node`. */
  readonly versions: Readonly<Record<string, string>>
  /** Name or file of the policy, and its options: labels, from which nothing is loaded (recordedPolicy.ts). */
  readonly policy: string
  readonly policyOptions: Readonly<Record<string, unknown>>
  /** Kernel release, and path of its image: labels as well; empty when not known. */
  readonly kernel: string
  readonly image: string
  readonly machine: MachineDescription
  /** Rules of fault injection that were armed from the start; absent: none, or an older recording. To be checked before use. */
  readonly faults?: RecordedFaults
  /** What the ids of hyp warnings stand for; absent in older recordings (warnings.ts). */
  readonly warnings?: WarningTable
}

/** @returns undefined unless it is the JSON of a header, with everything of the right type. */
export function parseHeader(text: string): TraceHeader | undefined {
  try {
    const header: unknown = JSON.parse(text)
    if (!matches(header, SHAPE) || !isCount((header as TraceHeader).machine.vcpus)) return undefined
    const { warnings, faults } = header as { warnings?: unknown; faults?: unknown }
    if (faults !== undefined && !isFaults(faults)) return undefined
    return warnings === undefined || isWarningTable(warnings) ? (header as unknown as TraceHeader) : undefined
  } catch {
    return undefined
  }
}

function isFaults(value: unknown): value is RecordedFaults {
  if (typeof value !== 'object' || value === null) return false
  const { rules, seed } = value as { rules?: unknown; seed?: unknown }
  return Array.isArray(rules) && Number.isInteger(seed)
}

/** The wire has 16 bits for it. */
const isCount = (vcpus: number): boolean => Number.isInteger(vcpus) && vcpus >= 0 && vcpus <= 0xffff

/** A value of each type; a list holds what its elements are like, an empty object is like any object. */
const RANGE = { base: 0, size: 0 }
const SHAPE = {
  recording: '',
  segment: 0,
  created: '',
  epoch: 0,
  versions: {},
  policy: '',
  policyOptions: {},
  kernel: '',
  image: '',
  machine: {
    qemu: '',
    features: 0,
    vcpus: 0,
    carveout: RANGE,
    ram: [RANGE],
    smmus: [RANGE],
    devices: [{ smmu: 0, sid: 0, name: '', model: '' }],
  },
}

function matches(value: unknown, shape: unknown): boolean {
  if (Array.isArray(shape)) return Array.isArray(value) && value.every(element => matches(element, shape[0]))
  if (typeof shape !== 'object' || shape === null) return typeof value === typeof shape
  if (typeof value !== 'object' || value === null) return false
  return Object.entries(shape).every(([name, inner]) => matches((value as Record<string, unknown>)[name], inner))
}
