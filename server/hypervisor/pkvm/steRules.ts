// SPDX-License-Identifier: Apache-2.0
/** How an STE of the host is shadowed (server/hypervisor/README.md, section 7.2). */

import type { PopulateMode } from '../../policy/policy.ts'
import { STE_INVALID } from '../../policy/report.ts'
import { EINVAL, ENODEV, OK } from '../../policy/result.ts'
import { fieldGet64, fieldPrep64 } from '../../smmu/bits.ts'
import {
  STRTAB_STE_0_CFG,
  STRTAB_STE_0_CFG_BYPASS,
  STRTAB_STE_0_CFG_NESTED,
  STRTAB_STE_0_CFG_S1_TRANS,
  STRTAB_STE_0_CFG_S2_TRANS,
  STRTAB_STE_0_S1CDMAX,
  STRTAB_STE_0_S1CTXPTR_MASK,
  STRTAB_STE_0_S1FMT,
  STRTAB_STE_0_V,
  STRTAB_STE_1_ALLOCCFG,
  STRTAB_STE_1_EATS,
  STRTAB_STE_1_EATS_TRANS,
  STRTAB_STE_1_INSTCFG,
  STRTAB_STE_1_MEMATTR,
  STRTAB_STE_1_MEV,
  STRTAB_STE_1_MTCFG,
  STRTAB_STE_1_PRIVCFG,
  STRTAB_STE_1_S1CIR,
  STRTAB_STE_1_S1COR,
  STRTAB_STE_1_S1CSH,
  STRTAB_STE_1_S1DSS,
  STRTAB_STE_1_S1STALLD,
  STRTAB_STE_1_SHCFG,
  STRTAB_STE_1_SHCFG_INCOMING,
  STRTAB_STE_2_S2AA64,
  STRTAB_STE_2_S2ENDI,
  STRTAB_STE_2_S2PTW,
  STRTAB_STE_2_S2R,
  STRTAB_STE_2_S2S,
  STRTAB_STE_2_VTCR,
  STRTAB_STE_3_S2TTB_MASK,
} from '../../smmu/ste.ts'
import type { Idmap } from './idmap.ts'
import type { Quirks } from './quirks.ts'

/** Bits of Config (IHI 0070 section 5.2): transactions pass; stage 2 translates them. */
const CONFIG_PASSES = 4
const CONFIG_STAGE2 = 2
const CONFIG_STAGE1 = 1

// What of the host's entry reaches the hardware under stage 2 (IHI 0070 section 5.2; server/hypervisor/README.md, section 7.2).
const WORD_0 = STRTAB_STE_0_V | STRTAB_STE_0_CFG
const WORD_0_STAGE1 = STRTAB_STE_0_S1FMT | STRTAB_STE_0_S1CTXPTR_MASK | STRTAB_STE_0_S1CDMAX
const WORD_1 =
  STRTAB_STE_1_MEV |
  STRTAB_STE_1_MEMATTR |
  STRTAB_STE_1_MTCFG |
  STRTAB_STE_1_ALLOCCFG |
  STRTAB_STE_1_PRIVCFG |
  STRTAB_STE_1_INSTCFG
const WORD_1_STAGE1 =
  STRTAB_STE_1_S1DSS | STRTAB_STE_1_S1CIR | STRTAB_STE_1_S1COR | STRTAB_STE_1_S1CSH | STRTAB_STE_1_S1STALLD
const ATS_ENABLED = fieldPrep64(STRTAB_STE_1_EATS, STRTAB_STE_1_EATS_TRANS)

/** What a rule may use besides the entry. */
export interface SteContext {
  /** Stage 2; null where there is none. */
  readonly idmap: Idmap | null
  /** The host may use ATS (server/hypervisor/README.md, section 7.5). */
  readonly ats: boolean
  /** Of a second stage that is EL2's (server/hypervisor/README.md, section 20); null: it is not. */
  readonly populate: PopulateMode | null
  readonly quirks: Quirks
}

/**
 * Makes the shadow of an entry, eight 64-bit words each. `shadow` holds a copy of `host` when it is called.
 * @returns OK, or an error, by which the entry is left as it was.
 */
export type StreamRule = (host: BigUint64Array, shadow: BigUint64Array, context: SteContext) => number

/** Entries are taken as they are (`--until strtab`, `queues`), but that devices get no physical addresses. */
export const copyStream: StreamRule = (host, shadow, { ats }) => {
  if (!ats) shadow[1] = host[1] & ~STRTAB_STE_1_EATS
  return OK
}

/** Stage 2 of the hypervisor under whatever the host configured. */
export const nestStream: StreamRule = (host, shadow, { idmap, ats, populate, quirks }) => {
  const config = steConfig(host)
  shadow.fill(0n)
  if (!translates(config)) {
    shadow[0] = isValid(host) ? host[0] & WORD_0 : 0n
    return OK
  }
  if (idmap === null) return ENODEV
  const stage1 = hasStage1(config)
  shadow[0] = host[0] & (stage1 ? WORD_0 | WORD_0_STAGE1 : WORD_0)
  switch (config) {
    case STRTAB_STE_0_CFG_BYPASS:
      setConfig(shadow, STRTAB_STE_0_CFG_S2_TRANS)
      break
    case STRTAB_STE_0_CFG_S1_TRANS:
      setConfig(shadow, STRTAB_STE_0_CFG_NESTED)
      break
    default:
      if (!quirks.has('ste-config-110') || config !== STRTAB_STE_0_CFG_S2_TRANS) return EINVAL
  }
  shadow[1] =
    (host[1] & (stage1 ? WORD_1 | WORD_1_STAGE1 : WORD_1)) |
    fieldPrep64(STRTAB_STE_1_SHCFG, STRTAB_STE_1_SHCFG_INCOMING) |
    (quirks.has('bypass-shcfg-ored') && !stage1 ? host[1] & STRTAB_STE_1_SHCFG : 0n) |
    (quirks.has('eats') ? host[1] & STRTAB_STE_1_EATS : 0n) |
    // Where the host has no stage 1 there is no ATS; split-stage ATS is for those who have a stage 2.
    (ats && stage1 && hasAts(host) ? ATS_ENABLED : 0n)
  shadow[2] =
    fieldPrep64(STRTAB_STE_2_VTCR, idmap.geometry.vtcr) |
    STRTAB_STE_2_S2AA64 |
    (idmap.bigEndian ? STRTAB_STE_2_S2ENDI : 0n) |
    (quirks.has('no-s2ptw') ? 0n : STRTAB_STE_2_S2PTW) |
    // Faults of stage 2 are recorded; where it is EL2's, the host may be asked to touch the page.
    STRTAB_STE_2_S2R |
    (populate === 'stall' ? STRTAB_STE_2_S2S : 0n)
  shadow[3] = BigInt(idmap.root) & STRTAB_STE_3_S2TTB_MASK
  return OK
}

/** @param at index of its word 0 */
export function isValid(ste: BigUint64Array, at = 0): boolean {
  return (ste[at] & STRTAB_STE_0_V) !== 0n
}

/** Config of an entry, STE_INVALID if it is not valid. @param at index of its word 0 */
export function steConfig(ste: BigUint64Array, at = 0): number {
  return isValid(ste, at) ? fieldGet64(STRTAB_STE_0_CFG, ste[at]) : STE_INVALID
}

/** Whether transactions pass an entry with this Config, translated or not; else they are aborted (IHI 0070 section 5.2). */
export function translates(config: number): boolean {
  return config !== STE_INVALID && (config & CONFIG_PASSES) !== 0
}

/** Whether an entry with this Config has a stage 1. */
function hasStage1(config: number): boolean {
  return translates(config) && (config & CONFIG_STAGE1) !== 0
}

/** How an entry becomes another one, so that no fetch in between finds what is neither of them and no abort. */
export type SteOrder =
  /** In any order: at most one word differs of which the hardware makes use. */
  | 'at once'
  /** What the former entry makes no use of, then word 0. */
  | 'word 0 last'
  /** Word 0, then what the new entry makes no use of. */
  | 'word 0 first'
  /** There is no such order: it aborts in between. */
  | 'over abort'

/**
 * The order of writes from an entry that stands to another one (server/hypervisor/README.md, section 7.3). Hardware reads
 * each 64-bit word whole, the words of an entry in any order (IHI 0070 section 3.21.3).
 */
export function steOrder(from: BigUint64Array, to: BigUint64Array): SteOrder {
  const [was, is] = [translates(steConfig(from)), translates(steConfig(to))]
  if (!was && !is) return 'at once'
  if (!was) return 'word 0 last'
  if (!is) return 'word 0 first'
  if (from.reduce((differ, word, i) => differ + (word === to[i] ? 0 : 1), 0) <= 1) return 'at once'
  if (!usesDifference(from, to)) return 'word 0 last'
  return usesDifference(to, from) ? 'over abort' : 'word 0 first'
}

/** Whether an entry makes use of a part of its words 1 to 7 in which another one differs. */
function usesDifference(ste: BigUint64Array, other: BigUint64Array): boolean {
  const ignored = hasStage1(steConfig(ste)) ? 0n : WORD_1_STAGE1
  return ste.some((word, i) => i > 0 && ((word ^ other[i]) & (i === 1 ? ~ignored : -1n)) !== 0n)
}

/** Whether a valid entry lets devices be told physical addresses. */
export function hasAts(ste: BigUint64Array): boolean {
  return isValid(ste) && (ste[1] & STRTAB_STE_1_EATS) === ATS_ENABLED
}

/** Whether an entry with this Config has a stage 2. */
export function hasStage2(config: number): boolean {
  return translates(config) && (config & CONFIG_STAGE2) !== 0
}

function setConfig(ste: BigUint64Array, config: number): void {
  ste[0] = (ste[0] & ~STRTAB_STE_0_CFG) | fieldPrep64(STRTAB_STE_0_CFG, config)
}
