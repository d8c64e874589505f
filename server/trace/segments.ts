// SPDX-License-Identifier: Apache-2.0
/** The files of one recording: `NAME`, then `NAME.1`, `NAME.2`, …; rotation leaves holes. */
import { existsSync, readdirSync } from 'node:fs'
import { basename, dirname } from 'node:path'

/** Path of a segment: the first has the name that was asked for. */
export function segmentPath(path: string, segment: number): string {
  return segment === 0 ? path : `${path}.${segment}`
}

/** Numbers of the segments after the first that exist, ascending. */
export function laterSegments(path: string): number[] {
  const folder = dirname(path)
  if (!existsSync(folder)) return []
  const prefix = `${basename(path)}.`
  return readdirSync(folder)
    .filter(name => name.startsWith(prefix) && /^[1-9][0-9]*$/.test(name.slice(prefix.length)))
    .map(name => Number(name.slice(prefix.length)))
    .sort((a, b) => a - b)
}
