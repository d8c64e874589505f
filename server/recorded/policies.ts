// SPDX-License-Identifier: Apache-2.0
/** The policies that have a name, all of them: where recordings are looked at there is nothing to load them from. */
import full, { description as fullDescription } from '../hypervisor/full/policy.ts'
import observe, { description as observeDescription } from '../hypervisor/observe/policy.ts'
import partition, { description as partitionDescription } from '../hypervisor/partition/policy.ts'
import passthrough, { description as passthroughDescription } from '../hypervisor/passthrough/policy.ts'
import pkvm, { description as pkvmDescription } from '../hypervisor/pkvm/policy.ts'
import type { PolicyDescription, PolicyFactory } from '../policy/policy.ts'

export interface NamedPolicy {
  readonly factory: PolicyFactory
  readonly description: PolicyDescription
}

/** By name. */
export const POLICIES: ReadonlyMap<string, NamedPolicy> = new Map([
  ['full', { factory: full, description: fullDescription }],
  ['observe', { factory: observe, description: observeDescription }],
  ['partition', { factory: partition, description: partitionDescription }],
  ['passthrough', { factory: passthrough, description: passthroughDescription }],
  ['pkvm', { factory: pkvm, description: pkvmDescription }],
])
