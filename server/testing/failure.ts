// SPDX-License-Identifier: Apache-2.0
/** What is told of the machines of a test that failed. */
import { createHash } from 'node:crypto'
import { join, relative } from 'node:path'
import type { Artefacts } from './machine.ts'

/** Folder for what failed tests leave behind, in the folder that vitest was started for. */
export const RESULTS = 'smmu-cosim-results'
/** Another one. */
export const RESULTS_VARIABLE = 'SMMU_COSIM_RESULTS'

/** What a reporter is told of a failed test. */
export interface Failure {
  /** One command that repeats it. */
  readonly repeat: string
  readonly machines: readonly Artefacts[]
}

/** Which test. */
export interface Which {
  /** Absolute path. */
  readonly file: string
  /** With those of the suites that it is in. */
  readonly name: string
}

/** A folder for what the n-th machine of a test leaves behind: its name, and what tells it from tests with a similar one. */
export function folderOf(root: string, { file, name }: Which, n: number): string {
  const results = process.env[RESULTS_VARIABLE] ?? join(root, RESULTS)
  const words = name
    .replace(/[^\w.-]+/g, '-')
    .replace(/^-+|-+$/g, '')
    .slice(0, 60)
  const hash = createHash('sha256').update(`${file}\0${name}`).digest('hex').slice(0, 6)
  return join(results, `${words}-${hash}${n === 0 ? '' : `-${n + 1}`}`)
}

/** As a shell reads it. */
const quoted = (word: string): string => (/^[\w./=-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`)

/** What vitest takes for a regular expression matches this text alone. */
const literally = (text: string): string => `^${text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')}$`

export function repeatCommand(root: string, { file, name }: Which, seed: number): string {
  const path = relative(root, file)
  const words = [
    'smmu-cosim',
    'test',
    path.startsWith('..') ? file : path,
    '-t',
    literally(name),
    '--seed',
    String(seed),
  ]
  return words.map(quoted).join(' ')
}

/** What is printed, in lines. */
export function failureLines({ repeat, machines }: Failure): string[] {
  return [
    ...machines.flatMap(({ ended, recording, console, traps, seed }, i) => [
      `machine${machines.length > 1 ? ` ${i + 1}` : ''}, seed ${seed}${ended === undefined ? '' : `; it ended: ${ended}`}`,
      ...(traps.length === 0 ? [] : ['  the last traps, and steps of the test:', ...traps.map(line => `    ${line}`)]),
      `  recording ${recording}   (smmu-cosim trace show)`,
      `  console   ${console}`,
    ]),
    `again: ${repeat}`,
  ]
}
