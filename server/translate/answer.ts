// SPDX-License-Identifier: Apache-2.0
/** Answers to translate requests as the wire has them: the walker's, and in lockstep the hardware's to compare it with. */
import type { Event, Translate } from '../../protocol/generated/messages.ts'
import { enums } from '../../protocol/messages.ts'
import { hex } from '../smmu/bits.ts'
import { decodeEvent, describeEvent, encodeEvent } from '../smmu/events.ts'
import type { Outcome } from '../smmu/transaction.ts'

const { read: READ, write: WRITE } = enums.permission
const { mapped: MAPPED, fault: FAULT, silent: SILENT, bypass: BYPASS } = enums.translation

/** Reused: setting one overwrites all of it. */
export interface Answer {
  /** A value of `translation`. */
  status: number
  pa: number
  addressMask: number
  /** Bits of `permission`. */
  permissions: number
  /** The event record, and the same as words. */
  readonly record: Uint8Array
  readonly words: Uint32Array
}

export function newAnswer(): Answer {
  const record = new Uint8Array(32)
  return { status: SILENT[0], pa: 0, addressMask: 0, permissions: 0, record, words: new Uint32Array(record.buffer) }
}

/** What a walk came to. */
export function setOutcome(answer: Answer, outcome: Outcome): void {
  answer.pa = 0
  answer.addressMask = 0
  answer.permissions = 0
  answer.words.fill(0)
  if (outcome.kind === 'translated') {
    answer.status = outcome.bypass ? BYPASS[0] : MAPPED[0]
    answer.pa = outcome.pa
    if (outcome.bypass) return
    answer.addressMask = 2 ** outcome.shift - 1
    answer.permissions = (outcome.read ? READ[0] : 0) | (outcome.write ? WRITE[0] : 0)
  } else if (outcome.kind === 'fault' && outcome.record) {
    answer.status = FAULT[0]
    encodeEvent(outcome.event, answer.words)
  } else answer.status = SILENT[0]
}

/** What the hardware model says that it came to (lockstep). */
export function setRequested(answer: Answer, request: Translate): void {
  answer.status = request.status
  answer.pa = request.pa
  answer.addressMask = request.addressMask
  answer.permissions = request.permissions
  setRecord(answer, request)
}

/** The event record of a message. */
export function setRecord(answer: Answer, message: Translate | Event): void {
  const { words } = answer
  words[0] = message.record0Lo
  words[1] = message.record0Hi
  words[2] = message.record1Lo
  words[3] = message.record1Hi
  words[4] = message.record2Lo
  words[5] = message.record2Hi
  words[6] = message.record3Lo
  words[7] = message.record3Hi
}

/** Equal in what the architecture decides; fields that do not apply to the status are not looked at. */
export function sameAnswer(a: Answer, b: Answer): boolean {
  if (a.status !== b.status) return false
  if (a.status === MAPPED[0]) {
    return a.pa === b.pa && a.addressMask === b.addressMask && a.permissions === b.permissions
  }
  if (a.status === FAULT[0]) return a.words.every((word, i) => word === b.words[i])
  return true
}

export function describeAnswer({ status, pa, addressMask, permissions, words }: Answer): string {
  if (status === MAPPED[0]) return `mapped to ${hex(pa)}, mask ${hex(addressMask)}, permissions ${permissions}`
  if (status === FAULT[0]) return `fault ${describeEvent(decodeEvent(words))}`
  return status === BYPASS[0] ? `bypass to ${hex(pa)}` : 'abort without an event'
}
