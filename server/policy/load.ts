// SPDX-License-Identifier: Apache-2.0
import { existsSync, readdirSync, statSync } from 'node:fs'
import { resolve } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { inWords } from './denied.ts'
import { checkQuirks, type PolicyDescription, type PolicyFactory } from './policy.ts'
import { syntaxErrorPlace } from './sources.ts'

const HYPERVISORS = new URL('../hypervisor/', import.meta.url)

const fileOf = (name: string): URL => new URL(`${name}/policy.ts`, HYPERVISORS)

/** The policies that have a name: the folders of server/hypervisor/ with a file policy.ts. */
export const POLICY_NAMES: readonly string[] = readdirSync(HYPERVISORS, { withFileTypes: true })
  .filter(entry => entry.isDirectory() && existsSync(fileOf(entry.name)))
  .map(({ name }) => name)
  .sort()

/** A policy file. */
export interface PolicyModule {
  readonly factory: PolicyFactory
  readonly description: PolicyDescription | undefined
}

/**
 * A policy by name, or of a TypeScript or JavaScript file: its default export, and its export `description`.
 * @param quirks that its options will name; of a file without a description it is not known whether it has them
 * @throws Error naming the policies there are, what is wrong with the file, or the quirks there are.
 */
export async function loadPolicy(policy: string, quirks: readonly string[] = []): Promise<PolicyModule> {
  const ours = POLICY_NAMES.includes(policy)
  const file = policyPath(policy)
  const module: unknown = await import(pathToFileURL(file).href).catch((error: Error) => {
    const place = syntaxErrorPlace(file, error)
    if (place !== undefined) throw new Error(`policy ${place}: ${error.message}`)
    throw ours ? error : new Error(`policy file ${file}: ${inWords(error)}`)
  })
  const found = moduleOf(module, ours ? policy : `file ${file}`)
  if (found.description !== undefined) checkQuirks(policy, found.description.quirks ?? {}, quirks)
  return found
}

/** @returns the path of a policy file. @throws Error when the name is none of ours and no file's */
export function policyFile(policy: string): string {
  if (!/\.[cm]?[jt]s$/.test(policy)) {
    throw new Error(`no policy "${policy}": there are ${POLICY_NAMES.join(', ')}, or the path of a .ts file`)
  }
  const file = resolve(policy)
  const found = statSync(file, { throwIfNoEntry: false })
  if (found === undefined) throw new Error(`policy file ${file} does not exist`)
  if (!found.isFile()) throw new Error(`policy file ${file}: not a regular file`)
  return file
}

/** The file of a policy with a name, or of one's own. @throws Error when there is none */
export const policyPath = (policy: string): string =>
  POLICY_NAMES.includes(policy) ? fileURLToPath(fileOf(policy)) : policyFile(policy)

function moduleOf(module: unknown, name: string): PolicyModule {
  const { default: factory, description } = module as { default?: unknown; description?: PolicyDescription }
  if (typeof factory !== 'function') {
    throw new Error(`policy ${name} has no default export that is a function (machine, context) => Policy`)
  }
  return { factory: factory as PolicyFactory, description }
}
