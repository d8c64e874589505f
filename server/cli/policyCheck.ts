// SPDX-License-Identifier: Apache-2.0
import { Option } from 'commander'
import { loadPolicy, POLICY_NAMES, policyFile } from '../policy/load.ts'
import { checkQuirks } from '../policy/policy.ts'
import { policyTypeErrors } from '../run/policyTypes.ts'
import { UsageError, usage } from './exit.ts'
import { say } from './terminal.ts'

/** Errors that are shown: more are consequences of them. */
const SHOWN = 10

export const noTypeCheck = (): Option => new Option('--no-type-check', 'run a policy of your own also with type errors')

/**
 * Checks the names of quirks before anything is started with them, or a server is asked; those of a file are known only to the thread that
 * loads it, and those of a server's own policy to the server.
 * @throws UsageError that names the quirks there are
 */
export async function checkQuirkNames(policy: string, quirks: readonly string[]): Promise<void> {
  if (quirks.length === 0 || !POLICY_NAMES.includes(policy)) return
  const { description } = await loadPolicy(policy)
  usage(() => checkQuirks(policy, description?.quirks ?? {}, quirks))
}

/**
 * Checks the types of a policy that is a file, before anything is started with it. A confined process has been through this.
 * @throws UsageError with `file:line:column` of what is wrong
 */
export async function checkPolicy(policy: string | undefined, wanted: boolean, signal: AbortSignal): Promise<void> {
  if (!wanted || policy === undefined || POLICY_NAMES.includes(policy) || process.permission !== undefined) return
  const file = usage(() => policyFile(policy))
  let errors: readonly string[]
  try {
    errors = await policyTypeErrors(file, signal)
  } catch (error) {
    signal.throwIfAborted()
    return say((error as Error).message)
  }
  if (errors.length === 0) return
  const more = errors.length > SHOWN ? [`${errors.length - SHOWN} more`] : []
  const lines = [...errors.slice(0, SHOWN), ...more]
  throw new UsageError(
    `--policy ${policy}: types do not fit (--no-type-check runs it all the same)\n${lines.join('\n')}`,
  )
}
