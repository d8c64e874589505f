// SPDX-License-Identifier: Apache-2.0
import { u32At } from '../trace/layout.ts'
import { type FunctionTable, isSuccessor, Symbols } from '../trace/symbols.ts'
import { loadAside } from '../trace/symbolsAside.ts'
import type { LogEntry } from './trapLog.ts'

/** Fewer PCs do not determine the KASLR offset. */
const LEAST_PCS = 8
const MOST_PCS = 64

/** The rows of the trap log between two starts of a kernel, by a reset or by kexec. Each has its own KASLR offset. */
interface Kernel {
  /** First row. */
  readonly from: number
  readonly image: string | undefined
  /** Different PCs of its traps, by their lower half. */
  readonly pcs: Map<number, bigint>
  /** Number of PCs at the last attempt. */
  tried: number
  symbols: Symbols | undefined
  readonly names: Map<bigint, string | undefined>
}

interface Loaded {
  readonly image: string
  table: FunctionTable | undefined
  /** Resolves when it is there. @throws Error when there are no symbols */
  readonly loading: Promise<FunctionTable>
}

/** Kernels that are remembered. */
const MOST_KERNELS = 64

/**
 * The kernel function that made a trap. Nothing is loaded before somebody asks; then the image's symbol table is read on
 * another thread, and how far the kernel was moved (KASLR) is worked out from the first traps.
 */
export class KernelFunctions {
  readonly #kernels: Kernel[] = []
  readonly #load: typeof loadAside
  #image: string | undefined
  #wanted = false
  /** Image whose symbols are loaded, or being loaded. */
  #loaded: Loaded | undefined

  constructor(load = loadAside) {
    this.#load = load
  }

  /** A machine starts. @param image what its functions are read from; undefined: not known. @param row id that its first row gets. */
  machine(image: string | undefined, row: number): void {
    this.#image = image
    this.#begin(row)
    if (this.#wanted) this.want()
  }

  /** Starts loading the symbols. */
  want(): void {
    this.#wanted = true
    const image = this.#image
    if (image === undefined || this.#loaded?.image === image) return
    const loaded: Loaded = { image, table: undefined, loading: this.#load(image) }
    this.#loaded = loaded
    loaded.loading.then(
      table => {
        loaded.table = table
      },
      () => {}, // an image without symbols: there are no names
    )
  }

  /** What the functions of the present machine are read from; undefined: not known. */
  get source(): string | undefined {
    return this.#image
  }

  /** Functions of the present machine. @throws Error when they cannot be read; undefined: it is not known from what */
  async table(): Promise<FunctionTable | undefined> {
    this.want()
    return this.#image === undefined ? undefined : this.#loaded?.loading
  }

  /** How far the present kernel was moved, bytes; undefined: not known, or not yet. @throws Error when there are no symbols */
  async offset(): Promise<bigint | undefined> {
    await this.table()
    const kernel = this.#kernels.at(-1)
    return kernel !== undefined && this.#located(kernel) ? kernel.symbols?.offset : undefined
  }

  /** A finished row. */
  group({ id, layout, words, at }: LogEntry): void {
    if (layout.name === 'reset') return this.#begin(id + 1)
    if (layout.name !== 'trap') return
    const lo = words[at + u32At.trap.pcLo] ?? 0
    const hi = words[at + u32At.trap.pcHi] ?? 0
    if (hi === 0) return
    const pc = (BigInt(hi) << 32n) | BigInt(lo)
    const trap = { write: words[at + u32At.trap.write] !== 0, offset: words[at + u32At.trap.offset] ?? 0 }
    const [before = pc] = this.#kernels.at(-1)?.pcs.values() ?? []
    if (isSuccessor(trap, pc, before)) this.#begin(id)
    const pcs = this.#kernels.at(-1)?.pcs
    if (pcs !== undefined && pcs.size < MOST_PCS && !pcs.has(lo)) pcs.set(lo, pc)
  }

  /** Of the trap in a row; undefined: not known, or not yet. */
  name(row: number, pc: bigint): string | undefined {
    this.want()
    const kernel = this.#kernels.findLast(({ from }) => from <= row)
    if (kernel === undefined || !this.#located(kernel)) return undefined
    const known = kernel.names.get(pc)
    if (known !== undefined || kernel.names.has(pc)) return known
    const name = kernel.symbols?.find(pc)?.name
    if (kernel.names.size < 4096) kernel.names.set(pc, name)
    return name
  }

  /** An address in the kernel of a row: function and distance, or the number. */
  describe(row: number, address: bigint): string {
    this.want()
    const kernel = this.#kernels.findLast(({ from }) => from <= row)
    const symbols = kernel !== undefined && this.#located(kernel) ? kernel.symbols : undefined
    return symbols?.describe(address) ?? `0x${address.toString(16)}`
  }

  #begin(row: number): void {
    if (this.#kernels.at(-1)?.from === row) this.#kernels.pop()
    if (this.#kernels.length >= MOST_KERNELS) this.#kernels.shift()
    this.#kernels.push({
      from: row,
      image: this.#image,
      pcs: new Map(),
      tried: 0,
      symbols: undefined,
      names: new Map(),
    })
  }

  #located(kernel: Kernel): boolean {
    if (kernel.symbols !== undefined) return true
    const { pcs, image } = kernel
    const table = this.#loaded?.image === image ? this.#loaded?.table : undefined
    if (table === undefined || pcs.size < LEAST_PCS || pcs.size === kernel.tried) return false
    kernel.tried = pcs.size
    const symbols = new Symbols(table)
    if (!symbols.locate(new Set(pcs.values()))) return false
    kernel.symbols = symbols
    return true
  }
}
