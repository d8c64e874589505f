// SPDX-License-Identifier: Apache-2.0
/**
 * Memory as a CPU has it whose caches an SMMU does not look into (IDR0.COHACC = 0): what is stored stays in lines of the cache, and reaches
 * everybody else when it is cleaned to the point of coherency. Lines are written back for no other reason, which is the worst that a
 * cache may do to software that forgets one.
 */
import type { GuestMemory } from '../smmu/memory.ts'

/** Bytes of a cache line. */
const LINE = 64

export class CpuCache implements GuestMemory {
  readonly ram: GuestMemory['ram']
  readonly #memory: GuestMemory
  /** Of each range of RAM: what is in the cache, and which lines are dirty. */
  readonly #bytes: readonly Uint8Array[]
  readonly #dirty: readonly Uint8Array[]
  /** Operations, and lines that they were about, dirty or not, since somebody set this to 0. */
  cleans = 0
  cleanedLines = 0

  constructor(memory: GuestMemory) {
    this.#memory = memory
    this.ram = memory.ram
    this.#bytes = memory.ram.map(({ size }) => new Uint8Array(size))
    this.#dirty = memory.ram.map(({ size }) => new Uint8Array(size / LINE))
  }

  /** Range of RAM that holds all of `length` bytes; -1: none. */
  #range(address: number, length: number): number {
    for (let i = 0; i < this.ram.length; i++) {
      const { base, size } = this.ram[i]
      if (address >= base && address + length <= base + size) return i
    }
    return -1
  }

  read(address: number, target: Uint8Array, targetOffset: number, length: number): boolean {
    const range = this.#range(address, length)
    if (range < 0 || !this.#memory.read(address, target, targetOffset, length)) return false
    const [bytes, dirty] = [this.#bytes[range], this.#dirty[range]]
    const at = address - this.ram[range].base
    const last = Math.floor((at + length - 1) / LINE)
    for (let line = Math.floor(at / LINE); line <= last; line++) {
      if (dirty[line] === 0) continue
      const from = Math.max(at, line * LINE)
      target.set(bytes.subarray(from, Math.min(at + length, (line + 1) * LINE)), targetOffset + from - at)
    }
    return true
  }

  write(address: number, source: Uint8Array, sourceOffset: number, length: number): boolean {
    const range = this.#range(address, length)
    if (range < 0) return false
    const [bytes, dirty] = [this.#bytes[range], this.#dirty[range]]
    const { base } = this.ram[range]
    const at = address - base
    const [first, last] = [Math.floor(at / LINE), Math.floor((at + length - 1) / LINE)]
    // What is written in part is fetched before.
    for (const line of [first, last]) {
      if (dirty[line] === 0) this.#memory.read(base + line * LINE, bytes, line * LINE, LINE)
    }
    bytes.set(source.subarray(sourceOffset, sourceOffset + length), at)
    dirty.fill(1, first, last + 1)
    return true
  }

  clean(address: number, length: number): void {
    const range = this.#range(address, length)
    if (range < 0) return
    const [bytes, dirty] = [this.#bytes[range], this.#dirty[range]]
    const { base } = this.ram[range]
    const end = Math.floor((address - base + length - 1) / LINE) + 1
    let line = Math.floor((address - base) / LINE)
    this.cleans++
    this.cleanedLines += end - line
    while (line < end) {
      const from = dirty.indexOf(1, line)
      if (from < 0 || from >= end) return
      const after = dirty.indexOf(0, from)
      line = after < 0 ? end : Math.min(after, end)
      this.#memory.write(base + from * LINE, bytes, from * LINE, (line - from) * LINE)
      dirty.fill(0, from, line)
    }
  }

  /** Power is lost: what was not cleaned is as well. */
  clear(): void {
    for (const lines of this.#dirty) lines.fill(0)
  }
}
