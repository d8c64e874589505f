// SPDX-License-Identifier: Apache-2.0
/** What goes into a translation and what comes out of it. */
import { hex } from './bits.ts'
import { describeEvent, type EventRecord } from './events.ts'

/** `ssid` of a transaction without a SubstreamID. */
export const NO_SSID = -1

/** A transaction as a device presents it. Objects may be reused; a result refers to none. */
export interface Transaction {
  sid: number
  /** NO_SSID: without one. */
  ssid: number
  /** Input address, 64 bits in unsigned halves. */
  lo: number
  hi: number
  write: boolean
  /** Privileged and instruction attributes as the device presents them; a PCIe device presents neither. */
  privileged: boolean
  instruction: boolean
}

/** A translation that the transaction may use. */
export interface Translated {
  readonly kind: 'translated'
  /** Output address of the input address itself. */
  readonly pa: number
  /** What stage 1 made of it; equals `pa` without stage 2. */
  readonly ipa: number
  /** log2 of the aligned range of input addresses around it that is mapped linearly with the same permissions. */
  readonly shift: number
  /** What the transaction's privilege level may do in that range. */
  readonly read: boolean
  readonly write: boolean
  readonly execute: boolean
  /** No stage translated: SMMU disabled, or bypass by STE. */
  readonly bypass: boolean
  /** Stage 1 memory attributes: the byte of MAIR; -1 if stage 1 did not translate. */
  readonly mair: number
  /** Stage 2 MemAttr; -1 if stage 2 did not translate. */
  readonly memAttr: number
}

/** How the device is answered: with an abort, with success that does nothing (CD.A = 0), or not yet. */
export type Response = 'abort' | 'raz-wi' | 'stall'

/** A fault or configuration error. */
export interface Faulted {
  readonly kind: 'fault'
  readonly event: EventRecord
  /** False if CD.R, STE.S2R or CR2.RECINVSID suppress the record. */
  readonly record: boolean
  readonly response: Response
}

/** Terminated with an abort and nothing to record: GBPA.ABORT, STE.Config = 0b000. */
export interface Aborted {
  readonly kind: 'abort'
}

export type Outcome = Translated | Faulted | Aborted

export const ABORTED: Aborted = { kind: 'abort' }

/** What passes with its own address. `oas`: bits of the output address size. */
export function passed(address: number, oas: number): Translated {
  return {
    kind: 'translated',
    pa: address,
    ipa: address,
    shift: oas,
    read: true,
    write: true,
    execute: true,
    bypass: true,
    mair: -1,
    memAttr: -1,
  }
}

/** An outcome in one line: `0x40001234 rw- 4 KiB MAIR=0xff`, `abort`, or the event. */
export function describeOutcome(outcome: Outcome): string {
  if (outcome.kind === 'abort') return 'abort'
  if (outcome.kind === 'fault') {
    const extra = outcome.record ? '' : ', not recorded'
    return `${describeEvent(outcome.event)}${extra}${outcome.response === 'abort' ? '' : `, ${outcome.response}`}`
  }
  const words = [hex(outcome.pa)]
  if (outcome.bypass) return `${words[0]} bypass`
  words.push(
    `${outcome.read ? 'r' : '-'}${outcome.write ? 'w' : '-'}${outcome.execute ? 'x' : '-'}`,
    sizeName(outcome.shift),
  )
  if (outcome.mair >= 0) words.push(`MAIR=${hex(outcome.mair)}`)
  if (outcome.memAttr >= 0) words.push(`MemAttr=${hex(outcome.memAttr)}`)
  return words.join(' ')
}

function sizeName(shift: number): string {
  const unit = Math.floor(shift / 10)
  return `${2 ** (shift % 10)} ${['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'][unit]}`
}
