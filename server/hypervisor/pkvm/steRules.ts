// SPDX-License-Identifier: Apache-2.0
/** How an STE of the host is shadowed (server/hypervisor/README.md, section 7.2). */
import { STE_INVALID } from '../../policy/report.ts'
import { EINVAL, ENODEV, OK } from '../../policy/result.ts'
import { fieldGet64, fieldPrep64 } from '../../smmu/bits.ts'
import {
  STRTAB_STE_0_CFG,
  STRTAB_STE_0_CFG_BYPASS,
  STRTAB_STE_0_CFG_NESTED,
  STRTAB_STE_0_CFG_S1_TRANS,
  STRTAB_STE_0_CFG_S2_TRANS,
  STRTAB_STE_0_V,
  STRTAB_STE_1_SHCFG,
  STRTAB_STE_1_SHCFG_INCOMING,
  STRTAB_STE_2_S2AA64,
  STRTAB_STE_2_S2ENDI,
  STRTAB_STE_2_S2PTW,
  STRTAB_STE_2_S2R,
  STRTAB_STE_2_VTCR,
  STRTAB_STE_3_S2TTB_MASK,
} from '../../smmu/ste.ts'
import type { Idmap } from './idmap.ts'

/** Bits of Config (IHI 0070 section 5.2): transactions pass; stage 2 translates them. */
const CONFIG_PASSES = 4
const CONFIG_STAGE2 = 2

/** What a rule may use besides the entry. */
export interface SteContext {
  /** Stage 2; null where there is none. */
  readonly idmap: Idmap | null
}

/**
 * Makes the shadow of an entry, eight 64-bit words each. `shadow` holds a copy of `host` when it is called.
 * @returns OK, or an error, by which the entry is left as it was.
 */
export type StreamRule = (host: BigUint64Array, shadow: BigUint64Array, context: SteContext) => number

/** Entries are taken as they are (`--until strtab`, `queues`). */
export const copyStream: StreamRule = () => OK

/** Stage 2 of the hypervisor under whatever the host configured. */
export const nestStream: StreamRule = (host, shadow, { idmap }) => {
  const config = steConfig(host)
  if (!translates(config)) {
    shadow[2] = 0n
    shadow[3] = 0n
    return OK
  }
  if (idmap === null) return ENODEV
  switch (config) {
    case STRTAB_STE_0_CFG_BYPASS:
      setConfig(shadow, STRTAB_STE_0_CFG_S2_TRANS)
      break
    case STRTAB_STE_0_CFG_S1_TRANS:
      setConfig(shadow, STRTAB_STE_0_CFG_NESTED)
      break
    default:
      return EINVAL
  }
  shadow[1] = (host[1] & ~STRTAB_STE_1_SHCFG) | fieldPrep64(STRTAB_STE_1_SHCFG, STRTAB_STE_1_SHCFG_INCOMING)
  shadow[2] =
    fieldPrep64(STRTAB_STE_2_VTCR, idmap.geometry.vtcr) |
    STRTAB_STE_2_S2AA64 |
    (idmap.bigEndian ? STRTAB_STE_2_S2ENDI : 0n) |
    STRTAB_STE_2_S2PTW |
    STRTAB_STE_2_S2R
  shadow[3] = BigInt(idmap.root) & STRTAB_STE_3_S2TTB_MASK
  return OK
}

export function isValid(ste: BigUint64Array): boolean {
  return (ste[0] & STRTAB_STE_0_V) !== 0n
}

/** Config of an entry, STE_INVALID if it is not valid. */
export function steConfig(ste: BigUint64Array): number {
  return isValid(ste) ? fieldGet64(STRTAB_STE_0_CFG, ste[0]) : STE_INVALID
}

/** Whether transactions pass an entry with this Config, translated or not; else they are aborted (IHI 0070 section 5.2). */
export function translates(config: number): boolean {
  return config !== STE_INVALID && (config & CONFIG_PASSES) !== 0
}

/** Whether an entry with this Config has a stage 2. */
export function hasStage2(config: number): boolean {
  return translates(config) && (config & CONFIG_STAGE2) !== 0
}

function setConfig(ste: BigUint64Array, config: number): void {
  ste[0] = (ste[0] & ~STRTAB_STE_0_CFG) | fieldPrep64(STRTAB_STE_0_CFG, config)
}
