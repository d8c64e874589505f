// SPDX-License-Identifier: Apache-2.0
/**
 * Isolation, from outside: what the tables in memory that the hardware uses let devices reach, compared with who owns the
 * pages. It starts at the hardware's registers and knows neither what the hypervisor believes it has written nor which
 * fault was injected.
 */

import { addressOf, fieldGet64, hex } from '../smmu/bits.ts'
import type { GuestMemory } from '../smmu/memory.ts'
import { LAST_LEVEL, levelShift, stage2StartLevel, startTableBytes, tableBits } from '../smmu/pagetable.ts'
import * as S from '../smmu/ste.ts'
import { decodeStreamTable, steTables } from '../smmu/strtab.ts'
import { changedCanary } from '../trap/canary.ts'
import type { OwnershipRange } from '../trap/operations.ts'

const PAGE = 4096
/** Limit of findings that are listed one by one. */
const MAX_TOLD = 20
/** Limit of tables: a damaged table may point to itself. */
const MAX_TABLES = 1 << 17

/** The registers of one SMMU that lead to its tables. */
export interface TableRegisters {
  readonly strtabBaseLo: number
  readonly strtabBaseHi: number
  readonly strtabBaseCfg: number
  /** IDR1.SIDSIZE, IDR0.ST_LEVEL, output address size in bits. */
  readonly sidSize: number
  readonly twoLevel: boolean
  readonly oas: number
  /** CR0.SMMUEN */
  readonly enabled: boolean
  /** GBPA.ABORT: what becomes of transactions while it is not (IHI 0070 section 3.11). */
  readonly aborts: boolean
}

/** What the audit looks at; the machine stands still meanwhile. */
export interface AuditInput {
  readonly memory: GuestMemory
  readonly smmus: readonly TableRegisters[]
  /** All RAM, by owner. */
  readonly ownership: readonly OwnershipRange[]
  /** Frames that no device may reach: the SMMUs. */
  readonly frames: readonly { readonly base: number; readonly size: number }[]
  readonly device: (smmu: number, sid: number) => string
  /** Pages of VMs were filled with canaries when they were donated. */
  readonly canaries: boolean
}

/** Who owns an address. */
export class Owners {
  readonly #ranges: readonly OwnershipRange[]

  constructor(ranges: readonly OwnershipRange[]) {
    this.#ranges = ranges
  }

  /** The run that an address lies in; undefined where there is no RAM. */
  at(address: number): OwnershipRange | undefined {
    let low = 0
    let high = this.#ranges.length
    while (low < high) {
      const middle = (low + high) >>> 1
      const range = this.#ranges[middle]
      if (range !== undefined && range.base + range.size <= address) low = middle + 1
      else high = middle
    }
    const range = this.#ranges[low]
    return range !== undefined && range.base <= address ? range : undefined
  }

  /** First page from `from` to `to` that the host does not own, with its owner. */
  foreign(from: number, to: number): { readonly page: number; readonly owner: string } | undefined {
    for (const range of this.#ranges) {
      if (range.base + range.size <= from) continue
      if (range.base >= to) break
      const owner = ownerOf(range)
      if (owner !== undefined) return { page: Math.max(range.base, from), owner }
    }
    return undefined
  }
}

/** The owner of a range that is not the host's. */
function ownerOf({ state, vm }: OwnershipRange): string | undefined {
  if (state === 'hyp') return 'the hypervisor'
  return state === 'vm' ? `VM ${vm}` : undefined
}

/** Violations as text; the first MAX_TOLD are listed. */
export function audit(input: AuditInput): string[] {
  const findings: string[] = []
  let more = 0
  const find = (text: string) => {
    if (findings.length < MAX_TOLD) findings.push(text)
    else more++
  }
  const owners = new Owners(input.ownership)
  const walked = new Set<string>()
  for (const [index, smmu] of input.smmus.entries()) {
    if (!smmu.enabled) {
      if (!smmu.aborts) find(`SMMU ${index} is off and lets everything through: its devices reach all of memory`)
      continue
    }
    for (const { sid, ste } of streams(input.memory, smmu)) {
      const who = input.device(index, sid)
      if (fieldGet64(S.STRTAB_STE_0_V, ste[0]) === 0) continue
      const config = fieldGet64(S.STRTAB_STE_0_CFG, ste[0])
      if ((config & 4) === 0) continue
      if (config !== S.STRTAB_STE_0_CFG_S2_TRANS && config !== S.STRTAB_STE_0_CFG_NESTED) {
        find(`${who}: its stream table entry has no second stage: it reaches all of memory`)
        continue
      }
      const key = `${ste[2] & (S.STRTAB_STE_2_VTCR | S.STRTAB_STE_2_S2ENDI)} ${ste[3]}`
      if (walked.has(key)) continue
      walked.add(key)
      walkStage2(input.memory, ste, smmu.oas, (base, size, target, writable) => {
        const what = `${who}: the second stage maps ${hex(base)}${size > PAGE ? ` (${size} bytes)` : ''}`
        if (target !== base) find(`${what} to ${hex(target)}, not to itself`)
        const foreign = owners.foreign(target, target + size)
        if (foreign !== undefined) {
          find(`${what}${writable ? '' : ' read-only'}: page ${hex(foreign.page)} belongs to ${foreign.owner}`)
        }
        for (const frame of input.frames) {
          if (target < frame.base + frame.size && frame.base < target + size) find(`${what}: registers of an SMMU`)
        }
      })
    }
  }
  if (input.canaries) {
    for (const { base, size, state, vm } of input.ownership) {
      if (state !== 'vm') continue
      for (let page = base; page < base + size; page += PAGE) {
        const changed = changedCanary(input.memory, page)
        if (changed === undefined) continue
        find(
          `page ${hex(page)} of VM ${vm} was written by somebody else: ${changed.words} words from offset ${hex(changed.offset)}`,
        )
      }
    }
  }
  if (more > 0) findings.push(`and ${more} more`)
  return findings
}

/** Valid entries of the stream table that the hardware uses. */
function* streams(memory: GuestMemory, smmu: TableRegisters): Generator<{ sid: number; ste: BigUint64Array }> {
  const { strtabBaseLo, strtabBaseHi, strtabBaseCfg, sidSize, twoLevel } = smmu
  const table = decodeStreamTable(strtabBaseLo, strtabBaseHi, strtabBaseCfg, sidSize, twoLevel)
  const read = (base: number, count: number) => {
    const bytes = new Uint8Array(count * S.STRTAB_STE_SIZE)
    return memory.read(base, bytes, 0, bytes.length) ? new BigUint64Array(bytes.buffer) : undefined
  }
  const entries = function* (first: number, all: BigUint64Array | undefined) {
    for (let i = 0; all !== undefined && i < all.length / S.STRTAB_STE_DWORDS; i++) {
      yield { sid: first + i, ste: all.subarray(S.STRTAB_STE_DWORDS * i, S.STRTAB_STE_DWORDS * (i + 1)) }
    }
  }
  for (const { address, sid, stes } of steTables(table, memory)) yield* entries(sid, read(address, stes))
}

type Leaf = (base: number, size: number, target: number, writable: boolean) => void

/** Calls `leaf` for each leaf of an STE's second stage (VMSAv8-64, IHI 0070 section 3.4). */
function walkStage2(memory: GuestMemory, ste: BigUint64Array, oas: number, leaf: Leaf): void {
  const vtcr = (ste[2] & S.STRTAB_STE_2_VTCR) >> 32n
  const granuleShift = [12, 16, 14, 12][fieldGet64(S.STRTAB_STE_2_VTCR_S2TG, vtcr)]
  const inputBits = 64 - fieldGet64(S.STRTAB_STE_2_VTCR_S2T0SZ, vtcr)
  const start = stage2StartLevel(fieldGet64(S.STRTAB_STE_2_VTCR_S2SL0, vtcr), granuleShift, oas, false)
  if (start < 0) return
  const big = (ste[2] & S.STRTAB_STE_2_S2ENDI) !== 0n
  const root = Number(ste[3] & S.STRTAB_STE_3_S2TTB_MASK)
  let tables = 0
  const walk = (level: number, address: number, bytes: number, base: number): void => {
    if (++tables > MAX_TABLES) return
    const data = Buffer.alloc(bytes)
    if (!memory.read(address, data, 0, bytes)) return
    if (big) data.swap64()
    const span = 2 ** levelShift(level, granuleShift)
    for (let at = 0; at < bytes; at += 8) {
      const lo = data.readUInt32LE(at)
      if ((lo & 1) === 0) continue
      const target = addressOf((lo & 0xffff_f000) >>> 0, data.readUInt32LE(at + 4) & 0xffff)
      const input = base + (at / 8) * span
      const table = (lo & 2) !== 0
      if (table && level < LAST_LEVEL) walk(level + 1, target, 8 * 2 ** tableBits(granuleShift), input)
      // HAP (S2AP) bits 6 and 7: without either it maps nothing.
      else if ((table || level < LAST_LEVEL) && (lo & 0xc0) !== 0)
        leaf(input, span, target - (target % span), (lo & 0x80) !== 0)
    }
  }
  walk(start, root, startTableBytes(inputBits, start, granuleShift), 0)
}
