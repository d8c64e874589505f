// SPDX-License-Identifier: Apache-2.0
/** The event queue (IHI 0070 sections 3.5.3, 7.2, 7.4). */
import { EVTQ_ENT_WORDS, type EventRecord, encodeEvent } from '../events.ts'
import type { GuestMemory } from '../memory.ts'
import * as Q from '../queue.ts'
import { CR0_EVTQEN, GERROR_EVTQ_ABT_ERR, Q_OVERFLOW_FLAG } from '../registers.ts'
import type { GlobalErrors } from './gerror.ts'
import type { InterruptSource } from './msi.ts'
import type { SoftSmmuOptions } from './options.ts'
import type { QueueRegisters } from './queueRegisters.ts'
import type { ControlRegister } from './update.ts'

export class EventQueue {
  readonly #registers: QueueRegisters
  readonly #cr0: ControlRegister
  readonly #errors: GlobalErrors
  readonly #interrupt: InterruptSource
  readonly #memory: GuestMemory
  readonly #onWrite: SoftSmmuOptions['onWrite']
  readonly #words = new Uint32Array(EVTQ_ENT_WORDS)
  readonly #bytes = new Uint8Array(this.#words.buffer)

  constructor(
    registers: QueueRegisters,
    cr0: ControlRegister,
    errors: GlobalErrors,
    interrupt: InterruptSource,
    memory: GuestMemory,
    onWrite: SoftSmmuOptions['onWrite'],
  ) {
    this.#registers = registers
    this.#cr0 = cr0
    this.#errors = errors
    this.#interrupt = interrupt
    this.#memory = memory
    this.#onWrite = onWrite
  }

  /** Enabled, and no error waits for its acknowledgement. */
  get #open(): boolean {
    return (this.#cr0.value & CR0_EVTQEN) !== 0 && !this.#errors.active(GERROR_EVTQ_ABT_ERR)
  }

  /** Entries that can be written. A PROD and CONS that describe no queue count as a full one (IHI 0070 section 3.5.1). */
  get #space(): number {
    const { prod, cons, log2size } = this.#registers
    return Q.queueSpace(prod, cons, log2size)
  }

  /** Records an event of a terminated transaction; it is lost when the queue cannot be written. */
  record(event: EventRecord): void {
    if (!this.#open) return
    if (this.#space > 0) {
      this.#write(event)
      return
    }
    const queue = this.#registers
    if (((queue.prod ^ queue.cons) & Q_OVERFLOW_FLAG) === 0) queue.prod = (queue.prod ^ Q_OVERFLOW_FLAG) >>> 0
  }

  /**
   * Records the event of a stalled transaction, which is never lost (IHI 0070 section 7.4).
   * @returns false when it has to wait for the queue
   */
  recordStall(event: EventRecord): boolean {
    if (!this.#open || this.#space === 0) return false
    this.#write(event)
    return true
  }

  #write(event: EventRecord): void {
    const queue = this.#registers
    const { log2size } = queue
    const address = queue.address(queue.prod)
    encodeEvent(event, this.#words)
    this.#onWrite?.('event', address, Q.EVTQ_ENTRY_SIZE)
    if (!this.#memory.write(address, this.#bytes, 0, Q.EVTQ_ENTRY_SIZE)) {
      this.#errors.activate(GERROR_EVTQ_ABT_ERR)
      return
    }
    const wasEmpty = Q.queueEmpty(queue.prod, queue.cons, log2size)
    queue.prod = ((queue.prod & Q_OVERFLOW_FLAG) | Q.queueAdvance(queue.prod, log2size)) >>> 0
    if (wasEmpty) this.#errors.interrupt(this.#interrupt)
  }
}
