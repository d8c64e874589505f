// SPDX-License-Identifier: Apache-2.0

import type { Halves } from '../smmu/bits.ts'
import { CMDQ_ENT_WORDS } from '../smmu/commands.ts'
import { readRegister, type SmmuHardware } from '../smmu/hardware.ts'
import type { GuestMemory } from '../smmu/memory.ts'
import { CMDQ_ENTRY_SIZE, queueAdvance, queueBase, queueEntries, queueIndex, queueLog2Size } from '../smmu/queue.ts'
import {
  ARM_SMMU_CMDQ_BASE,
  ARM_SMMU_CMDQ_CONS,
  ARM_SMMU_CMDQ_PROD,
  ARM_SMMU_CR0,
  ARM_SMMU_GERRORN,
  CR0_CMDQEN,
} from '../smmu/registers.ts'

/** Commands read from the queue at a time. */
const BATCH = 64

/** Hears what the hardware is told. */
export interface CommandListener {
  /** The hardware has consumed the command at word `base` of `words`, which is used again afterwards. */
  command(words: Uint32Array, base: number): void
  /** Which commands the hardware consumed is not known: an error in its queue, or no queue there. */
  lost(): void
}

/**
 * The registers that translation depends on, kept from what is written to the hardware, and the commands that it consumes.
 * QEMU's model has consumed its queue when the write that started it is answered.
 */
export class TrackedHardware implements SmmuHardware {
  readonly #hardware: SmmuHardware
  readonly #memory: GuestMemory
  /** Of all registers below CMDQ_PROD. */
  readonly #written = new Map<number, number>()
  readonly #bytes = new Uint8Array(BATCH * CMDQ_ENTRY_SIZE)
  readonly #words = new Uint32Array(this.#bytes.buffer)
  #listener: CommandListener | undefined
  #cmdqs = 0
  #prod = 0
  #cons = 0
  /** Counts writes of registers, so that a reader knows when to look again. */
  generation = 0

  /** @param memory where the queue is; its reads are nobody's decisions, so they are not to be recorded */
  constructor(hardware: SmmuHardware, memory: GuestMemory) {
    this.#hardware = hardware
    this.#memory = memory
  }

  read(offset: number, size: number, into: Halves): boolean {
    return this.#hardware.read(offset, size, into)
  }

  write(offset: number, size: number, lo: number, hi: number): boolean {
    const ok = this.#hardware.write(offset, size, lo, hi)
    if (!ok || size < 4 || offset > ARM_SMMU_CMDQ_CONS) return ok
    if (offset === ARM_SMMU_CMDQ_PROD) this.#prod = lo
    else if (offset === ARM_SMMU_CMDQ_CONS) this.#cons = lo
    else {
      this.#written.set(offset, lo)
      if (size === 8) this.#written.set(offset + 4, hi)
      this.generation++
    }
    // Acknowledging CMDQ_ERR lets the hardware go on from where it stopped, which is before PROD.
    if (offset === ARM_SMMU_GERRORN) this.#listener?.lost()
    if (offset === ARM_SMMU_CMDQ_PROD || offset === ARM_SMMU_CR0) this.#consume()
    return ok
  }

  /** Of the queue registers. */
  writeThenRead(offset: number, value: number, readOffset: number, into: Halves): boolean {
    const hardware = this.#hardware
    if (hardware.writeThenRead === undefined) {
      return this.write(offset, 4, value, 0) && hardware.read(readOffset, 4, into)
    }
    const ok = hardware.writeThenRead(offset, value, readOffset, into)
    if (ok && offset === ARM_SMMU_CMDQ_PROD) {
      this.#prod = value
      this.#consume()
    } else this.#listener?.lost()
    return ok
  }

  /** What stands in a register below CMDQ_PROD: as written, or as the hardware says it is. */
  value(offset: number): number {
    const written = this.#written.get(offset)
    if (written !== undefined) return written
    const value = this.#ask(offset)
    this.#written.set(offset, value)
    return value
  }

  /** The hardware was reset, or taken over: asks it where it is. Its caches are empty, or not known. */
  listen(cmdqs: number, listener: CommandListener): void {
    this.#cmdqs = cmdqs
    this.#listener = listener
    this.#prod = this.#ask(ARM_SMMU_CMDQ_PROD)
    this.#cons = this.#ask(ARM_SMMU_CMDQ_CONS)
  }

  /** The hardware was reset, or taken over: what is known of it is void. */
  forget(): void {
    this.#written.clear()
    this.#listener = undefined
    this.generation++
  }

  #ask(offset: number): number {
    return readRegister(this.#hardware, offset).lo
  }

  #consume(): void {
    const listener = this.#listener
    if (listener === undefined || (this.value(ARM_SMMU_CR0) & CR0_CMDQEN) === 0) return
    const lo = this.value(ARM_SMMU_CMDQ_BASE)
    const log2size = queueLog2Size(lo, this.#cmdqs)
    const base = queueBase(lo, this.value(ARM_SMMU_CMDQ_BASE + 4), log2size, CMDQ_ENTRY_SIZE)
    const total = queueEntries(this.#prod, this.#cons, log2size)
    if (total > 1 << log2size) listener.lost()
    else {
      for (let done = 0; done < total; ) {
        const index = queueIndex(queueAdvance(this.#cons, log2size, done), log2size)
        const count = Math.min(total - done, (1 << log2size) - index, BATCH)
        if (!this.#memory.read(base + index * CMDQ_ENTRY_SIZE, this.#bytes, 0, count * CMDQ_ENTRY_SIZE)) {
          listener.lost()
          break
        }
        for (let i = 0; i < count; i++) listener.command(this.#words, i * CMDQ_ENT_WORDS)
        done += count
      }
    }
    this.#cons = this.#prod
  }
}
