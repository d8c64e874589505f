// SPDX-License-Identifier: Apache-2.0
import type { GuestMemory } from '../../smmu/memory.ts'
import { PTE_SIZE } from '../../smmu/pagetable.ts'

/** Translation tables in memory, in the endianness of the SMMUs. A descriptor is two 32-bit words here, the low one first. */
export class TableMemory {
  readonly #memory: GuestMemory
  readonly #bigEndian: boolean
  readonly #entry = new Uint32Array(2)
  readonly #entryBytes = Buffer.from(this.#entry.buffer)

  constructor(memory: GuestMemory, bigEndian: boolean) {
    this.#memory = memory
    this.#bigEndian = bigEndian
  }

  /** Writes the first `entries` descriptors of `table`. */
  write(address: number, table: Uint32Array, entries: number): boolean {
    const bytes = Buffer.from(table.buffer, 0, PTE_SIZE * entries)
    if (this.#bigEndian) bytes.swap64()
    const written = this.#memory.write(address, bytes, 0, bytes.length)
    if (this.#bigEndian) bytes.swap64()
    this.#memory.clean?.(address, bytes.length)
    return written
  }

  /** Reads as many descriptors as `table` holds. */
  read(address: number, table: Uint32Array): boolean {
    const bytes = Buffer.from(table.buffer)
    const readable = this.#memory.read(address, bytes, 0, bytes.length)
    if (this.#bigEndian) bytes.swap64()
    return readable
  }

  /** One descriptor, good until the next call; undefined when it is not in RAM. */
  entry(address: number): Uint32Array | undefined {
    if (!this.#memory.read(address, this.#entryBytes, 0, PTE_SIZE)) return undefined
    if (this.#bigEndian) this.#entryBytes.swap64()
    return this.#entry
  }

  writeEntry(address: number, lo: number, hi: number): boolean {
    this.#entry[0] = lo
    this.#entry[1] = hi
    return this.write(address, this.#entry, 1)
  }
}
