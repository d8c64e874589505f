// SPDX-License-Identifier: Apache-2.0
import type { GuestMemory } from '../smmu/memory.ts'
import type { RingWriter } from './ring.ts'

/** Puts every access to guest memory on the trace. */
export class TracedMemory implements GuestMemory {
  readonly ram: GuestMemory['ram']
  readonly #memory: GuestMemory
  readonly #ring: RingWriter

  constructor(memory: GuestMemory, ring: RingWriter) {
    this.#memory = memory
    this.#ring = ring
    this.ram = memory.ram
  }

  read(address: number, target: Uint8Array, targetOffset: number, length: number): boolean {
    const ok = this.#memory.read(address, target, targetOffset, length)
    this.#ring.memoryAccess(false, address, target, targetOffset, length, ok)
    return ok
  }

  write(address: number, source: Uint8Array, sourceOffset: number, length: number): boolean {
    const ok = this.#memory.write(address, source, sourceOffset, length)
    this.#ring.memoryAccess(true, address, source, sourceOffset, length, ok)
    return ok
  }
}
