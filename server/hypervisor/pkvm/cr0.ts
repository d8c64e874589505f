// SPDX-License-Identifier: Apache-2.0
/**
 * Writes of CR0 by the host (server/hypervisor/README.md, section 5). What is enabled is shared before the hardware gets the
 * value; what is disabled counts as enabled until CR0ACK says that it is not.
 */
import type { Trap } from '../../policy/policy.ts'
import { includesStep } from '../../policy/policy.ts'
import { EIO, ETIMEDOUT, OK } from '../../policy/result.ts'
import type { HypWarning } from '../../policy/warnings.ts'
import { TWO_POW_32 } from '../../smmu/bits.ts'
import {
  ARM_SMMU_CR0,
  ARM_SMMU_CR0ACK,
  ARM_SMMU_IDR0,
  CR0_ATSCHK,
  CR0_CMDQEN,
  CR0_EVTQEN,
  CR0_PRIQEN,
  CR0_SMMUEN,
  IDR0_ATS,
  IDR0_PRI,
} from '../../smmu/registers.ts'
import { streamTableBytes } from '../../smmu/strtab.ts'
import type { HypContext } from './context.ts'
import type { Smmu } from './smmu.ts'
import {
  HYP_CMDQ_DISABLED,
  HYP_CMDQ_SHARE,
  HYP_CMDQ_UNSHARE,
  HYP_CR0ACK,
  HYP_EVTQ_DISABLED,
  HYP_EVTQ_SHARE,
  HYP_PRIQ_DISABLED,
  HYP_PRIQ_SHARE,
  HYP_QUEUE_DISABLED_AT_SHUTDOWN,
  HYP_QUEUE_DISABLED_AT_SUSPEND,
  HYP_QUEUE_DISABLED_BY_CRASH_KERNEL,
  HYP_QUEUE_UNSHARE,
  HYP_SMMUEN_STALE,
  HYP_SMMUEN_WITHOUT_CMDQ,
  HYP_STRTAB_FORMAT,
  HYP_STRTAB_SHARE,
  HYP_STRTAB_UNSHARE,
} from './warnings.ts'

const ENABLES = CR0_CMDQEN | CR0_EVTQEN | CR0_PRIQEN | CR0_SMMUEN

/** CMDQEN is the host's alone: the hardware's queue is the hypervisor's, and on as long as it is needed. */
const isIndependent = ({ choices, upTo }: HypContext): boolean =>
  choices.independentEnables && includesStep(upTo, 'cmdq')

export function writeCr0(smmu: Smmu, trap: Trap): void {
  const { hardware, state } = smmu
  // A field whose update has not completed must not be written (IHI 0070 section 6.3.9).
  if (
    !smmu.hyp.wait.until(() => ((hardware.read32(ARM_SMMU_CR0) ^ hardware.read32(ARM_SMMU_CR0ACK)) & ENABLES) === 0)
  ) {
    warnAck(smmu, trap.lo)
    return
  }
  disableAcknowledged(smmu, hardware.read32(ARM_SMMU_CR0ACK))
  const before = state.cr0
  const written = implemented(smmu, trap.lo)
  const after = enable(smmu, before, written)
  warnDisabled(smmu, before, after, written)
  // Until the hardware says otherwise, what was enabled is.
  state.cr0 = ((before & ENABLES) | after) >>> 0
  smmu.hyp.changed()
  // What the hardware's queue was on for besides the host goes on (server/hypervisor/README.md, section 18).
  const forIt = forHardware(smmu, after)
  if ((before & ~after & forIt & CR0_CMDQEN) !== 0) unshareCmdq(smmu)
  const attaches = smmu.hyp.ats && (after & ~before & CR0_SMMUEN) !== 0
  // An SMMU that is not on yet sends no CMD_ATC_INV (IHI 0070 section 4.5.1).
  const awaited = (before & ~forIt & ENABLES) | (attaches ? CR0_SMMUEN : 0)
  if (!hardware.write32(ARM_SMMU_CR0, forIt)) trap.aborted = true
  else if (!acknowledges(smmu, awaited, after)) warnAck(smmu, after)
  else if (attaches) smmu.shadowStrtab.attachAtcs()
  disableAcknowledged(smmu, hardware.read32(ARM_SMMU_CR0ACK))
  // Commands that were in the queue before it was enabled.
  if (isIndependent(smmu.hyp) && (after & ~before & CR0_CMDQEN) !== 0) smmu.hostCmdq.process(false)
}

/** Without the bits that are RES0 on the SMMU that the host sees (IHI 0070 section 6.3.9). */
function implemented({ hardware, hyp }: Smmu, written: number): number {
  const idr0 = hyp.ats || hyp.quirks.has('eats') ? hardware.read32(ARM_SMMU_IDR0) : 0
  return written & ~((idr0 & IDR0_PRI) === 0 ? CR0_PRIQEN : 0) & ~((idr0 & IDR0_ATS) === 0 ? CR0_ATSCHK : 0)
}

/**
 * What devices mark as Translated is checked, whatever the host wrote. An SMMU that is on has a command queue, whether or not the
 * host has one.
 */
function forHardware({ hardware, hyp }: Smmu, cr0: number): number {
  const queue = isIndependent(hyp) && (cr0 & CR0_SMMUEN) !== 0 ? CR0_CMDQEN : 0
  if (hyp.quirks.has('eats')) return (cr0 | queue) >>> 0
  const ats = (hardware.read32(ARM_SMMU_IDR0) & IDR0_ATS) !== 0
  return (cr0 | queue | (ats ? CR0_ATSCHK : 0)) >>> 0
}

/** CR0 or CR0ACK of the hardware as the host is to see it: its queue may be off while the hardware's is on. */
export function hostsCr0({ state, hyp }: Smmu, cr0: number): number {
  return isIndependent(hyp) ? (cr0 & ~CR0_CMDQEN) | (cr0 & state.cr0 & CR0_CMDQEN) : cr0
}

/** Waits until CR0ACK has these bits as in `value`. */
function acknowledges({ hardware, hyp }: Smmu, bits: number, value: number): boolean {
  return hyp.wait.until(() => ((hardware.read32(ARM_SMMU_CR0ACK) ^ value) & bits) === 0)
}

function warnAck(smmu: Smmu, written: number): void {
  smmu.warn(HYP_CR0ACK, written, smmu.hardware.read32(ARM_SMMU_CR0), smmu.hardware.read32(ARM_SMMU_CR0ACK), 0)
}

// 0 → 1.

/** Makes ready what `written` enables. @returns CR0 as the hardware gets it: without what cannot be enabled */
function enable(smmu: Smmu, before: number, written: number): number {
  const { hyp, hostCmdq, evtq, priq } = smmu
  const rising = written & ~before
  let after = written
  const share = (bit: number, queue: Shared, warning: HypWarning) => {
    if ((rising & bit) === 0) return
    const result = queue.enable()
    if (result === OK) return
    warnPages(smmu, warning, queue, result)
    after &= ~bit
  }
  if (includesStep(hyp.upTo, 'cmdq')) share(CR0_CMDQEN, hostCmdq, HYP_CMDQ_SHARE)
  if (includesStep(hyp.upTo, 'queues')) {
    share(CR0_EVTQEN, evtq, HYP_EVTQ_SHARE)
    share(CR0_PRIQEN, priq, HYP_PRIQ_SHARE)
  }
  if (!includesStep(hyp.upTo, 'strtab') || (after & CR0_SMMUEN) === 0) return after >>> 0
  if ((after & CR0_CMDQEN) === 0 && !isIndependent(hyp)) {
    // Without commands nothing could be taken from the SMMU any more.
    if ((rising & CR0_SMMUEN) === 0) {
      smmu.warn(HYP_CMDQ_DISABLED, before, written, 0, 0)
      return (after | CR0_CMDQEN) >>> 0
    }
    smmu.warn(HYP_SMMUEN_WITHOUT_CMDQ, before, after, 0, 0)
  } else if ((rising & CR0_SMMUEN) === 0 || enableSmmu(smmu, after)) {
    return after >>> 0
  }
  return (after & ~CR0_SMMUEN) >>> 0
}

/** @param after CR0 as it is to become. @returns whether SMMUEN may be set */
function enableSmmu(smmu: Smmu, after: number): boolean {
  const { hostStrtab } = smmu
  const table = hostStrtab.check()
  if (table === null) {
    const { baseLo, baseHi, cfg } = hostStrtab.state
    smmu.warn(HYP_STRTAB_FORMAT, baseLo, baseHi, cfg, 0)
    return false
  }
  const pages = { address: table.base, bytes: streamTableBytes(table) }
  const result = hostStrtab.enable(table)
  if (result !== OK) {
    warnPages(smmu, HYP_STRTAB_SHARE, pages, result)
    return false
  }
  const ready = forgetAll(smmu, after & ~CR0_SMMUEN, true)
  if (ready === OK) return true
  smmu.warn(HYP_SMMUEN_STALE, smmu.state.cr0, after, ready, 0)
  disableStrtab(smmu)
  return false
}

/**
 * Nothing that the SMMU knew before is used once it is enabled: neither entries of the shadow table, nor what the hardware
 * keeps in its caches.
 * @param off CR0 as it is to become, without SMMUEN
 * @param reshadows the host's table is read again: it may be another one, or have other entries
 */
function forgetAll(smmu: Smmu, off: number, reshadows: boolean): number {
  const { hyp, hardware, shadowStrtab } = smmu
  const queue = isIndependent(hyp) ? CR0_CMDQEN : 0
  const cr0 = forHardware(smmu, off | queue)
  // What a queue of before left is not to run.
  if (queue !== 0 && (hardware.read32(ARM_SMMU_CR0) & CR0_CMDQEN) === 0)
    smmu.shadowCmdq.discard(smmu.hostCmdq.registers.cons)
  // A hypervisor that took over in the middle finds SMMUEN set already.
  const bits = CR0_CMDQEN | CR0_SMMUEN | CR0_ATSCHK
  if (((hardware.read32(ARM_SMMU_CR0) ^ cr0) & bits) !== 0) hardware.write32(ARM_SMMU_CR0, cr0)
  if (!acknowledges(smmu, bits, cr0)) return EIO
  const rebuilt = reshadows ? shadowStrtab.rebuild() : OK
  return rebuilt === OK && !hyp.quirks.has('no-tlbi-while-off') ? smmu.invalidateAll() : rebuilt
}

/**
 * After a power-on of an SMMU whose host is to notice nothing: the hardware gets CR0 as the host has it, in the order in which a driver enables.
 * What was donated meanwhile got no invalidation, so nothing that may be cached is used.
 */
export function enableAgain(smmu: Smmu): number {
  const { state, hyp, hardware, shadowStrtab } = smmu
  const { cr0 } = state
  const enabled = cr0 & ENABLES
  if ((forHardware(smmu, cr0) & CR0_CMDQEN) !== 0) {
    const ready = forgetAll(smmu, cr0 & ~CR0_SMMUEN, hyp.ats)
    if (ready !== OK) return ready
  }
  if (!hardware.write32(ARM_SMMU_CR0, forHardware(smmu, cr0))) return EIO
  if (!acknowledges(smmu, enabled, cr0)) return ETIMEDOUT
  if (hyp.ats && (enabled & CR0_SMMUEN) !== 0) shadowStrtab.attachAtcs()
  return OK
}

// 1 → 0.

/** Linux's driver disables these queues at shutdown, when it suspends, and when a crash kernel enables the SMMU (server/hypervisor/README.md, section 5.1). */
function warnDisabled(smmu: Smmu, before: number, after: number, written: number): void {
  if (!includesStep(smmu.hyp.upTo, 'queues') || isIndependent(smmu.hyp)) return
  const falling = before & ~after
  const shutdown = (written & ENABLES) === 0
  const crashKernel = (written & ~before & CR0_SMMUEN) !== 0
  const suspend = (falling & CR0_SMMUEN) !== 0 && (written & ENABLES) === CR0_CMDQEN
  const panics = smmu.hyp.quirks.has('shutdown-panics')
  const normal = shutdown
    ? HYP_QUEUE_DISABLED_AT_SHUTDOWN
    : crashKernel
      ? HYP_QUEUE_DISABLED_BY_CRASH_KERNEL
      : suspend
        ? HYP_QUEUE_DISABLED_AT_SUSPEND
        : null
  const expected = panics ? null : normal
  if ((falling & CR0_EVTQEN) !== 0) smmu.warn(expected ?? HYP_EVTQ_DISABLED, before, written, 0, 0)
  if ((falling & CR0_PRIQEN) !== 0) smmu.warn(expected ?? HYP_PRIQ_DISABLED, before, written, 0, 0)
}

/** What is neither enabled nor, by CR0ACK, still in use is unshared. @param ack CR0ACK */
export function disableAcknowledged(smmu: Smmu, ack: number): void {
  const late = smmu.state.cr0 & ~ack & ENABLES
  const off = late === 0 ? 0 : late & ~smmu.hardware.read32(ARM_SMMU_CR0)
  if (off !== 0) disable(smmu, off)
}

/** The power is off: nothing is in use any more, whatever CR0ACK was. The hardware is not asked. */
export function disableAll(smmu: Smmu): void {
  smmu.shadowCmdq.empty()
  disable(smmu, smmu.state.cr0 & ENABLES)
}

/** @param off enable bits of CR0 that are 0 from now on */
function disable(smmu: Smmu, off: number): void {
  const { hyp, state, hostCmdq, evtq, priq } = smmu
  state.cr0 = (state.cr0 & ~off) >>> 0
  hyp.changed()
  const unshare = (bit: number, queue: Shared, warning: HypWarning) => {
    const result = (off & bit) === 0 ? OK : queue.disable()
    if (result !== OK) warnPages(smmu, warning, queue, result)
  }
  if (includesStep(hyp.upTo, 'cmdq')) unshare(CR0_CMDQEN, hostCmdq, HYP_CMDQ_UNSHARE)
  if (includesStep(hyp.upTo, 'queues')) {
    unshare(CR0_EVTQEN, evtq, HYP_QUEUE_UNSHARE)
    unshare(CR0_PRIQEN, priq, HYP_QUEUE_UNSHARE)
  }
  if ((off & CR0_SMMUEN) !== 0) disableStrtab(smmu)
}

function unshareCmdq(smmu: Smmu): void {
  if (!smmu.shadowCmdq.stands()) smmu.shadowCmdq.catchUp()
  smmu.state.cr0 = (smmu.state.cr0 & ~CR0_CMDQEN) >>> 0
  const result = smmu.hostCmdq.disable()
  if (result !== OK) warnPages(smmu, HYP_CMDQ_UNSHARE, smmu.hostCmdq, result)
}

function disableStrtab(smmu: Smmu): void {
  const { table } = smmu.hostStrtab
  const result = smmu.hostStrtab.disable()
  if (result === OK || table === null) return
  warnPages(smmu, HYP_STRTAB_UNSHARE, { address: table.base, bytes: streamTableBytes(table) }, result)
}

// Pages.

interface Pages {
  readonly address: number
  readonly bytes: number
}

/** A queue of the host. */
interface Shared extends Pages {
  enable(): number
  disable(): number
}

function warnPages(smmu: Smmu, warning: HypWarning, { address, bytes }: Pages, result: number): void {
  smmu.warn(warning, address % TWO_POW_32, Math.floor(address / TWO_POW_32), bytes, result)
}
