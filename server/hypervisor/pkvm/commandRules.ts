// SPDX-License-Identifier: Apache-2.0
/** The filter of the host's commands (server/hypervisor/README.md, section 6.2): a rule for each opcode. */
import { COMMAND_DROPPED, COMMAND_KEPT, COMMAND_REWRITTEN, type CommandVerdict } from '../../policy/report.ts'
import { OK } from '../../policy/result.ts'
import type { HypWarning } from '../../policy/warnings.ts'
import { getField, setField } from '../../smmu/bits.ts'
import {
  CMDQ_CFGI_0_SID,
  CMDQ_CFGI_1_LEAF,
  CMDQ_CFGI_1_RANGE,
  CMDQ_CFGI_RANGE_ALL,
  CMDQ_OP_CFGI_ALL,
  CMDQ_OP_CFGI_STE,
  CMDQ_OP_CMD_SYNC,
  CMDQ_OP_TLBI_EL2_ALL,
  CMDQ_OP_TLBI_EL2_ASID,
  CMDQ_OP_TLBI_EL2_VA,
  CMDQ_OP_TLBI_EL2_VAA,
  CMDQ_OP_TLBI_NH_ALL,
  CMDQ_OP_TLBI_NH_ASID,
  CMDQ_OP_TLBI_NH_VA,
  CMDQ_OP_TLBI_NH_VAA,
  CMDQ_OP_TLBI_S2_IPA,
  CMDQ_OP_TLBI_S12_VMALL,
  CMDQ_SYNC_0_CS,
  CMDQ_SYNC_0_CS_IRQ,
  CMDQ_SYNC_0_CS_SEV,
} from '../../smmu/commands.ts'
import { HOST_VMID } from './idmap.ts'
import type { Quirks } from './quirks.ts'
import { HYP_CFGI_RANGE, HYP_CFGI_STE, HYP_COMMAND_REFUSED, HYP_COMMAND_VMID } from './warnings.ts'

/** What a rule may use besides the command. */
export interface CommandContext {
  /** Reports a hyp warning of the SMMU, with the warning's values. */
  warn(warning: HypWarning, a: number, b: number, c: number, d: number): void
  /**
   * Shadows the host's STE of a StreamID anew; the commands that this takes go into the shadow queue. For rules of
   * ISSUING_OPCODES.
   * @returns OK, or an error, by which the shadow has no entry any more
   */
  configureStream(sid: number, leaf: boolean): number
  /** Does so for each stream that has been shadowed. For rules of ISSUING_OPCODES. */
  configureAll(): void
}

/**
 * Decides about one command of the host: the four words at `at`, a copy that may be changed.
 * @returns COMMAND_KEPT as it is, COMMAND_REWRITTEN when the rule changed it, COMMAND_DROPPED when the hardware must not get it
 */
export type CommandRule = (words: Uint32Array, at: number, context: CommandContext) => CommandVerdict

/** A change of the rule of an opcode, given the rule that stood there. */
export type CommandOverrides = Readonly<Record<number, (rule: CommandRule) => CommandRule>>

/** Rules of these may put commands of the hypervisor into the shadow queue: what the host gave before them goes first. */
export const ISSUING_OPCODES: ReadonlySet<number> = new Set([CMDQ_OP_CFGI_STE, CMDQ_OP_CFGI_ALL])

const passThrough: CommandRule = () => COMMAND_KEPT

function dropWith(
  warning: HypWarning,
  words: Uint32Array,
  at: number,
  context: CommandContext,
): typeof COMMAND_DROPPED {
  context.warn(warning, words[at], words[at + 1], words[at + 2], words[at + 3])
  return COMMAND_DROPPED
}

const dropAndWarn: CommandRule = (words, at, context) => dropWith(HYP_COMMAND_REFUSED, words, at, context)

/** TLBI with a VMID: the host has only its own. Hosts send nothing more often, so the field is read by hand. */
const requireHostVmid: CommandRule = (words, at, context) =>
  (words[at + 1] & 0xffff) === HOST_VMID ? COMMAND_KEPT : dropWith(HYP_COMMAND_VMID, words, at, context)

/** CFGI_STE_RANGE: only as CFGI_ALL. */
const requireCfgiAll: CommandRule = (words, at, context) =>
  getField(words, CMDQ_CFGI_1_RANGE, at) === CMDQ_CFGI_RANGE_ALL
    ? COMMAND_KEPT
    : dropWith(HYP_CFGI_RANGE, words, at, context)

/** Hardware fetches again what it needs; the shadow of what the host has changed is made anew. */
const shadowAll: CommandRule = (words, at, context) => {
  const verdict = requireCfgiAll(words, at, context)
  if (verdict === COMMAND_KEPT) context.configureAll()
  return verdict
}

/** CS = IRQ becomes SEV without an MSI address, so that the hardware never writes where the host says. */
const syncWithoutMsi: CommandRule = (words, at) => {
  if (getField(words, CMDQ_SYNC_0_CS, at) !== CMDQ_SYNC_0_CS_IRQ) return COMMAND_KEPT
  setField(words, CMDQ_SYNC_0_CS, CMDQ_SYNC_0_CS_SEV, at)
  words[at + 2] = 0
  words[at + 3] = 0
  return COMMAND_REWRITTEN
}

const shadowStream: CommandRule = (words, at, context) => {
  const sid = getField(words, CMDQ_CFGI_0_SID, at)
  const leaf = getField(words, CMDQ_CFGI_1_LEAF, at)
  const result = context.configureStream(sid, leaf === 1)
  if (result === OK) return COMMAND_KEPT
  context.warn(HYP_CFGI_STE, sid, leaf, result, 0)
  return COMMAND_DROPPED
}

/** Passes on what a rule drops. */
const keepAnyway =
  (rule: CommandRule): CommandRule =>
  (words, at, context) => {
    rule(words, at, context)
    return COMMAND_KEPT
  }

/** By opcode; undefined where every command is passed on. */
export function commandRules(
  shadowStreams: boolean,
  quirks: Quirks,
  overrides: CommandOverrides = {},
): (CommandRule | undefined)[] {
  const rules = new Array<CommandRule | undefined>(256).fill(undefined)
  if (shadowStreams) rules[CMDQ_OP_CFGI_STE] = shadowStream
  rules[CMDQ_OP_CFGI_ALL] = shadowStreams ? shadowAll : requireCfgiAll
  rules[CMDQ_OP_TLBI_NH_ALL] = dropAndWarn
  rules[CMDQ_OP_TLBI_NH_ASID] = requireHostVmid
  rules[CMDQ_OP_TLBI_NH_VA] = requireHostVmid
  rules[CMDQ_OP_TLBI_NH_VAA] = requireHostVmid
  rules[CMDQ_OP_TLBI_EL2_ALL] = dropAndWarn
  rules[CMDQ_OP_TLBI_EL2_ASID] = dropAndWarn
  rules[CMDQ_OP_TLBI_EL2_VA] = dropAndWarn
  rules[CMDQ_OP_TLBI_EL2_VAA] = dropAndWarn
  rules[CMDQ_OP_TLBI_S12_VMALL] = dropAndWarn
  rules[CMDQ_OP_TLBI_S2_IPA] = dropAndWarn
  rules[CMDQ_OP_CMD_SYNC] = syncWithoutMsi
  if (quirks.has('cmd-sync-msi')) rules[CMDQ_OP_CMD_SYNC] = undefined
  if (quirks.has('s2-ipa-unfiltered')) rules[CMDQ_OP_TLBI_S2_IPA] = undefined
  if (quirks.has('vmid-check-void')) {
    for (const opcode of [CMDQ_OP_TLBI_NH_ASID, CMDQ_OP_TLBI_NH_VA, CMDQ_OP_TLBI_NH_VAA]) rules[opcode] = undefined
  }
  if (quirks.has('cfgi-all-range-warns-only')) rules[CMDQ_OP_CFGI_ALL] = keepAnyway(rules[CMDQ_OP_CFGI_ALL])
  for (const [opcode, change] of Object.entries(overrides)) {
    const at = Number(opcode)
    if (!Number.isInteger(at) || at < 0 || at >= rules.length) throw new RangeError(`there is no opcode ${opcode}`)
    rules[at] = change(rules[at] ?? passThrough)
  }
  return rules
}
