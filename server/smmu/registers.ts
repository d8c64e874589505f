// SPDX-License-Identifier: Apache-2.0
/**
 * The register frame (IHI 0070 chapter 6): offsets, fields, and words for people.
 *
 * Offsets count from the start of Page 0; Page 1 follows at 0x10000. Field masks are 32 bits wide; those of a 64-bit register
 * say with `_LO` or `_HI` which half they belong to. Names are Linux's where Linux has one (`EVTQ` for the specification's
 * EVENTQ, `ST_LVL` for ST_LEVEL), else the specification's.
 */
import { addressOf, type Bits, fieldGet, genmask, hex, hex64, lowestBit } from './bits.ts'

/** Start of Page 1 in the frame. */
export const ARM_SMMU_PAGE1 = 0x10000
/** Page 0 and Page 1. */
export const ARM_SMMU_FRAME_SIZE = 0x20000

// Non-secure registers of Page 0 (IHI 0070 section 6.2.1) and Page 1 (6.2.2).

export const ARM_SMMU_IDR0 = 0x0
export const IDR0_RME_IMPL = genmask(30, 30)
export const IDR0_ST_LVL = genmask(28, 27)
export const IDR0_ST_LVL_2LVL = 1
export const IDR0_TERM_MODEL = genmask(26, 26)
export const IDR0_STALL_MODEL = genmask(25, 24)
export const IDR0_STALL_MODEL_STALL = 0
export const IDR0_STALL_MODEL_NONE = 1
export const IDR0_STALL_MODEL_FORCE = 2
export const IDR0_ATSRECERR = genmask(23, 23)
export const IDR0_TTENDIAN = genmask(22, 21)
export const IDR0_TTENDIAN_MIXED = 0
export const IDR0_TTENDIAN_LE = 2
export const IDR0_TTENDIAN_BE = 3
export const IDR0_VATOS = genmask(20, 20)
export const IDR0_CD2L = genmask(19, 19)
export const IDR0_VMID16 = genmask(18, 18)
export const IDR0_VMW = genmask(17, 17)
export const IDR0_PRI = genmask(16, 16)
export const IDR0_ATOS = genmask(15, 15)
export const IDR0_SEV = genmask(14, 14)
export const IDR0_MSI = genmask(13, 13)
export const IDR0_ASID16 = genmask(12, 12)
export const IDR0_NS1ATS = genmask(11, 11)
export const IDR0_ATS = genmask(10, 10)
export const IDR0_HYP = genmask(9, 9)
export const IDR0_DORMHINT = genmask(8, 8)
export const IDR0_HTTU = genmask(7, 6)
export const IDR0_HTTU_ACCESS = 1
export const IDR0_HTTU_ACCESS_DIRTY = 2
export const IDR0_BTM = genmask(5, 5)
export const IDR0_COHACC = genmask(4, 4)
export const IDR0_TTF = genmask(3, 2)
export const IDR0_TTF_AARCH32 = 1
export const IDR0_TTF_AARCH64 = 2
export const IDR0_TTF_AARCH32_64 = 3
export const IDR0_S1P = genmask(1, 1)
export const IDR0_S2P = genmask(0, 0)

export const ARM_SMMU_IDR1 = 0x4
export const IDR1_ECMDQ = genmask(31, 31)
export const IDR1_TABLES_PRESET = genmask(30, 30)
export const IDR1_QUEUES_PRESET = genmask(29, 29)
export const IDR1_REL = genmask(28, 28)
export const IDR1_ATTR_TYPES_OVR = genmask(27, 27)
export const IDR1_ATTR_PERMS_OVR = genmask(26, 26)
export const IDR1_CMDQS = genmask(25, 21)
export const IDR1_EVTQS = genmask(20, 16)
export const IDR1_PRIQS = genmask(15, 11)
export const IDR1_SSIDSIZE = genmask(10, 6)
export const IDR1_SIDSIZE = genmask(5, 0)

export const ARM_SMMU_IDR2 = 0x8
export const IDR2_BA_VATOS = genmask(9, 0)

export const ARM_SMMU_IDR3 = 0xc
export const IDR3_AIE = genmask(23, 23)
export const IDR3_MTEPERM = genmask(22, 22)
export const IDR3_THE = genmask(21, 21)
export const IDR3_S2PO = genmask(20, 20)
export const IDR3_S2PI = genmask(19, 19)
export const IDR3_S1PI = genmask(18, 18)
export const IDR3_EPAN = genmask(17, 17)
export const IDR3_PASIDTT = genmask(16, 16)
export const IDR3_DPT = genmask(15, 15)
export const IDR3_PTWNNC = genmask(14, 14)
export const IDR3_E0PD = genmask(13, 13)
export const IDR3_BBML = genmask(12, 11)
export const IDR3_RIL = genmask(10, 10)
export const IDR3_STT = genmask(9, 9)
export const IDR3_FWB = genmask(8, 8)
export const IDR3_MPAM = genmask(7, 7)
export const IDR3_PPS = genmask(5, 5)
export const IDR3_XNX = genmask(4, 4)
export const IDR3_PBHA = genmask(3, 3)
export const IDR3_HAD = genmask(2, 2)

export const ARM_SMMU_IDR4 = 0x10

export const ARM_SMMU_IDR5 = 0x14
export const IDR5_STALL_MAX = genmask(31, 16)
export const IDR5_VAX = genmask(11, 10)
export const IDR5_VAX_48_BIT = 0
export const IDR5_VAX_52_BIT = 1
export const IDR5_VAX_56_BIT = 2
export const IDR5_D128 = genmask(8, 8)
export const IDR5_DS = genmask(7, 7)
export const IDR5_GRAN64K = genmask(6, 6)
export const IDR5_GRAN16K = genmask(5, 5)
export const IDR5_GRAN4K = genmask(4, 4)
export const IDR5_OAS = genmask(2, 0)
export const IDR5_OAS_32_BIT = 0
export const IDR5_OAS_36_BIT = 1
export const IDR5_OAS_40_BIT = 2
export const IDR5_OAS_42_BIT = 3
export const IDR5_OAS_44_BIT = 4
export const IDR5_OAS_48_BIT = 5
export const IDR5_OAS_52_BIT = 6
export const IDR5_OAS_56_BIT = 7

export const ARM_SMMU_IIDR = 0x18
export const IIDR_PRODUCTID = genmask(31, 20)
export const IIDR_VARIANT = genmask(19, 16)
export const IIDR_REVISION = genmask(15, 12)
export const IIDR_IMPLEMENTER = genmask(11, 0)

export const ARM_SMMU_AIDR = 0x1c
export const AIDR_ARCH_MAJOR_REV = genmask(7, 4)
export const AIDR_ARCH_MINOR_REV = genmask(3, 0)

export const ARM_SMMU_CR0 = 0x20
export const CR0_DPT_WALK_EN = genmask(10, 10)
export const CR0_VMW = genmask(8, 6)
export const CR0_ATSCHK = genmask(4, 4)
export const CR0_CMDQEN = genmask(3, 3)
export const CR0_EVTQEN = genmask(2, 2)
export const CR0_PRIQEN = genmask(1, 1)
export const CR0_SMMUEN = genmask(0, 0)

export const ARM_SMMU_CR0ACK = 0x24

export const ARM_SMMU_CR1 = 0x28
export const CR1_TABLE_SH = genmask(11, 10)
export const CR1_TABLE_OC = genmask(9, 8)
export const CR1_TABLE_IC = genmask(7, 6)
export const CR1_QUEUE_SH = genmask(5, 4)
export const CR1_QUEUE_OC = genmask(3, 2)
export const CR1_QUEUE_IC = genmask(1, 0)
export const CR1_CACHE_NC = 0
export const CR1_CACHE_WB = 1
export const CR1_CACHE_WT = 2

export const ARM_SMMU_CR2 = 0x2c
export const CR2_REC_CFG_ATS = genmask(3, 3)
export const CR2_PTM = genmask(2, 2)
export const CR2_RECINVSID = genmask(1, 1)
export const CR2_E2H = genmask(0, 0)

export const ARM_SMMU_S2PII = 0x30

export const ARM_SMMU_STATUSR = 0x40
export const STATUSR_DORMANT = genmask(0, 0)

export const ARM_SMMU_GBPA = 0x44
export const GBPA_UPDATE = genmask(31, 31)
export const GBPA_ABORT = genmask(20, 20)
export const GBPA_INSTCFG = genmask(19, 18)
export const GBPA_PRIVCFG = genmask(17, 16)
export const GBPA_SHCFG = genmask(13, 12)
export const GBPA_ALLOCCFG = genmask(11, 8)
export const GBPA_MTCFG = genmask(4, 4)
export const GBPA_MEMATTR = genmask(3, 0)

export const ARM_SMMU_AGBPA = 0x48

export const ARM_SMMU_IRQ_CTRL = 0x50
export const IRQ_CTRL_EVTQ_IRQEN = genmask(2, 2)
export const IRQ_CTRL_PRIQ_IRQEN = genmask(1, 1)
export const IRQ_CTRL_GERROR_IRQEN = genmask(0, 0)

export const ARM_SMMU_IRQ_CTRLACK = 0x54

export const ARM_SMMU_GERROR = 0x60
export const GERROR_DPT_ERR = genmask(10, 10)
export const GERROR_CMDQP_ERR = genmask(9, 9)
export const GERROR_SFM_ERR = genmask(8, 8)
export const GERROR_MSI_GERROR_ABT_ERR = genmask(7, 7)
export const GERROR_MSI_PRIQ_ABT_ERR = genmask(6, 6)
export const GERROR_MSI_EVTQ_ABT_ERR = genmask(5, 5)
export const GERROR_MSI_CMDQ_ABT_ERR = genmask(4, 4)
export const GERROR_PRIQ_ABT_ERR = genmask(3, 3)
export const GERROR_EVTQ_ABT_ERR = genmask(2, 2)
export const GERROR_CMDQ_ERR = genmask(0, 0)

export const ARM_SMMU_GERRORN = 0x64

export const ARM_SMMU_GERROR_IRQ_CFG0 = 0x68
export const ARM_SMMU_GERROR_IRQ_CFG1 = 0x70
export const ARM_SMMU_GERROR_IRQ_CFG2 = 0x74

/** Fields that the CFG0 and CFG2 registers of all three interrupts share. */
export const MSI_CFG0_LO_ADDR = genmask(31, 2)
export const MSI_CFG0_HI_ADDR = genmask(23, 0)
export const MSI_CFG2_SH = genmask(5, 4)
export const MSI_CFG2_MEMATTR = genmask(3, 0)
export const PRIQ_IRQ_CFG2_LO = genmask(31, 31)

/** Values of the SH and MemAttr fields. */
export const ARM_SMMU_SH_NSH = 0
export const ARM_SMMU_SH_OSH = 2
export const ARM_SMMU_SH_ISH = 3
export const ARM_SMMU_MEMATTR_DEVICE_nGnRE = 0x1
export const ARM_SMMU_MEMATTR_OIWB = 0xf

export const ARM_SMMU_STRTAB_BASE = 0x80
export const STRTAB_BASE_HI_RA = genmask(30, 30)
export const STRTAB_BASE_HI_ADDR = genmask(23, 0)
export const STRTAB_BASE_LO_ADDR = genmask(31, 6)

export const ARM_SMMU_STRTAB_BASE_CFG = 0x88
export const STRTAB_BASE_CFG_FMT = genmask(17, 16)
export const STRTAB_BASE_CFG_FMT_LINEAR = 0
export const STRTAB_BASE_CFG_FMT_2LVL = 1
export const STRTAB_BASE_CFG_SPLIT = genmask(10, 6)
export const STRTAB_BASE_CFG_LOG2SIZE = genmask(5, 0)

export const ARM_SMMU_CMDQ_BASE = 0x90
export const ARM_SMMU_CMDQ_PROD = 0x98
export const ARM_SMMU_CMDQ_CONS = 0x9c
export const CMDQ_CONS_ERR = genmask(30, 24)
export const CMDQ_ERR_CERROR_NONE_IDX = 0
export const CMDQ_ERR_CERROR_ILL_IDX = 1
export const CMDQ_ERR_CERROR_ABT_IDX = 2
export const CMDQ_ERR_CERROR_ATC_INV_IDX = 3

export const ARM_SMMU_EVTQ_BASE = 0xa0
export const ARM_SMMU_EVTQ_IRQ_CFG0 = 0xb0
export const ARM_SMMU_EVTQ_IRQ_CFG1 = 0xb8
export const ARM_SMMU_EVTQ_IRQ_CFG2 = 0xbc

export const ARM_SMMU_PRIQ_BASE = 0xc0
export const ARM_SMMU_PRIQ_IRQ_CFG0 = 0xd0
export const ARM_SMMU_PRIQ_IRQ_CFG1 = 0xd8
export const ARM_SMMU_PRIQ_IRQ_CFG2 = 0xdc

export const ARM_SMMU_GATOS_CTRL = 0x100
export const ARM_SMMU_GATOS_SID = 0x108
export const ARM_SMMU_GATOS_ADDR = 0x110
export const ARM_SMMU_GATOS_PAR = 0x118
export const ARM_SMMU_MPAMIDR = 0x130
export const ARM_SMMU_GMPAM = 0x138
export const ARM_SMMU_GBPMPAM = 0x13c
export const ARM_SMMU_VATOS_SEL = 0x180
export const ARM_SMMU_IDR6 = 0x190
export const ARM_SMMU_DPT_BASE = 0x200
export const ARM_SMMU_DPT_BASE_CFG = 0x208
export const ARM_SMMU_DPT_CFG_FAR = 0x210
/** Identification registers, 0xfd0 to 0xffc. */
export const ARM_SMMU_ID_REGS = 0xfd0
/** First of up to 256 groups of 32 bytes (IDR1.ECMDQ): BASE (64 bits), CFG, STATUS. */
export const ARM_SMMU_CMDQ_CONTROL_PAGE_BASE = 0x4000

export const ARM_SMMU_EVTQ_PROD = ARM_SMMU_PAGE1 + 0xa8
export const ARM_SMMU_EVTQ_CONS = ARM_SMMU_PAGE1 + 0xac
export const ARM_SMMU_PRIQ_PROD = ARM_SMMU_PAGE1 + 0xc8
export const ARM_SMMU_PRIQ_CONS = ARM_SMMU_PAGE1 + 0xcc

/** EVTQ_PROD.OVFLG, EVTQ_CONS.OVACKFLG and the same of the PRI queue. */
export const Q_OVERFLOW_FLAG = genmask(31, 31)

/** Fields that CMDQ_BASE, EVTQ_BASE and PRIQ_BASE share. `RWA` is RA for the command queue, WA for the others. */
export const Q_BASE_HI_RWA = genmask(30, 30)
export const Q_BASE_HI_ADDR = genmask(23, 0)
export const Q_BASE_LO_ADDR = genmask(31, 5)
export const Q_BASE_LOG2SIZE = genmask(4, 0)

/** Address bits that the IDR5.OAS encodings stand for (IHI 0070 section 6.3.6). */
const OAS_BITS = [32, 36, 40, 42, 44, 48, 52, 56] as const

/** Bits of the output address size: from IDR5.OAS, and from CD.IPS and STE.S2PS, which are encoded the same way. */
export function oasBits(encoding: number): number {
  return OAS_BITS[encoding & 7]
}

/** ADDR of STRTAB_BASE, not yet aligned to the size of the table. */
export function strtabBaseAddress(lo: number, hi: number): number {
  return addressOf((lo & STRTAB_BASE_LO_ADDR) >>> 0, (hi & STRTAB_BASE_HI_ADDR) >>> 0)
}

type FieldRow = readonly [name: string, mask: number]

/** A register of the frame. */
export interface Register {
  readonly offset: number
  /** As in the specification, without `SMMU_` and with EVTQ for EVENTQ. */
  readonly name: string
  readonly bits: 32 | 64
  readonly access: 'RO' | 'RW'
  readonly meaning: string
  /** Fields of a 32-bit register, or of the low half, highest bits first. */
  readonly lo: readonly FieldRow[]
  /** Fields of the high half. */
  readonly hi: readonly FieldRow[]
  /** Bits of the address that the register holds, if it holds one. */
  readonly address?: { readonly lo: number; readonly hi: number }
}

const CR0_FIELDS: readonly FieldRow[] = [
  ['DPT_WALK_EN', CR0_DPT_WALK_EN],
  ['VMW', CR0_VMW],
  ['ATSCHK', CR0_ATSCHK],
  ['CMDQEN', CR0_CMDQEN],
  ['EVTQEN', CR0_EVTQEN],
  ['PRIQEN', CR0_PRIQEN],
  ['SMMUEN', CR0_SMMUEN],
]
const IRQ_CTRL_FIELDS: readonly FieldRow[] = [
  ['EVTQ_IRQEN', IRQ_CTRL_EVTQ_IRQEN],
  ['PRIQ_IRQEN', IRQ_CTRL_PRIQ_IRQEN],
  ['GERROR_IRQEN', IRQ_CTRL_GERROR_IRQEN],
]
const GERROR_FIELDS: readonly FieldRow[] = [
  ['DPT_ERR', GERROR_DPT_ERR],
  ['CMDQP_ERR', GERROR_CMDQP_ERR],
  ['SFM_ERR', GERROR_SFM_ERR],
  ['MSI_GERROR_ABT_ERR', GERROR_MSI_GERROR_ABT_ERR],
  ['MSI_PRIQ_ABT_ERR', GERROR_MSI_PRIQ_ABT_ERR],
  ['MSI_EVTQ_ABT_ERR', GERROR_MSI_EVTQ_ABT_ERR],
  ['MSI_CMDQ_ABT_ERR', GERROR_MSI_CMDQ_ABT_ERR],
  ['PRIQ_ABT_ERR', GERROR_PRIQ_ABT_ERR],
  ['EVTQ_ABT_ERR', GERROR_EVTQ_ABT_ERR],
  ['CMDQ_ERR', GERROR_CMDQ_ERR],
]
const MSI_CFG2_FIELDS: readonly FieldRow[] = [
  ['SH', MSI_CFG2_SH],
  ['MemAttr', MSI_CFG2_MEMATTR],
]
const Q_INDEX_FIELDS: readonly FieldRow[] = [['index', genmask(19, 0)]]
const Q_BASE_ADDRESS = { lo: Q_BASE_LO_ADDR, hi: Q_BASE_HI_ADDR }
const MSI_ADDRESS = { lo: MSI_CFG0_LO_ADDR, hi: MSI_CFG0_HI_ADDR }

type Options = Partial<Pick<Register, 'lo' | 'hi' | 'address'>>

function reg(
  offset: number,
  name: string,
  bits: 32 | 64,
  access: 'RO' | 'RW',
  meaning: string,
  { lo = [], hi = [], address }: Options = {},
): Register {
  return { offset, name, bits, access, meaning, lo, hi, ...(address && { address }) }
}

const IDR0_FIELDS: readonly FieldRow[] = [
  ['RME_IMPL', IDR0_RME_IMPL],
  ['ST_LEVEL', IDR0_ST_LVL],
  ['TERM_MODEL', IDR0_TERM_MODEL],
  ['STALL_MODEL', IDR0_STALL_MODEL],
  ['ATSRECERR', IDR0_ATSRECERR],
  ['TTENDIAN', IDR0_TTENDIAN],
  ['VATOS', IDR0_VATOS],
  ['CD2L', IDR0_CD2L],
  ['VMID16', IDR0_VMID16],
  ['VMW', IDR0_VMW],
  ['PRI', IDR0_PRI],
  ['ATOS', IDR0_ATOS],
  ['SEV', IDR0_SEV],
  ['MSI', IDR0_MSI],
  ['ASID16', IDR0_ASID16],
  ['NS1ATS', IDR0_NS1ATS],
  ['ATS', IDR0_ATS],
  ['HYP', IDR0_HYP],
  ['DORMHINT', IDR0_DORMHINT],
  ['HTTU', IDR0_HTTU],
  ['BTM', IDR0_BTM],
  ['COHACC', IDR0_COHACC],
  ['TTF', IDR0_TTF],
  ['S1P', IDR0_S1P],
  ['S2P', IDR0_S2P],
]
const IDR1_FIELDS: readonly FieldRow[] = [
  ['ECMDQ', IDR1_ECMDQ],
  ['TABLES_PRESET', IDR1_TABLES_PRESET],
  ['QUEUES_PRESET', IDR1_QUEUES_PRESET],
  ['REL', IDR1_REL],
  ['ATTR_TYPES_OVR', IDR1_ATTR_TYPES_OVR],
  ['ATTR_PERMS_OVR', IDR1_ATTR_PERMS_OVR],
  ['CMDQS', IDR1_CMDQS],
  ['EVTQS', IDR1_EVTQS],
  ['PRIQS', IDR1_PRIQS],
  ['SSIDSIZE', IDR1_SSIDSIZE],
  ['SIDSIZE', IDR1_SIDSIZE],
]
const IDR3_FIELDS: readonly FieldRow[] = [
  ['AIE', IDR3_AIE],
  ['MTEPERM', IDR3_MTEPERM],
  ['THE', IDR3_THE],
  ['S2PO', IDR3_S2PO],
  ['S2PI', IDR3_S2PI],
  ['S1PI', IDR3_S1PI],
  ['EPAN', IDR3_EPAN],
  ['PASIDTT', IDR3_PASIDTT],
  ['DPT', IDR3_DPT],
  ['PTWNNC', IDR3_PTWNNC],
  ['E0PD', IDR3_E0PD],
  ['BBML', IDR3_BBML],
  ['RIL', IDR3_RIL],
  ['STT', IDR3_STT],
  ['FWB', IDR3_FWB],
  ['MPAM', IDR3_MPAM],
  ['PPS', IDR3_PPS],
  ['XNX', IDR3_XNX],
  ['PBHA', IDR3_PBHA],
  ['HAD', IDR3_HAD],
]
const IDR5_FIELDS: readonly FieldRow[] = [
  ['STALL_MAX', IDR5_STALL_MAX],
  ['VAX', IDR5_VAX],
  ['D128', IDR5_D128],
  ['DS', IDR5_DS],
  ['GRAN64K', IDR5_GRAN64K],
  ['GRAN16K', IDR5_GRAN16K],
  ['GRAN4K', IDR5_GRAN4K],
  ['OAS', IDR5_OAS],
]

/** Every Non-secure register of the frame, by offset. The Secure ones (0x8000 to 0xffff of Page 0) are RES0 here. */
export const REGISTERS: readonly Register[] = [
  reg(ARM_SMMU_IDR0, 'IDR0', 32, 'RO', 'features', { lo: IDR0_FIELDS }),
  reg(ARM_SMMU_IDR1, 'IDR1', 32, 'RO', 'sizes of queues, StreamIDs and SubstreamIDs; presets', { lo: IDR1_FIELDS }),
  reg(ARM_SMMU_IDR2, 'IDR2', 32, 'RO', 'place of the VATOS page', { lo: [['BA_VATOS', IDR2_BA_VATOS]] }),
  reg(ARM_SMMU_IDR3, 'IDR3', 32, 'RO', 'features since SMMUv3.1', { lo: IDR3_FIELDS }),
  reg(ARM_SMMU_IDR4, 'IDR4', 32, 'RO', 'implementation defined'),
  reg(ARM_SMMU_IDR5, 'IDR5', 32, 'RO', 'granules, address sizes, number of stalls', { lo: IDR5_FIELDS }),
  reg(ARM_SMMU_IIDR, 'IIDR', 32, 'RO', 'product and revision', {
    lo: [
      ['ProductID', IIDR_PRODUCTID],
      ['Variant', IIDR_VARIANT],
      ['Revision', IIDR_REVISION],
      ['Implementer', IIDR_IMPLEMENTER],
    ],
  }),
  reg(ARM_SMMU_AIDR, 'AIDR', 32, 'RO', 'architecture version', {
    lo: [
      ['ArchMajorRev', AIDR_ARCH_MAJOR_REV],
      ['ArchMinorRev', AIDR_ARCH_MINOR_REV],
    ],
  }),
  reg(ARM_SMMU_CR0, 'CR0', 32, 'RW', 'enables of translation and queues', { lo: CR0_FIELDS }),
  reg(ARM_SMMU_CR0ACK, 'CR0ACK', 32, 'RO', 'which writes of CR0 took effect', { lo: CR0_FIELDS }),
  reg(ARM_SMMU_CR1, 'CR1', 32, 'RW', 'memory attributes of tables and queues', {
    lo: [
      ['TABLE_SH', CR1_TABLE_SH],
      ['TABLE_OC', CR1_TABLE_OC],
      ['TABLE_IC', CR1_TABLE_IC],
      ['QUEUE_SH', CR1_QUEUE_SH],
      ['QUEUE_OC', CR1_QUEUE_OC],
      ['QUEUE_IC', CR1_QUEUE_IC],
    ],
  }),
  reg(ARM_SMMU_CR2, 'CR2', 32, 'RW', 'what is recorded, who takes part in broadcast TLB maintenance', {
    lo: [
      ['REC_CFG_ATS', CR2_REC_CFG_ATS],
      ['PTM', CR2_PTM],
      ['RECINVSID', CR2_RECINVSID],
      ['E2H', CR2_E2H],
    ],
  }),
  reg(ARM_SMMU_S2PII, 'S2PII', 64, 'RW', 'stage 2 permission indirection'),
  reg(ARM_SMMU_STATUSR, 'STATUSR', 32, 'RO', 'dormant hint', { lo: [['DORMANT', STATUSR_DORMANT]] }),
  reg(ARM_SMMU_GBPA, 'GBPA', 32, 'RW', 'what happens to transactions while SMMUEN is 0', {
    lo: [
      ['UPDATE', GBPA_UPDATE],
      ['ABORT', GBPA_ABORT],
      ['INSTCFG', GBPA_INSTCFG],
      ['PRIVCFG', GBPA_PRIVCFG],
      ['SHCFG', GBPA_SHCFG],
      ['ALLOCCFG', GBPA_ALLOCCFG],
      ['MTCFG', GBPA_MTCFG],
      ['MemAttr', GBPA_MEMATTR],
    ],
  }),
  reg(ARM_SMMU_AGBPA, 'AGBPA', 32, 'RW', 'implementation defined part of GBPA'),
  reg(ARM_SMMU_IRQ_CTRL, 'IRQ_CTRL', 32, 'RW', 'interrupt enables', { lo: IRQ_CTRL_FIELDS }),
  reg(ARM_SMMU_IRQ_CTRLACK, 'IRQ_CTRLACK', 32, 'RO', 'which writes of IRQ_CTRL took effect', { lo: IRQ_CTRL_FIELDS }),
  reg(ARM_SMMU_GERROR, 'GERROR', 32, 'RO', 'global errors: a bit that differs from GERRORN is active', {
    lo: GERROR_FIELDS,
  }),
  reg(ARM_SMMU_GERRORN, 'GERRORN', 32, 'RW', 'acknowledgement of global errors', { lo: GERROR_FIELDS }),
  reg(ARM_SMMU_GERROR_IRQ_CFG0, 'GERROR_IRQ_CFG0', 64, 'RW', 'MSI address of the GERROR interrupt', {
    address: MSI_ADDRESS,
  }),
  reg(ARM_SMMU_GERROR_IRQ_CFG1, 'GERROR_IRQ_CFG1', 32, 'RW', 'MSI data of the GERROR interrupt'),
  reg(ARM_SMMU_GERROR_IRQ_CFG2, 'GERROR_IRQ_CFG2', 32, 'RW', 'MSI attributes of the GERROR interrupt', {
    lo: MSI_CFG2_FIELDS,
  }),
  reg(ARM_SMMU_STRTAB_BASE, 'STRTAB_BASE', 64, 'RW', 'address of the stream table', {
    hi: [['RA', STRTAB_BASE_HI_RA]],
    address: { lo: STRTAB_BASE_LO_ADDR, hi: STRTAB_BASE_HI_ADDR },
  }),
  reg(ARM_SMMU_STRTAB_BASE_CFG, 'STRTAB_BASE_CFG', 32, 'RW', 'format and size of the stream table', {
    lo: [
      ['FMT', STRTAB_BASE_CFG_FMT],
      ['SPLIT', STRTAB_BASE_CFG_SPLIT],
      ['LOG2SIZE', STRTAB_BASE_CFG_LOG2SIZE],
    ],
  }),
  reg(ARM_SMMU_CMDQ_BASE, 'CMDQ_BASE', 64, 'RW', 'address and size of the command queue', {
    lo: [['LOG2SIZE', Q_BASE_LOG2SIZE]],
    hi: [['RA', Q_BASE_HI_RWA]],
    address: Q_BASE_ADDRESS,
  }),
  reg(ARM_SMMU_CMDQ_PROD, 'CMDQ_PROD', 32, 'RW', 'where software writes the next command', { lo: Q_INDEX_FIELDS }),
  reg(ARM_SMMU_CMDQ_CONS, 'CMDQ_CONS', 32, 'RW', 'which command is consumed next, and why consumption stopped', {
    lo: [['ERR', CMDQ_CONS_ERR], ...Q_INDEX_FIELDS],
  }),
  reg(ARM_SMMU_EVTQ_BASE, 'EVTQ_BASE', 64, 'RW', 'address and size of the event queue', {
    lo: [['LOG2SIZE', Q_BASE_LOG2SIZE]],
    hi: [['WA', Q_BASE_HI_RWA]],
    address: Q_BASE_ADDRESS,
  }),
  reg(ARM_SMMU_EVTQ_IRQ_CFG0, 'EVTQ_IRQ_CFG0', 64, 'RW', 'MSI address of the event queue interrupt', {
    address: MSI_ADDRESS,
  }),
  reg(ARM_SMMU_EVTQ_IRQ_CFG1, 'EVTQ_IRQ_CFG1', 32, 'RW', 'MSI data of the event queue interrupt'),
  reg(ARM_SMMU_EVTQ_IRQ_CFG2, 'EVTQ_IRQ_CFG2', 32, 'RW', 'MSI attributes of the event queue interrupt', {
    lo: MSI_CFG2_FIELDS,
  }),
  reg(ARM_SMMU_PRIQ_BASE, 'PRIQ_BASE', 64, 'RW', 'address and size of the PRI queue', {
    lo: [['LOG2SIZE', Q_BASE_LOG2SIZE]],
    hi: [['WA', Q_BASE_HI_RWA]],
    address: Q_BASE_ADDRESS,
  }),
  reg(ARM_SMMU_PRIQ_IRQ_CFG0, 'PRIQ_IRQ_CFG0', 64, 'RW', 'MSI address of the PRI queue interrupt', {
    address: MSI_ADDRESS,
  }),
  reg(ARM_SMMU_PRIQ_IRQ_CFG1, 'PRIQ_IRQ_CFG1', 32, 'RW', 'MSI data of the PRI queue interrupt'),
  reg(ARM_SMMU_PRIQ_IRQ_CFG2, 'PRIQ_IRQ_CFG2', 32, 'RW', 'MSI attributes of the PRI queue interrupt', {
    lo: [['LO', PRIQ_IRQ_CFG2_LO], ...MSI_CFG2_FIELDS],
  }),
  reg(ARM_SMMU_GATOS_CTRL, 'GATOS_CTRL', 32, 'RW', 'starts an address translation operation'),
  reg(ARM_SMMU_GATOS_SID, 'GATOS_SID', 64, 'RW', 'stream of an address translation operation'),
  reg(ARM_SMMU_GATOS_ADDR, 'GATOS_ADDR', 64, 'RW', 'input address of an address translation operation'),
  reg(ARM_SMMU_GATOS_PAR, 'GATOS_PAR', 64, 'RO', 'result of an address translation operation'),
  reg(ARM_SMMU_MPAMIDR, 'MPAMIDR', 32, 'RO', 'sizes of MPAM ids'),
  reg(ARM_SMMU_GMPAM, 'GMPAM', 32, 'RW', 'MPAM ids of accesses that the SMMU makes'),
  reg(ARM_SMMU_GBPMPAM, 'GBPMPAM', 32, 'RW', 'MPAM ids of transactions that bypass'),
  reg(ARM_SMMU_VATOS_SEL, 'VATOS_SEL', 32, 'RW', 'VMID that may use the VATOS page'),
  reg(ARM_SMMU_IDR6, 'IDR6', 32, 'RO', 'number of enhanced command queues'),
  reg(ARM_SMMU_DPT_BASE, 'DPT_BASE', 64, 'RW', 'address of the device permission table'),
  reg(ARM_SMMU_DPT_BASE_CFG, 'DPT_BASE_CFG', 32, 'RW', 'format of the device permission table'),
  reg(ARM_SMMU_DPT_CFG_FAR, 'DPT_CFG_FAR', 64, 'RW', 'fault of the device permission table'),
  reg(ARM_SMMU_EVTQ_PROD, 'EVTQ_PROD', 32, 'RW', 'where the SMMU writes the next event', {
    lo: [['OVFLG', Q_OVERFLOW_FLAG], ...Q_INDEX_FIELDS],
  }),
  reg(ARM_SMMU_EVTQ_CONS, 'EVTQ_CONS', 32, 'RW', 'which event software reads next', {
    lo: [['OVACKFLG', Q_OVERFLOW_FLAG], ...Q_INDEX_FIELDS],
  }),
  reg(ARM_SMMU_PRIQ_PROD, 'PRIQ_PROD', 32, 'RW', 'where the SMMU writes the next page request', {
    lo: [['OVFLG', Q_OVERFLOW_FLAG], ...Q_INDEX_FIELDS],
  }),
  reg(ARM_SMMU_PRIQ_CONS, 'PRIQ_CONS', 32, 'RW', 'which page request software reads next', {
    lo: [['OVACKFLG', Q_OVERFLOW_FLAG], ...Q_INDEX_FIELDS],
  }),
]

const BY_OFFSET = new Map<number, Register>(REGISTERS.map(register => [register.offset, register]))

/** The register that starts at `offset`. */
export function registerAt(offset: number): Register | undefined {
  return BY_OFFSET.get(offset)
}

/**
 * Name for people of any offset of the frame: `CR0`, `CMDQ_BASE+4` (its high half), `PAGE1+0x20`, `0x1f0`.
 */
export function registerName(offset: number): string {
  const exact = BY_OFFSET.get(offset)
  if (exact) return exact.name
  const below = BY_OFFSET.get(offset - (offset % 4)) ?? BY_OFFSET.get(offset - (offset % 8))
  if (below && offset < below.offset + below.bits / 8) return `${below.name}+${offset - below.offset}`
  if (offset >= ARM_SMMU_ID_REGS && offset < 0x1000) return `ID_REGS+${hex(offset - ARM_SMMU_ID_REGS)}`
  if (offset >= 0x8000 && offset < ARM_SMMU_PAGE1) {
    const twin = BY_OFFSET.get(offset - 0x8000)
    return twin ? `S_${twin.name}` : hex(offset)
  }
  return offset >= ARM_SMMU_PAGE1 ? `PAGE1+${hex(offset - ARM_SMMU_PAGE1)}` : hex(offset)
}

function fieldWords(fields: readonly FieldRow[], half: number): string[] {
  const words: string[] = []
  for (const [name, mask] of fields) {
    const value = fieldGet(mask, half)
    const flag = (mask & (mask - 1)) === 0
    if (flag && value) words.push(name)
    if (!flag && value) words.push(`${name}=${value > 9 ? hex(value) : value}`)
  }
  return words
}

/**
 * A value of a register in words: the flags that are set and the fields that are not 0, for example
 * `CMDQEN EVTQEN SMMUEN` or `LOG2SIZE=8 RA ADDR=0x48000000`. A register without fields, or an unknown one, in hexadecimal.
 */
export function describeRegister(offset: number, lo: number, hi = 0): string {
  const register = BY_OFFSET.get(offset)
  if (!register || (register.lo.length === 0 && register.hi.length === 0 && !register.address)) return hex64(lo, hi)
  const words = [...fieldWords(register.lo, lo), ...fieldWords(register.hi, hi)]
  const { address } = register
  if (address) words.push(`ADDR=${hex64((lo & address.lo) >>> 0, (hi & address.hi) >>> 0)}`)
  return words.join(' ') || '0'
}

/** The fields of a register's value, from bit 0 on; none of a register without fields, or an unknown one. */
export function registerBits(offset: number, lo: number, hi = 0): Bits[] {
  const register = BY_OFFSET.get(offset)
  if (register === undefined) return []
  const half = (fields: readonly FieldRow[], value: number, from: number) =>
    fields.map(([name, mask]): Bits => {
      const n = fieldGet(mask, value)
      return { name, hi: from + 31 - Math.clz32(mask), lo: from + lowestBit(mask), value: n > 9 ? hex(n) : String(n) }
    })
  const bits = [...half(register.lo, lo, 0), ...half(register.hi, hi, 32)]
  const { address } = register
  if (address !== undefined) {
    const value = hex64((lo & address.lo) >>> 0, (hi & address.hi) >>> 0)
    const top = address.hi === 0 ? 31 - Math.clz32(address.lo) : 63 - Math.clz32(address.hi)
    bits.push({ name: 'ADDR', hi: top, lo: lowestBit(address.lo), value })
  }
  return bits.sort((a, b) => a.lo - b.lo)
}
