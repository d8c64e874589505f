// SPDX-License-Identifier: Apache-2.0
/**
 * Which command of the host each command in the shadow queue is, or is for, found by what they say (server/hypervisor/README.md,
 * section 16): for a hypervisor that takes over, as no checkpoint holds it.
 */
import { COMMAND_KEPT, COMMAND_REWRITTEN } from '../../policy/report.ts'
import {
  CMDQ_ENT_WORDS,
  CMDQ_OP_ATC_INV,
  CMDQ_OP_CFGI_ALL,
  CMDQ_OP_CFGI_STE,
  CMDQ_OP_CMD_SYNC,
  CMDQ_OP_TLBI_NH_ALL,
  CMDQ_OP_TLBI_NSNH_ALL,
  CMDQ_OP_TLBI_S2_IPA,
  CMDQ_OP_TLBI_S12_VMALL,
} from '../../smmu/commands.ts'
import { type CommandContext, type CommandRule, ISSUING_OPCODES } from './commandRules.ts'

/** Opcodes that the hypervisor issues and the filter drops. */
const ONLY_OWN: ReadonlySet<number> = new Set([CMDQ_OP_TLBI_NH_ALL, CMDQ_OP_TLBI_S12_VMALL, CMDQ_OP_TLBI_S2_IPA])
/** Opcodes that both issue. */
const BOTH: ReadonlySet<number> = new Set([CMDQ_OP_CFGI_STE, CMDQ_OP_CFGI_ALL, CMDQ_OP_TLBI_NSNH_ALL, CMDQ_OP_ATC_INV])

/** CMD_ATC_INVs of the hypervisor in front of one CMD_SYNC: of the StreamID, and of its SubstreamIDs. */
const OWN_ATC_INVS = 2

/** What a rule says of a command was reported when it was sent. */
const SILENT: CommandContext = { warn() {}, configureStream: () => 0, configureAll() {} }

const opcodeAt = (words: Uint32Array, i: number): number => words[CMDQ_ENT_WORDS * i] & 0xff

/**
 * @param sent commands of the shadow queue, in its order
 * @param host commands of the host, in its order, from one on that is not behind the first of `sent`; changed as the filter changes them
 * @param rules the filter, by opcode
 * @returns of each of `sent` the index in `host`: of the hypervisor's own that of the command that it is for, or else the next one.
 *   A host whose CMD_SYNCs have CS = NONE, as the hypervisor's have, may get that of the CFGI_STE in front of one.
 */
export function commandPlaces(
  sent: Uint32Array,
  host: Uint32Array,
  rules: readonly (CommandRule | undefined)[],
): Uint32Array {
  const count = sent.length / CMDQ_ENT_WORDS
  const places = new Uint32Array(count)
  const kept = passed(host, rules)
  let k = 0
  for (let i = 0; i < count; ) {
    if (k === kept.length) {
      places.fill(host.length / CMDQ_ENT_WORDS, i)
      break
    }
    const at = kept[k]
    const issues = ISSUING_OPCODES.has(opcodeAt(host, at))
    const own = issues ? ownGroup(sent, i, host, at) : 0
    if (own > 0) {
      places.fill(at, i, i + own)
      i += own
      continue
    }
    places[i] = at
    const opcode = opcodeAt(sent, i)
    if (isSame(sent, i, host, at)) {
      i++
      k++
    } else if (ONLY_OWN.has(opcode) || endsOwn(sent, i) || (!issues && BOTH.has(opcode))) {
      i++
    } else {
      // Dropped, or the host has written something else there.
      k++
    }
  }
  return places
}

/** Indices of the host's commands that the filter does not drop, or may not. */
function passed(host: Uint32Array, rules: readonly (CommandRule | undefined)[]): number[] {
  const kept: number[] = []
  for (let i = 0; i < host.length / CMDQ_ENT_WORDS; i++) {
    const opcode = opcodeAt(host, i)
    const rule = ISSUING_OPCODES.has(opcode) ? undefined : rules[opcode]
    const verdict = rule === undefined ? COMMAND_KEPT : rule(host, CMDQ_ENT_WORDS * i, SILENT)
    if (verdict === COMMAND_KEPT || verdict === COMMAND_REWRITTEN) kept.push(i)
  }
  return kept
}

function isSame(sent: Uint32Array, i: number, host: Uint32Array, at: number): boolean {
  for (let word = 0; word < CMDQ_ENT_WORDS; word++) {
    if (sent[CMDQ_ENT_WORDS * i + word] !== host[CMDQ_ENT_WORDS * at + word]) return false
  }
  return true
}

/** CMD_SYNC with CS = NONE: the hypervisor's. */
function endsOwn(sent: Uint32Array, i: number): boolean {
  return sent[CMDQ_ENT_WORDS * i] === CMDQ_OP_CMD_SYNC
}

/**
 * Commands from `i` on that the hypervisor issued for the CFGI of the host at `at`: CMD_ATC_INVs, or one CFGI_STE, and their CMD_SYNC.
 * @returns how many, 0: none
 */
function ownGroup(sent: Uint32Array, i: number, host: Uint32Array, at: number): number {
  const count = sent.length / CMDQ_ENT_WORDS
  const sid = host[CMDQ_ENT_WORDS * at + 1]
  // A CFGI_ALL is for every stream. The StreamID is word 1 of all of these.
  const isFor = (index: number) => opcodeAt(host, at) === CMDQ_OP_CFGI_ALL || sent[CMDQ_ENT_WORDS * index + 1] === sid
  let end = i
  while (end < count && end < i + OWN_ATC_INVS && opcodeAt(sent, end) === CMDQ_OP_ATC_INV && isFor(end)) end++
  if (end === i && opcodeAt(sent, end) === CMDQ_OP_CFGI_STE && isFor(end)) end++
  return end > i && end < count && endsOwn(sent, end) ? end + 1 - i : 0
}
