// SPDX-License-Identifier: Apache-2.0
/** The command queue (IHI 0070 sections 4.1, 7.1): fetching, consuming, stopping at an error. */
import { CMDQ_ENT_WORDS } from '../commands.ts'
import type { GuestMemory } from '../memory.ts'
import * as Q from '../queue.ts'
import { CMDQ_ERR_CERROR_ABT_IDX, CR0_CMDQEN, GERROR_CMDQ_ERR } from '../registers.ts'
import type { GlobalErrors } from './gerror.ts'
import type { Lag } from './options.ts'
import type { QueueRegisters } from './queueRegisters.ts'
import type { ControlRegister } from './update.ts'

/** Commands that are read from memory at once. */
const FETCH_ENTRIES = 64

/** Carries out the command whose first word is `words[base]`. Returns CMDQ_ERR_CERROR_*. */
export type Execute = (words: Uint32Array, base: number) => number

export class CommandQueue {
  readonly #registers: QueueRegisters
  readonly #cr0: ControlRegister
  readonly #errors: GlobalErrors
  readonly #memory: GuestMemory
  readonly #execute: Execute
  readonly #lag: Lag | undefined
  /** The wait before the next command is over. */
  #waited = false
  readonly #bytes = new Uint8Array(FETCH_ENTRIES * Q.CMDQ_ENTRY_SIZE)
  readonly #words = new Uint32Array(this.#bytes.buffer)

  constructor(
    registers: QueueRegisters,
    cr0: ControlRegister,
    errors: GlobalErrors,
    memory: GuestMemory,
    execute: Execute,
    lag: Lag | undefined,
  ) {
    this.#registers = registers
    this.#cr0 = cr0
    this.#errors = errors
    this.#memory = memory
    this.#execute = execute
    this.#lag = lag
  }

  /** Consumes what there is. Returns the accesses after which to call again; 0: none. */
  consume(): number {
    const queue = this.#registers
    while (this.#cr0.value & CR0_CMDQEN && !this.#errors.active(GERROR_CMDQ_ERR)) {
      const { log2size } = queue
      const entries = Q.queueEntries(queue.prod, queue.cons, log2size)
      // A PROD and CONS that describe no queue: nothing is consumed (IHI 0070 section 3.5.1).
      if (entries === 0 || entries > 1 << log2size) return 0
      const untilWrap = (1 << log2size) - Q.queueIndex(queue.cons, log2size)
      const fetched = this.#fetch(queue.address(queue.cons), Math.min(entries, untilWrap, FETCH_ENTRIES))
      if (fetched === 0) {
        this.#stop(CMDQ_ERR_CERROR_ABT_IDX)
        return 0
      }
      for (let i = 0; i < fetched; i++) {
        const wait = this.#wait()
        if (wait > 0) return wait
        const error = this.#execute(this.#words, i * CMDQ_ENT_WORDS)
        if (error) {
          this.#stop(error)
          return 0
        }
        queue.cons = Q.queueAdvance(queue.cons, log2size)
      }
    }
    return 0
  }

  #wait(): number {
    if (this.#lag === undefined) return 0
    const wait = this.#waited ? 0 : this.#lag.command()
    this.#waited = wait > 0
    return wait
  }

  /** Consumes everything without waiting. */
  finish(): void {
    do this.#waited = true
    while (this.consume() > 0)
    this.#waited = false
  }

  /** Commands that could be read: all of `entries`, else those before the first that could not. */
  #fetch(address: number, entries: number): number {
    if (this.#memory.read(address, this.#bytes, 0, entries * Q.CMDQ_ENTRY_SIZE)) return entries
    for (let i = 0; i < entries; i++) {
      const offset = i * Q.CMDQ_ENTRY_SIZE
      if (!this.#memory.read(address + offset, this.#bytes, offset, Q.CMDQ_ENTRY_SIZE)) return i
    }
    return entries
  }

  /** CONS keeps pointing at the command; consumption goes on when software acknowledges the error. */
  #stop(error: number): void {
    const queue = this.#registers
    queue.cons = Q.queuePointer(queue.cons, queue.log2size) | (error << 24)
    this.#errors.activate(GERROR_CMDQ_ERR)
  }

  reset(): void {
    this.#waited = false
  }
}
