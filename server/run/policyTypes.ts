// SPDX-License-Identifier: Apache-2.0
/**
 * Whether a policy of one's own has the types that it should: they are stripped when it is loaded, and a name with a typing mistake
 * would decide nothing, in silence.
 */
import { execFile } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, relative, resolve } from 'node:path'
import { cachePath, contentKey } from '../../scripts/setup/cache.ts'
import { compilerArguments, compilerKey, noCompiler, ROOT, typeErrors, writeProject } from '../control/compiler.ts'
import { closure } from '../policy/sources.ts'

/** Errors that the cache keeps of a policy, and the characters of each. */
const MAX_ERRORS = 20
/** What is merely untidy runs. */
const LOOSE = { noUnusedLocals: false, noUnusedParameters: false, allowUnreachableCode: true }
/** What is untidy as well, and no option: without noImplicitAny the project's own sources have other types. */
const IS_IMPLICIT_ANY = /: error TS70\d\d:/
const IS_TYPED = /\.[cm]?ts$/

/** Sources that types of a policy come from, whichever it is. */
const isShared = (file: string): boolean => /^(protocol|server)\/(?!web\/).*\.ts$/.test(relative(ROOT, file))

/** Their contents. */
const sources = (): string[] =>
  ['protocol', 'server'].flatMap(folder =>
    readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' })
      .filter(name => name.endsWith('.ts') && !name.startsWith('web/'))
      .sort()
      .map(name => readFileSync(join(ROOT, folder, name), 'utf8')),
  )

/**
 * Checks a policy file before it is run; of what was checked before, the answer is known by its content.
 * @returns `file:line:column: message` of each error; none of a file without types
 * @throws Error when there is no compiler, or `signal` is aborted
 */
export async function policyTypeErrors(policy: string, signal: AbortSignal): Promise<readonly string[]> {
  const file = resolve(policy)
  if (!IS_TYPED.test(file)) return []
  const missing = noCompiler()
  if (missing !== null) throw new Error(missing)
  const parts = [...closure(file, isShared)].flat()
  const kept = cachePath('types', contentKey([file, ...parts, ...sources(), JSON.stringify(LOOSE), ...compilerKey()]))
  try {
    const known: unknown = JSON.parse(readFileSync(kept, 'utf8'))
    if (Array.isArray(known)) return known.map(String)
  } catch {} // not yet
  const errors = (await compile(file, signal)).slice(0, MAX_ERRORS)
  mkdirSync(dirname(kept), { recursive: true })
  const made = `${kept}.${process.pid}`
  writeFileSync(made, JSON.stringify(errors))
  renameSync(made, kept)
  return errors
}

async function compile(file: string, signal: AbortSignal): Promise<string[]> {
  const folder = mkdtempSync(join(tmpdir(), 'smmu-cosim-types-'))
  try {
    const wrapper = join(folder, 'export.ts')
    const types = JSON.stringify(join(ROOT, 'server/policy/policy.ts'))
    writeFileSync(
      wrapper,
      `import type { PolicyFactory } from ${types}\nimport policy from ${JSON.stringify(file)}\npolicy satisfies PolicyFactory\n`,
    )
    writeProject(folder, { compilerOptions: LOOSE, include: [], files: [wrapper] })
    const output = await run(folder, signal)
    const here = `${relative(ROOT, wrapper)}:`
    return typeErrors(output)
      .filter(text => !IS_IMPLICIT_ANY.test(text))
      .map(text =>
        text.startsWith(here)
          ? `${file}: its default export: ${text.replace(/^.*?: /, '')}`
          : text.replace(/^(.*?)(?=:\d+:\d+:)/, path => resolve(ROOT, path)),
      )
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** @returns what the compiler says: nothing when all is well. @throws Error when it does not run */
function run(folder: string, signal: AbortSignal): Promise<string> {
  return new Promise((done, failed) => {
    execFile(
      process.execPath,
      compilerArguments(folder),
      { cwd: ROOT, signal, maxBuffer: 1 << 24 },
      (error, stdout, stderr) => {
        if (error !== null && stdout === '')
          failed(new Error(`types are not checked: ${stderr.trim() || error.message}`))
        else done(stdout)
      },
    )
  })
}
