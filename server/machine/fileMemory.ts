// SPDX-License-Identifier: Apache-2.0
import { readSync, writeSync } from 'node:fs'
import type { GuestMemory } from '../smmu/memory.ts'

/** What QEMU calls the file of guest RAM that it has inherited: its descriptor after standard input, output and error. */
export const INHERITED_RAM = '/proc/self/fd/3'

/** One RAM range and where it stands in the shared file; all in bytes. */
export interface FileRange {
  readonly base: number
  readonly size: number
  readonly offset: number
}

/** Position in the file, or -1 unless the whole range lies in one range of RAM. */
export function positionIn(ram: readonly FileRange[], address: number, length: number): number {
  // By index and by differences, which stay small integers: neither an iterator nor a boxed sum for each access of a trap.
  for (let i = 0; i < ram.length; i++) {
    const range = ram[i]
    const into = address - range.base
    if (into >= 0 && length <= range.size - into) return range.offset + into
  }
  return -1
}

/**
 * Guest RAM as the file that QEMU maps shared. Positioned reads and writes: whoever has the file may cut it short, and then they
 * fail; and one copy of what the guest may be changing at the same time.
 */
export class FileMemory implements GuestMemory {
  readonly ram: readonly FileRange[]
  readonly #fd: number

  /** @param fd open for reading and writing; owned by the caller. @param ram ascending, not overlapping. */
  constructor(fd: number, ram: readonly FileRange[]) {
    this.#fd = fd
    this.ram = ram
  }

  read(address: number, target: Uint8Array, targetOffset: number, length: number): boolean {
    const position = positionIn(this.ram, address, length)
    if (position < 0) return false
    for (let done = 0; done < length; ) {
      const count = readSync(this.#fd, target, targetOffset + done, length - done, position + done)
      if (count === 0) return false
      done += count
    }
    return true
  }

  write(address: number, source: Uint8Array, sourceOffset: number, length: number): boolean {
    const position = positionIn(this.ram, address, length)
    if (position < 0) return false
    for (let done = 0; done < length; ) {
      done += writeSync(this.#fd, source, sourceOffset + done, length - done, position + done)
    }
    return true
  }
}
