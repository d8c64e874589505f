// SPDX-License-Identifier: Apache-2.0
/**
 * An EL2 that keeps a stage 2 for its host as pKVM does: on demand, in blocks where it can, with break-before-make. Each store is seen by whoever
 * asks, and the hypervisor is told when it leaves, as QEMU does: of watched pages with stores, and of nothing else.
 */
import type { HostStage2Registers } from '../../../../server/machine/ports.ts'
import { ANNOTATION_EL2, FakeEl2 } from './el2Support.ts'
import { MiB, type TestMemory } from './support.ts'

export const PAGE = 4096
export const BLOCK = 2 * MiB
const GIB = 2 ** 30
/** Valid, read-write, write-back, inner shareable; a software bit, and never executable, as CPUs may have it. */
const LEAF = (1n << 54n) | (1n << 55n) | 0x7fcn
const VALID = 1n
const TABLE = 3n
/** 4 KiB, 40 bits, two concatenated tables at level 1. */
const VTCR = (64 - 40) | (1 << 6) | (2 << 16)

export class HostEl2 extends FakeEl2 {
  readonly #memory: TestMemory
  readonly #base: number
  readonly registers: HostStage2Registers
  #next: number
  readonly #free: number[] = []
  readonly #stored = new Set<number>()
  /** Called behind each store. */
  onStore: () => void = () => {}
  /** Called at each TLBI: behind it, what it broke is nobody's any more, and what it unlinked is memory again. */
  onTlbi: () => void = () => {}

  /** @param base of its memory: tables, and nothing else. It is annotated as its own. */
  constructor(memory: TestMemory, base: number, size: number) {
    super()
    this.#memory = memory
    this.#base = base
    this.#next = base + 2 * PAGE
    const [vttbrLo, vttbrHi] = [((base % 2 ** 32) | 1) >>> 0, Math.floor(base / 2 ** 32)]
    this.registers = { vttbrLo, vttbrHi, vtcrLo: VTCR, vtcrHi: 0 }
    this.now = this.registers
    for (let page = base; page < base + size; page += PAGE) this.take(page, ANNOTATION_EL2)
  }

  /** Watched pages that were stored to since the last call. */
  leave(): number[] {
    const pages = [...this.#stored].filter(page => this.watched.has(page))
    this.#stored.clear()
    return pages
  }

  store(address: number, value: bigint): void {
    this.#memory.poke64(address, value)
    this.#stored.add(address - (address % PAGE))
    this.onStore()
  }

  #newTable(): number {
    const table = this.#free.pop() ?? this.#next
    if (table === this.#next) this.#next += PAGE
    this.#memory.poke(table, new Uint8Array(PAGE))
    // It may be watched still, of a use before.
    this.#stored.add(table)
    return table
  }

  /** Address of the level 1 descriptor. */
  level1(address: number): number {
    return this.#base + 8 * Math.floor(address / GIB)
  }

  /** Address of the level 2 descriptor, in a table that is made where there is none. */
  level2(address: number): number {
    const entry = this.level1(address)
    const found = this.#memory.peek64(entry)
    const table = found === 0n ? this.#newTable() : Number(found & 0xffff_ffff_f000n)
    if (found === 0n) this.store(entry, BigInt(table) | TABLE)
    return table + 8 * (Math.floor(address / BLOCK) % 512)
  }

  /** Address of the level 3 descriptor, or 0. */
  #level3(address: number): number {
    const found = this.#memory.peek64(this.level2(address))
    return (found & 3n) === TABLE ? Number(found & 0xffff_ffff_f000n) + 8 * (Math.floor(address / PAGE) % 512) : 0
  }

  /** What decides about an address: a descriptor, 0n where there is none. */
  descriptor(address: number): bigint {
    const first = this.#memory.peek64(this.level1(address))
    if ((first & 3n) !== TABLE) return first
    const level3 = this.#level3(address)
    return this.#memory.peek64(level3 === 0 ? this.level2(address) : level3)
  }

  /** The host's CPU touches an address. @returns whether EL2 lets it */
  touch(address: number): boolean {
    const found = this.descriptor(address)
    if (found !== 0n) return (found & VALID) !== 0n
    const level3 = this.#level3(address)
    if (level3 !== 0) this.store(level3, BigInt(address - (address % PAGE)) | LEAF | 3n)
    else this.store(this.level2(address), BigInt(address - (address % BLOCK)) | LEAF | VALID)
    return true
  }

  /** A page is EL2's or a VM's from now on. What else a block mapped has to be touched again. */
  take(address: number, annotation: bigint): void {
    const entry = this.level2(address)
    const found = this.#memory.peek64(entry)
    if ((found & 3n) !== TABLE) {
      const table = this.#newTable()
      if (found !== 0n) this.#break(entry)
      this.#memory.poke64(table + 8 * (Math.floor(address / PAGE) % 512), annotation)
      this.store(entry, BigInt(table) | TABLE)
      return
    }
    const level3 = this.#level3(address)
    if ((this.#memory.peek64(level3) & VALID) !== 0n) this.#break(level3)
    this.store(level3, annotation)
  }

  /** The page is the host's again. */
  give(address: number): void {
    this.store(this.#level3(address), 0n)
  }

  /** What lies in a block is the host's altogether: a block. The table's memory is used for another one before EL2 leaves. */
  merge(address: number): void {
    const entry = this.level2(address)
    const found = this.#memory.peek64(entry)
    if ((found & 3n) !== TABLE) return
    const table = Number(found & 0xffff_ffff_f000n)
    const words = this.#memory.peekWords(table, 512)
    if (words.some(word => word !== 0n && (word & VALID) === 0n)) return
    this.#break(entry)
    this.store(entry, BigInt(address - (address % BLOCK)) | LEAF | VALID)
    this.#free.push(table)
  }

  /** Break-before-make: what was valid is not, and no CPU has it cached. */
  #break(entry: number): void {
    this.store(entry, 0n)
    this.onTlbi()
  }
}
