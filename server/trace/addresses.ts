// SPDX-License-Identifier: Apache-2.0
/**
 * Guest physical addresses of two runs of the same guest. Its kernel takes its pages where it finds some, so that the same queue or
 * table lies elsewhere in each run.
 *
 * The rule: in the first run a page of RAM outside of the carve-out stands for one page of the second, and the other way round,
 * from the first decision that has both until the machine is reset. Where that is broken the runs differ. Offsets in the page
 * count; in the carve-out, which the hypervisor lays out, the distance from its start counts; all else counts as it is.
 */
import type { MachineDescription } from './format.ts'

const PAGE = 4096
/** Address bits of a descriptor, an STE's or a command's 64-bit word. */
const WORD_ADDRESS = 0x000f_ffff_ffff_f000n

/** Addresses of one run, in a form that two runs can be compared by. */
export class Addresses {
  readonly #machine: Pick<MachineDescription, 'carveout' | 'ram'>

  constructor(machine: Pick<MachineDescription, 'carveout' | 'ram'>) {
    this.#machine = machine
  }

  /** @param pages gets the number of the page, if it is one that differs by run */
  name(address: number, pages: number[]): string {
    const { carveout, ram } = this.#machine
    const inside = ({ base, size }: { readonly base: number; readonly size: number }) =>
      address >= base && address < base + size
    if (inside(carveout)) return `carveout+${address - carveout.base}`
    if (!ram.some(inside)) return String(address)
    pages.push(Math.floor(address / PAGE))
    return `page+${address % PAGE}`
  }

  /**
   * Bytes of tables, queues and the like: what could be the address of a page that differs by run is left out of each
   * 64-bit word. Which page it is is not compared: it may as well be a number that looks like one.
   */
  words(bytes: Uint8Array): string {
    const copy = Buffer.from(bytes)
    for (let at = 0; at + 8 <= copy.length; at += 8) {
      const word = copy.readBigUInt64LE(at)
      if (this.name(Number(word & WORD_ADDRESS), []).startsWith('page')) copy.writeBigUInt64LE(word & ~WORD_ADDRESS, at)
    }
    return copy.toString('latin1')
  }
}

/** Which pages of the two runs are the same. */
export class SamePages {
  readonly #there = new Map<number, number>()
  readonly #back = new Map<number, number>()

  /** A reset machine begins anew. */
  forget(): void {
    this.#there.clear()
    this.#back.clear()
  }

  /**
   * @param a pages of a decision of the first run @param b of the same decision of the second
   * @returns whether that fits what is known; it is known from here on
   */
  match(a: readonly number[], b: readonly number[]): boolean {
    let fits = a.length === b.length
    for (const [i, page] of a.entries()) {
      const other = b[i]
      if (other === undefined) break
      const [was, from] = [this.#there.get(page), this.#back.get(other)]
      if ((was ?? other) !== other || (from ?? page) !== page) fits = false
      if (was !== undefined) this.#back.delete(was)
      if (from !== undefined) this.#there.delete(from)
      this.#there.set(page, other)
      this.#back.set(other, page)
    }
    return fits
  }
}
