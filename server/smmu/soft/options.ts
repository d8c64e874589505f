// SPDX-License-Identifier: Apache-2.0
/** What a `SoftSmmu` can be told to be. Without any option it is QEMU's model as the architecture would have it. */
import type { IdRegisters } from '../features.ts'
import type { Outcome, Transaction } from '../transaction.ts'
import type { Caching } from './caches.ts'
import type { PrgResponse } from './pri.ts'
import type { TornFetches } from './tearing.ts'

/** Interrupt sources (IHI 0070 section 3.18.2). */
export type Irq = 'evtq' | 'priq' | 'gerror' | 'sync'

/** What the SMMU writes to memory. */
export type SmmuWrite = 'event' | 'page-request' | 'msi'

/**
 * Hardware that takes its time: the architecture only says that an Update ends in finite time (IHI 0070 section 6.3.9) and that commands
 * are consumed some time after PROD was written. Time is counted in accesses to the register frame.
 */
export interface Lag {
  /** Accesses after which a write of CR0, IRQ_CTRL or GBPA is acknowledged; 0: before the write returns. */
  update(): number
  /** The new value is used at once, before it is acknowledged; otherwise from the acknowledgement on. */
  early(): boolean
  /** Accesses before the next command is consumed; 0: at once. */
  command(): number
}

export interface SoftSmmuOptions {
  /**
   * QEMU's with `stage=nested` unless given. IDR0.MSI, ATS, PRI and STALL_MODEL switch on what they promise; what is not modelled is
   * refused.
   */
  readonly id?: IdRegisters
  readonly iidr?: number
  /** Version 3.1 unless given. */
  readonly aidr?: number
  /** GBPA after reset; incoming attributes and no abort unless given. */
  readonly gbpa?: number
  /** `architectural` unless given. */
  readonly caching?: Caching
  /** Guarded registers take writes while the bit that guards them is set, as QEMU's do. They ignore them unless given. */
  readonly unguarded?: boolean
  /** A queue starts where BASE points; the bits that its size makes RES0 count. Aligned down unless given. */
  readonly unalignedQueues?: boolean
  /** Everything takes effect before the access returns unless given. */
  readonly lag?: Lag
  /** Structure fetches are atomic unless given. */
  readonly torn?: TornFetches
  /** A wired interrupt was raised. */
  readonly onIrq?: (irq: Irq) => void
  /** The SMMU is about to write `length` bytes at a physical address, RAM or not. */
  readonly onWrite?: (what: SmmuWrite, address: number, length: number) => void
  /** The SMMU is about to fetch `length` bytes: a command, a structure, a translation table descriptor. */
  readonly onRead?: (address: number, length: number) => void
  /** CMD_ATC_INV was sent to a device; false makes it time out, which the next CMD_SYNC reports. */
  readonly onAtcInvalidate?: (cmd: Uint32Array) => boolean
  /** A PRG response was sent to a device: by CMD_PRI_RESP, or by the SMMU itself. */
  readonly onPrgResponse?: (response: PrgResponse) => void
  /** A stalled transaction was retried or terminated. It may have stalled again. */
  readonly onResume?: (stag: number, t: Transaction, result: Outcome | 'raz-wi') => void
}
