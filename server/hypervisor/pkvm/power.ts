// SPDX-License-Identifier: Apache-2.0
/**
 * SMMUs that are switched off and on (server/hypervisor/README.md, section 19). The host asks, the hypervisor decides, and firmware does it:
 * what comes from a device between two steps aborts, before the power goes by GBPA, and from the power-on until translation is enabled again.
 */
import type { PowerControl } from '../../machine/ports.ts'
import { newTrap } from '../../policy/policy.ts'
import { EBUSY, EIO, EPERM, ETIMEDOUT, OK, resultName } from '../../policy/result.ts'
import { POWER_STATES, type PowerState } from '../../smmu/hardware.ts'
import {
  ARM_SMMU_CR0,
  ARM_SMMU_CR0ACK,
  ARM_SMMU_GBPA,
  ARM_SMMU_GERRORN,
  ARM_SMMU_IRQ_CTRL,
} from '../../smmu/registers.ts'
import { disableAcknowledged, disableAll, enableAgain, writeCr0 } from './cr0.ts'
import { HOST_REGISTERS } from './powerState.ts'
import type { Smmu } from './smmu.ts'
import { HYP_CR0ACK, HYP_STATE_LOST } from './warnings.ts'

/**
 * Brings an SMMU into another state; may be done again where it was interrupted.
 * @param keeps the host is to find its registers and streams as it left them even where the hardware loses its own
 */
export function switchPower(smmu: Smmu, control: PowerControl, state: PowerState, keeps: boolean): number {
  const { power } = smmu
  if (POWER_STATES[power.now] === state) return OK
  if (state === 'on') return switchOn(smmu, control)
  // From one kind of off to the other there is no way without being on.
  if (!smmu.isOn) return EBUSY
  if (state === 'off' && !control.resetsToAbort) return EPERM
  return switchOff(smmu, control, state, keeps || state === 'retained')
}

/** @param saves the host's registers are kept for it */
function switchOff(smmu: Smmu, control: PowerControl, state: PowerState, saves: boolean): number {
  const { hyp, hardware, hostCmdq, shadowCmdq, power } = smmu
  if (saves && !power.saved) {
    // A command that is neither done nor discarded would be lost.
    if (hostCmdq.registers.unfinished || !shadowCmdq.catchUp()) return EBUSY
    for (const [name, offset] of HOST_REGISTERS) power[name] = hardware.read32(offset)
    power.gerrorn = (hardware.read32(ARM_SMMU_GERRORN) ^ power.gerrorFlip) >>> 0
    power.saved = true
    // From here on it is to be finished, and the hardware may not know them any more.
    hyp.keepState()
  }
  if (!smmu.abortBypass()) {
    power.saved = false
    return ETIMEDOUT
  }
  if (saves) {
    hardware.write32(ARM_SMMU_CR0, 0)
    const quiet = hyp.wait.until(() => hardware.read32(ARM_SMMU_CR0ACK) === 0)
    if (!quiet) smmu.warn(HYP_CR0ACK, 0, 0, hardware.read32(ARM_SMMU_CR0ACK), 0)
  } else {
    // As if the host had.
    writeCr0(smmu, Object.assign(newTrap(), { smmu: smmu.index, write: true, offset: ARM_SMMU_CR0, size: 4 }))
  }
  if (!control.set(smmu.index, state)) {
    if (saves) restore(smmu)
    // Where that failed as well, the host finds it disabled: what is kept must not come back with a later power-on.
    power.saved = false
    return EIO
  }
  power.now = POWER_STATES.indexOf(state)
  if (!saves) {
    // The host finds an SMMU that was reset.
    disableAll(smmu)
    smmu.forgetHost()
    power.gerrorFlip = 0
  }
  return OK
}

function switchOn(smmu: Smmu, control: PowerControl): number {
  const { index, power } = smmu
  const before = POWER_STATES[power.now]
  if (!control.set(index, 'on')) return EIO
  const programmed = smmu.program()
  const result = programmed === OK ? restore(smmu) : programmed
  // What cannot be made safe is not left on.
  if (result !== OK) control.set(index, before)
  else power.now = POWER_STATES.indexOf('on')
  return result
}

/** What the host left is enabled again, if it was kept. */
function restore(smmu: Smmu): number {
  const { hardware, power } = smmu
  if (!power.saved) return OK
  const interrupts = HOST_REGISTERS.length - 1
  const write = (i: number) => hardware.write32(HOST_REGISTERS[i][1], power[HOST_REGISTERS[i][0]])
  for (let i = 0; i < interrupts; i++) write(i)
  power.gerrorFlip = (power.gerrorn ^ hardware.read32(ARM_SMMU_GERRORN)) >>> 0
  const enabled = enableAgain(smmu)
  if (enabled !== OK) return enabled
  write(interrupts)
  power.saved = false
  return OK
}

/**
 * After a take-over, what was being switched when a former hypervisor died: off at once, since the hardware may be off already; on when the
 * tables are what the state says, from the state before.
 * @param on what was to be on; else what was to be off
 * @returns what was done, in words
 */
export function resumePower(smmus: readonly Smmu[], control: PowerControl | undefined, on: boolean): string[] {
  const changes: string[] = []
  if (control === undefined) return changes
  for (const smmu of smmus) {
    const { index, power, hyp } = smmu
    const state = POWER_STATES[power.wanted - 1]
    if (state === undefined || hyp.powerMode === null) continue
    if (!on && !smmu.isOn) {
      // What was being switched on is off as it was.
      control.set(index, POWER_STATES[power.now])
      continue
    }
    const keeps = hyp.powerMode === 'keep'
    // Until the host's registers are kept, nothing has begun.
    const begun = on || power.saved || !(keeps || state === 'retained')
    const result = begun ? switchPower(smmu, control, state, keeps) : EBUSY
    changes.push(`SMMU ${index}: to be switched ${state === 'on' ? 'on' : 'off'}: ${resultName(result)}`)
    power.wanted = 0
    hyp.keepState()
  }
  return changes
}

/** Writes before which a loss has to be noticed: they put to use what is UNKNOWN after it, tables, queues, and where interrupts are written. */
export const PUTS_TO_USE: ReadonlySet<number> = new Set([ARM_SMMU_CR0, ARM_SMMU_IRQ_CTRL])

/**
 * Hardware that lost its state though nobody had said so is made safe. That comes late: so far, what devices met was what GBPA is after a reset.
 * The host finds CR0 = 0.
 * @returns false when that could not be done: the hardware is not to be enabled
 */
export function makeUpForLoss(smmu: Smmu): boolean {
  const { hardware } = smmu
  if (smmu.verifyRegisters().length === 0) return true
  smmu.warn(HYP_STATE_LOST, smmu.state.cr0, hardware.read32(ARM_SMMU_CR0), hardware.read32(ARM_SMMU_GBPA), 0)
  const programmed = smmu.program()
  disableAcknowledged(smmu, hardware.read32(ARM_SMMU_CR0ACK))
  return programmed === OK
}

/** Hardware that consumes no commands may have lost its queue. */
export function lookForLoss(smmu: Smmu): void {
  const { hyp, shadowCmdq } = smmu
  // One that is off must not be touched.
  if (hyp.powerMode === null || !smmu.isOn || !shadowCmdq.timedOut) return
  shadowCmdq.timedOut = false
  makeUpForLoss(smmu)
  hyp.changed()
}
