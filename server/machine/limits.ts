// SPDX-License-Identifier: Apache-2.0
import { readFileSync } from 'node:fs'

/** Files that a server with one machine and a few clients has open, with room to spare; QEMU has as many again. */
export const LEAST_OPEN_FILES = 256

/**
 * Node takes as many as the hard limit allows, and QEMU gets what this process has.
 * @param limits as in /proc/self/limits
 * @throws Error when that is too little: otherwise some part would fail later, and say something else
 */
export function checkOpenFiles(limits = readFileSync('/proc/self/limits', 'utf8')): void {
  const [, soft] = /^Max open files +(\d+) /m.exec(limits) ?? []
  if (soft === undefined || Number(soft) >= LEAST_OPEN_FILES) return
  throw new Error(`this process may open ${soft} files, ${LEAST_OPEN_FILES} are needed: raise the limit (ulimit -n)`)
}
