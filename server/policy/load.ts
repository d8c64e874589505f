// SPDX-License-Identifier: Apache-2.0
import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { passthrough } from '../hypervisor/passthrough/policy.ts'
import { pkvm } from '../hypervisor/pkvm/policy.ts'
import type { PolicyFactory } from './policy.ts'

/** The policies that have a name. */
export const POLICIES: Readonly<Record<string, PolicyFactory>> = { pkvm, passthrough }

/**
 * A policy by name, or the default export of a TypeScript or JavaScript file.
 * @throws Error naming the policies there are, or what is wrong with the file.
 */
export async function loadPolicy(policy: string): Promise<PolicyFactory> {
  const named = Object.hasOwn(POLICIES, policy) ? POLICIES[policy] : undefined
  if (named) return named
  if (!/\.[cm]?[jt]s$/.test(policy)) {
    throw new Error(`no policy "${policy}": there are ${Object.keys(POLICIES).join(', ')}, or the path of a .ts file`)
  }
  const file = resolve(policy)
  if (!existsSync(file)) throw new Error(`policy file ${file} does not exist`)
  const module: unknown = await import(pathToFileURL(file).href).catch((error: Error) => {
    throw new Error(`policy file ${file}: ${error.message}`)
  })
  const factory = (module as { default?: unknown }).default
  if (typeof factory !== 'function') {
    throw new Error(`policy file ${file} has no default export that is a function (machine, context) => Policy`)
  }
  return factory as PolicyFactory
}
