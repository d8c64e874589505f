// SPDX-License-Identifier: Apache-2.0
/**
 * Stage-2 identity map (server/hypervisor/README.md, section 9): what the host may reach through an SMMU. VMSAv8-64, one
 * for all SMMUs. RAM in page-size leaves, everything else in the largest blocks that alignment allows. Pages that the
 * host does not reach are holes.
 *
 * The tables in hypervisor memory are the only state: every later change walks them.
 */

import { EFAULT, EINVAL, ENOMEM, OK } from '../../policy/result.ts'
import { addressOf, fieldPrep64, TWO_POW_32 } from '../../smmu/bits.ts'
import type { GuestMemory } from '../../smmu/memory.ts'
import {
  ARM_LPAE_PTE_AF,
  ARM_LPAE_PTE_HAP_READ,
  ARM_LPAE_PTE_HAP_WRITE,
  ARM_LPAE_PTE_MEMATTR_DEV,
  ARM_LPAE_PTE_MEMATTR_OIWB,
  ARM_LPAE_PTE_SH_IS,
  ARM_LPAE_PTE_SH_OS,
  ARM_LPAE_PTE_TYPE_BLOCK,
  ARM_LPAE_PTE_TYPE_MASK,
  ARM_LPAE_PTE_TYPE_PAGE,
  ARM_LPAE_PTE_TYPE_TABLE,
  ARM_LPAE_PTE_VALID,
  blockAllowed,
  concatenatedTables,
  LAST_LEVEL,
  levelShift,
  PTE_SIZE,
  stage2ShortestStartLevel,
  stage2Sl0,
  startTableBytes,
  tableBits,
} from '../../smmu/pagetable.ts'
import {
  ARM_SMMU_SH_ISH,
  IDR5_OAS_32_BIT,
  IDR5_OAS_36_BIT,
  IDR5_OAS_40_BIT,
  IDR5_OAS_42_BIT,
  IDR5_OAS_44_BIT,
  IDR5_OAS_48_BIT,
  IDR5_OAS_52_BIT,
} from '../../smmu/registers.ts'
import {
  STRTAB_STE_2_VTCR_RGN_WBWA,
  STRTAB_STE_2_VTCR_S2IR0,
  STRTAB_STE_2_VTCR_S2OR0,
  STRTAB_STE_2_VTCR_S2PS,
  STRTAB_STE_2_VTCR_S2SH0,
  STRTAB_STE_2_VTCR_S2SL0,
  STRTAB_STE_2_VTCR_S2T0SZ,
  STRTAB_STE_2_VTCR_S2TG,
  STRTAB_STE_2_VTCR_S2TG_4K,
  STRTAB_STE_2_VTCR_S2TG_16K,
  STRTAB_STE_2_VTCR_S2TG_64K,
} from '../../smmu/ste.ts'
import type { PageOwnership } from './ownership.ts'
import type { PagePool } from './pool.ts'
import { StateLayout } from './stateLayout.ts'

/** VMID of the host, in every STE and TLB entry. */
export const HOST_VMID = 0

/** Most tables that may be concatenated at the start level of stage 2. */
const MAX_CONCATENATED = 16

/** Bytes of the last-level tables that are written at a time. */
const BATCH_BYTES = 2 ** 18

const LEAF_RAM =
  ARM_LPAE_PTE_AF | ARM_LPAE_PTE_SH_IS | ARM_LPAE_PTE_HAP_READ | ARM_LPAE_PTE_HAP_WRITE | ARM_LPAE_PTE_MEMATTR_OIWB
const LEAF_DEVICE =
  ARM_LPAE_PTE_AF | ARM_LPAE_PTE_SH_OS | ARM_LPAE_PTE_HAP_READ | ARM_LPAE_PTE_HAP_WRITE | ARM_LPAE_PTE_MEMATTR_DEV

/** Shape of the tables. */
export interface IdmapGeometry {
  readonly granule: number
  readonly granuleShift: number
  /** Index bits of a whole table. */
  readonly tableBits: number
  readonly inputBits: number
  readonly outputBits: number
  readonly startLevel: number
  /** Bytes of the start level. */
  readonly rootBytes: number
  /** Tables side by side at the start level. */
  readonly concatenated: number
  /** VTCR as in the STE (S2T0SZ to S2PS, from bit 0). */
  readonly vtcr: number
}

/** S2PS of the STE by output bits, S2TG by granule. */
const PS_ENCODINGS: Readonly<Record<number, number>> = {
  32: IDR5_OAS_32_BIT,
  36: IDR5_OAS_36_BIT,
  40: IDR5_OAS_40_BIT,
  42: IDR5_OAS_42_BIT,
  44: IDR5_OAS_44_BIT,
  48: IDR5_OAS_48_BIT,
  52: IDR5_OAS_52_BIT,
}
/** Output sizes that there are. */
export const OUTPUT_BITS: readonly number[] = Object.keys(PS_ENCODINGS).map(Number)

const TG_ENCODINGS: Readonly<Record<number, number>> = {
  4096: STRTAB_STE_2_VTCR_S2TG_4K,
  16384: STRTAB_STE_2_VTCR_S2TG_16K,
  65536: STRTAB_STE_2_VTCR_S2TG_64K,
}

/**
 * The geometry that pKVM's rule gives for an output size: input min(48, OAS), as few levels as concatenating up to
 * 16 tables at the start level makes possible.
 */
export function idmapGeometry(granule: number, oas: number): IdmapGeometry {
  const granuleShift = Math.log2(granule)
  const inputBits = Math.min(48, oas)
  const startLevel = stage2ShortestStartLevel(inputBits, granuleShift)
  const vtcr =
    fieldPrep64(STRTAB_STE_2_VTCR_S2T0SZ, 64 - inputBits) |
    fieldPrep64(STRTAB_STE_2_VTCR_S2SL0, stage2Sl0(startLevel, granuleShift)) |
    fieldPrep64(STRTAB_STE_2_VTCR_S2IR0, STRTAB_STE_2_VTCR_RGN_WBWA) |
    fieldPrep64(STRTAB_STE_2_VTCR_S2OR0, STRTAB_STE_2_VTCR_RGN_WBWA) |
    fieldPrep64(STRTAB_STE_2_VTCR_S2SH0, ARM_SMMU_SH_ISH) |
    fieldPrep64(STRTAB_STE_2_VTCR_S2TG, TG_ENCODINGS[granule]) |
    fieldPrep64(STRTAB_STE_2_VTCR_S2PS, PS_ENCODINGS[oas])
  return {
    granule,
    granuleShift,
    tableBits: tableBits(granuleShift),
    inputBits,
    outputBits: oas,
    startLevel,
    rootBytes: startTableBytes(inputBits, startLevel, granuleShift),
    concatenated: concatenatedTables(inputBits, startLevel, granuleShift),
    vtcr: Number(vtcr),
  }
}

/** Whether a leaf may stand at `level`: pages at the last one, blocks where the granule and the output size have them. */
function leafAllowed({ granuleShift, outputBits }: IdmapGeometry, level: number): boolean {
  return level === LAST_LEVEL || blockAllowed(level, granuleShift, outputBits)
}

/** Pages of 4 KiB for tables that map `bytes` in pages, all levels. */
function tablePages(geometry: IdmapGeometry, bytes: number): number {
  let entries = Math.ceil(bytes / geometry.granule)
  let tables = 0
  for (let level = LAST_LEVEL; level >= 0; level--) {
    entries = Math.ceil(entries / 2 ** geometry.tableBits)
    tables += entries
  }
  return tables * (geometry.granule / 4096)
}

/** Pages of 4 KiB that the host's stage 2 can need: RAM and 1 GiB of devices in pages, and a concatenated root. */
export function stage2Pages(geometry: IdmapGeometry, ram: readonly { readonly size: number }[]): number {
  let pages = tablePages(geometry, 2 ** 30) + MAX_CONCATENATED * (geometry.granule / 4096)
  for (const { size } of ram) pages += tablePages(geometry, size)
  return pages
}

const HOLE = 0
const RAM = 1
const DEVICE = 2

interface Segment {
  readonly kind: number
  readonly end: number
}

/** What of an idmap is not in its tables; what a checkpoint holds. */
export interface IdmapState {
  /** Address of the start level table. */
  readonly root: number
  readonly outputBits: number
  readonly bigEndian: boolean
  /** Tables, the concatenated root counted as one. */
  tables: number
  /** Bytes mapped as memory and as devices when it was built, and those for which no table could be had. */
  ramBytes: number
  deviceBytes: number
  unmappedBytes: number
  /** Duration of the build. */
  buildUs: number
}

export const IDMAP_STATE = new StateLayout<IdmapState>({
  root: 'u53',
  outputBits: 'u32',
  bigEndian: 'flag',
  tables: 'u32',
  ramBytes: 'u53',
  deviceBytes: 'u53',
  unmappedBytes: 'u53',
  buildUs: 'u53',
})

/** Of an idmap that is to be built. @param root memory for the start level table */
export function newIdmapState(root: number, outputBits: number, bigEndian: boolean): IdmapState {
  return { root, outputBits, bigEndian, tables: 1, ramBytes: 0, deviceBytes: 0, unmappedBytes: 0, buildUs: 0 }
}

/** A place where the tables are not what they should be. */
export interface IdmapDifference {
  /** Input addresses that the entry maps. */
  readonly base: number
  readonly size: number
  readonly level: number
  /** Descriptors as they are and as they should be; `expected` is null where a table should be. */
  readonly found: bigint
  readonly expected: bigint | null
}

/** A leaf of the tables. */
export interface IdmapEntry {
  readonly base: number
  readonly size: number
  /** Where it leads: `base`, unless the table is damaged. */
  readonly target: number
  readonly level: number
  /** The descriptor. */
  readonly lo: number
  readonly hi: number
}

export interface IdmapInfo {
  readonly vttbr: number
  readonly vtcr: number
  readonly granule: number
  readonly inputBits: number
  readonly outputBits: number
  readonly startLevel: number
  readonly concatenated: number
  /** Tables, the concatenated root counted as one. */
  readonly tables: number
  /** Pages of 4 KiB in these tables. */
  readonly pages: number
  /** Bytes mapped as memory and as devices when it was built, and those for which no table could be had. */
  readonly ram: number
  readonly devices: number
  readonly unmapped: number
  /** Duration of the build. */
  readonly buildUs: number
}

export class Idmap {
  readonly geometry: IdmapGeometry
  readonly state: IdmapState
  readonly #memory: GuestMemory
  readonly #pool: PagePool
  /** A table of each level, and the whole root at its own. */
  readonly #tables: Uint32Array[] = []
  /** Last-level tables of RAM are written several at a time. */
  readonly #batch: Uint32Array
  readonly #entry = new Uint32Array(2)
  readonly #entryBytes = new Uint8Array(this.#entry.buffer)
  #segments: readonly Segment[] = []
  #cursor = 0
  #reserve = 0

  /** @param state of an idmap that is to be built, or of one whose tables stand in memory already */
  constructor(memory: GuestMemory, pool: PagePool, geometry: IdmapGeometry, state: IdmapState) {
    this.#memory = memory
    this.#pool = pool
    this.geometry = geometry
    this.state = state
    this.#batch = new Uint32Array(Math.max(geometry.granule, BATCH_BYTES) / 4)
    for (let level = 0; level <= LAST_LEVEL; level++) {
      const entries = level === geometry.startLevel ? geometry.rootBytes / PTE_SIZE : 2 ** geometry.tableBits
      this.#tables.push(new Uint32Array(2 * entries))
    }
  }

  get root(): number {
    return this.state.root
  }

  get bigEndian(): boolean {
    return this.state.bigEndian
  }

  /** Bytes that one entry at `level` maps. */
  #span(level: number): number {
    return 2 ** levelShift(level, this.geometry.granuleShift)
  }

  /**
   * Builds the whole map into an empty root, from the lowest address up.
   * @param frames ranges that are not mapped though they are no RAM: the SMMUs
   * @param reserve pages of the pool that tables for devices must leave for others
   * @returns OK; ENOMEM when parts are left unmapped, which takes access away and so is no hole in the isolation;
   *   EFAULT when hypervisor memory cannot be written.
   */
  build(ownership: PageOwnership, frames: readonly { base: number; size: number }[], reserve: number): number {
    this.#segments = segmentsOf(ownership, frames, 2 ** this.geometry.inputBits)
    this.#cursor = 0
    this.#reserve = reserve
    const { startLevel, rootBytes } = this.geometry
    if (!this.#fill(startLevel, 0, rootBytes / PTE_SIZE, this.root)) return EFAULT
    this.#segments = []
    return this.state.unmappedBytes > 0 ? ENOMEM : OK
  }

  #fill(level: number, base: number, entries: number, address: number): boolean {
    const table = this.#tables[level]
    const segments = this.#segments
    const span = this.#span(level)
    const leaf = leafAllowed(this.geometry, level)
    const last = level === LAST_LEVEL
    let i = 0
    while (i < entries) {
      const start = base + i * span
      while (segments[this.#cursor].end <= start) this.#cursor++
      const segment = segments[this.#cursor]
      const whole = Math.min(entries - i, Math.floor((segment.end - start) / span))
      const type = last ? ARM_LPAE_PTE_TYPE_PAGE : ARM_LPAE_PTE_TYPE_BLOCK
      if (whole > 0 && segment.kind === HOLE) {
        table.fill(0, 2 * i, 2 * (i + whole))
        i += whole
      } else if (whole > 0 && last && segment.kind === RAM) {
        fillLeaves(table, i, whole, start, span, LEAF_RAM | type)
        this.state.ramBytes += whole * span
        i += whole
      } else if (whole > 0 && leaf && segment.kind === DEVICE) {
        fillLeaves(table, i, whole, start, span, LEAF_DEVICE | type)
        this.state.deviceBytes += whole * span
        i += whole
      } else if (whole > 1 && level === LAST_LEVEL - 1 && segment.kind === RAM) {
        const room = Math.floor(this.#pool.free / (this.geometry.granule / 4096))
        const count = Math.max(1, Math.min(whole, room, this.#batch.length / 2 / 2 ** this.geometry.tableBits))
        const tables = this.#fillBatch(start, count)
        if (tables === EFAULT) return false
        if (tables < 0) this.state.unmappedBytes += count * span
        if (tables < 0) table.fill(0, 2 * i, 2 * (i + count))
        else fillLeaves(table, i, count, tables, this.geometry.granule, ARM_LPAE_PTE_TYPE_TABLE)
        i += count
      } else {
        // Below the last level: a table. At the last level: a granule that is not all of one kind is a hole.
        let child = 0
        if (!last) {
          child = this.#mappedIn(start, start + span) ? this.#newTable(start, start + span) : 0
          if (child > 0 && !this.#fill(level + 1, start, 2 ** this.geometry.tableBits, child)) return false
        }
        table[2 * i] = child > 0 ? (child % TWO_POW_32) + ARM_LPAE_PTE_TYPE_TABLE : 0
        table[2 * i + 1] = child > 0 ? Math.floor(child / TWO_POW_32) : 0
        i++
      }
    }
    return this.#writeTable(address, table, 2 * entries)
  }

  /** `count` last-level tables side by side, all RAM from `start` on. Returns their address, or an error. */
  #fillBatch(start: number, count: number): number {
    const { granule, tableBits: bits } = this.geometry
    const address = this.#pool.allocate(count * granule, true)
    if (address < 0) return address
    this.state.tables += count
    this.state.ramBytes += count * this.#span(LAST_LEVEL - 1)
    fillLeaves(this.#batch, 0, count * 2 ** bits, start, granule, LEAF_RAM | ARM_LPAE_PTE_TYPE_PAGE)
    return this.#writeTable(address, this.#batch, 2 * count * 2 ** bits) ? address : EFAULT
  }

  #mappedIn(start: number, end: number): boolean {
    for (let c = this.#cursor, from = start; from < end; c++) {
      if (this.#segments[c].kind !== HOLE) return true
      from = this.#segments[c].end
    }
    return false
  }

  /** Memory for a table that maps `start` to `end`, 0 when there is none. */
  #newTable(start: number, end: number): number {
    let ram = false
    for (let c = this.#cursor, from = start; from < end; c++) {
      if (this.#segments[c].kind === RAM) ram = true
      from = this.#segments[c].end
    }
    const { granule } = this.geometry
    const reserve = ram ? 0 : this.#reserve
    const address = this.#pool.free >= reserve + granule / 4096 ? this.#pool.allocate(granule, true) : ENOMEM
    if (address < 0) {
      this.state.unmappedBytes += end - start
      return 0
    }
    this.state.tables++
    return address
  }

  #writeTable(address: number, table: Uint32Array, words: number): boolean {
    const bytes = Buffer.from(table.buffer, 0, 4 * words)
    if (this.bigEndian) bytes.swap64()
    const written = this.#memory.write(address, bytes, 0, 4 * words)
    if (this.bigEndian) bytes.swap64()
    return written
  }

  /** Makes `base` to `base + size` reachable; a part for which no table could be had stays a hole (ENOMEM). */
  map(base: number, size: number): number {
    return this.#change(base, size, true)
  }

  /** Makes holes; the caller invalidates what the SMMUs cached. */
  unmap(base: number, size: number): number {
    return this.#change(base, size, false)
  }

  #change(base: number, size: number, mapped: boolean): number {
    const { granule, granuleShift, tableBits, inputBits } = this.geometry
    if (!(base >= 0) || !(size > 0) || base % granule !== 0 || size % granule !== 0) return EINVAL
    const end = Math.min(base + size, 2 ** inputBits)
    const table = this.#tables[LAST_LEVEL]
    const perTable = 2 ** tableBits
    let result: number = OK
    for (let at = base; at < end; ) {
      const index = (at / granule) % perTable
      const count = Math.min((end - at) / granule, perTable - index)
      const address = this.#lastTable(at, mapped)
      if (address > 0) {
        if (mapped) fillLeaves(table, 0, count, at, 2 ** granuleShift, LEAF_RAM | ARM_LPAE_PTE_TYPE_PAGE)
        else table.fill(0, 0, 2 * count)
        if (!this.#writeTable(address, table, 2 * count)) return EFAULT
      } else if (address < 0) {
        result = address
        if (result !== ENOMEM) return result
      }
      at += count * granule
    }
    return result
  }

  /** Address of the last-level entry for `address`; 0 when there is no table (and none is wanted), or an error. */
  #lastTable(address: number, create: boolean): number {
    const { startLevel, rootBytes, tableBits } = this.geometry
    let table = this.root
    for (let level = startLevel; ; level++) {
      const entries = level === startLevel ? rootBytes / PTE_SIZE : 2 ** tableBits
      const entry = table + (Math.floor(address / this.#span(level)) % entries) * PTE_SIZE
      if (level === LAST_LEVEL) return entry
      if (!this.#readEntry(entry)) return EFAULT
      const lo = this.#entry[0]
      if ((lo & ARM_LPAE_PTE_TYPE_MASK) === ARM_LPAE_PTE_TYPE_TABLE) {
        table = addressOf((lo & 0xffff_f000) >>> 0, this.#entry[1] & 0xffff)
      } else if ((lo & ARM_LPAE_PTE_VALID) !== 0) {
        return EINVAL
      } else if (!create) {
        return 0
      } else {
        table = this.#pool.allocate(this.geometry.granule)
        if (table < 0) return ENOMEM
        this.state.tables++
        this.#entry[0] = (table % TWO_POW_32) + ARM_LPAE_PTE_TYPE_TABLE
        this.#entry[1] = Math.floor(table / TWO_POW_32)
        if (!this.#writeTable(entry, this.#entry, 2)) return EFAULT
      }
    }
  }

  /** What the tables say about an address; null for a hole. */
  lookup(address: number): IdmapEntry | null {
    const { startLevel, rootBytes, tableBits: bits, inputBits } = this.geometry
    if (!(address >= 0) || address >= 2 ** inputBits) return null
    let table = this.root
    for (let level = startLevel; level <= LAST_LEVEL; level++) {
      const size = this.#span(level)
      const entries = level === startLevel ? rootBytes / PTE_SIZE : 2 ** bits
      const index = Math.floor(address / size) % entries
      if (!this.#readEntry(table + index * PTE_SIZE)) return null
      const [lo, hi] = this.#entry
      const type = lo & ARM_LPAE_PTE_TYPE_MASK
      if ((type & ARM_LPAE_PTE_VALID) === 0) return null
      const target = addressOf((lo & 0xffff_f000) >>> 0, hi & 0xffff)
      if (level === LAST_LEVEL || type === ARM_LPAE_PTE_TYPE_BLOCK) {
        return { base: address - (address % size), size, target, level, lo, hi }
      }
      table = target
    }
    return null
  }

  /**
   * Compares the tables with what `build` would make of the state now. A hole where something could be mapped is no
   * difference while tables could not be had for everything.
   * @param limit stops after so many differences
   */
  verify(ownership: PageOwnership, frames: readonly { base: number; size: number }[], limit = 16): IdmapDifference[] {
    this.#segments = segmentsOf(ownership, frames, 2 ** this.geometry.inputBits)
    this.#cursor = 0
    const found: IdmapDifference[] = []
    this.#compare(this.geometry.startLevel, 0, this.geometry.rootBytes / PTE_SIZE, this.root, found, limit)
    this.#segments = []
    return found
  }

  #compare(
    level: number,
    base: number,
    entries: number,
    address: number,
    found: IdmapDifference[],
    limit: number,
  ): void {
    const table = new Uint32Array(2 * entries)
    const bytes = Buffer.from(table.buffer)
    const readable = this.#memory.read(address, bytes, 0, bytes.length)
    if (this.bigEndian) bytes.swap64()
    const span = this.#span(level)
    const last = level === LAST_LEVEL
    const leaf = leafAllowed(this.geometry, level)
    const type = last ? ARM_LPAE_PTE_TYPE_PAGE : ARM_LPAE_PTE_TYPE_BLOCK
    for (let i = 0; i < entries && found.length < limit; i++) {
      const start = base + i * span
      while (this.#segments[this.#cursor].end <= start) this.#cursor++
      const { kind, end } = this.#segments[this.#cursor]
      const whole = end >= start + span
      const lo = table[2 * i]
      const hi = table[2 * i + 1]
      let expectedLo = 0
      let expectedHi = 0
      if (whole && ((kind === RAM && last) || (kind === DEVICE && leaf))) {
        expectedLo = ((start % TWO_POW_32) | (kind === RAM ? LEAF_RAM : LEAF_DEVICE) | type) >>> 0
        expectedHi = Math.floor(start / TWO_POW_32)
      } else if (!last) {
        const child = addressOf((lo & 0xffff_f000) >>> 0, hi)
        // A table stays when all that it mapped was taken away.
        if ((lo & 0xfff) === ARM_LPAE_PTE_TYPE_TABLE && this.#pool.holds(child, this.geometry.granule)) {
          this.#compare(level + 1, start, 2 ** this.geometry.tableBits, child, found, limit)
          continue
        }
        if (this.#mappedIn(start, start + span)) {
          if (lo !== 0 || hi !== 0 || this.state.unmappedBytes === 0 || !readable) {
            found.push({ base: start, size: span, level, found: descriptor(lo, hi), expected: null })
          }
          continue
        }
      }
      if (readable && lo === expectedLo && hi === expectedHi) continue
      if (readable && lo === 0 && hi === 0 && this.state.unmappedBytes > 0) continue
      const expected = descriptor(expectedLo, expectedHi)
      found.push({ base: start, size: span, level, found: descriptor(lo, hi), expected })
    }
  }

  #readEntry(address: number): boolean {
    if (!this.#memory.read(address, this.#entryBytes, 0, 8)) return false
    if (this.bigEndian) Buffer.from(this.#entry.buffer).swap64()
    return true
  }

  get info(): IdmapInfo {
    const { vtcr, granule, inputBits, outputBits, startLevel, concatenated, rootBytes } = this.geometry
    const { root, tables, ramBytes, deviceBytes, unmappedBytes, buildUs } = this.state
    return {
      vttbr: root,
      vtcr,
      granule,
      inputBits,
      outputBits,
      startLevel,
      concatenated,
      tables,
      pages: ((tables - 1) * granule) / 4096 + Math.ceil(rootBytes / 4096),
      ram: ramBytes,
      devices: deviceBytes,
      unmapped: unmappedBytes,
      buildUs,
    }
  }
}

function descriptor(lo: number, hi: number): bigint {
  return (BigInt(hi) << 32n) | BigInt(lo)
}

/** Leaves `first` to `first + count` of an identity map that starts with `address`, `span` bytes apart. */
function fillLeaves(
  table: Uint32Array,
  first: number,
  count: number,
  address: number,
  span: number,
  attributes: number,
): void {
  let i = 2 * first
  const end = 2 * (first + count)
  while (i < end) {
    // Up to the next 4 GiB the high half stays the same, and the low half is plain 32-bit arithmetic.
    let lo = (address % TWO_POW_32) | attributes
    const hi = Math.floor(address / TWO_POW_32)
    const same = span < TWO_POW_32 ? Math.min((end - i) / 2, (TWO_POW_32 - (address % TWO_POW_32)) / span) : 1
    for (const stop = i + 2 * same; i < stop; i += 2) {
      table[i] = lo
      table[i + 1] = hi
      lo = (lo + span) | 0
    }
    address += same * span
  }
}

/** The input address space in ascending order, without gaps: what the host reaches, devices, holes. */
function segmentsOf(
  ownership: PageOwnership,
  frames: readonly { base: number; size: number }[],
  limit: number,
): Segment[] {
  const segments: Segment[] = []
  let at = 0
  const push = (kind: number, end: number) => {
    end = Math.min(end, limit)
    if (end <= at) return
    const last = segments.at(-1)
    if (last?.kind === kind) segments[segments.length - 1] = { kind, end }
    else segments.push({ kind, end })
    at = end
  }
  const sorted = [...frames].sort((a, b) => a.base - b.base)
  const devices = (end: number) => {
    for (const frame of sorted) {
      if (frame.base + frame.size <= at || frame.base >= end) continue
      push(DEVICE, frame.base)
      push(HOLE, Math.min(end, frame.base + frame.size))
    }
    push(DEVICE, end)
  }
  for (const { base, size, state } of ownership.ranges()) {
    devices(base)
    push(state === 'owned' || state === 'shared' ? RAM : HOLE, base + size)
  }
  devices(limit)
  return segments
}
