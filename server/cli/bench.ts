// SPDX-License-Identifier: Apache-2.0
import { type Command, InvalidArgumentError } from 'commander'
import { NAMES, type Name, type Peer } from '../../test/bench/figure.ts'
import type { BenchOptions } from '../../test/bench/run.ts'
import { abortOnSignal, EXIT, fail } from './exit.ts'
import { within } from './numbers.ts'
import { inputFile, outputFile } from './paths.ts'

const isName = (text: string): text is Name => (NAMES as readonly string[]).includes(text)

function name(text: string, before: readonly Name[]): Name[] {
  const names = text.split(',')
  const wrong = names.find(part => !isName(part))
  if (wrong !== undefined) throw new InvalidArgumentError(`there is no "${wrong}", but ${NAMES.join(', ')}`)
  return [...before, ...names.filter(isName)]
}

function peer(text: string, before: readonly Peer[]): Peer[] {
  const [, label, program] = /^([^=]+)=(.+)$/.exec(text) ?? []
  if (label === undefined || program === undefined) throw new InvalidArgumentError('expected LABEL=PROGRAM')
  return [...before, { label, program }]
}

/** `smmu-cosim bench`. */
export function benchCommand(program: Command): void {
  program
    .command('bench')
    .description('measure traps, boots and bulk work, each next to what it is compared with, and print one table')
    .option('--quick', 'a short form that says whether the benchmark works, not how fast things are')
    .option('--only <name>', `${NAMES.join(', ')}; may be repeated`, name, [])
    .option('--pairs <n>', 'repeats of each comparison', within(1, 1000))
    .option(
      '--peer <label=program>',
      'a program that makes as many round trips as its argument says, and prints p50, p90, p99 and maximum in ns; may be repeated',
      peer,
      [],
    )
    .option('--idle <s>', 'how long a guest is watched at its prompt', within(1, 86_400))
    .option(
      '--json <file>',
      'where everything measured is written as JSON, after each part; by default in the runs folder',
      outputFile,
    )
    .option(
      '--results <file>',
      'a run of record: refuses a machine that has something else to do; puts the table between the marks of a Markdown file',
      text => outputFile(inputFile(text)),
    )
    .action(async (options: BenchOptions) => {
      const { signal, dispose } = abortOnSignal()
      try {
        const { bench } = await import('../../test/bench/run.ts')
        if (!(await bench(options, signal))) process.exitCode = EXIT.failed
      } catch (error) {
        fail(error, signal)
      } finally {
        dispose()
      }
    })
}
