// SPDX-License-Identifier: Apache-2.0
/** Probe of one SMMU (server/hypervisor/README.md, section 2): what of its ID registers the hypervisor needs, and when it refuses. */
import { fieldGet } from '../../smmu/bits.ts'
import {
  ARM_SMMU_FRAME_SIZE,
  ARM_SMMU_IDR0,
  ARM_SMMU_IDR1,
  ARM_SMMU_IDR3,
  ARM_SMMU_IDR5,
  ARM_SMMU_IIDR,
  IDR0_COHACC,
  IDR0_S1P,
  IDR0_S2P,
  IDR0_ST_LVL,
  IDR0_ST_LVL_2LVL,
  IDR0_TTENDIAN,
  IDR0_TTENDIAN_BE,
  IDR0_TTENDIAN_LE,
  IDR0_TTENDIAN_MIXED,
  IDR1_CMDQS,
  IDR1_QUEUES_PRESET,
  IDR1_REL,
  IDR1_SIDSIZE,
  IDR1_TABLES_PRESET,
  IDR3_RIL,
  IDR5_GRAN4K,
  IDR5_GRAN16K,
  IDR5_GRAN64K,
  IDR5_OAS,
  IDR5_OAS_52_BIT,
  IIDR_IMPLEMENTER,
  IIDR_PRODUCTID,
  IIDR_REVISION,
  IIDR_VARIANT,
  oasBits,
} from '../../smmu/registers.ts'
import type { HardwareFrame } from './hardwareFrame.ts'

const IMPLEMENTER_ARM = 0x43b
const PRODUCT_MMU_600 = 0x483
const PRODUCT_MMU_700 = 0x487

/** What the probe found. */
export interface SmmuFeatures {
  /** IDR0.ST_LEVEL: 2-level stream tables. */
  twoLevel: boolean
  /** IDR1.SIDSIZE. */
  sidBits: number
  /** IDR1.CMDQS: a larger LOG2SIZE counts as this. */
  cmdqBits: number
  /** IDR3.RIL. */
  rangeInvalidation: boolean
  /** Output address bits, by IDR5.OAS. */
  oas: number
  /** Sizes of the granules, added up, bytes. */
  granules: number
  /** Endianness that table walks can have. */
  littleEndian: boolean
  bigEndian: boolean
}

/** Before a probe. */
export const NO_FEATURES: SmmuFeatures = {
  twoLevel: false,
  sidBits: 0,
  cmdqBits: 0,
  rangeInvalidation: false,
  oas: 48,
  granules: 0,
  littleEndian: true,
  bigEndian: false,
}

/** Which parts of the hypervisor need something of the SMMU. */
export interface ProbeNeeds {
  /** LOG2SIZE of a command queue of its own. Default: it has none. */
  readonly cmdqLog2size?: number
  readonly nesting: boolean
  /** Walks that do not look into the CPU's caches can be served. */
  readonly cleans: boolean
}

/**
 * Reads the ID registers and nothing else.
 * @param frame place of the register frame
 * @returns why this SMMU cannot isolate, for a person, if it cannot
 */
export function probe(
  hardware: HardwareFrame,
  frame: { readonly base: number; readonly size: number },
  needs: ProbeNeeds,
): SmmuFeatures | string {
  if (frame.size < ARM_SMMU_FRAME_SIZE) return 'the register frame is smaller than 128 KiB'
  if (frame.base % 4096 !== 0 || frame.size % 4096 !== 0) return 'the register frame is not page aligned'
  const idr0 = hardware.read32(ARM_SMMU_IDR0)
  const idr1 = hardware.read32(ARM_SMMU_IDR1)
  const idr3 = hardware.read32(ARM_SMMU_IDR3)
  const idr5 = hardware.read32(ARM_SMMU_IDR5)
  const iidr = hardware.read32(ARM_SMMU_IIDR)
  if ((idr0 & IDR0_S1P) === 0) return 'no stage 1 translation (IDR0.S1P)'
  if ((idr0 & IDR0_S2P) === 0) return 'no stage 2 translation (IDR0.S2P)'
  if ((idr0 & IDR0_COHACC) === 0 && !needs.cleans) return 'table walks are not coherent (IDR0.COHACC)'
  const endian = fieldGet(IDR0_TTENDIAN, idr0)
  const littleEndian = endian === IDR0_TTENDIAN_MIXED || endian === IDR0_TTENDIAN_LE
  const bigEndian = endian === IDR0_TTENDIAN_MIXED || endian === IDR0_TTENDIAN_BE
  if (!littleEndian && !bigEndian) return 'reserved table endianness (IDR0.TTENDIAN)'
  if ((idr1 & IDR1_TABLES_PRESET) !== 0) return 'the stream table is preset (IDR1.TABLES_PRESET)'
  if ((idr1 & IDR1_QUEUES_PRESET) !== 0) return 'the queues are preset (IDR1.QUEUES_PRESET)'
  if ((idr1 & IDR1_REL) !== 0) return 'base addresses are relative (IDR1.REL)'
  const { cmdqLog2size = 0 } = needs
  const cmdqBits = fieldGet(IDR1_CMDQS, idr1)
  if (cmdqBits < cmdqLog2size) {
    return `the command queue has less than ${2 ** cmdqLog2size} entries (IDR1.CMDQS)`
  }
  const sidBits = fieldGet(IDR1_SIDSIZE, idr1)
  if (sidBits > 32) return 'reserved StreamID size (IDR1.SIDSIZE)'
  const erratum = needs.nesting ? nestingErratum(iidr) : null
  if (erratum !== null) return erratum
  const oas = fieldGet(IDR5_OAS, idr5)
  return {
    twoLevel: fieldGet(IDR0_ST_LVL, idr0) === IDR0_ST_LVL_2LVL,
    sidBits,
    cmdqBits,
    rangeInvalidation: (idr3 & IDR3_RIL) !== 0,
    oas: oas <= IDR5_OAS_52_BIT ? oasBits(oas) : 48,
    granules:
      ((idr5 & IDR5_GRAN4K) !== 0 ? 4096 : 0) |
      ((idr5 & IDR5_GRAN16K) !== 0 ? 16384 : 0) |
      ((idr5 & IDR5_GRAN64K) !== 0 ? 65536 : 0),
    littleEndian,
    bigEndian,
  }
}

/** Why nesting cannot be used on this product and revision, or null. */
export function nestingErratum(iidr: number): string | null {
  if (fieldGet(IIDR_IMPLEMENTER, iidr) !== IMPLEMENTER_ARM) return null
  const product = fieldGet(IIDR_PRODUCTID, iidr)
  const variant = fieldGet(IIDR_VARIANT, iidr)
  const revision = fieldGet(IIDR_REVISION, iidr)
  if (product === PRODUCT_MMU_600 && variant < 2) return `nesting is broken on MMU-600 r${variant}p${revision}`
  if (product === PRODUCT_MMU_700 && (variant < 1 || revision < 1)) {
    return `nesting is broken on MMU-700 r${variant}p${revision}`
  }
  return null
}
