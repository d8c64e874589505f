// SPDX-License-Identifier: Apache-2.0
/** `smmu-cosim test`: scenarios on real machines. */
import { availableParallelism } from 'node:os'
import { dirname, isAbsolute, relative, resolve } from 'node:path'
import type { Command } from 'commander'
import type { CliOptions, Reporter } from 'vitest/node'
import { cachePath } from '../../scripts/setup/cache.ts'
import { machineTests, REPORTER } from '../testing/config.ts'
import { NO_TYPE_CHECK_VARIABLE, SEED_VARIABLE } from '../testing/options.ts'
import { abortOnSignal, EXIT, fail, UsageError } from './exit.ts'
import { within } from './numbers.ts'
import { inputFile, outputInFolder } from './paths.ts'
import { noTypeCheck } from './policyCheck.ts'

interface TestOptions {
  readonly testNamePattern?: string
  readonly seed?: number
  readonly jobs: number
  readonly junit?: string
  readonly typeCheck: boolean
}

/** Names as they are, for a glob. */
const literally = (path: string): string => path.replace(/[*?[\]{}()!@+\\]/g, '\\$&')

/**
 * Where the command was typed: npm runs a script in the folder of its package.json, and says where it was.
 * @param place of this process
 */
const here = (place = process.cwd(), { INIT_CWD, npm_lifecycle_event: script } = process.env): string =>
  script === 'smmu-cosim' && INIT_CWD !== undefined ? INIT_CWD : place

/** `smmu-cosim test`. */
export function testCommand(program: Command): void {
  program
    .command('test')
    .description('run scenarios on real machines: tests that import smmu-cosim/test (server/testing/README.md)')
    .argument(
      '[file...]',
      'files with tests; by default all *.test.ts of this folder and those in it',
      (text, before: readonly string[] = []) => [...before, inputFile(resolve(here(), text))],
    )
    .option('-t, --test-name-pattern <pattern>', 'only tests whose full name matches this regular expression')
    .option(
      '--seed <n>',
      'of all that is random: bytes of the disks, draws of faults (default: 1)',
      within(0, 0xffff_ffff),
    )
    .option(
      '--jobs <n>',
      'files at a time, each with machines of its own',
      within(1, 0xffff_ffff),
      Math.max(1, availableParallelism() >> 1),
    )
    .option('--junit <file>', 'write the results as JUnit XML, too', text => outputInFolder(resolve(here(), text)))
    .addOption(noTypeCheck())
    .action((files: readonly string[], options: TestOptions) => runTests(files, options))
}

async function runTests(
  files: readonly string[],
  { testNamePattern, seed, jobs, junit, typeCheck }: TestOptions,
): Promise<void> {
  const { signal, dispose } = abortOnSignal()
  try {
    const folder = here()
    const [first] = files
    const outside = files.some(file => leadsOut(relative(folder, file)))
    const root = outside && first !== undefined ? dirname(first) : folder
    const paths = files.map(file => relative(root, file))
    if (paths.some(leadsOut)) throw new UsageError(`files of one folder, and of those in it: ${files.join(', ')}`)
    if (seed !== undefined) process.env[SEED_VARIABLE] = String(seed)
    if (!typeCheck) process.env[NO_TYPE_CHECK_VARIABLE] = '1'
    // What has no use for it need not load it.
    const { startVitest } = await import('vitest/node')
    const { resolve: names, test } = machineTests()
    const how: CliOptions = {
      ...test,
      root,
      config: false,
      watch: false,
      // Nothing but results is left in the folder of the tests.
      fsModuleCachePath: cachePath('vitest', 'modules'),
      maxWorkers: jobs,
      reporters: ['default', REPORTER, cancelOn(signal), ...(junit === undefined ? [] : ['junit'])],
      ...(junit !== undefined && { outputFile: { junit } }),
      ...(paths.length > 0 && { include: paths.map(literally) }),
      ...(testNamePattern !== undefined && { testNamePattern }),
    }
    const vitest = await startVitest([], how, { ...(names && { resolve: names }), cacheDir: cachePath('vitest') })
    signal.throwIfAborted()
    // It says what went wrong, by itself.
    if (vitest.state.getCountOfFailedTests() > 0 && !process.exitCode) process.exitCode = EXIT.failed
    const ran = vitest.state
      .getTestModules()
      .some(({ children }) => [...children.allTests()].some(test => test.result().state !== 'skipped'))
    if (!process.exitCode && !ran) throw new Error('no test ran')
  } catch (error) {
    fail(error, signal)
  } finally {
    dispose()
  }
}

/**
 * Ends the run when the signal aborts: tests are told, and end their machines. By itself vitest leaves at once at SIGINT and SIGTERM, and
 * its processes are killed whatever they have open; that is what a second signal does.
 */
function cancelOn(signal: AbortSignal): Reporter {
  const names = ['SIGINT', 'SIGTERM'] as const
  const before = names.map(name => process.listeners(name))
  return {
    onInit(vitest) {
      const own = names.map((name, i) => process.listeners(name).filter(listener => !before[i]?.includes(listener)))
      for (const [i, name] of names.entries()) for (const listener of own[i] ?? []) process.off(name, listener)
      const cancel = () => {
        for (const [i, name] of names.entries()) for (const listener of own[i] ?? []) process.once(name, listener)
        void vitest.cancelCurrentRun('keyboard-input')
      }
      if (signal.aborted) cancel()
      else signal.addEventListener('abort', cancel, { once: true })
    },
  }
}

const leadsOut = (path: string): boolean => path.startsWith('..') || isAbsolute(path)
