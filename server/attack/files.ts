// SPDX-License-Identifier: Apache-2.0
/** Files that the command line names: what is wrong with one is said with its name. */
import { readFileSync, statSync } from 'node:fs'

/** Of a corpus: the programs that an attack goes on from, beside the cases. */
export const PROGRAMS = 'programs.json'

/** @throws Error with the name of the file */
export function readText(file: string): string {
  try {
    // A pipe would be waited for.
    if (!statSync(file).isFile()) throw new Error('not a regular file')
    return readFileSync(file, 'utf8')
  } catch (error) {
    throw new Error(`${file}: ${(error as Error).message}`)
  }
}

/** @throws Error with the name of the file */
export function readJson(file: string): unknown {
  const text = readText(file)
  try {
    return JSON.parse(text) as unknown
  } catch (error) {
    throw new Error(`${file}: ${(error as Error).message}`)
  }
}
