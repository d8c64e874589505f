// SPDX-License-Identifier: Apache-2.0
/**
 * Commands (IHI 0070 chapter 4): 16 bytes, little-endian, handled as four 32-bit words of a `Uint32Array`. Field positions are
 * those of the specification's figures, bits 127 to 0. Functions take the index of the command's first word as `base`.
 */
import { addressOf, field, getField, hex, hex64, setField } from './bits.ts'

/** Words of a command. */
export const CMDQ_ENT_WORDS = 4

// Opcodes (IHI 0070 section 4.1.1).

export const CMDQ_OP_PREFETCH_CFG = 0x01
export const CMDQ_OP_PREFETCH_ADDR = 0x02
export const CMDQ_OP_CFGI_STE = 0x03
/** CFGI_STE_RANGE; with a range of 31 it is CFGI_ALL. */
export const CMDQ_OP_CFGI_ALL = 0x04
export const CMDQ_OP_CFGI_CD = 0x05
export const CMDQ_OP_CFGI_CD_ALL = 0x06
export const CMDQ_OP_CFGI_VMS_PIDM = 0x07
export const CMDQ_OP_TLBI_NH_ALL = 0x10
export const CMDQ_OP_TLBI_NH_ASID = 0x11
export const CMDQ_OP_TLBI_NH_VA = 0x12
export const CMDQ_OP_TLBI_NH_VAA = 0x13
export const CMDQ_OP_TLBI_EL3_ALL = 0x18
export const CMDQ_OP_TLBI_EL3_VA = 0x1a
export const CMDQ_OP_TLBI_EL2_ALL = 0x20
export const CMDQ_OP_TLBI_EL2_ASID = 0x21
export const CMDQ_OP_TLBI_EL2_VA = 0x22
export const CMDQ_OP_TLBI_EL2_VAA = 0x23
export const CMDQ_OP_TLBI_S12_VMALL = 0x28
export const CMDQ_OP_TLBI_S2_IPA = 0x2a
export const CMDQ_OP_TLBI_NSNH_ALL = 0x30
export const CMDQ_OP_ATC_INV = 0x40
export const CMDQ_OP_PRI_RESP = 0x41
export const CMDQ_OP_RESUME = 0x44
export const CMDQ_OP_STALL_TERM = 0x45
export const CMDQ_OP_CMD_SYNC = 0x46
export const CMDQ_OP_TLBI_S_EL2_ALL = 0x50
export const CMDQ_OP_TLBI_S_EL2_ASID = 0x51
export const CMDQ_OP_TLBI_S_EL2_VA = 0x52
export const CMDQ_OP_TLBI_S_EL2_VAA = 0x53
export const CMDQ_OP_TLBI_S_S12_VMALL = 0x58
export const CMDQ_OP_TLBI_S_S2_IPA = 0x5a
export const CMDQ_OP_TLBI_SNH_ALL = 0x60
export const CMDQ_OP_DPTI_ALL = 0x70
export const CMDQ_OP_DPTI_PA = 0x73

// Fields.

export const CMDQ_0_OP = field(7, 0)
/** The StreamID is Secure: illegal on the Non-secure command queue (IHI 0070 section 4.1.6). */
export const CMDQ_0_SSEC = field(10)
/** The SubstreamID is valid. */
export const CMDQ_0_SSV = field(11)

export const CMDQ_PREFETCH_0_SSID = field(31, 12)
export const CMDQ_PREFETCH_0_SID = field(63, 32)
export const CMDQ_PREFETCH_1_SIZE = field(68, 64)

export const CMDQ_CFGI_0_SSID = field(31, 12)
export const CMDQ_CFGI_0_SID = field(63, 32)
export const CMDQ_CFGI_0_VMID = field(47, 32)
export const CMDQ_CFGI_1_LEAF = field(64)
export const CMDQ_CFGI_1_RANGE = field(68, 64)
/** The range that makes CFGI_STE_RANGE a CFGI_ALL (IHI 0070 section 4.3.6). */
export const CMDQ_CFGI_RANGE_ALL = 31

export const CMDQ_TLBI_0_NUM = field(16, 12)
export const CMDQ_TLBI_0_SCALE = field(24, 20)
export const CMDQ_TLBI_0_VMID = field(47, 32)
export const CMDQ_TLBI_0_ASID = field(63, 48)
export const CMDQ_TLBI_1_LEAF = field(64)
export const CMDQ_TLBI_1_TTL128 = field(71)
export const CMDQ_TLBI_1_TTL = field(73, 72)
export const CMDQ_TLBI_1_TG = field(75, 74)
export const CMDQ_TLBI_1_TG_ANY = 0
export const CMDQ_TLBI_1_TG_4K = 1
export const CMDQ_TLBI_1_TG_16K = 2
export const CMDQ_TLBI_1_TG_64K = 3

export const CMDQ_ATC_0_GLOBAL = field(9)
export const CMDQ_ATC_0_SSID = field(31, 12)
export const CMDQ_ATC_0_SID = field(63, 32)
export const CMDQ_ATC_1_SIZE = field(69, 64)
/** The size that covers all addresses (IHI 0070 section 4.5.1). */
export const ATC_INV_SIZE_ALL = 52

export const CMDQ_PRI_0_SSID = field(31, 12)
export const CMDQ_PRI_0_SID = field(63, 32)
export const CMDQ_PRI_1_GRPID = field(72, 64)
export const CMDQ_PRI_1_RESP = field(77, 76)
export const CMDQ_PRI_1_RESP_DENY = 0
export const CMDQ_PRI_1_RESP_FAIL = 1
export const CMDQ_PRI_1_RESP_SUCC = 2
export const CMDQ_PRI_1_RESP_RESERVED = 3

/** Action (bit 12) and Abort (bit 13) together. */
export const CMDQ_RESUME_0_RESP = field(13, 12)
export const CMDQ_RESUME_0_RESP_TERM = 0
export const CMDQ_RESUME_0_RESP_RETRY = 1
export const CMDQ_RESUME_0_RESP_ABORT = 2
export const CMDQ_RESUME_0_SID = field(63, 32)
export const CMDQ_RESUME_1_STAG = field(79, 64)

export const CMDQ_SYNC_0_CS = field(13, 12)
export const CMDQ_SYNC_0_CS_NONE = 0
export const CMDQ_SYNC_0_CS_IRQ = 1
export const CMDQ_SYNC_0_CS_SEV = 2
export const CMDQ_SYNC_0_MSH = field(23, 22)
export const CMDQ_SYNC_0_MSIATTR = field(27, 24)
export const CMDQ_SYNC_0_MSIDATA = field(63, 32)

/** MSIAddress of CMD_SYNC, bits [55:2] of words 2 and 3. */
export function syncMsiAddress(cmd: Uint32Array, base = 0): number {
  return addressOf((cmd[base + 2] & ~3) >>> 0, cmd[base + 3] & 0x00ff_ffff)
}

/**
 * Address of an address-based command in units of 4 KiB: bits [63:12] of a VA. It has 52 bits and so is exact as a number,
 * where the address itself would not be.
 */
export function commandPage(cmd: Uint32Array, base = 0): number {
  return cmd[base + 3] * 0x10_0000 + (cmd[base + 2] >>> 12)
}

/** Granule of a TG encoding as log2 of its bytes; TG must not be 0. */
export function tlbiGranuleShift(tg: number): number {
  return 10 + 2 * tg
}

/** TG encoding of a granule given as log2 of its bytes (12, 14 or 16). */
export function tlbiGranule(shift: number): number {
  return (shift - 10) / 2
}

// Commands that a hypervisor issues. Each writes all four words at `base`.

function put(cmd: Uint32Array, base: number, w0: number, w1: number, w2: number, w3: number): void {
  cmd[base] = w0
  cmd[base + 1] = w1
  cmd[base + 2] = w2
  cmd[base + 3] = w3
}

/** CMD_CFGI_STE (IHI 0070 section 4.3.1). */
export function cfgiSte(cmd: Uint32Array, sid: number, leaf: boolean, base = 0): void {
  put(cmd, base, CMDQ_OP_CFGI_STE, sid, leaf ? 1 : 0, 0)
}

/** CMD_CFGI_ALL (IHI 0070 section 4.3.6). */
export function cfgiAll(cmd: Uint32Array, base = 0): void {
  put(cmd, base, CMDQ_OP_CFGI_ALL, 0, CMDQ_CFGI_RANGE_ALL, 0)
}

/**
 * CMD_ATC_INV of all that a device was told (IHI 0070 section 4.5.1).
 * @param substreams of all PASIDs, instead of what has none
 */
export function atcInvAll(cmd: Uint32Array, sid: number, substreams: boolean, base = 0): void {
  put(cmd, base, CMDQ_OP_ATC_INV, sid, ATC_INV_SIZE_ALL, 0)
  if (!substreams) return
  setField(cmd, CMDQ_0_SSV, 1, base)
  setField(cmd, CMDQ_ATC_0_GLOBAL, 1, base)
}

/** CMD_SYNC without an MSI (IHI 0070 section 4.7.3). */
export function cmdSync(cmd: Uint32Array, cs: number = CMDQ_SYNC_0_CS_NONE, base = 0): void {
  put(cmd, base, CMDQ_OP_CMD_SYNC | (cs << CMDQ_SYNC_0_CS.shift), 0, 0, 0)
}

/** CMD_TLBI_NH_ALL: all stage 1 entries of a VMID (IHI 0070 section 4.4.2.1). */
export function tlbiNhAll(cmd: Uint32Array, vmid: number, base = 0): void {
  put(cmd, base, CMDQ_OP_TLBI_NH_ALL, vmid, 0, 0)
}

/** CMD_TLBI_NSNH_ALL: everything Non-secure that is not EL2 (IHI 0070 section 4.4.4.1). */
export function tlbiNsnhAll(cmd: Uint32Array, base = 0): void {
  put(cmd, base, CMDQ_OP_TLBI_NSNH_ALL, 0, 0, 0)
}

/** CMD_TLBI_S12_VMALL: both stages of a VMID (IHI 0070 section 4.4.3.2). */
export function tlbiS12Vmall(cmd: Uint32Array, vmid: number, base = 0): void {
  put(cmd, base, CMDQ_OP_TLBI_S12_VMALL, vmid, 0, 0)
}

/** CMD_TLBI_S2_IPA without range or level hint (IHI 0070 section 4.4.3.1). `ipa`: bytes below 2^53. */
export function tlbiS2Ipa(cmd: Uint32Array, vmid: number, ipa: number, leaf: boolean, base = 0): void {
  put(cmd, base, CMDQ_OP_TLBI_S2_IPA, vmid, ((ipa >>> 0) & 0xffff_f000) | (leaf ? 1 : 0), Math.floor(ipa / 2 ** 32))
}

/**
 * CMD_TLBI_S2_IPA for `(num + 1) << scale` granules from `ipa` on, without a level hint (IHI 0070 sections 4.4.1.1, 4.4.3.1).
 * Needs IDR3.RIL. A single granule cannot be expressed (it is Reserved without a level hint, CERROR_ILL): use `tlbiS2Ipa`.
 */
export function tlbiS2IpaRange(
  cmd: Uint32Array,
  vmid: number,
  ipa: number,
  leaf: boolean,
  granuleShift: number,
  num: number,
  scale: number,
  base = 0,
): void {
  tlbiS2Ipa(cmd, vmid, ipa, leaf, base)
  cmd[base] |= (num << CMDQ_TLBI_0_NUM.shift) | (scale << CMDQ_TLBI_0_SCALE.shift)
  cmd[base + 2] |= tlbiGranule(granuleShift) << CMDQ_TLBI_1_TG.shift
}

/** SCALE of the next range command when `granules` granules, not 0, are to be covered exactly: the largest that divides them. */
export function tlbiRangeScale(granules: number): number {
  let scale = 0
  while (scale < 31 && granules % 2 === 0) {
    granules /= 2
    scale++
  }
  return scale
}

/**
 * Units of `1 << scale` granules that the next range command covers, 1 to 32; its NUM is one less. A loop that subtracts what
 * was covered from `granules` ends with exact coverage after a handful of commands.
 */
export function tlbiRangeUnits(granules: number, scale: number): number {
  return Math.floor(granules / 2 ** scale) % 32 || 32
}

// For people.

const NAMES: Readonly<Record<number, string>> = {
  [CMDQ_OP_PREFETCH_CFG]: 'PREFETCH_CONFIG',
  [CMDQ_OP_PREFETCH_ADDR]: 'PREFETCH_ADDR',
  [CMDQ_OP_CFGI_STE]: 'CFGI_STE',
  [CMDQ_OP_CFGI_ALL]: 'CFGI_STE_RANGE',
  [CMDQ_OP_CFGI_CD]: 'CFGI_CD',
  [CMDQ_OP_CFGI_CD_ALL]: 'CFGI_CD_ALL',
  [CMDQ_OP_CFGI_VMS_PIDM]: 'CFGI_VMS_PIDM',
  [CMDQ_OP_TLBI_NH_ALL]: 'TLBI_NH_ALL',
  [CMDQ_OP_TLBI_NH_ASID]: 'TLBI_NH_ASID',
  [CMDQ_OP_TLBI_NH_VA]: 'TLBI_NH_VA',
  [CMDQ_OP_TLBI_NH_VAA]: 'TLBI_NH_VAA',
  [CMDQ_OP_TLBI_EL3_ALL]: 'TLBI_EL3_ALL',
  [CMDQ_OP_TLBI_EL3_VA]: 'TLBI_EL3_VA',
  [CMDQ_OP_TLBI_EL2_ALL]: 'TLBI_EL2_ALL',
  [CMDQ_OP_TLBI_EL2_ASID]: 'TLBI_EL2_ASID',
  [CMDQ_OP_TLBI_EL2_VA]: 'TLBI_EL2_VA',
  [CMDQ_OP_TLBI_EL2_VAA]: 'TLBI_EL2_VAA',
  [CMDQ_OP_TLBI_S12_VMALL]: 'TLBI_S12_VMALL',
  [CMDQ_OP_TLBI_S2_IPA]: 'TLBI_S2_IPA',
  [CMDQ_OP_TLBI_NSNH_ALL]: 'TLBI_NSNH_ALL',
  [CMDQ_OP_ATC_INV]: 'ATC_INV',
  [CMDQ_OP_PRI_RESP]: 'PRI_RESP',
  [CMDQ_OP_RESUME]: 'RESUME',
  [CMDQ_OP_STALL_TERM]: 'STALL_TERM',
  [CMDQ_OP_CMD_SYNC]: 'SYNC',
  [CMDQ_OP_TLBI_S_EL2_ALL]: 'TLBI_S_EL2_ALL',
  [CMDQ_OP_TLBI_S_EL2_ASID]: 'TLBI_S_EL2_ASID',
  [CMDQ_OP_TLBI_S_EL2_VA]: 'TLBI_S_EL2_VA',
  [CMDQ_OP_TLBI_S_EL2_VAA]: 'TLBI_S_EL2_VAA',
  [CMDQ_OP_TLBI_S_S12_VMALL]: 'TLBI_S_S12_VMALL',
  [CMDQ_OP_TLBI_S_S2_IPA]: 'TLBI_S_S2_IPA',
  [CMDQ_OP_TLBI_SNH_ALL]: 'TLBI_SNH_ALL',
  [CMDQ_OP_DPTI_ALL]: 'DPTI_ALL',
  [CMDQ_OP_DPTI_PA]: 'DPTI_PA',
}

/** The specification's name without `CMD_`; `opcode 0x..` for a Reserved one. */
export function opcodeName(opcode: number): string {
  return NAMES[opcode] ?? `opcode ${hex(opcode)}`
}

/** Commands whose parameters include VMID, ASID and an address. */
function tlbiParameters(opcode: number): { vmid: boolean; asid: boolean; address: boolean } | undefined {
  switch (opcode) {
    case CMDQ_OP_TLBI_NH_ALL:
    case CMDQ_OP_TLBI_S12_VMALL:
    case CMDQ_OP_TLBI_S_S12_VMALL:
      return { vmid: true, asid: false, address: false }
    case CMDQ_OP_TLBI_NH_ASID:
      return { vmid: true, asid: true, address: false }
    case CMDQ_OP_TLBI_NH_VA:
      return { vmid: true, asid: true, address: true }
    case CMDQ_OP_TLBI_NH_VAA:
    case CMDQ_OP_TLBI_S2_IPA:
    case CMDQ_OP_TLBI_S_S2_IPA:
      return { vmid: true, asid: false, address: true }
    case CMDQ_OP_TLBI_EL2_ASID:
    case CMDQ_OP_TLBI_S_EL2_ASID:
      return { vmid: false, asid: true, address: false }
    case CMDQ_OP_TLBI_EL2_VA:
    case CMDQ_OP_TLBI_S_EL2_VA:
      return { vmid: false, asid: true, address: true }
    case CMDQ_OP_TLBI_EL2_VAA:
    case CMDQ_OP_TLBI_S_EL2_VAA:
    case CMDQ_OP_TLBI_EL3_VA:
      return { vmid: false, asid: false, address: true }
    default:
      return undefined
  }
}

const TG_NAMES = ['any', '4K', '16K', '64K']
const CS_NAMES = ['none', 'irq', 'sev', 'reserved']
const RESUME_NAMES = ['terminate', 'retry', 'abort', 'retry']

/** A command in one line, for example `TLBI_NH_VA vmid=0 asid=3 addr=0xffff0000 tg=4K num=31 scale=0 leaf`. */
export function describeCommand(cmd: Uint32Array, base = 0): string {
  const opcode = getField(cmd, CMDQ_0_OP, base)
  const words: string[] = []
  const address = () => words.push(`addr=${hex64((cmd[base + 2] & 0xffff_f000) >>> 0, cmd[base + 3])}`)
  const stream = () => {
    words.push(`sid=${hex(getField(cmd, CMDQ_CFGI_0_SID, base))}`)
    if (getField(cmd, CMDQ_0_SSEC, base)) words.push('secure')
  }
  const substream = () => words.push(`ssid=${hex(getField(cmd, CMDQ_CFGI_0_SSID, base))}`)
  const leaf = () => {
    if (getField(cmd, CMDQ_CFGI_1_LEAF, base)) words.push('leaf')
  }
  switch (opcode) {
    case CMDQ_OP_PREFETCH_CFG:
    case CMDQ_OP_PREFETCH_ADDR:
      stream()
      if (getField(cmd, CMDQ_0_SSV, base)) substream()
      if (opcode === CMDQ_OP_PREFETCH_ADDR) {
        address()
        words.push(`size=${getField(cmd, CMDQ_PREFETCH_1_SIZE, base)}`)
      }
      break
    case CMDQ_OP_CFGI_STE:
      stream()
      leaf()
      break
    case CMDQ_OP_CFGI_ALL: {
      const range = getField(cmd, CMDQ_CFGI_1_RANGE, base)
      if (range === CMDQ_CFGI_RANGE_ALL) {
        return getField(cmd, CMDQ_0_SSEC, base) ? 'CFGI_ALL secure' : 'CFGI_ALL'
      }
      stream()
      words.push(`range=${range}`)
      break
    }
    case CMDQ_OP_CFGI_CD:
      stream()
      substream()
      leaf()
      break
    case CMDQ_OP_CFGI_CD_ALL:
    case CMDQ_OP_STALL_TERM:
      stream()
      break
    case CMDQ_OP_CFGI_VMS_PIDM:
      words.push(`vmid=${getField(cmd, CMDQ_CFGI_0_VMID, base)}`)
      break
    case CMDQ_OP_ATC_INV:
      stream()
      if (getField(cmd, CMDQ_0_SSV, base)) substream()
      if (getField(cmd, CMDQ_ATC_0_GLOBAL, base)) words.push('global')
      address()
      words.push(`size=${getField(cmd, CMDQ_ATC_1_SIZE, base)}`)
      break
    case CMDQ_OP_PRI_RESP:
      stream()
      if (getField(cmd, CMDQ_0_SSV, base)) substream()
      words.push(`group=${getField(cmd, CMDQ_PRI_1_GRPID, base)}`, `resp=${getField(cmd, CMDQ_PRI_1_RESP, base)}`)
      break
    case CMDQ_OP_RESUME:
      stream()
      words.push(`stag=${hex(getField(cmd, CMDQ_RESUME_1_STAG, base))}`)
      words.push(RESUME_NAMES[getField(cmd, CMDQ_RESUME_0_RESP, base)])
      break
    case CMDQ_OP_CMD_SYNC: {
      const cs = getField(cmd, CMDQ_SYNC_0_CS, base)
      words.push(`cs=${CS_NAMES[cs]}`)
      const msi = syncMsiAddress(cmd, base)
      if (cs === CMDQ_SYNC_0_CS_IRQ && msi !== 0) {
        words.push(`msi=${hex(msi)}`, `data=${hex(getField(cmd, CMDQ_SYNC_0_MSIDATA, base))}`)
      }
      break
    }
    default: {
      const tlbi = tlbiParameters(opcode)
      if (!tlbi) break
      if (tlbi.vmid) words.push(`vmid=${getField(cmd, CMDQ_TLBI_0_VMID, base)}`)
      if (tlbi.asid) words.push(`asid=${getField(cmd, CMDQ_TLBI_0_ASID, base)}`)
      if (tlbi.address) {
        address()
        const tg = getField(cmd, CMDQ_TLBI_1_TG, base)
        if (tg) {
          words.push(`tg=${TG_NAMES[tg]}`)
          const num = getField(cmd, CMDQ_TLBI_0_NUM, base)
          const scale = getField(cmd, CMDQ_TLBI_0_SCALE, base)
          // Both 0: one granule, not a range.
          if (num !== 0 || scale !== 0) words.push(`num=${num}`, `scale=${scale}`)
          const ttl = getField(cmd, CMDQ_TLBI_1_TTL, base)
          if (ttl) words.push(`ttl=${ttl}`)
        }
        leaf()
      }
    }
  }
  return [opcodeName(opcode), ...words].join(' ')
}
