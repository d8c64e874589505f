// SPDX-License-Identifier: Apache-2.0
/**
 * Commands of a host that may use all that its SMMU has (server/hypervisor/README.md, section 18): it has neither stage 2, nor EL2,
 * nor what the ID registers do not show, and meets CERROR_ILL where hardware without these would stop (IHI 0070 section 7.1).
 */
import { COMMAND_KEPT, COMMAND_REWRITTEN } from '../../policy/report.ts'
import { getField, setField } from '../../smmu/bits.ts'
import * as C from '../../smmu/commands.ts'
import type { CommandOverrides, CommandRule } from '../pkvm/commandRules.ts'
import { HOST_VMID } from '../pkvm/idmap.ts'

/** Reserved: hardware stops at it, with CERROR_ILL. */
const RESERVED_OPCODE = 0xff

/** Of what the host's SMMU does not have. The hardware may well have it. */
const ABSENT = [
  C.CMDQ_OP_CFGI_VMS_PIDM,
  C.CMDQ_OP_TLBI_EL2_ALL,
  C.CMDQ_OP_TLBI_EL2_ASID,
  C.CMDQ_OP_TLBI_EL2_VA,
  C.CMDQ_OP_TLBI_EL2_VAA,
  C.CMDQ_OP_TLBI_S12_VMALL,
  C.CMDQ_OP_TLBI_S2_IPA,
  C.CMDQ_OP_DPTI_ALL,
  C.CMDQ_OP_DPTI_PA,
] as const
const ATS = [C.CMDQ_OP_ATC_INV, C.CMDQ_OP_PRI_RESP] as const
/** Without stage 2 there is no VMID to match (IHI 0070 section 4.4.2): whatever the field says, it is the host's. */
const BY_VMID = [C.CMDQ_OP_TLBI_NH_ALL, C.CMDQ_OP_TLBI_NH_ASID, C.CMDQ_OP_TLBI_NH_VA, C.CMDQ_OP_TLBI_NH_VAA] as const

const illegal: CommandRule = (words, at) => {
  words[at] = ((words[at] & ~0xff) | RESERVED_OPCODE) >>> 0
  return COMMAND_REWRITTEN
}

const withHostVmid: CommandRule = (words, at) => {
  if (getField(words, C.CMDQ_TLBI_0_VMID, at) === HOST_VMID) return COMMAND_KEPT
  setField(words, C.CMDQ_TLBI_0_VMID, HOST_VMID, at)
  return COMMAND_REWRITTEN
}

/** Whatever its range, all is looked at again: hardware may do so as well. */
const shadowAll: CommandRule = (_words, _at, context) => {
  context.configureAll()
  return COMMAND_KEPT
}

/** CS = IRQ interrupts by its wire, and never writes where the host says. */
const syncByWire: CommandRule = (words, at) => {
  if (getField(words, C.CMDQ_SYNC_0_CS, at) !== C.CMDQ_SYNC_0_CS_IRQ) return COMMAND_KEPT
  if (words[at + 1] === 0 && words[at + 2] === 0 && words[at + 3] === 0) return COMMAND_KEPT
  words.fill(0, at + 1, at + 4)
  return COMMAND_REWRITTEN
}

/** @param ats the host sees IDR0.ATS and PRI as the hardware has them */
export function commands(ats: boolean): CommandOverrides {
  const rules: Record<number, () => CommandRule> = {
    [C.CMDQ_OP_CFGI_ALL]: () => shadowAll,
    [C.CMDQ_OP_CMD_SYNC]: () => syncByWire,
  }
  for (const opcode of BY_VMID) rules[opcode] = () => withHostVmid
  for (const opcode of ats ? ABSENT : [...ABSENT, ...ATS]) rules[opcode] = () => illegal
  return rules
}
