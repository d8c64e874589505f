// SPDX-License-Identifier: Apache-2.0
/** All that the tables in memory let devices reach, against the page map: what no device has tried is found as well. */
import { fieldGet64, hex } from '../smmu/bits.ts'
import { stage2Leaves, streamTable, type TableRegisters } from '../smmu/reach.ts'
import { CR0_SMMUEN, GBPA_ABORT } from '../smmu/registers.ts'
import type { SoftSmmu } from '../smmu/soft/softSmmu.ts'
import * as S from '../smmu/ste.ts'
import { PAGE_SIZE } from './memory.ts'
import { HOST } from './pageMap.ts'
import type { World } from './world.ts'

function tableRegisters(smmu: SoftSmmu): TableRegisters {
  const { cr0, gbpa, strtabBaseLo, strtabBaseHi, strtabBaseCfg } = smmu.walkRegisters
  return {
    strtabBaseLo,
    strtabBaseHi,
    strtabBaseCfg,
    sidSize: smmu.features.sidSize,
    twoLevel: smmu.features.twoLevelStreamTable,
    oas: smmu.features.oas,
    enabled: (cr0 & CR0_SMMUEN) !== 0,
    aborts: (gbpa & GBPA_ABORT) !== 0,
  }
}

/** At the end of a case: all of the guard, and all that tables let devices reach. */
export function audit(world: World): void {
  world.oracle.auditGuard()
  auditTables(world)
}

/** Reports what is reachable and must not be. */
function auditTables(world: World): void {
  const { oracle, memory } = world
  if (!oracle.claims) return
  const walked = new Set<string>()
  for (const [index, smmu] of world.smmus.entries()) {
    const registers = tableRegisters(smmu)
    if (!registers.enabled) {
      if (!registers.aborts) oracle.report('tables: off and open', `SMMU ${index} is off and lets everything through`)
      continue
    }
    for (const { sid, ste } of streamTable(memory, registers)) {
      if (fieldGet64(S.STRTAB_STE_0_V, ste[0]) === 0) continue
      const config = fieldGet64(S.STRTAB_STE_0_CFG, ste[0])
      if ((config & 4) === 0) continue
      const who = `SMMU ${index}, stream ${hex(sid)}`
      if ((config & 2) === 0) {
        oracle.report('tables: no stage 2', `${who}: its entry has no stage 2 and reaches all of memory`)
        continue
      }
      const key = `${ste[2] & (S.STRTAB_STE_2_VTCR | S.STRTAB_STE_2_S2ENDI)} ${ste[3]}`
      if (walked.has(key)) continue
      walked.add(key)
      stage2Leaves(memory, ste, registers.oas, (base, size, target) => {
        const page = firstForeign(world, target, size)
        if (page < 0) return
        const leads = target === base ? '' : `, which leads to ${hex(target)}`
        oracle.report(
          'tables: stage 2',
          `${who}: stage 2 maps ${hex(base)}${leads}; ${hex(page)} belongs to ${oracle.owner(page)}`,
          page,
        )
      })
    }
  }
}

/** First page of a range that the host's devices must not reach; -1: none. */
function firstForeign({ oracle: { map }, machine }: World, target: number, size: number): number {
  if (size === PAGE_SIZE) return map.hostMay(target) ? -1 : target
  const end = target + size
  for (const { base, size: bytes } of machine.smmus)
    if (base < end && target < base + bytes) return Math.max(base, target)
  for (const { base, size: bytes } of machine.memory.ram) {
    for (let page = Math.max(base, target); page < Math.min(end, base + bytes); page += PAGE_SIZE) {
      if (map.owner(page) !== HOST) return page
    }
  }
  return -1
}
