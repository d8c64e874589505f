// SPDX-License-Identifier: Apache-2.0
import { PkvmPolicy } from '../hypervisor/pkvm/policy.ts'
import type { Smmu } from '../hypervisor/pkvm/smmu.ts'
import type { Policy, Trap } from '../policy/policy.ts'
import { hex, hex64 } from '../smmu/bits.ts'
import { ARM_SMMU_CR0, describeRegister, registerName } from '../smmu/registers.ts'
import { describeSte } from '../smmu/ste.ts'

/** What stood at the trap where a hyp warning stopped the machine, as lines for a person; like a kernel's oops. */
export function oops(text: string, trap: Readonly<Trap>, policy: Policy | undefined): string[] {
  const { offset, size, lo, hi } = trap
  const access = `${trap.write ? 'write' : 'read'} ${registerName(offset)} (offset ${hex(offset)}, ${size} bytes)`
  const value = trap.write ? ` = ${hex64(lo, hi)} ${describeRegister(offset, lo, hi)}` : ''
  const lines = [
    '------------[ hyp warning ]------------',
    text,
    `trap ${trap.seq}: ${access}${value}`,
    `SMMU ${trap.smmu}, CPU ${trap.cpu}, pc ${hex64(trap.pcLo, trap.pcHi)}, guest time ${(trap.time / 1e9).toFixed(6)} s`,
  ]
  if (policy instanceof PkvmPolicy) {
    const { hypervisor } = policy
    for (const smmu of hypervisor.smmus) lines.push(...smmuState(smmu))
    for (const { smmu, sid, host, shadow } of hypervisor.streams()) {
      lines.push(`stream ${smmu}:${hex(sid)}`, `  host   ${describeSte(host)}`, `  shadow ${describeSte(shadow)}`)
    }
    const { idmapInfo: idmap, pool } = hypervisor
    if (idmap !== null) lines.push(`idmap: VTTBR ${hex(idmap.vttbr)}, VTCR ${hex(idmap.vtcr)}, ${idmap.tables} tables`)
    lines.push(`pool: ${pool.used} of ${pool.limit} pages used`)
  }
  return [...lines, '---[ end of hyp warning ]---']
}

/** Registers as the host last wrote them, and the queues on both sides. Reads no hardware: its state may be the trouble. */
function smmuState({ index, cr0, cmdq, strtab, evtq }: Smmu): string[] {
  return [
    `SMMU ${index}:`,
    `  CR0          ${hex(cr0)} ${describeRegister(ARM_SMMU_CR0, cr0)}`,
    `  STRTAB_BASE  ${hex64(strtab.hostBaseLo, strtab.hostBaseHi)}, CFG ${hex(strtab.hostCfg)}`,
    `  CMDQ host    ${hex(cmdq.hostAddress)}, 2^${cmdq.hostLog2size} entries, PROD ${hex(cmdq.hostProd)}, CONS ${hex(cmdq.hostCons)}`,
    `  CMDQ shadow  ${hex(cmdq.base)}, PROD ${hex(cmdq.prod)}, CONS ${hex(cmdq.cons)}, ERR ${cmdq.error}`,
    `  EVTQ         ${hex(evtq.address)}, 2^${evtq.log2size} entries`,
  ]
}
