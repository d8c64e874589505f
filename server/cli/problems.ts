// SPDX-License-Identifier: Apache-2.0
/** What is wrong with a recording, for people. */
import { dirname } from 'node:path'
import { isLive } from '../machine/runs.ts'
import type { Problem } from '../trace/reader.ts'
import { EXIT } from './exit.ts'
import { say } from './terminal.ts'

/** Says what is wrong with a recording; the process has failed if it is damaged. One that is still being made ends in the middle. */
export function sayProblems(problems: readonly Problem[]): void {
  const live = new Set(problems.filter(({ early }) => early).map(({ path }) => path))
  for (const path of live) if (!isLive({ path: dirname(path) })) live.delete(path)
  for (const path of live) say(`${path}: its machine runs: this is what was recorded so far`)
  for (const { path, offset, message, damage, early } of problems) {
    if (early && live.has(path)) continue
    say(`${path}: byte ${offset}: ${message}`)
    if (damage) process.exitCode = EXIT.failed
  }
}
