// SPDX-License-Identifier: Apache-2.0
/** The named faults that come with the project: `catalogue/*.yaml`. */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

import { nearest } from '../smmu/names.ts'
import { parseFile } from './load.ts'
import { loadAside } from './loadAside.ts'
import type { CatalogueEntry, FaultRule } from './rule.ts'

const FOLDER = join(import.meta.dirname, 'catalogue')

let all: readonly CatalogueEntry[] | undefined

/** All entries, in the order of files and of their places in them. @throws FaultFileError */
export function catalogue(): readonly CatalogueEntry[] {
  all ??= readdirSync(FOLDER)
    .filter(name => name.endsWith('.yaml'))
    .sort()
    .flatMap(name => parseFile(readFileSync(join(FOLDER, name), 'utf8'), name).entries ?? [])
  return all
}

/** @throws Error with a suggestion when there is none of that name */
export function entryNamed(name: string): CatalogueEntry {
  const found = catalogue().find(entry => entry.name === name)
  if (found !== undefined) return found
  const near = nearest(
    name,
    catalogue().map(entry => entry.name),
  )
  const hint = near === undefined ? '"smmu-cosim faults list" has them all' : `did you mean ${near}?`
  throw new Error(`no fault "${name}" in the catalogue, and no file of that name; ${hint}`)
}

/** A name in the catalogue stands for its entry; anything with a slash or a file's ending is a file. */
export function isFile(argument: string): boolean {
  return /[/\\]|\.(ya?ml|json)$/i.test(argument)
}

/** Entries that arguments of the command line stand for; a file of rules becomes an entry without expectation. */
export async function entriesOf(
  argument: string,
  signal?: AbortSignal,
): Promise<readonly { readonly name: string; readonly rules: readonly FaultRule[] }[]> {
  if (!isFile(argument)) return [entryNamed(argument)]
  const { rules, entries } = await loadAside(argument, {}, signal)
  return entries ?? [{ name: argument, rules: rules ?? [] }]
}
