// SPDX-License-Identifier: Apache-2.0
/** A device behind the SMMU. */
import type { GuestAgent } from '../machine/guestAgent.ts'
import { hex } from '../smmu/bits.ts'
import type { Steps } from './steps.ts'

/** What the edu device moves at once at most, bytes. */
const MOST = 4096
/** A transfer that is aborted makes an event for each 4 bytes. */
const WORD = 8
/** Of bytes that a DMA write brings, unless the test says which. */
const MARK = 0x5a

export class Device {
  /** As on QEMU's command line. */
  readonly name: string
  /** StreamID; undefined: QEMU did not say, or the device was plugged in later. */
  readonly sid: number | undefined
  readonly #agent: GuestAgent
  readonly #steps: Steps

  constructor(name: string, sid: number | undefined, agent: GuestAgent, steps: Steps) {
    this.name = name
    this.sid = sid
    this.#agent = agent
    this.#steps = steps
  }

  /**
   * The device reads memory by DMA. Its domain is an identity one: the address is the SMMU's IPA. A device does not learn that a
   * DMA was aborted: look for the event.
   * @param options `length` in bytes, up to 4,096; 8 by default
   * @returns what it has afterwards: bytes of 0xa5 never came
   * @throws Error unless this is `edu`
   */
  dmaRead(address: number, { length = WORD }: { readonly length?: number } = {}): Promise<Buffer> {
    return this.#drive(`dmaRead ${hex(address)} ${length}`, length, () => this.#agent.dmaRead(address, length))
  }

  /**
   * The device writes memory by DMA.
   * @param bytes up to 4,096; 8 of 0x5a by default
   * @throws Error unless this is `edu`
   */
  dmaWrite(address: number, bytes: Uint8Array = Buffer.alloc(WORD, MARK)): Promise<void> {
    return this.#drive(`dmaWrite ${hex(address)} ${bytes.length}`, bytes.length, () =>
      this.#agent.dmaWrite(address, bytes),
    )
  }

  #drive<T>(text: string, length: number, work: () => Promise<T>): Promise<T> {
    return this.#steps.step(`${this.name}.${text}`, async () => {
      if (this.name !== 'edu') throw new Error(`${this.name}: only edu does the DMA that a test tells it`)
      if (!(length > 0 && length <= MOST)) throw new Error(`${text}: the device moves 1 to ${MOST} bytes`)
      return work()
    })
  }
}
