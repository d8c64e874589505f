// SPDX-License-Identifier: Apache-2.0
import { Buffer } from 'node:buffer'
import type { GuestMemory } from '../smmu/memory.ts'
import { type FileRange, positionIn } from './fileMemory.ts'

/**
 * Guest RAM as memory of this process: for a file that cannot shrink, as looking at what is gone would end the process. Everything
 * is copied once, out of or into RAM, before it is used: the guest may be changing it at the same time. The C library's memmove(3)
 * copies, which reads and writes each aligned 8-byte word as a whole, as pread(2) does: an STE's doubleword that the guest stores
 * meanwhile is the old or the new one.
 */
export class MappedMemory implements GuestMemory {
  readonly ram: readonly FileRange[]
  readonly #bytes: Buffer

  /** @param memory all of the file; the caller's. @param ram ascending, not overlapping. @throws Error when the file is too small */
  constructor(memory: ArrayBuffer, ram: readonly FileRange[]) {
    this.#bytes = Buffer.from(memory)
    this.ram = ram
    for (const { base, offset, size } of ram) {
      if (offset + size > memory.byteLength)
        throw new RangeError(`RAM at 0x${base.toString(16)} is beyond the ${memory.byteLength} bytes that are mapped`)
    }
  }

  read(address: number, target: Uint8Array, targetOffset: number, length: number): boolean {
    const position = positionIn(this.ram, address, length)
    if (position < 0) return false
    return length === 0 || this.#bytes.copy(target, targetOffset, position, position + length) === length
  }

  write(address: number, source: Uint8Array, sourceOffset: number, length: number): boolean {
    const position = positionIn(this.ram, address, length)
    if (position < 0) return false
    return length === 0 || copy.call(source, this.#bytes, position, sourceOffset, sourceOffset + length) === length
  }
}

/** For any bytes, not only those of a Buffer. */
const { copy } = Buffer.prototype
