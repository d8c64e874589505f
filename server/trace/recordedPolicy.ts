// SPDX-License-Identifier: Apache-2.0
/**
 * The policy of a recording. A recording is data: what its header names is a label, never a file that is loaded. Which code
 * runs says the command line.
 */
import { loadPolicy, POLICY_NAMES } from '../policy/load.ts'
import type { PolicyFactory, PolicyOptions } from '../policy/policy.ts'
import type { TraceHeader } from './format.ts'
import { recordedOptions } from './recordedOptions.ts'

export interface RecordedPolicy {
  readonly name: string
  readonly factory: PolicyFactory
  /** Of the recording, if the policy is the recorded one. */
  readonly options: PolicyOptions
}

/**
 * @param given name or file from the command line; absent: the recorded one
 * @throws Error when the recorded one is a file, which has to be given, or the policy cannot be loaded
 */
export async function recordedPolicy(header: TraceHeader, given?: string): Promise<RecordedPolicy> {
  const name = given ?? header.policy
  if (given === undefined && !POLICY_NAMES.includes(name)) {
    throw new Error(`it was recorded with a policy of its own, "${name}": --policy FILE says which file that is`)
  }
  const { factory } = await loadPolicy(name)
  // Whoever gives the file of a policy of his own goes on with its options.
  const recorded = name === header.policy || !POLICY_NAMES.includes(header.policy)
  return { name, factory, options: recorded ? recordedOptions(header) : {} }
}
