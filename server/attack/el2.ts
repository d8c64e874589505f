// SPDX-License-Identifier: Apache-2.0
/**
 * An EL2 that keeps a stage 2 for its host, whose tables devices share: on demand, in blocks where it can, as pKVM does, with break-before-make and
 * a TLBI in front of every use of what it broke. It is trusted; what its host asks it for is not, and what its tables are while it is at it is the
 * attacker's choice.
 *
 * A table that it has unlinked is memory again at once: of EL2 or a VM, full of what would lead devices to what they must not reach if hardware
 * took it for a table still.
 */
import type { HostStage2Registers } from '../machine/ports.ts'
import { PAGE_SIZE } from '../oracle/pageMap.ts'
import { TWO_POW_32 } from '../smmu/bits.ts'
import {
  ARM_LPAE_PTE_TYPE_BLOCK,
  ARM_LPAE_PTE_TYPE_MASK,
  ARM_LPAE_PTE_TYPE_PAGE,
  ARM_LPAE_PTE_TYPE_TABLE,
  ARM_LPAE_PTE_VALID,
  PTE_SIZE,
} from '../smmu/pagetable.ts'
import type { AttackMemory, RamRange } from './memory.ts'

const GIB = 2 ** 30
const BLOCK = 2 ** 21
const ENTRIES = 512
/** 4 KiB, 40 bits, two concatenated tables at level 1. */
const VTCR = (64 - 40) | (1 << 6) | (2 << 16)
const INPUT_BITS = 40
const ROOT_PAGES = 2
/** AF, inner shareable, read and write, write-back. */
const ATTRIBUTES = 0x7fc
/** Software's, and XN: ignored, or obeyed, by SMMUs. */
const HIGH = 0x00c0_0000
/** Annotations, as Linux 7.3 has them: of EL2 itself, and of VM 1. */
const OWNER_HIGH = 0x2000_0000
const OF_EL2 = 2
const OF_FIRST_VM = (0x1000 << 4) | 4

/** What comes of what EL2 does. */
export interface El2Watcher {
  /** Behind each store to its tables: others get their turn. */
  stored(address: number): void
  /** It has executed a TLBI, and waits. */
  tlbi(): void
}

export class El2 {
  /** Its memory: tables, and what was one. */
  readonly range: RamRange
  readonly registers: HostStage2Registers
  readonly #memory: AttackMemory
  readonly #watcher: El2Watcher
  /** Where devices must not get to. */
  readonly #lures: readonly number[]
  readonly #watched = new Set<number>()
  readonly #stored = new Set<number>()
  #next = 0
  readonly #free: number[] = []
  /** Unlinked without a TLBI: not used again before it has left. */
  readonly #limbo: number[] = []
  /** Since the hypervisor last looked: something was mapped, or broken without a TLBI. */
  unclear = false

  constructor(memory: AttackMemory, range: RamRange, lures: readonly number[], watcher: El2Watcher) {
    this.range = range
    this.#memory = memory
    this.#lures = lures
    this.#watcher = watcher
    this.registers = {
      ...{ vttbrLo: ((range.base % TWO_POW_32) | 1) >>> 0, vttbrHi: Math.floor(range.base / TWO_POW_32) },
      ...{ vtcrLo: VTCR, vtcrHi: 0 },
    }
  }

  /** Its host has nothing mapped, and it keeps its own memory. Nobody is told. */
  begin(): void {
    const { base, size } = this.range
    this.disconnected()
    this.#stored.clear()
    this.#free.length = 0
    this.#limbo.length = 0
    this.#next = base + ROOT_PAGES * PAGE_SIZE
    for (let page = base; page < base + size; page += PAGE_SIZE) this.#memory.fillPage(page, 0)
    for (let page = base; page < base + size; page += PAGE_SIZE) {
      const entry = this.#level3(page, true)
      if (entry !== 0) this.#set(entry, OF_EL2, OWNER_HIGH)
    }
    this.unclear = false
  }

  /** Who watches is gone. */
  disconnected(): void {
    this.#watched.clear()
  }

  watch(page: number, on: boolean): boolean {
    if (on) this.#watched.add(page)
    else this.#watched.delete(page)
    return true
  }

  /** Watched pages that were stored to since the last call: the hypervisor looks at them now. */
  look(): number[] {
    const pages = [...this.#stored].filter(page => this.#watched.has(page))
    this.#stored.clear()
    this.unclear = false
    return pages
  }

  /** It has left: what it broke without a TLBI can be used again. */
  left(): void {
    for (const table of this.#limbo.splice(0)) this.#release(table)
  }

  // What the host brings about.

  /** The host's CPU touches an address. */
  touch(address: number): void {
    if (address >= 2 ** INPUT_BITS) return
    const entry = this.#level2(address, true)
    if (entry === 0) return
    const level3 = this.#level3(address, false)
    const [at, span, type] =
      level3 === 0
        ? ([entry, BLOCK, ARM_LPAE_PTE_TYPE_BLOCK] as const)
        : ([level3, PAGE_SIZE, ARM_LPAE_PTE_TYPE_PAGE] as const)
    if (!this.#isZero(at)) return
    this.unclear = true
    const target = address - (address % span)
    this.#store(at, ((target % TWO_POW_32) | ATTRIBUTES | type) >>> 0, Math.floor(target / TWO_POW_32) | HIGH)
  }

  /**
   * A page is a VM's from now on. What else a block mapped has to be touched again.
   * @param tlbi false: it executes none
   * @returns false when it is not the host's, or there is no memory for a table
   */
  take(page: number, vm: number, tlbi: boolean): boolean {
    if (page >= 2 ** INPUT_BITS || this.owner(page) !== 0) return false
    const entry = this.#level2(page, true)
    if (entry === 0) return false
    const [lo, hi] = [OF_FIRST_VM + ((vm - 1) << 4), OWNER_HIGH]
    if (this.#level3(page, false) !== 0) {
      const level3 = this.#level3(page, false)
      if (this.#isValid(level3)) this.#break(level3, tlbi)
      this.#store(level3, lo, hi)
      return true
    }
    const table = this.#newTable()
    if (table === 0) return false
    if (this.#isValid(entry)) this.#break(entry, tlbi)
    this.#set(table + PTE_SIZE * (Math.floor(page / PAGE_SIZE) % ENTRIES), lo, hi)
    this.#link(entry, table)
    return true
  }

  /** A page that a VM had is the host's again. */
  give(page: number): void {
    const entry = this.owner(page) > 0 ? this.#level3(page, false) : 0
    if (entry !== 0) this.#store(entry, 0, 0)
  }

  /** What a last-level table maps becomes a block, or nothing, if all of it is the host's. */
  merge(address: number, block: boolean, tlbi: boolean): void {
    if (address >= 2 ** INPUT_BITS) return
    const entry = this.#level2(address, false)
    const table = entry === 0 ? 0 : this.#tableOf(entry)
    if (table === 0 || this.#keeps(table)) return
    this.#break(entry, tlbi)
    this.#unlinked(table, tlbi)
    if (block) this.touch(address)
  }

  /** Nothing of a GiB is mapped any more, if all of it is the host's: two levels of tables are memory again. */
  unmap(address: number, tlbi: boolean): void {
    if (address >= 2 ** INPUT_BITS) return
    const entry = this.#level1(address)
    const table = this.#tableOf(entry)
    if (table === 0) return
    const below: number[] = []
    for (let i = 0; i < ENTRIES; i++) {
      const last = this.#tableOf(table + i * PTE_SIZE)
      if (last === 0) continue
      if (this.#keeps(last)) return
      below.push(last)
    }
    this.#break(entry, tlbi)
    for (const each of [table, ...below]) this.#unlinked(each, tlbi)
  }

  /** Whose a page is: 0 the host's, -1 EL2's, or a VM's. */
  owner(page: number): number {
    const entry = this.#level3(page, false)
    const lo = entry === 0 ? 0 : this.#memory.word(entry)
    if ((lo & ARM_LPAE_PTE_VALID) !== 0 || lo === 0) return 0
    return lo === OF_EL2 ? -1 : ((lo - OF_FIRST_VM) >>> 4) + 1
  }

  // Tables.

  #level1(address: number): number {
    return this.range.base + PTE_SIZE * Math.floor(address / GIB)
  }

  /** Address of a descriptor of level 2; 0: there is no table, nor memory for one. */
  #level2(address: number, make: boolean): number {
    const entry = this.#level1(address)
    let table = this.#tableOf(entry)
    if (table === 0 && make) {
      table = this.#newTable()
      if (table !== 0) this.#link(entry, table)
    }
    return table === 0 ? 0 : table + PTE_SIZE * (Math.floor(address / BLOCK) % ENTRIES)
  }

  #level3(address: number, make: boolean): number {
    if (address >= 2 ** INPUT_BITS) return 0
    const entry = this.#level2(address, make)
    if (entry === 0) return 0
    let table = this.#tableOf(entry)
    if (table === 0 && make) {
      table = this.#newTable()
      if (table !== 0) this.#link(entry, table)
    }
    return table === 0 ? 0 : table + PTE_SIZE * (Math.floor(address / PAGE_SIZE) % ENTRIES)
  }

  /** Table that a descriptor of level 1 or 2 leads to; 0: none. */
  #tableOf(entry: number): number {
    const lo = this.#memory.word(entry)
    if ((lo & ARM_LPAE_PTE_TYPE_MASK) !== ARM_LPAE_PTE_TYPE_TABLE) return 0
    return (this.#memory.word(entry + 4) & 0xffff) * TWO_POW_32 + ((lo & -PAGE_SIZE) >>> 0)
  }

  #isZero(entry: number): boolean {
    return this.#memory.word(entry) === 0 && this.#memory.word(entry + 4) === 0
  }

  #isValid(entry: number): boolean {
    return (this.#memory.word(entry) & ARM_LPAE_PTE_VALID) !== 0
  }

  /** Whether a last-level table has annotations. */
  #keeps(table: number): boolean {
    for (let at = table; at < table + PAGE_SIZE; at += PTE_SIZE)
      if (!this.#isZero(at) && !this.#isValid(at)) return true
    return false
  }

  #newTable(): number {
    const { base, size } = this.range
    const table = this.#free.pop() ?? (this.#next < base + size ? this.#next : 0)
    if (table === 0) return 0
    if (table === this.#next) this.#next += PAGE_SIZE
    this.#memory.fillPage(table, 0)
    this.#stored.add(table)
    return table
  }

  #link(entry: number, table: number): void {
    const lo = ((table % TWO_POW_32) | ARM_LPAE_PTE_TYPE_TABLE) >>> 0
    this.#store(entry, lo, Math.floor(table / TWO_POW_32))
  }

  #unlinked(table: number, tlbi: boolean): void {
    if (tlbi) this.#release(table)
    else this.#limbo.push(table)
  }

  /** It is memory again, and full of what leads to others. */
  #release(table: number): void {
    this.#free.push(table)
    for (let i = 0; i < ENTRIES; i++) {
      const target = this.#lures[i % this.#lures.length] ?? 0
      const lo = ((target % TWO_POW_32) | ATTRIBUTES | ARM_LPAE_PTE_TYPE_PAGE) >>> 0
      this.#set(table + i * PTE_SIZE, lo, Math.floor(target / TWO_POW_32))
    }
    this.#stored.add(table)
    this.#watcher.stored(table)
  }

  /** Break-before-make. */
  #break(entry: number, tlbi: boolean): void {
    this.#store(entry, 0, 0)
    if (tlbi) this.#watcher.tlbi()
    else this.unclear = true
  }

  /** A descriptor, as one. */
  #set(entry: number, lo: number, hi: number): void {
    this.#memory.setWord(entry, lo)
    this.#memory.setWord(entry + 4, hi >>> 0)
    this.#stored.add(entry - (entry % PAGE_SIZE))
  }

  #store(entry: number, lo: number, hi: number): void {
    this.#set(entry, lo, hi)
    this.#watcher.stored(entry)
  }
}
