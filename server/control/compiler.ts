// SPDX-License-Identifier: Apache-2.0
/** The compiler that looks for type errors in policies: what they are compiled with, and what it says. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** The folder of this project. */
export const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const COMPILER = join(ROOT, 'node_modules/.bin/tsc')

/** Why types are not checked here, or null. */
export const noCompiler = (): string | null =>
  existsSync(COMPILER) ? null : `types are not checked: there is no ${COMPILER}`

/** What a policy is compiled with, wherever it lies. */
const PROJECT = {
  extends: join(ROOT, 'tsconfig.json'),
  compilerOptions: {
    // Node takes a policy for a module wherever it lies; the compiler would look for a package.json that says so.
    module: 'ESNext',
    moduleResolution: 'bundler',
    typeRoots: [join(ROOT, 'node_modules/@types')],
    // Node takes a URL for a module as well.
    paths: { 'file://*': ['/*'] },
  },
}

/** What is compiled, as in tsconfig.json, with further options. */
export interface Project {
  readonly compilerOptions: Readonly<Record<string, unknown>>
  readonly include: readonly string[]
  readonly exclude?: readonly string[]
  readonly files: readonly string[]
}

/** @param folder where it is put */
export function writeProject(folder: string, { compilerOptions, ...what }: Project): void {
  const project = { ...PROJECT, ...what, compilerOptions: { ...PROJECT.compilerOptions, ...compilerOptions } }
  writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify(project))
}

/** What Node has to run for the project in a folder; it says errors by `typeErrors`. */
export const compilerArguments = (folder: string): string[] => [COMPILER, '--project', folder, '--pretty', 'false']

/** What the compiler says, by error: `a.ts:1:2: error …`, from ROOT. A message may go on in further lines, which are indented. */
export const typeErrors = (output: string): string[] =>
  output
    .trimEnd()
    .split(/\n(?=\S)/)
    .filter(text => text !== '')
    .map(text => text.replace(/^(.*?)\((\d+),(\d+)\):/, '$1:$2:$3:'))

/** Besides sources, all that decides what the compiler says of them: it, its options, and the types of Node. */
export function compilerKey(root = ROOT): string[] {
  const files = ['tsconfig.json', 'node_modules/typescript/package.json', 'node_modules/@types/node/package.json']
  return [JSON.stringify(PROJECT), ...files.map(file => readFileSync(join(root, file), 'utf8'))]
}
