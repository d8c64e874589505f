// SPDX-License-Identifier: Apache-2.0
import { type Command, InvalidArgumentError, Option } from 'commander'
import { NAMED, TARGETS, type TargetName } from '../../test/fuzz/names.ts'
import type { FuzzOptions } from '../../test/fuzz/run.ts'
import { abortOnSignal, EXIT, fail } from './exit.ts'
import { within } from './numbers.ts'
import { outputFolder } from './paths.ts'
import { say } from './terminal.ts'

/** Seconds of a run that nobody gave a time. */
const DEFAULT_SECONDS = 60

const ALL: readonly string[] = [...TARGETS, ...NAMED]

const isTarget = (text: string): text is TargetName => ALL.includes(text)

function targets(text: string, before: readonly TargetName[]): TargetName[] {
  const names = text.split(',')
  const wrong = names.find(name => !isTarget(name))
  if (wrong !== undefined) throw new InvalidArgumentError(`there is no "${wrong}", but ${ALL.join(', ')}`)
  return [...before, ...names.filter(isTarget)]
}

const count = within(1, 0xffff_ffff)

/** `smmu-cosim fuzz`. */
export function fuzzCommand(program: Command): void {
  program
    .command('fuzz')
    .description(
      'hostile frames, checkpoints, recordings, rules and requests against the code that reads them; 1 when it found something',
    )
    .option('--seconds <n>', 'for all targets together', count, DEFAULT_SECONDS)
    .addOption(
      new Option('--inputs <n>', 'for each target, however long it takes: the same inputs on every machine')
        .argParser(count)
        .conflicts('seconds'),
    )
    .option('--seed <n>', 'the same seed tries the same inputs', count, 1)
    .option('--only <target>', `${TARGETS.join(', ')}; or ${NAMED.join(', ')}; may be repeated`, targets, [])
    .option(
      '--save <dir>',
      'for inputs of findings (default: test/fuzz/corpus, tried first from then on)',
      outputFolder,
    )
    .action(async (options: FuzzOptions) => {
      const { signal, dispose } = abortOnSignal()
      try {
        const { fuzz } = await import('../../test/fuzz/run.ts')
        if ((await fuzz(options, signal, say)).length > 0) process.exitCode = EXIT.failed
      } catch (error) {
        fail(error, signal)
      } finally {
        dispose()
      }
    })
}
