// SPDX-License-Identifier: Apache-2.0
/** What firmware did with the SMMUs before the hypervisor started: nothing, or it let a few devices through. */
import { fieldPrep64 } from '../smmu/bits.ts'
import * as R from '../smmu/registers.ts'
import type { SoftSmmu } from '../smmu/soft/softSmmu.ts'
import * as S from '../smmu/ste.ts'
import { NO_SSID } from '../smmu/transaction.ts'
import type { AttackMemory } from './memory.ts'
import type { Setup } from './setup.ts'

/** STEs in a linear table, and its place: inside of RAM, not in hypervisor memory. */
const LOG2_STES = 8
const OFFSET = 0x4_0000
/** Every so many streams are used, so that their entries are cached. */
const STRIDE = 7

const BYPASS = S.STRTAB_STE_0_V | fieldPrep64(S.STRTAB_STE_0_CFG, S.STRTAB_STE_0_CFG_BYPASS)
const ATTRIBUTES = fieldPrep64(S.STRTAB_STE_1_SHCFG, S.STRTAB_STE_1_SHCFG_INCOMING)

export function leaveBehind({ firmware, sidBits }: Setup, memory: AttackMemory, smmus: readonly SoftSmmu[]): void {
  if (firmware === 'none') return
  const table = memory.ram[0].base + OFFSET
  for (let sid = 0; sid < 2 ** LOG2_STES; sid++) {
    memory.setWord(table + 64 * sid, Number(BYPASS))
    memory.setWord(table + 64 * sid + 12, Number(ATTRIBUTES >> 32n))
  }
  for (const smmu of smmus) {
    smmu.write(R.ARM_SMMU_STRTAB_BASE, 8, table % 2 ** 32, Math.floor(table / 2 ** 32))
    smmu.write(R.ARM_SMMU_STRTAB_BASE_CFG, 4, Math.min(sidBits, LOG2_STES), 0)
    smmu.write(R.ARM_SMMU_CR0, 4, R.CR0_SMMUEN, 0)
    smmu.step()
    for (let sid = 0; sid < 2 ** Math.min(sidBits, LOG2_STES); sid += STRIDE) {
      smmu.translate({ sid, ssid: NO_SSID, lo: 0, hi: 0, write: false, privileged: false, instruction: false })
    }
    if (firmware === 'on') continue
    smmu.write(R.ARM_SMMU_CR0, 4, 0, 0)
    smmu.step()
  }
}
