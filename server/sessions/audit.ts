// SPDX-License-Identifier: Apache-2.0
/**
 * Isolation, from outside: what the tables in memory that the hardware uses let devices reach, compared with who owns the
 * pages. It starts at the hardware's registers and knows neither what the hypervisor believes it has written nor which
 * fault was injected.
 */

import { fieldGet64, hex } from '../smmu/bits.ts'
import type { GuestMemory } from '../smmu/memory.ts'
import { stage2Leaves, streamTable, type TableRegisters } from '../smmu/reach.ts'
import * as S from '../smmu/ste.ts'
import { changedCanary } from '../trap/canary.ts'
import type { OwnershipRange } from '../trap/operations.ts'

const PAGE = 4096
/** Limit of findings that are listed one by one. */
const MAX_TOLD = 20

/** What the audit looks at; the machine stands still meanwhile. */
export interface AuditInput {
  readonly memory: GuestMemory
  readonly smmus: readonly TableRegisters[]
  /** All RAM, by owner. */
  readonly ownership: readonly OwnershipRange[]
  /** Frames that no device may reach: the SMMUs. */
  readonly frames: readonly { readonly base: number; readonly size: number }[]
  readonly device: (smmu: number, sid: number) => string
  /** Pages of VMs were filled with canaries when they were donated. */
  readonly canaries: boolean
}

/** Who owns an address. */
export class Owners {
  readonly #ranges: readonly OwnershipRange[]

  constructor(ranges: readonly OwnershipRange[]) {
    this.#ranges = ranges
  }

  /** The run that an address lies in; undefined where there is no RAM. */
  at(address: number): OwnershipRange | undefined {
    let low = 0
    let high = this.#ranges.length
    while (low < high) {
      const middle = (low + high) >>> 1
      const range = this.#ranges[middle]
      if (range !== undefined && range.base + range.size <= address) low = middle + 1
      else high = middle
    }
    const range = this.#ranges[low]
    return range !== undefined && range.base <= address ? range : undefined
  }

  /** First page from `from` to `to` that the host does not own, with its owner. */
  foreign(from: number, to: number): { readonly page: number; readonly owner: string } | undefined {
    for (const range of this.#ranges) {
      if (range.base + range.size <= from) continue
      if (range.base >= to) break
      const owner = ownerOf(range)
      if (owner !== undefined) return { page: Math.max(range.base, from), owner }
    }
    return undefined
  }
}

/** The owner of a range that is not the host's. */
function ownerOf({ state, vm }: OwnershipRange): string | undefined {
  if (state === 'hyp') return 'the hypervisor'
  return state === 'vm' ? `VM ${vm}` : undefined
}

/** Violations as text; the first MAX_TOLD are listed. */
export function audit(input: AuditInput): string[] {
  const findings: string[] = []
  let more = 0
  const find = (text: string) => {
    if (findings.length < MAX_TOLD) findings.push(text)
    else more++
  }
  const owners = new Owners(input.ownership)
  const walked = new Set<string>()
  for (const [index, smmu] of input.smmus.entries()) {
    if (!smmu.enabled) {
      if (!smmu.aborts) find(`SMMU ${index} is off and lets everything through: its devices reach all of memory`)
      continue
    }
    for (const { sid, ste } of streamTable(input.memory, smmu)) {
      const who = input.device(index, sid)
      if (fieldGet64(S.STRTAB_STE_0_V, ste[0]) === 0) continue
      const config = fieldGet64(S.STRTAB_STE_0_CFG, ste[0])
      if ((config & 4) === 0) continue
      if (config !== S.STRTAB_STE_0_CFG_S2_TRANS && config !== S.STRTAB_STE_0_CFG_NESTED) {
        find(`${who}: its stream table entry has no second stage: it reaches all of memory`)
        continue
      }
      const key = `${ste[2] & (S.STRTAB_STE_2_VTCR | S.STRTAB_STE_2_S2ENDI)} ${ste[3]}`
      if (walked.has(key)) continue
      walked.add(key)
      stage2Leaves(input.memory, ste, smmu.oas, (base, size, target, writable) => {
        const what = `${who}: the second stage maps ${hex(base)}${size > PAGE ? ` (${size} bytes)` : ''}`
        if (target !== base) find(`${what} to ${hex(target)}, not to itself`)
        const foreign = owners.foreign(target, target + size)
        if (foreign !== undefined) {
          find(`${what}${writable ? '' : ' read-only'}: page ${hex(foreign.page)} belongs to ${foreign.owner}`)
        }
        for (const frame of input.frames) {
          if (target < frame.base + frame.size && frame.base < target + size) find(`${what}: registers of an SMMU`)
        }
      })
    }
  }
  if (input.canaries) {
    for (const { base, size, state, vm } of input.ownership) {
      if (state !== 'vm') continue
      for (let page = base; page < base + size; page += PAGE) {
        const changed = changedCanary(input.memory, page)
        if (changed === undefined) continue
        find(
          `page ${hex(page)} of VM ${vm} was written by somebody else: ${changed.words} words from offset ${hex(changed.offset)}`,
        )
      }
    }
  }
  if (more > 0) findings.push(`and ${more} more`)
  return findings
}
