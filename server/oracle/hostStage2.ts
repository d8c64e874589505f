// SPDX-License-Identifier: Apache-2.0
/**
 * What EL2 keeps from its host, by a walk of its own through the tables in RAM (DDI 0487, D8.2 and D8.3). It shares nothing
 * with the hypervisors that follow these tables, so that it can be held against what they made of them.
 */
import type { HostStage2Registers } from '../machine/ports.ts'
import type { GuestMemory } from '../smmu/memory.ts'
import { tableLimit } from '../smmu/reach.ts'

/** A descriptor of the host's stage 2 that is invalid and not zero: an owner's annotation. */
export interface Annotated {
  readonly base: number
  readonly size: number
  readonly descriptor: bigint
}

const LAST_LEVEL = 3

/** As Linux marks a descriptor that it breaks before it makes another: of 7.3, and of those before. Nobody has taken the page yet. */
const LOCKED: ReadonlySet<bigint> = new Set([1n << 60n, 1n << 10n])

const bits = (value: bigint, high: bigint, low: bigint): bigint => (value >> low) & ((1n << (high - low + 1n)) - 1n)

interface Format {
  readonly granule: bigint
  readonly inputBits: number
  readonly startLevel: number
  readonly root: bigint
  /** Address of the table that a descriptor leads to. */
  next(descriptor: bigint): bigint
}

/** @throws Error with the field that makes no sense */
function formatOf({ vttbrLo, vttbrHi, vtcrLo, vtcrHi }: HostStage2Registers): Format {
  const vttbr = (BigInt(vttbrHi) << 32n) | BigInt(vttbrLo)
  const vtcr = (BigInt(vtcrHi) << 32n) | BigInt(vtcrLo)
  const granule = [12n, 16n, 14n][Number(bits(vtcr, 15n, 14n))]
  if (granule === undefined) throw new Error('VTCR_EL2.TG0 is reserved')
  // VTCR_EL2.DS: bits 51:50 of an address are in bits 9:8 of a descriptor. 64 KiB: bits 51:48 in bits 15:12.
  const lpa2 = bits(vtcr, 32n, 32n) === 1n && granule !== 16n
  const wide = granule === 16n && bits(vtcr, 18n, 16n) === 6n
  const top = (lpa2 ? 49n : 47n) as bigint
  const next = (descriptor: bigint): bigint =>
    (bits(descriptor, top, granule) << granule) |
    (lpa2 ? bits(descriptor, 9n, 8n) << 50n : 0n) |
    (wide ? bits(descriptor, 15n, 12n) << 48n : 0n)
  const inputBits = 64 - Number(bits(vtcr, 5n, 0n))
  const sl0 = Number(bits(vtcr, 7n, 6n))
  const sl2 = lpa2 && granule === 12n && bits(vtcr, 33n, 33n) === 1n
  const startLevel = (sl2 ? [-1] : granule === 12n ? [2, 1, 0, 3] : granule === 14n ? [3, 2, 1, 0] : [3, 2, 1])[sl0]
  if (startLevel === undefined) throw new Error('VTCR_EL2.SL0 is reserved')
  const rootBytes = 8n << BigInt(Math.max(0, inputBits - shiftOf(granule, startLevel)))
  const high = lpa2 || wide ? bits(vttbr, 5n, 2n) << 48n : 0n
  const address = high | (bits(vttbr, 47n, 6n) << 6n)
  return { granule, inputBits, startLevel, root: address - (address % rootBytes), next }
}

/** log2 of the bytes that a descriptor of a level stands for. */
const shiftOf = (granule: bigint, level: number): number => {
  const granuleShift = Number(granule)
  return granuleShift + (LAST_LEVEL - level) * (granuleShift - 3)
}

/**
 * Each range that EL2 has annotated, ascending; all else is the host's, touched or not.
 * @throws Error when registers or tables make no sense: then nothing is known
 */
export function annotated(memory: GuestMemory, registers: HostStage2Registers): Annotated[] {
  const found: Annotated[] = []
  walk(memory, registers, (base, size, descriptor) => {
    if (descriptor !== 0n && (descriptor & 1n) === 0n) found.push({ base, size, descriptor })
  })
  return found
}

/**
 * Each range that is the host's and that EL2 has not mapped for it yet, ascending.
 * @throws Error when registers or tables make no sense
 */
export function untouched(
  memory: GuestMemory,
  registers: HostStage2Registers,
  each: (base: number, size: number) => void,
): void {
  walk(memory, registers, (base, size, descriptor) => {
    if (descriptor === 0n) each(base, size)
  })
}

/** Calls `each` for every descriptor that decides, ascending. @throws Error when registers or tables make no sense */
function walk(
  memory: GuestMemory,
  registers: HostStage2Registers,
  each: (base: number, size: number, descriptor: bigint) => void,
): void {
  const { granule, inputBits, startLevel, root, next } = formatOf(registers)
  const most = tableLimit(memory)
  let tables = 0
  const inside = (table: bigint, level: number, ipa: number, entries: number): void => {
    if (++tables > most) throw new Error('the tables lead into themselves')
    const words = new Uint32Array(2 * entries)
    if (!memory.read(Number(table), new Uint8Array(words.buffer), 0, words.byteLength)) {
      throw new Error(`the table at 0x${table.toString(16)} is not in RAM`)
    }
    const span = 2 ** shiftOf(granule, level)
    for (let i = 0; i < entries; i++) {
      const lo = words[2 * i] ?? 0
      const hi = words[2 * i + 1] ?? 0
      const base = ipa + i * span
      if (lo === 0 && hi === 0) {
        each(base, span, 0n)
        continue
      }
      const found = (BigInt(hi) << 32n) | BigInt(lo)
      const descriptor = LOCKED.has(found) ? 0n : found
      if (level < LAST_LEVEL && (lo & 3) === 3) inside(next(descriptor), level + 1, base, 2 ** (Number(granule) - 3))
      else each(base, span, descriptor)
    }
  }
  inside(root, startLevel, 0, 2 ** Math.max(0, inputBits - shiftOf(granule, startLevel)))
}

/**
 * The descriptor that decides about an address, whatever it says; 0n: EL2 has not mapped it yet.
 * @throws Error when registers or tables make no sense
 */
export function hostDescriptor(memory: GuestMemory, registers: HostStage2Registers, address: number): bigint {
  const { granule, inputBits, startLevel, root, next } = formatOf(registers)
  if (address >= 2 ** inputBits) return 0n
  const word = new BigUint64Array(1)
  let table = root
  for (let level = startLevel; ; level++) {
    const index = Math.floor(address / 2 ** shiftOf(granule, level))
    const entries = 2 ** (Number(granule) - 3)
    const at = Number(table) + 8 * (level === startLevel ? index : index % entries)
    if (!memory.read(at, new Uint8Array(word.buffer), 0, 8))
      throw new Error(`the table at 0x${at.toString(16)} is not in RAM`)
    const descriptor = word[0]
    if ((descriptor & 3n) !== 3n || level === LAST_LEVEL) return LOCKED.has(descriptor) ? 0n : descriptor
    table = next(descriptor)
  }
}

/**
 * Whose an annotated range is, as Linux 7.3 writes it: type 2 in bits 63:60, owner in bits 3:1 (2: a VM), the VM's handle from
 * 0x1000 on in bits 19:4. Other layouts are EL2's as far as can be said.
 * @returns number of the VM, from 1; 0: EL2
 */
export function annotatedVm(descriptor: bigint): number {
  const handle = Number(bits(descriptor, 19n, 4n))
  const guest = bits(descriptor, 63n, 60n) === 2n && bits(descriptor, 3n, 1n) === 2n && handle >= 0x1000
  return guest ? handle - 0x0fff : 0
}
