// SPDX-License-Identifier: Apache-2.0
/** What each command does to the caches, and which commands are illegal (IHI 0070 chapter 4), on the Non-secure command queue. */
import { getField } from '../bits.ts'
import * as C from '../commands.ts'
import type { Features } from '../features.ts'
import { CMDQ_ERR_CERROR_ILL_IDX, CMDQ_ERR_CERROR_NONE_IDX, IDR0_STALL_MODEL_NONE } from '../registers.ts'
import { WORLD_EL2, WORLD_EL2_E2H, WORLD_NS_EL1 } from '../streamConfig.ts'
import type { SoftCaches } from './caches.ts'
import { onePage, pageRange, type Scope } from './tlb.ts'

const OK = CMDQ_ERR_CERROR_NONE_IDX
const ILLEGAL = CMDQ_ERR_CERROR_ILL_IDX

/**
 * The addresses of a TLBI (IHI 0070 section 4.4.1.1), or undefined for the Reserved combination of a granule without range
 * and level.
 */
function scopeOf(cmd: Uint32Array, base: number, f: Features): Scope | undefined {
  const page = C.commandPage(cmd, base)
  const tg = f.ril ? getField(cmd, C.CMDQ_TLBI_1_TG, base) : C.CMDQ_TLBI_1_TG_ANY
  if (tg === C.CMDQ_TLBI_1_TG_ANY) return onePage(page)
  const num = getField(cmd, C.CMDQ_TLBI_0_NUM, base)
  const scale = getField(cmd, C.CMDQ_TLBI_0_SCALE, base)
  // Level 1 of a 16 KiB granule holds no leaves: the hint counts as none.
  const hint = getField(cmd, C.CMDQ_TLBI_1_TTL, base)
  const ttl = tg === C.CMDQ_TLBI_1_TG_16K && hint === 1 ? 0 : hint
  if (num === 0 && scale === 0 && ttl === 0) return undefined
  return pageRange(page, (num + 1) * 2 ** scale, C.tlbiGranuleShift(tg), ttl)
}

/**
 * Executes one command other than CMD_SYNC and CMD_ATC_INV, which concern the queue and the devices.
 * @param caches undefined when nothing is cached
 * @param e2h CR2.E2H
 * @returns CMDQ_ERR_CERROR_*
 */
export function execute(
  cmd: Uint32Array,
  base: number,
  f: Features,
  caches: SoftCaches | undefined,
  e2h: boolean,
): number {
  const opcode = getField(cmd, C.CMDQ_0_OP, base)
  const sid = getField(cmd, C.CMDQ_CFGI_0_SID, base)
  const leaf = getField(cmd, C.CMDQ_CFGI_1_LEAF, base) === 1
  const asid = getField(cmd, C.CMDQ_TLBI_0_ASID, base)
  const taggedVmid = getField(cmd, C.CMDQ_TLBI_0_VMID, base)
  // Without stage 2 there are no VMIDs to match (IHI 0070 section 4.4.2).
  const vmid = f.s2p ? taggedVmid : undefined
  const secure = getField(cmd, C.CMDQ_0_SSEC, base) === 1
  switch (opcode) {
    case C.CMDQ_OP_PREFETCH_CFG:
    case C.CMDQ_OP_PREFETCH_ADDR:
      return secure ? ILLEGAL : OK
    case C.CMDQ_OP_CFGI_STE:
      if (secure) return ILLEGAL
      caches?.removeSte(sid, leaf)
      return OK
    case C.CMDQ_OP_CFGI_ALL: {
      if (secure) return ILLEGAL
      const span = 2 ** (getField(cmd, C.CMDQ_CFGI_1_RANGE, base) + 1)
      const first = sid - (sid % span)
      caches?.removeStes(first, first + span - 1)
      return OK
    }
    case C.CMDQ_OP_CFGI_CD:
      if (secure || !f.s1p) return ILLEGAL
      caches?.removeCd(sid, getField(cmd, C.CMDQ_CFGI_0_SSID, base), leaf)
      return OK
    case C.CMDQ_OP_CFGI_CD_ALL:
      if (secure || !f.s1p) return ILLEGAL
      caches?.removeCds(sid)
      return OK
    case C.CMDQ_OP_TLBI_NH_ALL:
      if (!f.s1p) return ILLEGAL
      caches?.removeStage1(WORLD_NS_EL1, vmid)
      return OK
    case C.CMDQ_OP_TLBI_NH_ASID:
      if (!f.s1p) return ILLEGAL
      caches?.removeAsid(WORLD_NS_EL1, vmid, asid)
      return OK
    case C.CMDQ_OP_TLBI_NH_VA:
    case C.CMDQ_OP_TLBI_NH_VAA: {
      const scope = f.s1p ? scopeOf(cmd, base, f) : undefined
      if (!scope) return ILLEGAL
      caches?.removeVa(WORLD_NS_EL1, vmid, opcode === C.CMDQ_OP_TLBI_NH_VA ? asid : undefined, scope, leaf)
      return OK
    }
    case C.CMDQ_OP_TLBI_EL2_ALL:
      if (!f.hyp) return ILLEGAL
      caches?.removeWorld(WORLD_EL2)
      caches?.removeWorld(WORLD_EL2_E2H)
      return OK
    case C.CMDQ_OP_TLBI_EL2_ASID:
      if (!f.hyp) return ILLEGAL
      caches?.removeAsid(WORLD_EL2_E2H, undefined, asid)
      return OK
    case C.CMDQ_OP_TLBI_EL2_VA:
    case C.CMDQ_OP_TLBI_EL2_VAA: {
      const scope = f.hyp ? scopeOf(cmd, base, f) : undefined
      if (!scope) return ILLEGAL
      const byAsid = e2h && opcode === C.CMDQ_OP_TLBI_EL2_VA
      caches?.removeVa(e2h ? WORLD_EL2_E2H : WORLD_EL2, undefined, byAsid ? asid : undefined, scope, leaf)
      return OK
    }
    case C.CMDQ_OP_TLBI_S12_VMALL:
      if (!f.s2p) return ILLEGAL
      caches?.removeVmid(WORLD_NS_EL1, taggedVmid)
      return OK
    case C.CMDQ_OP_TLBI_S2_IPA: {
      const scope = f.s2p ? scopeOf(cmd, base, f) : undefined
      if (!scope) return ILLEGAL
      caches?.removeIpa(taggedVmid, scope, leaf)
      return OK
    }
    case C.CMDQ_OP_TLBI_NSNH_ALL:
      caches?.removeWorld(WORLD_NS_EL1)
      return OK
    case C.CMDQ_OP_PRI_RESP:
      return f.pri && getField(cmd, C.CMDQ_PRI_1_RESP, base) !== C.CMDQ_PRI_1_RESP_RESERVED ? OK : ILLEGAL
    case C.CMDQ_OP_RESUME:
    case C.CMDQ_OP_STALL_TERM:
      return secure || f.stallModel === IDR0_STALL_MODEL_NONE ? ILLEGAL : OK
    default:
      return ILLEGAL
  }
}
