// SPDX-License-Identifier: Apache-2.0
/** The guest's event queue as the hardware has it: where it is, and records that nobody caused. */

import type { Halves } from '../smmu/bits.ts'
import { EVTQ_1_CLASS_IN, emptyEvent, encodeEvent } from '../smmu/events.ts'
import type { SmmuHardware } from '../smmu/hardware.ts'
import type { GuestMemory } from '../smmu/memory.ts'
import { eventNumber } from '../smmu/names.ts'
import {
  EVTQ_ENTRY_SIZE,
  MAX_QUEUE_LOG2SIZE,
  queueAdvance,
  queueBase,
  queueIndex,
  queueLog2Size,
  queuePointer,
  queueSpace,
} from '../smmu/queue.ts'
import { ARM_SMMU_EVTQ_BASE, ARM_SMMU_EVTQ_CONS, ARM_SMMU_EVTQ_PROD, Q_OVERFLOW_FLAG } from '../smmu/registers.ts'
import { halvesOf } from './names.ts'
import type { WhatOf } from './rule.ts'

export interface EventQueue {
  readonly base: number
  readonly log2size: number
  /** PROD and CONS with their flags. */
  readonly prod: number
  readonly cons: number
}

/** @returns undefined when the guest has set up none */
export function eventQueue(hardware: SmmuHardware): EventQueue | undefined {
  const value: Halves = { lo: 0, hi: 0 }
  if (!hardware.read(ARM_SMMU_EVTQ_BASE, 8, value)) return undefined
  const log2size = queueLog2Size(value.lo, MAX_QUEUE_LOG2SIZE)
  const base = queueBase(value.lo, value.hi, log2size, EVTQ_ENTRY_SIZE)
  hardware.read(ARM_SMMU_EVTQ_PROD, 4, value)
  const prod = value.lo
  hardware.read(ARM_SMMU_EVTQ_CONS, 4, value)
  return base === 0 ? undefined : { base, log2size, prod, cons: value.lo }
}

/** Writes records and moves PROD. @returns what was done, in words */
export function produceEvents(memory: GuestMemory, hardware: SmmuHardware, what: WhatOf['event'], sid: number): string {
  const queue = eventQueue(hardware)
  if (queue === undefined) return 'there is no event queue'
  const { base, log2size } = queue
  const pointer = queuePointer(queue.prod, log2size)
  const cons = queuePointer(queue.cons, log2size)
  const room = queueSpace(pointer, cons, log2size)
  const count = what.overflow ? room : Math.min(room, what.count ?? 1)
  const record = emptyEvent(eventNumber(what.event) ?? 0, sid)
  const address = halvesOf(what.address ?? 0)
  record.inputLo = address.lo
  record.inputHi = address.hi
  record.class = EVTQ_1_CLASS_IN
  const words = new Uint32Array(EVTQ_ENTRY_SIZE / 4)
  encodeEvent(record, words)
  const bytes = new Uint8Array(words.buffer)
  for (let i = 0; i < count; i++) {
    const at = queueIndex(queueAdvance(pointer, log2size, i), log2size)
    memory.write(base + EVTQ_ENTRY_SIZE * at, bytes, 0, EVTQ_ENTRY_SIZE)
  }
  // One overflow at a time: the flag toggles when the guest has acknowledged the one before (IHI 0070 section 7.4).
  const acknowledged = ((queue.prod ^ queue.cons) & Q_OVERFLOW_FLAG) === 0
  const flag = (queue.prod & Q_OVERFLOW_FLAG) ^ (what.overflow && acknowledged ? Q_OVERFLOW_FLAG : 0)
  hardware.write(ARM_SMMU_EVTQ_PROD, 4, (queueAdvance(pointer, log2size, count) | flag) >>> 0, 0)
  return `${count} ${what.event}${what.overflow ? ', overflow' : ''}`
}
