// SPDX-License-Identifier: Apache-2.0
import { type FunctionTable, isSuccessor, Symbols } from './symbols.ts'

/** Of a trap, what tells where the kernel is. */
export interface TrapPlace {
  readonly write: boolean
  readonly offset: number
  /** 0: not known. */
  readonly pc: bigint
}

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

  /** A trap. @returns undefined as long as it is not known where the kernel is */
  located(trap: TrapPlace): Symbols | undefined {
    const { pc } = trap
    const [before = pc] = this.#pcs
    if (isSuccessor(trap, pc, before)) this.reset()
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
   * A trap.
   * @param callers return addresses on the stack; asked for only when the PC is not in the function
   * @returns whether one of them is in the function
   */
  within(name: string, trap: TrapPlace, callers: () => readonly bigint[]): boolean {
    const { pc } = trap
    const symbols = this.located(trap)
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
