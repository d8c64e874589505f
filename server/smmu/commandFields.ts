// SPDX-License-Identifier: Apache-2.0
/** Which fields a command has (IHI 0070 sections 4.2 to 4.7), for those that look for commands by what they are about. */
import { getField } from './bits.ts'
import {
  ATC_INV_SIZE_ALL,
  CMDQ_0_OP,
  CMDQ_ATC_1_SIZE,
  CMDQ_CFGI_0_SID,
  CMDQ_CFGI_1_RANGE,
  CMDQ_CFGI_RANGE_ALL,
  CMDQ_OP_ATC_INV,
  CMDQ_OP_CFGI_ALL,
  CMDQ_OP_CFGI_CD,
  CMDQ_OP_CFGI_CD_ALL,
  CMDQ_OP_CFGI_STE,
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
  CMDQ_TLBI_0_NUM,
  CMDQ_TLBI_0_SCALE,
  CMDQ_TLBI_1_TG,
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
