// SPDX-License-Identifier: Apache-2.0
/** Pages that vCPUs cannot reach. */
import type { CpuGuard } from '../machine/ports.ts'
import type { GuestMemory } from '../smmu/memory.ts'
import { PAGE_SIZE } from './pageMap.ts'

export class PageGuard implements CpuGuard {
  readonly #ram: GuestMemory['ram']
  /** By range of RAM and page: 1 where it is guarded. */
  readonly pages: readonly Uint8Array[]

  constructor(ram: GuestMemory['ram']) {
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

  clear(): void {
    for (const pages of this.pages) pages.fill(0)
  }

  /** Addresses of the pages that are guarded. */
  *list(): Generator<number> {
    for (const [i, { base }] of this.#ram.entries()) {
      for (const [page, guarded] of this.pages[i].entries()) if (guarded === 1) yield base + page * PAGE_SIZE
    }
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
