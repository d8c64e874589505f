// SPDX-License-Identifier: Apache-2.0
/** `smmu-cosim faults`: the catalogue, and files of rules. */
import type { Command } from 'commander'
import { catalogue, entryNamed } from '../faults/catalogue.ts'
import { describeRule } from '../faults/describe.ts'
import { loadAside } from '../faults/loadAside.ts'
import { type CatalogueEntry, FileSchema } from '../faults/rule.ts'
import { counted } from '../trace/words.ts'
import { EXIT, fail } from './exit.ts'
import { faultsRunCommands } from './faultsRun.ts'
import { faultName, inputFiles } from './paths.ts'
import { print, report } from './terminal.ts'

export function faultsCommand(program: Command): void {
  const faults = program.command('faults').description('break the SMMU on purpose: the catalogue, files of rules')
  faults
    .command('list')
    .description('the catalogue')
    .option('--json', 'as JSON')
    .action(({ json }: { json?: boolean }) => attempt(() => printed(json, catalogue(), entries => list(entries))))
  faults
    .command('show')
    .argument('<name>', 'see faults list', faultName)
    .description('one entry of the catalogue, with its rules')
    .option('--json', 'as JSON')
    .action((name: string, { json }: { json?: boolean }) => attempt(() => printed(json, entryNamed(name), show)))
  faults
    .command('check')
    .argument('<file...>', 'YAML or JSON', inputFiles)
    .description('whether files are right; says where they are not')
    .action((files: readonly string[]) => attempt(() => check(files)))
  faults
    .command('schema')
    .description('JSON Schema of such files, for editors')
    .action(() => print(JSON.stringify(FileSchema, null, 2)))
  faultsRunCommands(faults)
}

async function attempt(act: () => void | Promise<void>): Promise<void> {
  try {
    await act()
  } catch (error) {
    fail(error)
  }
}

function printed<T>(json: boolean | undefined, value: T, text: (value: T) => string): void {
  print(json === true ? JSON.stringify(value, null, 2) : text(value))
}

const expected = ({ expect }: CatalogueEntry): string => (typeof expect === 'string' ? expect : expect.join(' or '))

function list(entries: readonly CatalogueEntry[]): string {
  const names = Math.max(...entries.map(({ name }) => name.length))
  const verdicts = Math.max(...entries.map(entry => expected(entry).length))
  return entries
    .map(entry => `${entry.name.padEnd(names)}  ${expected(entry).padEnd(verdicts)}  ${entry.summary}`)
    .join('\n')
}

function show(entry: CatalogueEntry): string {
  const session = Object.entries(entry.session ?? {}).map(([name, value]) => `${name} ${value}`)
  return [
    `${entry.name}: ${entry.summary}`,
    `  expected: ${expected(entry)}: ${entry.why}`,
    ...(session.length > 0 ? [`  session:  ${session.join(', ')}`] : []),
    ...entry.rules.map(rule => `  rule ${rule.name}: ${describeRule(rule)}`),
  ].join('\n')
}

async function check(files: readonly string[]): Promise<void> {
  let failed = false
  for (const file of files) {
    try {
      const { rules, entries } = await loadAside(file)
      const what =
        entries === undefined ? counted(rules?.length ?? 0, 'rule') : counted(entries.length, 'entry', 'entries')
      print(`${file}: ok, ${what}`)
    } catch (error) {
      failed = true
      report([(error as Error).message])
    }
  }
  if (failed) process.exitCode = EXIT.failed
}
