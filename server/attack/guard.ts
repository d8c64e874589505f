// SPDX-License-Identifier: Apache-2.0
/** The CPU's guard of an attacked machine: pages that vCPUs cannot reach. */
import type { CpuGuard } from '../machine/ports.ts'
import { PAGE_SIZE } from './memory.ts'

export class PageGuard implements CpuGuard {
  readonly #pages = new Set<number>()

  get size(): number {
    return this.#pages.size
  }

  has(page: number): boolean {
    return this.#pages.has(page)
  }

  add(base: number, size: number): boolean {
    for (let page = base; page < base + size; page += PAGE_SIZE) this.#pages.add(page)
    return true
  }

  remove(base: number, size: number): boolean {
    for (let page = base; page < base + size; page += PAGE_SIZE) this.#pages.delete(page)
    return true
  }

  clear(): void {
    this.#pages.clear()
  }
}
