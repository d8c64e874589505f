// SPDX-License-Identifier: Apache-2.0
/**
 * The policy `pkvm`: pKVM's SMMUv3 trap and emulate, up to the step of the series that the options say.
 *
 * A policy of one's own changes single decisions of it, each given the one that stood there:
 *
 *     export default (machine: Machine, context: PolicyContext) =>
 *       pkvm(machine, context, {
 *         name: 'allow-nh-all',
 *         commands: { [CMDQ_OP_TLBI_NH_ALL]: () => () => COMMAND_KEPT },
 *         registers: {
 *           [ARM_SMMU_IDR0]: rule => ({
 *             ...rule,
 *             read(smmu, trap) {
 *               rule.read?.(smmu, trap)
 *               trap.lo |= IDR0_VMID16
 *             },
 *           }),
 *         },
 *       })
 */
import type { Machine } from '../../machine/ports.ts'
import type { Inspectable } from '../../policy/inspect.ts'
import type { Policy, PolicyContext, PolicyDescription, Stage2Change, Trap } from '../../policy/policy.ts'
import { Hypervisor, type HypervisorOverrides } from './hypervisor.ts'
import { facilitiesOf, PkvmInspect } from './inspect.ts'
import { expectKnown } from './known.ts'
import { QUIRKS } from './quirks.ts'
import { HYP_WARNINGS } from './warnings.ts'

export interface PkvmOverrides extends HypervisorOverrides {
  readonly name?: string
}

export const description: PolicyDescription = {
  summary: "pKVM's SMMUv3 trap and emulate: shadow queue, shadow stream table, stage 2 under the guest's",
  warnings: HYP_WARNINGS,
  quirks: QUIRKS,
  facilities: ({ until = 'nested' }) => facilitiesOf(until),
}

/** A policy with a hypervisor in it, for those who ask for its state. */
export class PkvmPolicy implements Policy {
  readonly name: string
  readonly hypervisor: Hypervisor
  readonly inspect: Inspectable

  get state(): Hypervisor {
    return this.hypervisor
  }

  constructor(machine: Machine, context: PolicyContext, overrides: PkvmOverrides = {}) {
    expectKnown('a policy made of pkvm', overrides, ['name', 'registers', 'commands', 'stream', 'choices'])
    this.name = overrides.name ?? 'pkvm'
    this.hypervisor = new Hypervisor(machine, context, overrides)
    this.inspect = new PkvmInspect(this.hypervisor)
  }

  reset(): void {
    this.hypervisor.reset()
  }

  access(trap: Trap): void {
    this.hypervisor.access(trap)
  }

  stage2Changed(change: Stage2Change): boolean {
    return this.hypervisor.stage2Changed(change)
  }

  postMismatch(smmu: number): void {
    this.hypervisor.postMismatch(smmu)
  }
}

export function pkvm(machine: Machine, context: PolicyContext, overrides?: PkvmOverrides): PkvmPolicy {
  return new PkvmPolicy(machine, context, overrides)
}

export default pkvm
