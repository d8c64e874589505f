// SPDX-License-Identifier: Apache-2.0
/** A walk step by step, for people. */
import { hex } from './bits.ts'
import { EVTQ_1_CLASS_CD, EVTQ_1_CLASS_TT } from './events.ts'
import * as P from './pagetable.ts'

/** One fetch of a walk, for people. */
export interface WalkStep {
  readonly what: 'L1STD' | 'STE' | 'L1CD' | 'CD' | 'S1' | 'S2'
  /** Physical address of the fetch. */
  readonly address: number
  /** IPA of the fetch, if it was translated by stage 2. */
  readonly ipa: number | undefined
  /** Of a translation table descriptor. */
  readonly level: number | undefined
  /** What stage 2 was walked for. */
  readonly class: number | undefined
  /** The 64-bit words that were read; undefined if the fetch was aborted. */
  readonly words: readonly bigint[] | undefined
  /** In words: `table 0x42000000`, `page 0x40000000 AF ...`, `invalid`. */
  readonly text: string
}

export type Recorder = (step: WalkStep) => void

/** The attributes of a block or page descriptor in words. */
export function describeLeaf(stage2: boolean, lo: number, hi: number): string {
  const words: string[] = []
  if (stage2) {
    words.push(`S2AP=${(lo >>> 6) & 3}`, `MemAttr=${hex((lo >>> 2) & 0xf)}`)
    if (hi & P.ARM_LPAE_PTE_HI_S2XN_MASK) words.push(`XN=${(hi >>> P.ARM_LPAE_PTE_HI_S2XN_SHIFT) & 3}`)
  } else {
    words.push(`AP=${(lo >>> 6) & 3}`, `AttrIndx=${(lo >>> 2) & 7}`)
    if (lo & P.ARM_LPAE_PTE_nG) words.push('nG')
    if (hi & P.ARM_LPAE_PTE_HI_PXN) words.push('PXN')
    if (hi & P.ARM_LPAE_PTE_HI_UXN) words.push('UXN')
  }
  words.push(`SH=${(lo >>> 8) & 3}`, lo & P.ARM_LPAE_PTE_AF ? 'AF' : 'AF=0')
  if (hi & P.ARM_LPAE_PTE_HI_CONT) words.push('contiguous')
  return words.join(' ')
}

/**
 * A step in one line: `STE 0x40000140 V nested ...`, or
 * `S2 level 3 for TT 0x40003018 = 0x40005fff: page 0x40005000 S2AP=3 MemAttr=0xf SH=3 AF`.
 */
export function describeStep(step: WalkStep): string {
  const where = [step.what as string]
  if (step.level !== undefined) where.push(`level ${step.level}`)
  if (step.class !== undefined) {
    where.push(`for ${step.class === EVTQ_1_CLASS_CD ? 'CD' : step.class === EVTQ_1_CLASS_TT ? 'TT' : 'IN'}`)
  }
  where.push(hex(step.address))
  if (step.ipa !== undefined) where.push(`(IPA ${hex(step.ipa)})`)
  const words = step.words?.length === 1 ? ` = ${hex(step.words[0])}` : ''
  return `${where.join(' ')}${words}: ${step.text}`
}
