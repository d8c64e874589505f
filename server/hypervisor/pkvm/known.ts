// SPDX-License-Identifier: Apache-2.0
import { nearest } from '../../smmu/names.ts'

/**
 * A policy's changes are objects that somebody wrote: a name with a typing mistake would change nothing, in silence. TypeScript
 * does not look for unknown names in what a function returns.
 * @param where the place, in words
 * @throws Error naming the right name if one is near
 */
export function expectKnown(where: string, given: object, known: readonly string[]): void {
  const wrong = Object.keys(given).find(name => !known.includes(name))
  if (wrong === undefined) return
  const near = nearest(wrong, known)
  throw new Error(
    `${where}: no "${wrong}"; ${near === undefined ? `there are ${known.join(', ')}` : `did you mean ${near}?`}`,
  )
}
