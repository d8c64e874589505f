// SPDX-License-Identifier: Apache-2.0
/** What leaf descriptors permit (DDI 0487 D8.4, direct permissions). */
import * as P from './pagetable.ts'

// Bits of one stage: unprivileged and privileged read, write, execute.
export const PERM_UR = 1
export const PERM_UW = 2
export const PERM_UX = 4
export const PERM_PR = 8
export const PERM_PW = 16
export const PERM_PX = 32
export const PERM_ALL = 63

/** The fields of a CD that permissions depend on. */
export interface PermissionControls {
  readonly wxn: boolean
  readonly pan: boolean
  readonly epan: boolean
}

/**
 * What a stage 1 leaf permits, with the hierarchical limits of the tables above it.
 * @param limits high halves of the table descriptors, or'ed
 * @param single a regime with one privilege level: AP[1] counts as 1 (IHI 0070 section 13.4.1)
 */
export function stage1Permissions(
  lo: number,
  hi: number,
  limits: number,
  single: boolean,
  cd: PermissionControls,
): number {
  const readOnly = (lo & P.ARM_LPAE_PTE_AP_RDONLY) !== 0 || (limits & P.ARM_LPAE_PTE_HI_APTABLE_RDONLY) !== 0
  const xn = (hi & P.ARM_LPAE_PTE_HI_UXN) !== 0 || (limits & P.ARM_LPAE_PTE_HI_UXNTABLE) !== 0
  if (single) {
    const execute = !xn && !(cd.wxn && !readOnly)
    return PERM_UR | PERM_PR | (readOnly ? 0 : PERM_UW | PERM_PW) | (execute ? PERM_UX | PERM_PX : 0)
  }
  const unprivileged = (lo & P.ARM_LPAE_PTE_AP_UNPRIV) !== 0 && (limits & P.ARM_LPAE_PTE_HI_APTABLE_PRIV) === 0
  const pxn = (hi & P.ARM_LPAE_PTE_HI_PXN) !== 0 || (limits & P.ARM_LPAE_PTE_HI_PXNTABLE) !== 0
  let perm = PERM_PR | (readOnly ? 0 : PERM_PW)
  if (unprivileged) perm |= PERM_UR | (readOnly ? 0 : PERM_UW)
  // What EL0 can write, EL1 cannot execute.
  if (!pxn && !(perm & PERM_UW) && !(cd.wxn && perm & PERM_PW)) perm |= PERM_PX
  if (!xn && !(cd.wxn && perm & PERM_UW)) perm |= PERM_UX
  if (cd.pan && (perm & PERM_UR || (cd.epan && perm & PERM_UX))) perm &= ~(PERM_PR | PERM_PW)
  return perm
}

/** What a stage 2 leaf permits: S2AP and XN. `xnx`: XN has two bits. */
export function stage2Permissions(lo: number, hi: number, xnx: boolean): number {
  const read = lo & P.ARM_LPAE_PTE_HAP_READ ? PERM_UR | PERM_PR : 0
  const write = lo & P.ARM_LPAE_PTE_HAP_WRITE ? PERM_UW | PERM_PW : 0
  const xn = (hi & P.ARM_LPAE_PTE_HI_S2XN_MASK) >>> P.ARM_LPAE_PTE_HI_S2XN_SHIFT
  const mode = xnx ? xn : xn & 2
  const execute = mode === 0 ? PERM_UX | PERM_PX : mode === 1 ? PERM_UX : mode === 3 ? PERM_PX : 0
  return read | write | execute
}
