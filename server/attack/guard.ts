// SPDX-License-Identifier: Apache-2.0
/** The CPU's guard of an attacked machine: pages that vCPUs cannot reach. */
import type { CpuGuard } from '../machine/ports.ts'
import { PAGE_SIZE, type RamRange } from './memory.ts'

export class PageGuard implements CpuGuard {
  readonly #ram: readonly RamRange[]
  /** By range of RAM and page: 1 where it is guarded. */
  readonly pages: readonly Uint8Array[]

  constructor(ram: readonly RamRange[]) {
    this.#ram = ram
    this.pages = ram.map(({ size }) => new Uint8Array(size / PAGE_SIZE))
  }

  /** Whether the page that holds `address` is guarded. */
  has(address: number): boolean {
    for (let i = 0; i < this.#ram.length; i++) {
      const { base, size } = this.#ram[i]
      const offset = address - base
      if (offset >= 0 && offset < size) return this.pages[i][Math.floor(offset / PAGE_SIZE)] === 1
    }
    return false
  }

  add(base: number, size: number): boolean {
    return this.#set(base, size, 1)
  }

  remove(base: number, size: number): boolean {
    return this.#set(base, size, 0)
  }

  /** Refused unless all of the range is RAM. */
  #set(base: number, size: number, guarded: 0 | 1): boolean {
    for (const [i, range] of this.#ram.entries()) {
      const offset = base - range.base
      if (offset < 0 || offset + size > range.size) continue
      this.pages[i].fill(guarded, offset / PAGE_SIZE, (offset + size) / PAGE_SIZE)
      return true
    }
    return false
  }
}
