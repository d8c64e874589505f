// SPDX-License-Identifier: Apache-2.0
/** All that the tables in memory let devices reach, against the page map: what no device has tried is found as well. */
import { hex } from '../smmu/bits.ts'
import { stage2Leaves, TooManyTables, tableRegisters, ways } from '../smmu/reach.ts'
import type { World } from './world.ts'

/** At the end of a case: all of the guard, and all that tables let devices reach. */
export function audit(world: World): void {
  world.oracle.auditGuard()
  auditTables(world)
}

/** Reports what is reachable and must not be. */
function auditTables({ oracle, memory, smmus }: World): void {
  if (!oracle.claims) return
  const registers = smmus.map(({ walkRegisters, features }) => tableRegisters(walkRegisters, features))
  for (const { smmu, sid, ste, second } of ways(memory, registers, (smmu, sid) => oracle.partitionOf(smmu, sid))) {
    if (sid === undefined) {
      oracle.report('tables: off and open', `SMMU ${smmu} is off and lets everything through`)
      continue
    }
    const who = `SMMU ${smmu}, stream ${hex(sid)}`
    if (!second) {
      oracle.report('tables: no stage 2', `${who}: its entry has no stage 2 and reaches all of memory`)
      continue
    }
    const leaf = (base: number, size: number, target: number) => {
      const other = oracle.outside(smmu, sid, target, size)
      const page = other >= 0 ? other : oracle.map.forbidden(target, size)
      if (page < 0) return
      const leads = target === base ? '' : `, which leads to ${hex(target)}`
      oracle.report(
        'tables: stage 2',
        `${who}: stage 2 maps ${hex(base)}${leads}; ${hex(page)} ${oracle.notOf(smmu, sid, page)}`,
        page,
      )
    }
    try {
      stage2Leaves(memory, ste, registers[smmu].oas, leaf)
    } catch (error) {
      if (!(error instanceof TooManyTables)) throw error
      oracle.report('tables: too many', `${who}: ${error.message}`)
    }
  }
}
