// SPDX-License-Identifier: Apache-2.0
import { join } from 'node:path'
import type { GdbSymbols } from '../machine/gdb.ts'
import { ARM_SMMU_IDR0 } from '../smmu/registers.ts'
import { isElfFile } from '../trace/elf.ts'
import { type Layout, u32At } from '../trace/layout.ts'
import type { Sink } from '../trace/pump.ts'
import type { RingReader } from '../trace/ring.ts'
import { RunningKernel } from '../trace/runningKernel.ts'
import { loadAside, writeSymbolFileAside } from '../trace/symbolsAside.ts'

/**
 * Symbols of a kernel that runs, for gdb: a vmlinux as it is, with its types and lines; of anything else the names, in a file that
 * is made.
 * @param source a file of SYMBOL_FILES
 * @param folder where that file goes
 * @throws Error when it cannot be written
 */
export async function gdbSymbols(source: string, offset: bigint, folder: string): Promise<GdbSymbols> {
  if (isElfFile(source)) return { file: source, offset }
  const file = join(folder, `kernel-${BigInt.asUintN(64, offset).toString(16)}.elf`)
  await writeSymbolFileAside(source, file, offset)
  return { file, offset: 0n }
}

/** Tells how far the kernel of a machine was moved, each time that one has started. */
export class KernelPlace implements Sink {
  readonly ready = true
  readonly #kernel = new RunningKernel()
  readonly #told: (offset: bigint) => void
  /** What was told of the present kernel. */
  #known: bigint | undefined

  /**
   * @param source a file of SYMBOL_FILES
   * @param told called with the distance in bytes
   * @param failed called when there are no symbols in it
   */
  constructor(source: string, told: (offset: bigint) => void, failed: (error: Error) => void) {
    this.#told = told
    loadAside(source).then(table => {
      this.#kernel.table = table
    }, failed)
  }

  fromRing({ words }: RingReader, { name }: Layout, at: number): void {
    if (name === 'reset') {
      this.#kernel.reset()
      this.#known = undefined
    }
    if (name !== 'trap') return
    const write = words[at + u32At.trap.write] !== 0
    const offset = words[at + u32At.trap.offset] ?? 0
    if (this.#known !== undefined && (write || offset !== ARM_SMMU_IDR0)) return
    const [lo, hi] = [words[at + u32At.trap.pcLo] ?? 0, words[at + u32At.trap.pcHi] ?? 0]
    const symbols = this.#kernel.located({ write, offset, pc: (BigInt(hi) << 32n) | BigInt(lo) })
    if (symbols?.offset === this.#known) return
    this.#known = symbols?.offset
    if (symbols !== undefined) this.#told(symbols.offset)
  }

  record(): void {}

  flush(): void {}
}
