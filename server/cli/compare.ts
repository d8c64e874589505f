// SPDX-License-Identifier: Apache-2.0
/** `faults compare` and `matrix compare`. */
import type { Command } from 'commander'
import { type Comparison, comparisonText, isWorse } from '../sessions/compare.ts'
import { act, EXIT, UsageError } from './exit.ts'
import { numbers } from './numbers.ts'
import { inputFile } from './paths.ts'
import { print } from './terminal.ts'

/**
 * Adds the command.
 * @param noun what is compared
 * @param file default database
 * @param compared what has changed between these of a database, and what has to be known besides; it throws where there are none
 */
export function compareCommand(
  parent: Command,
  noun: 'campaign' | 'matrix',
  file: string,
  compared: (
    path: string,
    before: readonly number[],
    after: readonly number[],
  ) => readonly [Comparison, readonly string[]],
): void {
  parent
    .command('compare')
    .argument('<before>', `number of a ${noun}; 1,3-5: all these together`, numbers)
    .argument('<after>', 'of another one, or several', numbers)
    .description(
      'what has changed, what became worse first; told by more than chance from what comes and goes with the seed',
    )
    .option('--database <file>', 'where they are kept', inputFile, file)
    .option('--json', 'the result as JSON')
    .action((before: readonly number[], after: readonly number[], options: { database: string; json?: true }) =>
      act(async () => {
        const both = before.find(id => after.includes(id))
        if (both !== undefined) throw new UsageError(`${noun} ${both} is on both sides`)
        const [comparison, notes] = compared(options.database, before, after)
        if (options.json)
          print(JSON.stringify({ schema: 'smmu-cosim/compare/1', before, after, ...comparison, notes }, null, 2))
        else print(comparisonText(comparison, notes))
        if (isWorse(comparison)) process.exitCode = EXIT.failed
      }),
    )
}
