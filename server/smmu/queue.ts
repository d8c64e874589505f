// SPDX-License-Identifier: Apache-2.0
/**
 * Queue indices (IHI 0070 section 3.5.1). A PROD or CONS register holds an index of `log2size` bits with the wrap bit directly
 * above it; the flags above that (overflow, ERR) play no part here. `log2size` is at most MAX_QUEUE_LOG2SIZE.
 */
import { addressOf, fieldGet } from './bits.ts'
import { Q_BASE_HI_ADDR, Q_BASE_LO_ADDR, Q_BASE_LOG2SIZE } from './registers.ts'

/** Bytes of an entry. */
export const CMDQ_ENTRY_SIZE = 16
export const EVTQ_ENTRY_SIZE = 32
export const PRIQ_ENTRY_SIZE = 16

/** The largest LOG2SIZE of a queue: IDR1.CMDQS, EVTQS and PRIQS have no larger value (IHI 0070 section 6.3.2). */
export const MAX_QUEUE_LOG2SIZE = 19

/** Index of the entry, without the wrap bit. */
export function queueIndex(pointer: number, log2size: number): number {
  return pointer & ((1 << log2size) - 1)
}

/** Index with the wrap bit; everything above is dropped. */
export function queuePointer(register: number, log2size: number): number {
  return register & ((2 << log2size) - 1)
}

/** The pointer `count` entries further, wrapped. */
export function queueAdvance(pointer: number, log2size: number, count = 1): number {
  return (pointer + count) & ((2 << log2size) - 1)
}

export function queueEmpty(prod: number, cons: number, log2size: number): boolean {
  return ((prod ^ cons) & ((2 << log2size) - 1)) === 0
}

/** Same index, different wrap bits. */
export function queueFull(prod: number, cons: number, log2size: number): boolean {
  return ((prod ^ cons) & ((2 << log2size) - 1)) === 1 << log2size
}

/**
 * Entries from CONS up to PROD. A result above `1 << log2size` means that the two registers do not describe a queue: one of
 * them was set to a value that no sequence of productions and consumptions reaches.
 */
export function queueEntries(prod: number, cons: number, log2size: number): number {
  return (prod - cons) & ((2 << log2size) - 1)
}

/** Entries that may still be produced; 0 if PROD and CONS do not describe a queue. */
export function queueSpace(prod: number, cons: number, log2size: number): number {
  return Math.max(0, (1 << log2size) - queueEntries(prod, cons, log2size))
}

/** LOG2SIZE of a queue's BASE register (low half), capped at `max`: IDR1.CMDQS, EVTQS, PRIQS (IHI 0070 section 6.3.26). */
export function queueLog2Size(baseLo: number, max: number): number {
  return Math.min(fieldGet(Q_BASE_LOG2SIZE, baseLo), max)
}

/** Address of a queue from its BASE register, aligned to the larger of its size and 32 bytes (IHI 0070 section 6.3.26). */
export function queueBase(baseLo: number, baseHi: number, log2size: number, entrySize: number): number {
  const address = addressOf((baseLo & Q_BASE_LO_ADDR) >>> 0, (baseHi & Q_BASE_HI_ADDR) >>> 0)
  return address - (address % Math.max(32, entrySize * 2 ** log2size))
}

/**
 * Memory that a queue may take up, from its BASE register as it is. A base that is not aligned to the size of the queue is aligned
 * down by the architecture, but not by every implementation: both places count.
 */
export function queueExtent(
  baseLo: number,
  baseHi: number,
  entrySize: number,
): { readonly address: number; readonly bytes: number } {
  const log2size = queueLog2Size(baseLo, MAX_QUEUE_LOG2SIZE)
  const address = queueBase(baseLo, baseHi, log2size, entrySize)
  return { address, bytes: queueBase(baseLo, baseHi, 0, entrySize) - address + entrySize * 2 ** log2size }
}
