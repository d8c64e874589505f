// SPDX-License-Identifier: Apache-2.0
/** What the hypervisor shows of itself. */
import type {
  Facility,
  FaultPorts,
  Inspectable,
  PageOwners,
  PowerRequests,
  Stage2Table,
  StreamInfo,
} from '../../policy/inspect.ts'
import { includesStep, type SeriesStep } from '../../policy/policy.ts'
import { hex, hex64 } from '../../smmu/bits.ts'
import { POWER_STATES } from '../../smmu/hardware.ts'
import { ARM_SMMU_CR0, describeRegister } from '../../smmu/registers.ts'
import type { Hypervisor } from './hypervisor.ts'
import type { Smmu } from './smmu.ts'
import { HYP_WARNINGS } from './warnings.ts'

/** What the hypervisor has, when the series is emulated up to a step. */
export function facilitiesOf(upTo: SeriesStep): Facility[] {
  const facilities: Facility[] = []
  if (includesStep(upTo, 'cmdq')) facilities.push('cmdq', 'ownership')
  if (includesStep(upTo, 'strtab')) facilities.push('strtab')
  if (includesStep(upTo, 'nested')) facilities.push('stage2', 'donation')
  return facilities
}

export class PkvmInspect implements Inspectable {
  readonly facilities: ReadonlySet<Facility>
  readonly warnings = HYP_WARNINGS
  readonly pages: PageOwners
  readonly power?: PowerRequests
  readonly faults: FaultPorts
  readonly #hypervisor: Hypervisor

  constructor(hypervisor: Hypervisor) {
    const { ownership, pool } = hypervisor
    this.#hypervisor = hypervisor
    this.facilities = new Set(facilitiesOf(hypervisor.upTo))
    this.pages = hypervisor
    if (hypervisor.switches) this.power = hypervisor
    this.faults = { ownership, pool, stage2: () => this.#stage2() }
  }

  #stage2(): Stage2Table[] {
    const { idmap } = this.#hypervisor
    if (idmap === null) return []
    const { granuleShift, startLevel, outputBits } = idmap.geometry
    const { populate } = this.#hypervisor
    const onDemand = populate !== null && populate !== 'ahead'
    const table = { root: idmap.root, granuleShift, startLevel, outputBits, bigEndian: idmap.bigEndian }
    return [{ ...table, ...(onDemand && { onDemand }) }]
  }

  sections(): Record<string, unknown> {
    const { upTo, isolates, idmapInfo, sharedInfo, pool } = this.#hypervisor
    return {
      until: upTo,
      isolated: isolates,
      idmap: idmapInfo && { ...idmapInfo, vttbr: hex(idmapInfo.vttbr), vtcr: hex(idmapInfo.vtcr) },
      ...(sharedInfo && { shared: sharedInfo }),
      pool: { usedPages: pool.used, limitPages: pool.limit, capacityPages: pool.capacity },
    }
  }

  streams(): StreamInfo[] {
    return this.#hypervisor.streams()
  }

  stateLines(): string[] {
    const { smmus, idmapInfo: idmap, pool } = this.#hypervisor
    const lines = smmus.flatMap(smmuState)
    if (idmap !== null) lines.push(`idmap: VTTBR ${hex(idmap.vttbr)}, VTCR ${hex(idmap.vtcr)}, ${idmap.tables} tables`)
    lines.push(`pool: ${pool.used} of ${pool.limit} pages used`)
    return lines
  }

  verify(): string[] {
    return this.#hypervisor.verify()
  }
}

/** Registers as the host last wrote them, and the queues on both sides. */
function smmuState({ index, state, power, hostCmdq, shadowCmdq, hostStrtab, evtq }: Smmu): string[] {
  const { cr0 } = state
  const { prod, cons } = hostCmdq.registers
  const shadow = shadowCmdq.state
  const strtab = hostStrtab.state
  return [
    `SMMU ${index}:${power.now === 0 ? '' : ` ${POWER_STATES[power.now]}`}`,
    `  CR0          ${hex(cr0)} ${describeRegister(ARM_SMMU_CR0, cr0)}`,
    `  STRTAB_BASE  ${hex64(strtab.baseLo, strtab.baseHi)}, CFG ${hex(strtab.cfg)}`,
    `  CMDQ host    ${hex(hostCmdq.address)}, 2^${hostCmdq.log2size} entries, PROD ${hex(prod)}, CONS ${hex(cons)}`,
    `  CMDQ shadow  ${hex(shadow.base)}, PROD ${hex(shadow.prod)}, CONS ${hex(shadow.cons)}, ERR ${shadow.error}`,
    `  EVTQ         ${hex(evtq.address)}, 2^${evtq.log2size} entries`,
  ]
}
