// SPDX-License-Identifier: Apache-2.0
/**
 * A control register with an acknowledgement, CR0 and CR0ACK or IRQ_CTRL and IRQ_CTRLACK (IHI 0070 section 6.3.9): a field that was
 * written is in use at some time before it is acknowledged.
 */
export class ControlRegister {
  /** What software wrote, and reads back at once. */
  written = 0
  /** What the SMMU acts on. */
  value = 0
  /** What the acknowledgement reads as. */
  acknowledged = 0

  /**
   * A field that waits for its acknowledgement keeps its first value, one of the behaviours that IHI 0070 section 6.3.9 permits.
   * @returns whether an Update has to complete
   */
  write(value: number): boolean {
    const waiting = this.written ^ this.acknowledged
    this.written = ((this.written & waiting) | (value & ~waiting)) >>> 0
    return this.written !== this.acknowledged
  }

  /** The new value is in use, not yet acknowledged. */
  takeEffect(): void {
    this.value = this.written
  }

  complete(): void {
    this.value = this.acknowledged = this.written
  }

  /** A register that `bit` guards is read-only: the bit is 1, or its transition to 0 has not completed (IHI 0070 section 6.2). */
  guards(bit: number): boolean {
    return ((this.written | this.acknowledged) & bit) !== 0
  }

  reset(): void {
    this.written = this.value = this.acknowledged = 0
  }
}
