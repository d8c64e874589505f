// SPDX-License-Identifier: Apache-2.0
/** Which fields a command has (IHI 0070 sections 4.2 to 4.7), for those that look for commands by what they are about. */
import { type Bits, type Field, genmask, getField, hex, hex64 } from './bits.ts'
import {
  ATC_INV_SIZE_ALL,
  CMDQ_0_OP,
  CMDQ_0_SSEC,
  CMDQ_0_SSV,
  CMDQ_ATC_0_GLOBAL,
  CMDQ_ATC_1_SIZE,
  CMDQ_CFGI_0_SID,
  CMDQ_CFGI_0_SSID,
  CMDQ_CFGI_0_VMID,
  CMDQ_CFGI_1_LEAF,
  CMDQ_CFGI_1_RANGE,
  CMDQ_CFGI_RANGE_ALL,
  CMDQ_OP_ATC_INV,
  CMDQ_OP_CFGI_ALL,
  CMDQ_OP_CFGI_CD,
  CMDQ_OP_CFGI_CD_ALL,
  CMDQ_OP_CFGI_STE,
  CMDQ_OP_CFGI_VMS_PIDM,
  CMDQ_OP_CMD_SYNC,
  CMDQ_OP_PREFETCH_ADDR,
  CMDQ_OP_PREFETCH_CFG,
  CMDQ_OP_PRI_RESP,
  CMDQ_OP_RESUME,
  CMDQ_OP_STALL_TERM,
  CMDQ_OP_TLBI_EL2_ASID,
  CMDQ_OP_TLBI_EL2_VA,
  CMDQ_OP_TLBI_EL2_VAA,
  CMDQ_OP_TLBI_NH_ALL,
  CMDQ_OP_TLBI_NH_ASID,
  CMDQ_OP_TLBI_NH_VA,
  CMDQ_OP_TLBI_NH_VAA,
  CMDQ_OP_TLBI_S2_IPA,
  CMDQ_OP_TLBI_S12_VMALL,
  CMDQ_PREFETCH_1_SIZE,
  CMDQ_PRI_1_GRPID,
  CMDQ_PRI_1_RESP,
  CMDQ_RESUME_0_RESP,
  CMDQ_RESUME_1_STAG,
  CMDQ_SYNC_0_CS,
  CMDQ_SYNC_0_MSH,
  CMDQ_SYNC_0_MSIATTR,
  CMDQ_SYNC_0_MSIDATA,
  CMDQ_TLBI_0_ASID,
  CMDQ_TLBI_0_NUM,
  CMDQ_TLBI_0_SCALE,
  CMDQ_TLBI_0_VMID,
  CMDQ_TLBI_1_TG,
  CMDQ_TLBI_1_TTL,
  tlbiGranuleShift,
} from './commands.ts'

type Opcodes = ReadonlySet<number>

const RANGES: Opcodes = new Set([
  CMDQ_OP_TLBI_NH_VA,
  CMDQ_OP_TLBI_NH_VAA,
  CMDQ_OP_TLBI_EL2_VA,
  CMDQ_OP_TLBI_EL2_VAA,
  CMDQ_OP_TLBI_S2_IPA,
])

/** Commands with a StreamID; that of CFGI_STE_RANGE stands for several. */
export const WITH_STREAM: Opcodes = new Set([
  CMDQ_OP_PREFETCH_CFG,
  CMDQ_OP_PREFETCH_ADDR,
  CMDQ_OP_CFGI_STE,
  CMDQ_OP_CFGI_ALL,
  CMDQ_OP_CFGI_CD,
  CMDQ_OP_CFGI_CD_ALL,
  CMDQ_OP_ATC_INV,
  CMDQ_OP_PRI_RESP,
  CMDQ_OP_RESUME,
  CMDQ_OP_STALL_TERM,
])
export const WITH_ADDRESS: Opcodes = new Set([...RANGES, CMDQ_OP_PREFETCH_ADDR, CMDQ_OP_ATC_INV])
export const WITH_ASID: Opcodes = new Set([
  CMDQ_OP_TLBI_NH_ASID,
  CMDQ_OP_TLBI_NH_VA,
  CMDQ_OP_TLBI_EL2_ASID,
  CMDQ_OP_TLBI_EL2_VA,
])
export const WITH_VMID: Opcodes = new Set([
  CMDQ_OP_TLBI_NH_ALL,
  CMDQ_OP_TLBI_NH_ASID,
  CMDQ_OP_TLBI_NH_VA,
  CMDQ_OP_TLBI_NH_VAA,
  CMDQ_OP_TLBI_S12_VMALL,
  CMDQ_OP_TLBI_S2_IPA,
])
export const WITH_LEAF: Opcodes = new Set([...RANGES, CMDQ_OP_CFGI_STE, CMDQ_OP_CFGI_CD])

/** The StreamID that the command at word `at` names; undefined: none, or a range of them. */
export function namedStream(words: Uint32Array, at: number): number | undefined {
  const opcode = getField(words, CMDQ_0_OP, at)
  return WITH_STREAM.has(opcode) && opcode !== CMDQ_OP_CFGI_ALL ? getField(words, CMDQ_CFGI_0_SID, at) : undefined
}

/**
 * Whether the command at word `at` is about a stream: names it, or is a CFGI_STE_RANGE with it in its range, whose lower
 * StreamID bits do not count (IHI 0070 section 4.3.2). CFGI_ALL is about none in particular.
 */
export function namesStream(words: Uint32Array, at: number, sid: number): boolean {
  if (getField(words, CMDQ_0_OP, at) !== CMDQ_OP_CFGI_ALL) return namedStream(words, at) === sid
  const first = getField(words, CMDQ_CFGI_0_SID, at)
  const range = getField(words, CMDQ_CFGI_1_RANGE, at)
  return range !== CMDQ_CFGI_RANGE_ALL && first >>> (range + 1) === sid >>> (range + 1)
}

/** Bytes that an address-based command covers; 0: it has no address. */
export function commandBytes(opcode: number, words: Uint32Array, at: number): number {
  if (opcode === CMDQ_OP_PREFETCH_ADDR) return 4096
  if (opcode === CMDQ_OP_ATC_INV) return 4096 * 2 ** Math.min(getField(words, CMDQ_ATC_1_SIZE, at), ATC_INV_SIZE_ALL)
  if (!RANGES.has(opcode)) return 0
  const granule = getField(words, CMDQ_TLBI_1_TG, at)
  if (granule === 0) return 4096
  const count = (getField(words, CMDQ_TLBI_0_NUM, at) + 1) * 2 ** getField(words, CMDQ_TLBI_0_SCALE, at)
  return count * 2 ** tlbiGranuleShift(granule)
}

type Named = readonly [name: string, field: Field]

const SUBSTREAM: readonly Named[] = [
  ['SSV', CMDQ_0_SSV],
  ['SubstreamID', CMDQ_CFGI_0_SSID],
]

/** Fields that only some commands have, besides StreamID, VMID, ASID, Leaf and address. */
function special(opcode: number): readonly Named[] {
  switch (opcode) {
    case CMDQ_OP_PREFETCH_CFG:
      return SUBSTREAM
    case CMDQ_OP_PREFETCH_ADDR:
      return [...SUBSTREAM, ['Size', CMDQ_PREFETCH_1_SIZE]]
    case CMDQ_OP_CFGI_ALL:
      return [['Range', CMDQ_CFGI_1_RANGE]]
    case CMDQ_OP_CFGI_CD:
      return [['SubstreamID', CMDQ_CFGI_0_SSID]]
    case CMDQ_OP_CFGI_VMS_PIDM:
      return [['VMID', CMDQ_CFGI_0_VMID]]
    case CMDQ_OP_ATC_INV:
      return [['Global', CMDQ_ATC_0_GLOBAL], ...SUBSTREAM, ['Size', CMDQ_ATC_1_SIZE]]
    case CMDQ_OP_PRI_RESP:
      return [...SUBSTREAM, ['PRGIndex', CMDQ_PRI_1_GRPID], ['Resp', CMDQ_PRI_1_RESP]]
    case CMDQ_OP_RESUME:
      return [
        ['Abort, Action', CMDQ_RESUME_0_RESP],
        ['STAG', CMDQ_RESUME_1_STAG],
      ]
    case CMDQ_OP_CMD_SYNC:
      return [
        ['CS', CMDQ_SYNC_0_CS],
        ['MSH', CMDQ_SYNC_0_MSH],
        ['MSIAttr', CMDQ_SYNC_0_MSIATTR],
        ['MSIData', CMDQ_SYNC_0_MSIDATA],
      ]
    default:
      return RANGES.has(opcode)
        ? [
            ['NUM', CMDQ_TLBI_0_NUM],
            ['SCALE', CMDQ_TLBI_0_SCALE],
            ['TTL', CMDQ_TLBI_1_TTL],
            ['TG', CMDQ_TLBI_1_TG],
          ]
        : []
  }
}

/** The fields of the command at word `at`, from bit 0 on; of one with an opcode that is Reserved, the opcode alone. */
export function commandBits(words: Uint32Array, at = 0): Bits[] {
  const opcode = getField(words, CMDQ_0_OP, at)
  const named: readonly Named[] = [
    ['Opcode', CMDQ_0_OP],
    ...(WITH_STREAM.has(opcode)
      ? ([
          ['SSec', CMDQ_0_SSEC],
          ['StreamID', CMDQ_CFGI_0_SID],
        ] as const)
      : []),
    ...(WITH_VMID.has(opcode) ? ([['VMID', CMDQ_TLBI_0_VMID]] as const) : []),
    ...(WITH_ASID.has(opcode) ? ([['ASID', CMDQ_TLBI_0_ASID]] as const) : []),
    ...(WITH_LEAF.has(opcode) ? ([['Leaf', CMDQ_CFGI_1_LEAF]] as const) : []),
    ...special(opcode),
  ]
  const bits = named.map(([name, field]): Bits => {
    const lo = field.word * 32 + field.shift
    const width = 32 - Math.clz32(field.mask >>> field.shift)
    const value = getField(words, field, at)
    return { name, hi: lo + width - 1, lo, value: value > 9 ? hex(value) : String(value) }
  })
  const address = (name: string, hi: number, lo: number, from: number) =>
    bits.push({
      name,
      hi,
      lo,
      value: hex64(((words[at + 2] ?? 0) & from) >>> 0, (words[at + 3] ?? 0) & genmask(hi - 96, 0)),
    })
  if (WITH_ADDRESS.has(opcode)) address('Address', 127, 76, 0xffff_f000)
  if (opcode === CMDQ_OP_CMD_SYNC) address('MSIAddress', 119, 66, 0xffff_fffc)
  return bits.sort((a, b) => a.lo - b.lo)
}
