// SPDX-License-Identifier: Apache-2.0
/** What an SMMU supports, decoded from its ID registers (IHI 0070 sections 6.3.1 to 6.3.8). */
import { fieldGet } from './bits.ts'
import { MAX_QUEUE_LOG2SIZE } from './queue.ts'
import * as r from './registers.ts'

/** Values of the ID registers that matter for translation and commands. */
export interface IdRegisters {
  readonly idr0: number
  readonly idr1: number
  readonly idr3: number
  readonly idr5: number
}

/** The ID registers of QEMU 10.0's arm-smmuv3 with `stage=nested`. */
export const QEMU_NESTED_ID_REGISTERS: IdRegisters = {
  idr0:
    r.IDR0_S1P |
    r.IDR0_S2P |
    (r.IDR0_TTF_AARCH64 << 2) |
    r.IDR0_COHACC |
    r.IDR0_ASID16 |
    r.IDR0_VMID16 |
    (r.IDR0_TTENDIAN_LE << 21) |
    (r.IDR0_STALL_MODEL_NONE << 24) |
    r.IDR0_TERM_MODEL |
    (r.IDR0_ST_LVL_2LVL << 27),
  idr1: (19 << 21) | (19 << 16) | 16,
  idr3: r.IDR3_HAD | r.IDR3_XNX | r.IDR3_RIL | (2 << 11),
  idr5: r.IDR5_OAS_44_BIT | r.IDR5_GRAN4K | r.IDR5_GRAN16K | r.IDR5_GRAN64K,
}

export interface Features {
  readonly s1p: boolean
  readonly s2p: boolean
  /** Output address size, bits. */
  readonly oas: number
  /** Intermediate address size, bits; equals `oas` because VMSAv8-32 tables are not modelled (IHI 0070 section 3.4). */
  readonly ias: number
  readonly gran4k: boolean
  readonly gran16k: boolean
  readonly gran64k: boolean
  /** Bits of virtual address that one TTB can cover: 48 or 52. */
  readonly vaBits: number
  readonly vmid16: boolean
  readonly asid16: boolean
  readonly hyp: boolean
  readonly cd2l: boolean
  readonly twoLevelStreamTable: boolean
  readonly sidSize: number
  readonly ssidSize: number
  /** LOG2SIZE limits of the queues. */
  readonly cmdqs: number
  readonly evtqs: number
  readonly priqs: number
  readonly stallModel: number
  /** Transactions that can be stalled at a time. */
  readonly stallMax: number
  /** CD.A must be 1. */
  readonly termModel: boolean
  readonly ttEndian: number
  readonly ats: boolean
  readonly ns1ats: boolean
  /** CR2.REC_CFG_ATS exists. */
  readonly atsRecErr: boolean
  /** Smallest Translation Unit, log2 of bytes: the smallest granule (IHI 0070 section 3.9.1). */
  readonly stu: number
  readonly pri: boolean
  /** Automatic responses to page requests always have the PASID of the request. */
  readonly pps: boolean
  readonly msi: boolean
  readonly had: boolean
  readonly xnx: boolean
  readonly ril: boolean
  /** BBM level: 0, 1 or 2; the Reserved 3 promises nothing. */
  readonly bbml: number
  readonly stt: boolean
  readonly fwb: boolean
  readonly e0pd: boolean
  readonly epan: boolean
  /** STE.PRIVCFG and INSTCFG are obeyed. */
  readonly attrPermsOvr: boolean
}

/** Bits that this model has no behaviour for, with their names: with one of them set it would translate wrongly. */
const NOT_MODELLED: readonly (readonly [keyof IdRegisters, number, string])[] = [
  ['idr0', r.IDR0_RME_IMPL, 'IDR0.RME_IMPL'],
  ['idr0', r.IDR0_HTTU, 'IDR0.HTTU'],
  ['idr0', r.IDR0_VMW, 'IDR0.VMW'],
  ['idr1', r.IDR1_ECMDQ, 'IDR1.ECMDQ'],
  ['idr1', r.IDR1_TABLES_PRESET, 'IDR1.TABLES_PRESET'],
  ['idr1', r.IDR1_QUEUES_PRESET, 'IDR1.QUEUES_PRESET'],
  ['idr3', r.IDR3_AIE, 'IDR3.AIE'],
  ['idr3', r.IDR3_THE, 'IDR3.THE'],
  ['idr3', r.IDR3_S2PO, 'IDR3.S2PO'],
  ['idr3', r.IDR3_S2PI, 'IDR3.S2PI'],
  ['idr3', r.IDR3_S1PI, 'IDR3.S1PI'],
  ['idr3', r.IDR3_DPT, 'IDR3.DPT'],
  ['idr3', r.IDR3_MPAM, 'IDR3.MPAM'],
  ['idr5', r.IDR5_D128, 'IDR5.D128'],
  ['idr5', r.IDR5_DS, 'IDR5.DS'],
]

/**
 * Decodes the ID registers.
 * @throws RangeError for a feature that would change what is translated and is not modelled, and for an SMMU without
 * VMSAv8-64 tables or with VMSAv8-32 ones.
 */
export function decodeFeatures(id: IdRegisters): Features {
  for (const [register, mask, name] of NOT_MODELLED) {
    if (id[register] & mask) throw new RangeError(`${name} is not modelled`)
  }
  const ttf = fieldGet(r.IDR0_TTF, id.idr0)
  if (ttf !== r.IDR0_TTF_AARCH64) throw new RangeError(`IDR0.TTF ${ttf} is not modelled`)
  const oas = r.oasBits(fieldGet(r.IDR5_OAS, id.idr5))
  if (oas > 52) throw new RangeError(`IDR5.OAS of ${oas} bits is not modelled`)
  const vax = fieldGet(r.IDR5_VAX, id.idr5)
  if (vax > r.IDR5_VAX_52_BIT) throw new RangeError(`IDR5.VAX ${vax} is not modelled`)
  const bbml = fieldGet(r.IDR3_BBML, id.idr3)
  const flag = (value: number, mask: number) => (value & mask) !== 0
  return {
    s1p: flag(id.idr0, r.IDR0_S1P),
    s2p: flag(id.idr0, r.IDR0_S2P),
    oas,
    ias: oas,
    gran4k: flag(id.idr5, r.IDR5_GRAN4K),
    gran16k: flag(id.idr5, r.IDR5_GRAN16K),
    gran64k: flag(id.idr5, r.IDR5_GRAN64K),
    vaBits: vax === r.IDR5_VAX_52_BIT ? 52 : 48,
    vmid16: flag(id.idr0, r.IDR0_VMID16),
    asid16: flag(id.idr0, r.IDR0_ASID16),
    hyp: flag(id.idr0, r.IDR0_HYP),
    cd2l: flag(id.idr0, r.IDR0_CD2L),
    twoLevelStreamTable: fieldGet(r.IDR0_ST_LVL, id.idr0) === r.IDR0_ST_LVL_2LVL,
    sidSize: Math.min(fieldGet(r.IDR1_SIDSIZE, id.idr1), 32),
    ssidSize: Math.min(fieldGet(r.IDR1_SSIDSIZE, id.idr1), 20),
    cmdqs: Math.min(fieldGet(r.IDR1_CMDQS, id.idr1), MAX_QUEUE_LOG2SIZE),
    evtqs: Math.min(fieldGet(r.IDR1_EVTQS, id.idr1), MAX_QUEUE_LOG2SIZE),
    priqs: Math.min(fieldGet(r.IDR1_PRIQS, id.idr1), MAX_QUEUE_LOG2SIZE),
    stallModel: fieldGet(r.IDR0_STALL_MODEL, id.idr0),
    stallMax: fieldGet(r.IDR5_STALL_MAX, id.idr5),
    termModel: flag(id.idr0, r.IDR0_TERM_MODEL),
    ttEndian: fieldGet(r.IDR0_TTENDIAN, id.idr0),
    ats: flag(id.idr0, r.IDR0_ATS),
    ns1ats: flag(id.idr0, r.IDR0_NS1ATS),
    atsRecErr: flag(id.idr0, r.IDR0_ATS) && flag(id.idr0, r.IDR0_ATSRECERR),
    stu: flag(id.idr5, r.IDR5_GRAN4K) ? 12 : flag(id.idr5, r.IDR5_GRAN16K) ? 14 : 16,
    pri: flag(id.idr0, r.IDR0_PRI),
    pps: flag(id.idr3, r.IDR3_PPS),
    msi: flag(id.idr0, r.IDR0_MSI),
    had: flag(id.idr3, r.IDR3_HAD),
    xnx: flag(id.idr3, r.IDR3_XNX),
    ril: flag(id.idr3, r.IDR3_RIL),
    bbml: bbml <= 2 ? bbml : 0,
    stt: flag(id.idr3, r.IDR3_STT),
    fwb: flag(id.idr3, r.IDR3_FWB),
    e0pd: flag(id.idr3, r.IDR3_E0PD),
    epan: flag(id.idr3, r.IDR3_EPAN),
    attrPermsOvr: flag(id.idr1, r.IDR1_ATTR_PERMS_OVR),
  }
}
