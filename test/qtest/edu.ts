// SPDX-License-Identifier: Apache-2.0
import type { Qtest } from './qtest.ts'

/** The virt machine's PCIe window for 32-bit BARs, and its ECAM. */
const MMIO = 0x1000_0000
const ECAM = 0x40_1000_0000

const COMMAND = 0x04
const BAR0 = 0x10
const ENABLE = 0x6 // memory space, bus master

const DMA_SOURCE = 0x80
const DMA_TARGET = 0x88
const DMA_COUNT = 0x90
const DMA_COMMAND = 0x98
/** The device's own buffer, 4 KiB, as its DMA engine addresses it. */
const BUFFER = 0x4_0000
const DMA_NS = 200_000_000

/** PCI slot of `edu` in the test machines; its StreamID is slot << 3. */
export const EDU_SLOT = 4
export const EDU_SID = EDU_SLOT << 3
export const EDU_ARGS = ['-device', `edu,addr=${EDU_SLOT}.0,dma_mask=0xffffffffffffffff`]

/** QEMU's `edu` PCI device, as a DMA master whose every access is chosen by the test. */
export class Edu {
  readonly #qtest: Qtest

  private constructor(qtest: Qtest) {
    this.#qtest = qtest
  }

  /** Gives the device its BAR and lets it master the bus. */
  static async enable(qtest: Qtest): Promise<Edu> {
    const config = ECAM + (EDU_SLOT << 15)
    await qtest.write(config + BAR0, 4, MMIO)
    await qtest.write(config + COMMAND, 2, ENABLE)
    return new Edu(qtest)
  }

  /** Reads `count` bytes (at most 4096) at bus address `iova` by DMA into the device, and from there. */
  async dmaRead(iova: bigint | number, count: number): Promise<void> {
    await this.#dma(iova, BUFFER, count, 1)
  }

  /** Writes the device's buffer to bus address `iova` by DMA. */
  async dmaWrite(iova: bigint | number, count: number): Promise<void> {
    await this.#dma(BUFFER, iova, count, 3)
  }

  async #dma(source: bigint | number, target: bigint | number, count: number, command: number): Promise<void> {
    const registers = [
      [DMA_SOURCE, source],
      [DMA_TARGET, target],
      [DMA_COUNT, count],
      [DMA_COMMAND, command],
    ] as const
    // All at once: QEMU takes them in order.
    const written = registers.map(([offset, value]) => this.#qtest.write(MMIO + offset, 8, value))
    await Promise.all([...written, this.#qtest.clockStep(DMA_NS)])
  }
}
