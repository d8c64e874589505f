// SPDX-License-Identifier: Apache-2.0
/** What is known of the policies that have a name. For the main thread: the trap thread loads the one that it runs. */
import { loadPolicy, POLICY_NAMES } from './load.ts'
import type { PolicyDescription } from './policy.ts'

/** By name. */
export const DESCRIPTIONS: ReadonlyMap<string, PolicyDescription> = new Map(
  await Promise.all(
    POLICY_NAMES.map(async (name): Promise<[string, PolicyDescription]> => {
      const { description } = await loadPolicy(name)
      if (description === undefined) throw new Error(`server/hypervisor/${name}/policy.ts exports no description`)
      return [name, description]
    }),
  ),
)
