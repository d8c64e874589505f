// SPDX-License-Identifier: Apache-2.0
/** Writes of CR0 by the host (server/hypervisor/README.md, section 5): what changes, in order, before the hardware gets it. */
import type { Trap } from '../../policy/policy.ts'
import { includesStep } from '../../policy/policy.ts'
import { OK } from '../../policy/result.ts'
import type { HypWarning } from '../../policy/warnings.ts'
import { TWO_POW_32 } from '../../smmu/bits.ts'
import { ARM_SMMU_CR0, CR0_CMDQEN, CR0_EVTQEN, CR0_PRIQEN, CR0_SMMUEN } from '../../smmu/registers.ts'
import { streamTableBytes } from '../../smmu/strtab.ts'
import type { HostQueue } from './queues.ts'
import type { Smmu } from './smmu.ts'
import {
  HYP_CMDQ_SHARE,
  HYP_CMDQ_UNSHARE,
  HYP_EVTQ_DISABLED,
  HYP_EVTQ_SHARE,
  HYP_PRIQ_DISABLED,
  HYP_PRIQ_SHARE,
  HYP_QUEUE_DISABLED_AT_SHUTDOWN,
  HYP_QUEUE_DISABLED_BY_CRASH_KERNEL,
  HYP_QUEUE_UNSHARE,
  HYP_SMMUEN_WITHOUT_CMDQ,
  HYP_STRTAB_FORMAT,
  HYP_STRTAB_SHARE,
  HYP_STRTAB_UNSHARE,
} from './warnings.ts'

const ENABLES = CR0_CMDQEN | CR0_EVTQEN | CR0_PRIQEN | CR0_SMMUEN

export function writeCr0(smmu: Smmu, trap: Trap): void {
  const { upTo } = smmu.hyp
  const before = smmu.state.cr0
  const written = trap.lo
  const changed = before ^ written
  let after = written
  if (includesStep(upTo, 'cmdq') && (changed & CR0_CMDQEN) !== 0) {
    const on = (written & CR0_CMDQEN) !== 0
    const { hostCmdq } = smmu
    const result = on ? hostCmdq.enable() : hostCmdq.disable()
    if (result !== OK) {
      warnPages(smmu, on ? HYP_CMDQ_SHARE : HYP_CMDQ_UNSHARE, hostCmdq.address, hostCmdq.bytes, result)
      if (on) after &= ~CR0_CMDQEN
    }
  }
  if (includesStep(upTo, 'queues')) {
    if ((changed & CR0_EVTQEN) !== 0 && !queueTransition(smmu, smmu.evtq, before, written, CR0_EVTQEN)) {
      after &= ~CR0_EVTQEN
    }
    if ((changed & CR0_PRIQEN) !== 0 && !queueTransition(smmu, smmu.priq, before, written, CR0_PRIQEN)) {
      after &= ~CR0_PRIQEN
    }
  }
  if (includesStep(upTo, 'strtab') && (changed & CR0_SMMUEN) !== 0) {
    if ((written & CR0_SMMUEN) === 0) disableSmmu(smmu)
    else if (!enableSmmu(smmu, before, after)) after &= ~CR0_SMMUEN
  }
  smmu.state.cr0 = after >>> 0
  smmu.hyp.changed()
  if (!smmu.hardware.write32(ARM_SMMU_CR0, smmu.state.cr0)) trap.aborted = true
}

/** Event and PRI queue. @returns whether the bit may be as the host wrote it */
function queueTransition(smmu: Smmu, queue: HostQueue, before: number, written: number, bit: number): boolean {
  const { address, bytes } = queue
  const event = bit === CR0_EVTQEN
  if ((written & bit) !== 0) {
    const result = queue.enable()
    if (result !== OK) warnPages(smmu, event ? HYP_EVTQ_SHARE : HYP_PRIQ_SHARE, address, bytes, result)
    return result === OK
  }
  smmu.warn(disabledWarning(event, before, written), before, written, 0, 0)
  const result = queue.disable()
  if (result !== OK) warnPages(smmu, HYP_QUEUE_UNSHARE, address, bytes, result)
  return true
}

/** Linux's driver disables these queues at shutdown, and when a crash kernel enables the SMMU (server/hypervisor/README.md, section 5.1). */
function disabledWarning(event: boolean, before: number, written: number): HypWarning {
  if ((written & ENABLES) === 0) return HYP_QUEUE_DISABLED_AT_SHUTDOWN
  if ((written & ~before & CR0_SMMUEN) !== 0) return HYP_QUEUE_DISABLED_BY_CRASH_KERNEL
  return event ? HYP_EVTQ_DISABLED : HYP_PRIQ_DISABLED
}

/** @returns whether SMMUEN may be set */
function enableSmmu(smmu: Smmu, before: number, after: number): boolean {
  if ((after & CR0_CMDQEN) === 0) {
    smmu.warn(HYP_SMMUEN_WITHOUT_CMDQ, before, after, 0, 0)
    return false
  }
  const { hostStrtab } = smmu
  const table = hostStrtab.check()
  if (table === null) {
    const { baseLo, baseHi, cfg } = hostStrtab.state
    smmu.warn(HYP_STRTAB_FORMAT, baseLo, baseHi, cfg, 0)
    return false
  }
  const result = hostStrtab.enable(table)
  if (result !== OK) warnPages(smmu, HYP_STRTAB_SHARE, table.base, streamTableBytes(table), result)
  return result === OK
}

function disableSmmu(smmu: Smmu): void {
  const { table } = smmu.hostStrtab
  const result = smmu.hostStrtab.disable()
  if (result !== OK && table !== null) {
    warnPages(smmu, HYP_STRTAB_UNSHARE, table.base, streamTableBytes(table), result)
  }
}

function warnPages(smmu: Smmu, warning: HypWarning, address: number, bytes: number, result: number): void {
  smmu.warn(warning, address % TWO_POW_32, Math.floor(address / TWO_POW_32), bytes, result)
}
