// SPDX-License-Identifier: Apache-2.0
/**
 * The stage 2 that a real EL2 keeps for its host, followed from its tables in RAM (server/hypervisor/README.md, section 17).
 *
 * A valid descriptor: the host reaches it. Zero: the host owns it and has not touched it. Invalid and not zero: an owner's
 * annotation, so not the host's. That is all that decides what devices may reach; what the annotation says further differs
 * between kernels and is only shown. A descriptor that Linux has locked, to break it before it makes another, counts as zero: whose the page
 * will be is not said yet, and EL2 has not left.
 *
 * Tables are kept as copies, 4 KiB at a time whatever the granule is, since stores are told by the page. A page is watched
 * before it is read: what is stored later is told later.
 */
import type { HostStage2Registers } from '../../machine/ports.ts'
import type { GuestMemory } from '../../smmu/memory.ts'
import { concatenatedTables, LAST_LEVEL, levelShift, PTE_SIZE, startTableBytes } from '../../smmu/pagetable.ts'

const PAGE = 4096
const DESCRIPTORS = PAGE / PTE_SIZE
/** Pages of tables that are followed at most: tables of 64 GiB in pages. */
const MAX_PAGES = 65536
const TWO_POW_32 = 2 ** 32
/** Bits of the largest intermediate physical address. */
const MAX_INPUT_BITS = 52

/** Where a walk begins, by VTTBR_EL2 and VTCR_EL2 (DDI 0487, D8.2 and D24.2). */
export interface HostStage2Geometry {
  readonly granuleShift: number
  /** -1 to 3. */
  readonly startLevel: number
  readonly inputBits: number
  /** Address of the start level's table, or of the first of several concatenated ones. */
  readonly root: number
  /** Bytes of the start level. */
  readonly rootBytes: number
  /** Descriptors have output bits 51:50 in bits 9:8 (VTCR_EL2.DS). */
  readonly lpa2: boolean
  /** Table addresses have bits 51:48 (64 KiB granule). */
  readonly wide: boolean
}

/** @returns what the registers say, or why they describe no tables, in words. */
export function hostStage2Geometry(registers: HostStage2Registers): HostStage2Geometry | string {
  const { vttbrLo, vttbrHi, vtcrLo, vtcrHi } = registers
  const inputBits = 64 - (vtcrLo & 0x3f)
  const sl0 = (vtcrLo >>> 6) & 3
  const granuleShift = [12, 16, 14, 0][(vtcrLo >>> 14) & 3] ?? 0
  const ps = (vtcrLo >>> 16) & 7
  const lpa2 = (vtcrHi & 1) !== 0 && granuleShift !== 16
  const sl2 = (vtcrHi & 2) !== 0
  if (granuleShift === 0) return 'VTCR_EL2.TG0 is reserved'
  const startLevel =
    granuleShift === 12 ? (lpa2 && sl2 ? (sl0 === 0 ? -1 : Number.NaN) : sl0 === 3 ? 3 : 2 - sl0) : 3 - sl0
  if (Number.isNaN(startLevel) || (granuleShift === 16 && sl0 === 3)) return 'VTCR_EL2.SL0 is reserved'
  const resolved = levelShift(startLevel, granuleShift)
  const tables = concatenatedTables(inputBits, startLevel, granuleShift)
  if (inputBits <= resolved || inputBits > MAX_INPUT_BITS || tables > 16) {
    return `VTCR_EL2.T0SZ of ${64 - inputBits} does not fit a start at level ${startLevel}`
  }
  const wide = granuleShift === 16 && ps === 6
  const rootBytes = startTableBytes(inputBits, startLevel, granuleShift)
  const top = lpa2 || wide ? ((vttbrLo >>> 2) & 0xf) * 2 ** 48 : 0
  const base = (vttbrHi & 0xffff) * TWO_POW_32 + ((vttbrLo & ~(lpa2 || wide ? 0x3f : 1)) >>> 0) + top
  const root = base - (base % Math.max(64, rootBytes))
  return { granuleShift, startLevel, inputBits, root, rootBytes, lpa2, wide }
}

/** Whose a page is that is not the host's, as Linux 7.3 writes it; other layouts are EL2's as far as can be said. */
export interface Annotation {
  /** 0: EL2 itself. */
  readonly vm: number
}

/** pKVM's first handle of a VM. */
const FIRST_HANDLE = 0x1000
const TYPE_DONATION = 2
const OWNER_GUEST = 2

/** @param lo, hi halves of a descriptor that is invalid and not zero */
export function annotationOf(lo: number, hi: number): Annotation {
  const handle = (lo >>> 4) & 0xffff
  if (hi >>> 28 !== TYPE_DONATION || ((lo >>> 1) & 7) !== OWNER_GUEST || handle < FIRST_HANDLE) return { vm: 0 }
  return { vm: handle - FIRST_HANDLE + 1 }
}

/** Pages that changed hands. Bytes; `vm` as in an annotation, -1: the host's. */
export interface OwnerChange {
  base: number
  size: number
  vm: number
}

/** How stores to pages are watched. @returns false when a page cannot be. */
export type WatchPage = (page: number, on: boolean) => boolean

/** 4 KiB of a table. */
interface TablePage {
  readonly address: number
  readonly level: number
  /** What the first descriptor maps. */
  readonly ipa: number
  readonly words: Uint32Array
  /** Descriptors that are zero: the host's pages that it has not touched. */
  zeroes: number
  /** Descriptors that are annotations. */
  annotations: number
}

/** What EL2's tables say of an address. */
export interface HostDescriptor {
  lo: number
  hi: number
  /** Of the descriptor. */
  level: number
}

/** Addresses, bytes; `to` is not among them. */
export interface AddressRange {
  readonly from: number
  readonly to: number
}

/** Linux is at break-before-make: type 1 in bits 63:60 as of 7.3, bit 10 before (KVM_INVALID_PTE_TYPE_LOCKED, KVM_INVALID_PTE_LOCKED). */
const isLocked = (lo: number, hi: number): boolean => (lo === 0 && hi === 0x1000_0000) || (lo === 0x400 && hi === 0)
const isAnnotation = (lo: number, hi: number): boolean => (lo & 1) === 0 && (lo !== 0 || hi !== 0)
/** MemAttr of what is write-back whatever stage 1 says, with HCR_EL2.FWB (DDI 0487 D8.6); without, nothing that Linux writes. */
const MEMATTR_FORCED = 6
const memAttr = (lo: number): number => (lo >>> 2) & 0xf

/** Tables that cannot be followed: RAM that cannot be read, or too many of them. */
export class HostStage2Error extends Error {
  override readonly name = 'HostStage2Error'
}

export class HostStage2 {
  readonly #memory: GuestMemory
  readonly #watch: WatchPage
  readonly #pages = new Map<number, TablePage>()
  readonly #fresh = new Uint32Array(PAGE / 4)
  readonly #bytes = new Uint8Array(this.#fresh.buffer)
  #geometry: HostStage2Geometry | undefined
  #changes: OwnerChange[] = []
  /** Pages of tables that may still be read: tables that lead to each other must not be walked for ever. */
  #budget = 0
  #touched: { from: number; to: number }[] = []
  /**
   * Something was taken from the host between the last two readings, or may have been though it is as it was: a descriptor that was valid is another
   * one, in a page of tables that was read there are annotations, or a table is gone. What comes and goes between two readings is not seen.
   */
  mayHaveTaken = false
  /** Descriptors have the attributes that HCR_EL2.FWB gives them. */
  forcesWriteBack = false

  constructor(memory: GuestMemory, watch: WatchPage) {
    this.#memory = memory
    this.#watch = watch
  }

  get geometry(): HostStage2Geometry | undefined {
    return this.#geometry
  }

  /** Addresses about which the descriptors that changed at the last reading decide. */
  get touched(): readonly AddressRange[] {
    return this.#touched
  }

  /** Pages of tables that are watched. */
  get tablePages(): number {
    return this.#pages.size
  }

  /** The machine was reset, or QEMU watches nothing any more. */
  forget(): void {
    this.#pages.clear()
    this.#geometry = undefined
  }

  /**
   * What EL2 has for an address, as it was read last: the descriptor at `deepest`, or one above it that decides already. What lies beyond the tables is
   * not the host's.
   * @param deepest 0 to 3
   */
  lookup(address: number, deepest: number, into: HostDescriptor): void {
    const geometry = this.#geometry
    into.lo = 2
    into.hi = 0
    into.level = deepest
    if (geometry === undefined || address >= 2 ** geometry.inputBits) return
    const { granuleShift, startLevel, root } = geometry
    let table = root
    for (let level = startLevel; ; level++) {
      const index = Math.floor(address / 2 ** levelShift(level, granuleShift))
      const at = PTE_SIZE * (level === startLevel ? index : index % 2 ** (granuleShift - 3))
      const words = this.#pages.get(table + at - ((table + at) % PAGE))?.words
      // All that is linked was read.
      if (words === undefined) return
      const word = ((table + at) % PAGE) / 4
      into.lo = words[word] ?? 0
      into.hi = words[word + 1] ?? 0
      into.level = level
      if (level >= deepest || !this.#isTable(level, into.lo)) return
      table = this.#tableAddress(into.lo, into.hi)
    }
  }

  /** Whether the host has not touched a part of what a last-level table maps. @param lo, hi of the descriptor that leads to it */
  hasZeroes(lo: number, hi: number): boolean {
    const address = this.#tableAddress(lo, hi)
    for (let at = address; at < address + 2 ** this.#known.granuleShift; at += PAGE) {
      const page = this.#pages.get(at)
      if (page === undefined || page.zeroes > 0) return true
    }
    return false
  }

  /** Address of the table that a descriptor leads to. */
  tableOf(lo: number, hi: number): number {
    return this.#tableAddress(lo, hi)
  }

  /**
   * Reads everything, from the root on.
   * @returns each range that the tables tell of; what they do not tell of is the host's.
   * @throws HostStage2Error
   */
  readAll(registers: HostStage2Registers): OwnerChange[] {
    const geometry = hostStage2Geometry(registers)
    if (typeof geometry === 'string') throw new HostStage2Error(geometry)
    for (const page of this.#pages.keys()) this.#watch(page, false)
    this.#pages.clear()
    this.#geometry = geometry
    this.#budget = MAX_PAGES
    // Also what former tables translated and these do not.
    this.#touched = [{ from: 0, to: 2 ** MAX_INPUT_BITS }]
    this.mayHaveTaken = true
    this.#addTable(geometry.root, geometry.rootBytes, geometry.startLevel, 0)
    return this.#take()
  }

  /**
   * Reads pages again.
   * @param pages addresses; those that hold no table any more are passed over
   * @returns the ranges whose descriptors changed, whether or not their owner did
   * @throws HostStage2Error
   */
  readPages(pages: readonly number[]): OwnerChange[] {
    this.#budget = MAX_PAGES - this.#pages.size
    this.#touched = []
    this.mayHaveTaken = false
    for (const address of pages) {
      const page = this.#pages.get(address)
      if (page === undefined) continue
      this.#reread(page)
      if (page.annotations > 0) this.mayHaveTaken = true
    }
    return this.#take()
  }

  #take(): OwnerChange[] {
    const changes = this.#changes
    this.#changes = []
    return changes
  }

  #addTable(address: number, bytes: number, level: number, ipa: number): void {
    const { granuleShift } = this.#known
    const step = DESCRIPTORS * 2 ** levelShift(level, granuleShift)
    const start = address - (address % PAGE)
    for (let i = 0; start + i * PAGE < address + bytes; i++) this.#addPage(start + i * PAGE, level, ipa + i * step)
  }

  #addPage(address: number, level: number, ipa: number): void {
    if (this.#budget-- <= 0) throw new HostStage2Error(`EL2's tables have more than ${MAX_PAGES} pages`)
    const known = this.#pages.get(address)
    if (known !== undefined && (known.level !== level || known.ipa !== ipa)) this.#drop(known)
    const page: TablePage = { address, level, ipa, words: new Uint32Array(PAGE / 4), zeroes: 0, annotations: 0 }
    this.#pages.set(address, page)
    if (!this.#watch(address, true)) {
      throw new HostStage2Error(`EL2's table at 0x${address.toString(16)} cannot be watched`)
    }
    this.#read(address)
    const fresh = this.#fresh.slice()
    page.words.set(fresh)
    this.#count(page)
    // What stood in its place may have been a block that mapped what is annotated now.
    if (page.annotations > 0) this.mayHaveTaken = true
    for (let i = 0; i < DESCRIPTORS; i++) this.#evaluate(page, i, fresh[2 * i] ?? 0, fresh[2 * i + 1] ?? 0)
  }

  #reread(page: TablePage): void {
    this.#read(page.address)
    const fresh = this.#fresh.slice()
    const { words } = page
    for (let i = 0; i < DESCRIPTORS; i++) {
      const lo = fresh[2 * i] ?? 0
      const hi = fresh[2 * i + 1] ?? 0
      const oldLo = words[2 * i] ?? 0
      const oldHi = words[2 * i + 1] ?? 0
      if (lo === oldLo && hi === oldHi) continue
      words[2 * i] = lo
      words[2 * i + 1] = hi
      this.#touch(page, i)
      // Bits 63:48 lead nowhere: software's, and XN.
      if ((oldLo & 1) !== 0 && (lo !== oldLo || ((hi ^ oldHi) & 0xffff) !== 0)) this.mayHaveTaken = true
      if (this.#isTable(page.level, oldLo)) this.#dropTable(page, i, oldLo, oldHi, lo, hi)
      this.#evaluate(page, i, lo, hi)
    }
    this.#count(page)
  }

  #touch({ level, ipa }: TablePage, index: number): void {
    const span = 2 ** levelShift(level, this.#known.granuleShift)
    const from = ipa + index * span
    const last = this.#touched.at(-1)
    if (last?.to === from) last.to += span
    else this.#touched.push({ from, to: from + span })
  }

  #count(page: TablePage): void {
    page.zeroes = 0
    page.annotations = 0
    const { words } = page
    for (let i = 0; i < DESCRIPTORS; i++) {
      const lo = words[2 * i] ?? 0
      const hi = words[2 * i + 1] ?? 0
      if (lo === 0 && hi === 0) page.zeroes++
      else if (isAnnotation(lo, hi)) page.annotations++
    }
  }

  #read(address: number): void {
    if (!this.#memory.read(address, this.#bytes, 0, PAGE)) {
      throw new HostStage2Error(`EL2's table at 0x${address.toString(16)} is not in RAM`)
    }
    const words = this.#fresh
    for (let i = 0; i < words.length; i += 2) if (isLocked(words[i], words[i + 1])) words[i] = words[i + 1] = 0
  }

  #isTable(level: number, lo: number): boolean {
    return level < LAST_LEVEL && (lo & 3) === 3
  }

  #evaluate({ level, ipa }: TablePage, index: number, lo: number, hi: number): void {
    const { granuleShift, inputBits } = this.#known
    const size = 2 ** levelShift(level, granuleShift)
    const base = ipa + index * size
    if (base >= 2 ** inputBits) return
    if (this.#isTable(level, lo)) {
      this.#addTable(this.#tableAddress(lo, hi), 2 ** granuleShift, level + 1, base)
      return
    }
    const annotated = isAnnotation(lo, hi)
    if ((lo & 1) !== 0 && memAttr(lo) === MEMATTR_FORCED) this.forcesWriteBack = true
    const vm = annotated ? annotationOf(lo, hi).vm : -1
    const last = this.#changes.at(-1)
    if (last !== undefined && last.vm === vm && last.base + last.size === base) last.size += size
    else this.#changes.push({ base, size, vm })
  }

  /** A descriptor leads to this table no longer. */
  #dropTable({ level, ipa }: TablePage, index: number, lo: number, hi: number, newLo: number, newHi: number): void {
    const { granuleShift } = this.#known
    const address = this.#tableAddress(lo, hi)
    if (this.#isTable(level, newLo) && this.#tableAddress(newLo, newHi) === address) return
    this.mayHaveTaken = true
    const base = ipa + index * 2 ** levelShift(level, granuleShift)
    const step = DESCRIPTORS * 2 ** levelShift(level + 1, granuleShift)
    for (let i = 0; i * PAGE < 2 ** granuleShift; i++) {
      const child = this.#pages.get(address + i * PAGE)
      // It may be in use elsewhere by now.
      if (child !== undefined && child.level === level + 1 && child.ipa === base + i * step) this.#drop(child)
    }
  }

  #drop(page: TablePage): void {
    this.#pages.delete(page.address)
    this.#watch(page.address, false)
    for (let i = 0; i < DESCRIPTORS; i++) {
      const lo = page.words[2 * i] ?? 0
      if (this.#isTable(page.level, lo)) this.#dropTable(page, i, lo, page.words[2 * i + 1] ?? 0, 0, 0)
    }
  }

  #tableAddress(lo: number, hi: number): number {
    const { granuleShift, lpa2, wide } = this.#known
    const below = lpa2
      ? (hi & 0x3ffff) + ((lo >>> 8) & 3) * 2 ** 18
      : (hi & 0xffff) + (wide ? ((lo >>> 12) & 0xf) * 2 ** 16 : 0)
    return below * TWO_POW_32 + ((lo & -(2 ** granuleShift)) >>> 0)
  }

  get #known(): HostStage2Geometry {
    if (this.#geometry === undefined) throw new HostStage2Error('EL2 keeps no tables for its host yet')
    return this.#geometry
  }
}
