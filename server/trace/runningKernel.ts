// SPDX-License-Identifier: Apache-2.0
import { type FunctionTable, Symbols } from './symbols.ts'

/** Fewer PCs do not tell where the kernel is. */
const LEAST_PCS = 4
/** So many do, or it is another kernel. */
const MOST_PCS = 64

type Range = readonly [start: bigint, end: bigint]

/** Where the functions of a kernel are that runs: worked out from its first traps, nearly all of which are the SMMU driver's. */
export class RunningKernel {
  #table: FunctionTable | undefined
  #symbols: Symbols | undefined
  readonly #pcs = new Set<bigint>()
  /** Number of PCs at the last attempt. */
  #tried = 0
  readonly #ranges = new Map<string, readonly Range[]>()

  /** What kernel it is. */
  set table(table: FunctionTable) {
    this.#table = table
    this.#symbols = undefined
    this.#tried = 0
    this.#ranges.clear()
  }

  /** It starts again, somewhere else. */
  reset(): void {
    this.#symbols = undefined
    this.#pcs.clear()
    this.#tried = 0
    this.#ranges.clear()
  }

  /** A trap from `pc`; 0: not known. @returns undefined as long as it is not known where the kernel is */
  located(pc: bigint): Symbols | undefined {
    if (this.#symbols !== undefined) return this.#symbols
    const pcs = this.#pcs
    if (pc !== 0n && pcs.size < MOST_PCS) pcs.add(pc)
    if (this.#table === undefined || pcs.size < LEAST_PCS || pcs.size === this.#tried) return undefined
    this.#tried = pcs.size
    const symbols = new Symbols(this.#table)
    if (symbols.locate(pcs)) this.#symbols = symbols
    return this.#symbols
  }

  /**
   * A trap from `pc`.
   * @param callers return addresses on the stack; asked for only when `pc` is not in the function
   * @returns whether one of them is in the function
   */
  within(name: string, pc: bigint, callers: () => readonly bigint[]): boolean {
    const symbols = this.located(pc)
    if (symbols === undefined) return false
    let ranges = this.#ranges.get(name)
    if (ranges === undefined) {
      ranges = symbols.named(name)
      this.#ranges.set(name, ranges)
    }
    if (ranges.length === 0) return false
    if (ranges.some(([start, end]) => pc >= start && pc < end)) return true
    // A call is the last instruction before the address that it returns to, which may be the next function's.
    const found = ranges
    return callers().some(address => found.some(([start, end]) => address > start && address <= end))
  }
}
