// SPDX-License-Identifier: Apache-2.0

import { type Halves, TWO_POW_32 } from '../../smmu/bits.ts'
import type { SmmuHardware } from '../../smmu/hardware.ts'

/** The hypervisor's accesses to the registers of one SMMU. A read that the hardware aborts gives 0. */
export class HardwareFrame {
  readonly #port: SmmuHardware
  readonly #halves: Halves = { lo: 0, hi: 0 }

  constructor(port: SmmuHardware) {
    this.#port = port
  }

  /** As SmmuHardware.read. */
  read(offset: number, size: number, into: Halves): boolean {
    return this.#port.read(offset, size, into)
  }

  /** As SmmuHardware.write. */
  write(offset: number, size: number, lo: number, hi: number): boolean {
    return this.#port.write(offset, size, lo, hi)
  }

  read32(offset: number): number {
    this.#port.read(offset, 4, this.#halves)
    return this.#halves.lo
  }

  write32(offset: number, value: number): boolean {
    return this.#port.write(offset, 4, value >>> 0, 0)
  }

  /** Writes an address with further bits of the high half. */
  write64(offset: number, address: number, hi = 0): boolean {
    return this.#port.write(offset, 8, address % TWO_POW_32, (Math.floor(address / TWO_POW_32) | hi) >>> 0)
  }

  /** Writes one register, then reads another. */
  writeThenRead32(offset: number, value: number, readOffset: number): number {
    const port = this.#port
    if (port.writeThenRead === undefined) {
      port.write(offset, 4, value >>> 0, 0)
      return this.read32(readOffset)
    }
    port.writeThenRead(offset, value >>> 0, readOffset, this.#halves)
    return this.#halves.lo
  }

  /** As SmmuHardware.post; false for hardware that has none. */
  post(offset: number, value: number, checkOffset: number, checkValue: number, answer: number): boolean {
    return this.#port.post?.(offset, value, checkOffset, checkValue, answer) ?? false
  }
}
