// SPDX-License-Identifier: Apache-2.0
/** The files that a policy is made of, and where in them a module that is no program goes wrong. */
import { readFileSync } from 'node:fs'
import { stripTypeScriptTypes } from 'node:module'
import { dirname, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

/** What a file imports by its place, as a text that is not compiled yet says. */
const imports = (text: string): string[] =>
  [...text.matchAll(/(?:\bfrom|\bimport)\s*\(?\s*['"](\.[^'"]+|\/[^'"]+|file:[^'"]+)['"]/g)].flatMap(([, path = '']) =>
    path.startsWith('file:') ? (URL.canParse(path) ? fileURLToPath(path) : []) : path,
  )

/**
 * The files that a file is made of, with their contents; those that cannot be read are left out.
 * @param isLeftOut files that are not looked into, and are no part of the answer
 */
export function closure(
  file: string,
  isLeftOut: (file: string) => boolean = () => false,
  found = new Map<string, string>(),
): Map<string, string> {
  if (found.has(file) || isLeftOut(file)) return found
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch {
    return found
  }
  found.set(file, text)
  for (const path of imports(text)) closure(resolve(dirname(file), path), isLeftOut, found)
  return found
}

/** What Node puts in front of the stack of an error in a text: the line, and marks below the place. */
const MARKED = /^(?:file:\/\/)?(\/.*):(\d+)\n(?:.*\n){1,5}?([ \t]*)\^/

/**
 * Where a module is no program: of JavaScript Node does not say in which file, nor where.
 * @param file the module that was imported
 * @returns `file:line:column`; undefined: it is not known
 */
export function syntaxErrorPlace(file: string, error: unknown): string | undefined {
  if (!(error instanceof SyntaxError)) return undefined
  const place = markedPlace(error)
  if (place !== undefined) return place
  for (const [name, text] of closure(file)) {
    try {
      quietly(() => stripTypeScriptTypes(text, { sourceUrl: name }))
    } catch (wrong) {
      return markedPlace(wrong)
    }
  }
  return undefined
}

function markedPlace(error: unknown): string | undefined {
  const [, file, line, indent] = (error instanceof Error && MARKED.exec(error.stack ?? '')) || []
  return file === undefined ? undefined : `${file}:${line}:${(indent ?? '').length + 1}`
}

/** Without the warning that the parser is experimental: it is pinned with Node. */
function quietly<T>(work: () => T): T {
  const { emitWarning } = process
  process.emitWarning = ((warning: string | Error, ...rest: [string]) => {
    if (rest[0] !== 'ExperimentalWarning') emitWarning(warning, ...rest)
  }) as typeof emitWarning
  try {
    return work()
  } finally {
    process.emitWarning = emitWarning
  }
}
