// SPDX-License-Identifier: Apache-2.0
/**
 * Whether an SMMU could walk the tables that EL2 keeps for its host, instead of tables of its own (server/hypervisor/README.md, section 20):
 * what the formats say, and nothing of whether devices would find there what they need.
 */
import { fieldGet } from './bits.ts'
import type { IdRegisters } from './features.ts'
import * as r from './registers.ts'

/** VTTBR_EL2 and VTCR_EL2, in halves. */
export interface Stage2Registers {
  readonly vttbrHi: number
  readonly vtcrLo: number
  readonly vtcrHi: number
}

/** VTCR_EL2.TG0, and the bit of SMMU_IDR5 that says the SMMU has that granule. */
const GRANULES = [
  [4, r.IDR5_GRAN4K],
  [64, r.IDR5_GRAN64K],
  [16, r.IDR5_GRAN16K],
] as const

/** The level at which a block may become a table, or the reverse, without anything in between. */
const BBM_AT_ONCE = 2

const bits = (word: number, high: number, low: number): number => (word >>> low) & (2 ** (high - low + 1) - 1)

/** VTCR_EL2.S2PIE, S2POE and D128 (DDI 0487 D24.2): bits 7:6 of a descriptor are not S2AP alone, or it has 128 bits. */
const hasOtherDescriptors = ({ vtcrHi }: Stage2Registers): boolean => (vtcrHi & 0x70) !== 0

/** VTCR_EL2.DS (DDI 0487 D24.2): descriptors of 52-bit addresses, with 4 and 16 KiB granules. */
const hasLpa2 = ({ vtcrHi }: Stage2Registers): boolean => (vtcrHi & 1) !== 0

/** What stands against it whatever leads to these tables, in words; none: the SMMU can walk them. */
export function tableProblems(registers: Stage2Registers, { idr0, idr3, idr5 }: IdRegisters): string[] {
  const { vtcrLo } = registers
  const problems: string[] = []
  if ((idr0 & r.IDR0_S2P) === 0) problems.push('the SMMU has no stage 2 (IDR0.S2P)')
  if ((idr0 & r.IDR0_COHACC) === 0)
    problems.push('the SMMU does not look into caches, and EL2 cleans no table for it (IDR0.COHACC)')
  const granule = GRANULES[bits(vtcrLo, 15, 14)]
  if (granule === undefined) problems.push('VTCR_EL2.TG0 is reserved')
  else if ((idr5 & granule[1]) === 0) problems.push(`the SMMU has no granule of ${granule[0]} KiB (VTCR_EL2.TG0)`)
  if (hasLpa2(registers) && (idr5 & r.IDR5_DS) === 0)
    problems.push('the descriptors are those of 52-bit addresses, which the SMMU does not read (VTCR_EL2.DS, IDR5.DS)')
  if (hasOtherDescriptors(registers))
    problems.push(
      'the descriptors have permissions by index, or 128 bits, which the SMMU reads otherwise (VTCR_EL2.S2PIE, S2POE, D128)',
    )
  if (fieldGet(r.IDR3_BBML, idr3) !== BBM_AT_ONCE)
    problems.push('what EL2 breaks before it makes, the SMMU may meet as one change, which it has to take (IDR3.BBML)')
  return problems
}

/** What stands against it where VTTBR_EL2 and VTCR_EL2 are the stream's as they are. */
export function sharingProblems(registers: Stage2Registers, id: IdRegisters): string[] {
  const problems = tableProblems(registers, id)
  const input = 64 - bits(registers.vtcrLo, 5, 0)
  const oas = r.oasBits(fieldGet(r.IDR5_OAS, id.idr5))
  if (input > oas)
    problems.push(`the tables translate ${input} bits, a stage 2 of the SMMU at most ${oas} (VTCR_EL2.T0SZ, IDR5.OAS)`)
  const vmid = registers.vttbrHi >>> 16
  if (vmid > 0xff && (id.idr0 & r.IDR0_VMID16) === 0)
    problems.push(`VMID ${vmid} has more bits than the SMMU's (IDR0.VMID16)`)
  return problems
}

/**
 * Whether the SMMU can hear what CPUs invalidate by broadcast (DVM); if not, EL2 has to send each TLBI as a command as well. Whether it does is
 * CR2.PTM's to say, which is the host's: Linux sets it, and nothing may rely on this.
 */
export const hearsBroadcast = ({ idr0 }: Pick<IdRegisters, 'idr0'>): boolean => (idr0 & r.IDR0_BTM) !== 0
