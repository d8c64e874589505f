// SPDX-License-Identifier: Apache-2.0
/**
 * The tables that EL2 keeps for its host as the second stage of devices (server/hypervisor/README.md, section 20). No copy of pages: a descriptor of
 * ours leads to EL2's own last-level table wherever that says of all its addresses what devices are to have, and what EL2 stores there holds for
 * them at once.
 *
 * Tables of ours are those above, and of the last level those with what EL2 does not know of: hypervisor memory and the frames of the SMMUs, which
 * EL2 takes for its host's. With `ahead`, also those where a part was not touched by the host yet, which is mapped here. In them each
 * descriptor is made of EL2's whenever that has changed, before EL2 goes on.
 *
 * EL2's tables above the last level are not linked: EL2 may make a last-level table of one before the SMMU has forgotten it. Its page descriptors
 * would lead to tables then, which are pages that the host writes.
 *
 * The tables in memory are the only state: one of ours is known by its place.
 */
import { ENOMEM } from '../../policy/result.ts'
import { addressOf, TWO_POW_32 } from '../../smmu/bits.ts'
import type { GuestMemory } from '../../smmu/memory.ts'
import {
  ARM_LPAE_PTE_HI_CONT,
  ARM_LPAE_PTE_TYPE_BLOCK,
  ARM_LPAE_PTE_TYPE_MASK,
  ARM_LPAE_PTE_TYPE_PAGE,
  ARM_LPAE_PTE_TYPE_TABLE,
  ARM_LPAE_PTE_VALID,
  LAST_LEVEL,
  PTE_SIZE,
} from '../../smmu/pagetable.ts'
import type { HostDescriptor, HostStage2 } from './hostStage2.ts'
import type { Idmap } from './idmap.ts'
import { leafAllowed, levelSpan } from './idmapGeometry.ts'
import { LEAF_DEVICE, LEAF_RAM } from './idmapLayout.ts'
import type { Range } from './ownership.ts'
import type { PagePool } from './pool.ts'

/** What a descriptor of ours is to be. */
const OWN_TABLE = 0
const DESCRIPTOR = 1

/** What the tables are made of. */
export interface SharedInfo {
  /** Tables of the hypervisor's own, the root counted as one. */
  readonly own: number
  /** Tables of EL2 that they lead to, all of the last level. */
  readonly linked: number
  /** Bytes that EL2 has not mapped, and these tables do. */
  readonly ahead: number
}

const isTable = (lo: number, level: number): boolean =>
  level < LAST_LEVEL && (lo & ARM_LPAE_PTE_TYPE_MASK) === ARM_LPAE_PTE_TYPE_TABLE
const tableAddress = (lo: number, hi: number): number => addressOf((lo & 0xffff_f000) >>> 0, hi & 0xffff)

export class SharedStage2 {
  readonly #idmap: Idmap
  readonly #pool: PagePool
  readonly #ram: GuestMemory['ram']
  readonly #hidden: readonly Range[]
  readonly #ahead: boolean
  readonly #carveout: Range
  /** Something that was valid is not what it was, and hardware may have kept it. */
  stale = false
  /** Tables that are linked no longer: they may be in use until hardware has forgotten them. */
  readonly #retired: number[] = []
  readonly #host: HostDescriptor = { lo: 0, hi: 0, level: 0 }
  /** The descriptor that `#decide` made. */
  #lo = 0
  #hi = 0

  /**
   * @param idmap the root, and the shape that all tables have; granule of 4 KiB
   * @param hidden what devices do not reach whatever EL2's tables say: whole pages
   * @param ahead what EL2 has not mapped is mapped
   */
  constructor(
    idmap: Idmap,
    pool: PagePool,
    memory: GuestMemory,
    carveout: Range,
    hidden: readonly Range[],
    ahead: boolean,
  ) {
    this.#idmap = idmap
    this.#pool = pool
    this.#ram = memory.ram
    this.#carveout = carveout
    this.#hidden = hidden
    this.#ahead = ahead
  }

  /**
   * Makes the tables anew for addresses about which EL2's may have changed.
   * @returns false when hypervisor memory cannot be read or written. A table that could not be had is a hole: less access than there could be
   */
  follow(host: HostStage2, from: number, to: number): boolean {
    const { startLevel, inputBits } = this.#idmap.geometry
    return this.#fill(host, this.#idmap.root, startLevel, 0, from, Math.min(to, 2 ** inputBits))
  }

  /** Hardware has forgotten all that it knew: tables that are linked no longer go back to the pool. */
  release(): void {
    this.stale = false
    for (const table of this.#retired.splice(0)) {
      this.#pool.release(table, this.#idmap.geometry.granule)
      this.#idmap.state.tables--
    }
  }

  /** The table of ours at `table`, which maps from `base` on: the entries that have to do with `from` to `to`. */
  #fill(host: HostStage2, table: number, level: number, base: number, from: number, to: number): boolean {
    const { geometry, tableMemory } = this.#idmap
    const span = levelSpan(geometry, level)
    const first = Math.max(0, Math.floor((from - base) / span))
    const count = Math.min(this.#entries(level), Math.ceil((to - base) / span)) - first
    if (count <= 0) return true
    const before = new Uint32Array(2 * count)
    if (!tableMemory.read(table + first * PTE_SIZE, before)) return false
    const after = before.slice()
    for (let i = 0; i < count; i++) {
      const start = base + (first + i) * span
      if (this.#decide(host, level, start, span) === OWN_TABLE) {
        const own = this.#own(before[2 * i], before[2 * i + 1], level)
        const child = own === 0 ? this.#newTable() : own
        const [low, high] = own === 0 ? [start, start + span] : [Math.max(from, start), Math.min(to, start + span)]
        if (child > 0 && !this.#fill(host, child, level + 1, start, low, high)) return false
        this.#lo = child > 0 ? ((child % TWO_POW_32) | ARM_LPAE_PTE_TYPE_TABLE) >>> 0 : 0
        this.#hi = child > 0 ? Math.floor(child / TWO_POW_32) : 0
      }
      after[2 * i] = this.#lo
      after[2 * i + 1] = this.#hi
    }
    return this.#store(table + first * PTE_SIZE, before, after) && this.#retireUnlinked(before, after, level)
  }

  /** Stores descriptors that have changed. Each is stored whole, and is right by itself: what it leads to is there. */
  #store(address: number, before: Uint32Array, after: Uint32Array): boolean {
    const differs = (i: number): boolean => before[2 * i] !== after[2 * i] || before[2 * i + 1] !== after[2 * i + 1]
    const count = before.length / 2
    for (let i = 0; i < count; ) {
      if (!differs(i)) {
        i++
        continue
      }
      let end = i
      for (; end < count && differs(end); end++) {
        // Bits 63:48 lead nowhere: software's, and XN.
        const same = before[2 * end] === after[2 * end] && ((before[2 * end + 1] ^ after[2 * end + 1]) & 0xffff) === 0
        if ((before[2 * end] & ARM_LPAE_PTE_VALID) !== 0 && !same) this.stale = true
      }
      const run = after.slice(2 * i, 2 * end)
      if (!this.#idmap.tableMemory.write(address + i * PTE_SIZE, run, end - i)) return false
      i = end
    }
    return true
  }

  #retireUnlinked(before: Uint32Array, after: Uint32Array, level: number): boolean {
    for (let i = 0; i < before.length; i += 2) {
      const own = this.#own(before[i], before[i + 1], level)
      if (own === 0 || own === this.#own(after[i], after[i + 1], level)) continue
      if (!this.#retire(own, level + 1)) return false
    }
    return true
  }

  #entries(level: number): number {
    const { startLevel, rootBytes, tableBits } = this.#idmap.geometry
    return level === startLevel ? rootBytes / PTE_SIZE : 2 ** tableBits
  }

  /** Address of the table of ours that a descriptor leads to, or 0. */
  #own(lo: number, hi: number, level: number): number {
    if (!isTable(lo, level)) return 0
    const address = tableAddress(lo, hi)
    const { base, size } = this.#carveout
    return address >= base && address < base + size ? address : 0
  }

  /** @returns address of an empty table, 0 when there is none */
  #newTable(): number {
    const table = this.#pool.allocate(this.#idmap.geometry.granule)
    if (table === ENOMEM) return 0
    this.#idmap.state.tables++
    return table
  }

  /** A table of ours is linked no longer, nor is what is below it. */
  #retire(table: number, level: number): boolean {
    this.#retired.push(table)
    if (level === LAST_LEVEL) return true
    for (let i = 0; i < this.#entries(level); i++) {
      const entry = this.#idmap.tableMemory.entry(table + i * PTE_SIZE)
      if (entry === undefined) return false
      const own = this.#own(entry[0], entry[1], level)
      if (own !== 0 && !this.#retire(own, level + 1)) return false
    }
    return true
  }

  /**
   * What stands for `base` to `base + span`: a table of ours, or the descriptor in `#lo` and `#hi`.
   * @param level of the descriptor
   */
  #decide(host: HostStage2, level: number, base: number, span: number): number {
    const { geometry } = this.#idmap
    this.#lo = 0
    this.#hi = 0
    const hidden = this.#covered(this.#hidden, base, span)
    if (hidden === span) return DESCRIPTOR
    const found = this.#host
    host.lookup(base, level, found)
    // EL2's tables may begin further down than ours.
    if (found.level > level) return OWN_TABLE
    const { lo, hi } = found
    const valid = (lo & ARM_LPAE_PTE_VALID) !== 0
    const zero = lo === 0 && hi === 0
    // An annotation, or nothing that would be mapped.
    if (!valid && !(zero && this.#ahead)) return DESCRIPTOR
    if (hidden > 0) return OWN_TABLE
    if (zero) return this.#map(level, base, span)
    if (isTable(lo, found.level)) {
      if (level < LAST_LEVEL - 1 || (this.#ahead && host.hasZeroes(lo, hi))) return OWN_TABLE
      const next = host.tableOf(lo, hi)
      this.#lo = ((next % TWO_POW_32) | ARM_LPAE_PTE_TYPE_TABLE) >>> 0
      this.#hi = Math.floor(next / TWO_POW_32)
      return DESCRIPTOR
    }
    if (!leafAllowed(geometry, level)) return OWN_TABLE
    // EL2's page or block, or the part of its block that this descriptor is for. It is no part of a contiguous range here.
    const whole = levelSpan(geometry, found.level)
    const target = addressOf((lo & 0xffff_f000) >>> 0, hi & 0xffff)
    const output = target - (target % whole) + (base % whole)
    const type = level === LAST_LEVEL ? ARM_LPAE_PTE_TYPE_PAGE : ARM_LPAE_PTE_TYPE_BLOCK
    this.#lo = ((output % TWO_POW_32) | (lo & 0xffc) | type) >>> 0
    this.#hi = (Math.floor(output / TWO_POW_32) | (hi & 0xffff_0000 & ~ARM_LPAE_PTE_HI_CONT)) >>> 0
    return DESCRIPTOR
  }

  /** What the host owns and has not touched, as EL2 would map it: memory, or devices. */
  #map(level: number, base: number, span: number): number {
    const { geometry } = this.#idmap
    const ram = this.#covered(this.#ram, base, span)
    if (ram > 0 && ram < span) return level === LAST_LEVEL ? DESCRIPTOR : OWN_TABLE
    if (!leafAllowed(geometry, level)) return OWN_TABLE
    const type = level === LAST_LEVEL ? ARM_LPAE_PTE_TYPE_PAGE : ARM_LPAE_PTE_TYPE_BLOCK
    this.#lo = ((base % TWO_POW_32) | (ram > 0 ? LEAF_RAM : LEAF_DEVICE) | type) >>> 0
    this.#hi = Math.floor(base / TWO_POW_32)
    return DESCRIPTOR
  }

  /** Bytes of `base` to `base + span` that lie in ranges, none of which overlaps another. */
  #covered(ranges: readonly Range[], base: number, span: number): number {
    let bytes = 0
    for (const range of ranges) {
      bytes += Math.max(0, Math.min(base + span, range.base + range.size) - Math.max(base, range.base))
    }
    return bytes
  }

  /** Tables of ours but the root, as they are linked; undefined when they cannot be read. */
  tables(): number[] | undefined {
    const tables: number[] = []
    const readable = this.#walk((lo, hi, level) => {
      const own = this.#own(lo, hi, level)
      if (own !== 0) tables.push(own)
    })
    return readable ? tables : undefined
  }

  /**
   * What the tables are made of.
   * @param host absent: EL2 keeps no tables yet
   */
  info(host: HostStage2 | null): SharedInfo {
    let own = 1
    let linked = 0
    let ahead = 0
    const found = this.#host
    this.#walk((lo, hi, level, base) => {
      if ((lo & ARM_LPAE_PTE_VALID) === 0) return
      if (this.#own(lo, hi, level) !== 0) own++
      else if (isTable(lo, level)) linked++
      else if (host !== null) {
        host.lookup(base, level, found)
        if (found.lo === 0 && found.hi === 0) ahead += levelSpan(this.#idmap.geometry, level)
      }
    })
    return { own, linked, ahead }
  }

  /** Calls `each` for every descriptor of our tables. @returns false when they cannot be read, or lead into themselves */
  #walk(each: (lo: number, hi: number, level: number, base: number) => void): boolean {
    const { geometry, tableMemory, root } = this.#idmap
    let most = this.#pool.capacity
    const walk = (table: number, level: number, base: number): boolean => {
      if (most-- <= 0) return false
      const span = levelSpan(geometry, level)
      const words = new Uint32Array(2 * this.#entries(level))
      if (!tableMemory.read(table, words)) return false
      for (let i = 0; i < words.length / 2; i++) {
        const lo = words[2 * i]
        const hi = words[2 * i + 1]
        if (lo === 0 && hi === 0) continue
        each(lo, hi, level, base + i * span)
        const own = this.#own(lo, hi, level)
        if (own !== 0 && !walk(own, level + 1, base + i * span)) return false
      }
      return true
    }
    return walk(root, geometry.startLevel, 0)
  }

  /**
   * Where the tables are not what EL2's make them, in words. A hole where a table could not be had is no difference.
   * @param host absent: EL2 keeps no tables yet, and nothing is reached
   * @param limit stops after so many
   */
  verify(host: HostStage2 | null, limit: number): string[] {
    const { geometry, tableMemory, root } = this.#idmap
    const problems: string[] = []
    let most = this.#pool.capacity
    const compare = (table: number, level: number, base: number): void => {
      const span = levelSpan(geometry, level)
      const words = new Uint32Array(2 * this.#entries(level))
      if (most-- <= 0 || !tableMemory.read(table, words)) {
        problems.push(`second stage: the table at 0x${table.toString(16)} cannot be followed`)
        return
      }
      for (let i = 0; i < words.length / 2 && problems.length < limit; i++) {
        const lo = words[2 * i]
        const hi = words[2 * i + 1]
        const start = base + i * span
        const own = this.#own(lo, hi, level)
        if (host === null) this.#lo = this.#hi = 0
        else if (this.#decide(host, level, start, span) === OWN_TABLE) {
          if (own !== 0) compare(own, level + 1, start)
          if (own !== 0 || (lo === 0 && hi === 0)) continue
        }
        if (lo === this.#lo && hi === this.#hi) continue
        const [is, should] = [hexOf(lo, hi), hexOf(this.#lo, this.#hi)]
        problems.push(`second stage, level ${level}, 0x${start.toString(16)}: ${is} instead of ${should}`)
      }
    }
    compare(root, geometry.startLevel, 0)
    return problems
  }
}

const hexOf = (lo: number, hi: number): string => `0x${((BigInt(hi) << 32n) | BigInt(lo)).toString(16)}`
