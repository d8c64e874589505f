// SPDX-License-Identifier: Apache-2.0
/**
 * The policy `pkvm`: pKVM's SMMUv3 trap and emulate, up to the stage that the options say.
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
import type { Policy, PolicyContext, Trap } from '../../policy/policy.ts'
import { Hypervisor, type HypervisorParts } from './hypervisor.ts'

export interface PkvmParts extends HypervisorParts {
  readonly name?: string
}

/** A policy with a hypervisor in it, for those who ask for its state. */
export class PkvmPolicy implements Policy {
  readonly name: string
  readonly hypervisor: Hypervisor

  get state(): Hypervisor {
    return this.hypervisor
  }

  constructor(machine: Machine, context: PolicyContext, parts: PkvmParts = {}) {
    this.name = parts.name ?? 'pkvm'
    this.hypervisor = new Hypervisor(machine, context, parts)
  }

  reset(): void {
    this.hypervisor.reset()
  }

  access(trap: Trap): void {
    this.hypervisor.access(trap)
  }

  unexpected(smmu: number): void {
    this.hypervisor.unexpected(smmu)
  }
}

export function pkvm(machine: Machine, context: PolicyContext, parts?: PkvmParts): PkvmPolicy {
  return new PkvmPolicy(machine, context, parts)
}

export default pkvm
