// SPDX-License-Identifier: Apache-2.0
/** How long a machine is waited for: on a host that others use as well, longer. */

import type { CatalogueEntry } from '../faults/rule.ts'

/** Of an entry that says nothing else, ms. */
const SNAPSHOT_MS = 45_000
const FRESH_MS = 120_000

/** A deadline is at most so many times as long as where nobody else uses the processors. */
const MOST = 4

/** How long a machine is waited for where nobody else uses the processors, ms. @param fresh it boots from the beginning */
export const deadlineMs = ({ session = {} }: Pick<CatalogueEntry, 'session'>, fresh: boolean): number =>
  session.timeout === undefined ? (fresh ? FRESH_MS : SNAPSHOT_MS) : session.timeout * 1000

/** And at most, ms. */
export const longestMs = (entry: Pick<CatalogueEntry, 'session'>): number => MOST * deadlineMs(entry, true)

/**
 * Calls `over` after `ms`, not counting the time in which the machine waited for a processor that others used: that says nothing about the guest.
 * @param waited until now, ms
 * @returns ends it
 */
export function startDeadline(ms: number, waited: () => number, over: () => void): () => void {
  let granted = 0
  let timer: NodeJS.Timeout
  const wait = (left: number) => {
    timer = setTimeout(() => {
      const more = Math.min(Math.round(waited()), (MOST - 1) * ms) - granted
      if (more <= 0) return over()
      granted += more
      wait(more)
    }, left)
  }
  wait(ms)
  return () => clearTimeout(timer)
}
