// SPDX-License-Identifier: Apache-2.0
/** An SMMU with everything that ID registers may promise, and streams of each kind, for the tests of this folder. */
import { fieldPrep, fieldPrep64 } from '../../../../server/smmu/bits.ts'
import { CTXDESC_CD_0_S } from '../../../../server/smmu/cd.ts'
import type { PageRequest } from '../../../../server/smmu/pageRequest.ts'
import * as R from '../../../../server/smmu/registers.ts'
import type { SoftSmmuOptions } from '../../../../server/smmu/soft/options.ts'
import * as S from '../../../../server/smmu/ste.ts'
import { NO_SSID } from '../../../../server/smmu/transaction.ts'
import { Driver } from '../driver.ts'
import { idRegisters, RAM_BASE, S2_RW, type Stage } from '../support.ts'

export const STALL_MAX = 3
export const PRIQ_LOG2 = 1

/** MSIs, ATS, PRI, PASIDs, stalls, 2-level CD tables, events for what ATS meets. */
export const EVERYTHING = idRegisters(
  {
    idr0: R.IDR0_MSI | R.IDR0_ATS | R.IDR0_PRI | R.IDR0_ATSRECERR | R.IDR0_CD2L,
    idr1: fieldPrep(R.IDR1_PRIQS, 19) | fieldPrep(R.IDR1_SSIDSIZE, 8),
    idr5: fieldPrep(R.IDR5_STALL_MAX, STALL_MAX),
  },
  { idr0: R.IDR0_STALL_MODEL | R.IDR0_TERM_MODEL },
)

/** StreamIDs by what their STE is. */
export const SID = { invalid: 0, abort: 1, bypass: 2, s1: 3, s2: 4, nested: 5 } as const

const CONFIG: Readonly<Record<number, number>> = {
  [SID.abort]: S.STRTAB_STE_0_CFG_ABORT,
  [SID.bypass]: S.STRTAB_STE_0_CFG_BYPASS,
  [SID.s1]: S.STRTAB_STE_0_CFG_S1_TRANS,
  [SID.s2]: S.STRTAB_STE_0_CFG_S2_TRANS,
  [SID.nested]: S.STRTAB_STE_0_CFG_NESTED,
}

export class Everything extends Driver {
  readonly priq = this.alloc(16 << PRIQ_LOG2, 64)
  /** Stage 1 maps VA to IPA, stage 2 IPA to PA. */
  readonly va = 0x1000n
  readonly ipa = 0x8000_0000
  readonly target = this.alloc(4096)
  readonly t0: Stage = this.stage(false, 39)
  readonly t2: Stage = this.stage(true, 44)

  constructor(options: SoftSmmuOptions = {}) {
    super({ id: EVERYTHING, ...options })
    this.map(this.t0, this.va, BigInt(this.ipa))
    this.map(this.t2, BigInt(this.ipa), BigInt(this.target))
    // What stage 1 tables and CDs need.
    this.map(this.t2, BigInt(RAM_BASE), BigInt(RAM_BASE), S2_RW, 2)
    this.streams()
  }

  /** All streams, with bits of word 1 of the STE, word 2 of the STE, and word 0 of the CD. */
  streams(ste1 = 0n, ste2 = 0n, cd0 = 0n): this {
    const cd = this.cd({ t0: this.t0, set: { 0: cd0 } })
    for (const sid of Object.values(SID)) {
      if (sid === SID.invalid) continue
      this.ste({ config: CONFIG[sid], cd, stage2: this.t2, set: { 1: ste1, 2: ste2 } }, this.strtab + 64 * sid)
    }
    return this
  }

  eats(value: number): this {
    return this.streams(fieldPrep64(S.STRTAB_STE_1_EATS, value))
  }

  /** Both stages stall. */
  stalling(): this {
    return this.streams(0n, S.STRTAB_STE_2_S2S, CTXDESC_CD_0_S)
  }

  override on(cr0 = R.CR0_SMMUEN | R.CR0_CMDQEN | R.CR0_EVTQEN | R.CR0_PRIQEN): this {
    this.write64(R.ARM_SMMU_PRIQ_BASE, this.priq + PRIQ_LOG2)
    return super.on(cr0)
  }
}

export function pageRequest(more: Partial<PageRequest> = {}): PageRequest {
  return {
    sid: SID.s1,
    ssid: NO_SSID,
    lo: 0x1000,
    hi: 0,
    prgIndex: 5,
    last: true,
    read: true,
    write: false,
    execute: false,
    privileged: false,
    ...more,
  }
}
