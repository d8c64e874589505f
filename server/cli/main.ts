// SPDX-License-Identifier: Apache-2.0
import { checkOpenFiles } from '../machine/limits.ts'
import { EXIT, fail } from './exit.ts'
import { commandLine } from './program.ts'

/** So long somebody may take to read the rest, ms. */
const UNREAD_MS = 500

// commander's code for what it does not understand is 1, which is a failure's.
const program = commandLine(code => process.exit(code === 0 ? EXIT.ok : EXIT.usage))

/** Commands that run machines. */
const MACHINES: ReadonlySet<string> = new Set(['boot', 'dev', 'serve', 'faults', 'matrix', 'worker', 'bench'])
program.hook('preSubcommand', (_program, command) => {
  if (!MACHINES.has(command.name())) return
  try {
    checkOpenFiles()
  } catch (error) {
    fail(error)
    process.exit()
  }
})

await program.parseAsync()
// What nobody reads never gets out, and would keep a process that was told to end.
if (process.exitCode === EXIT.interrupted) setTimeout(() => process.exit(), UNREAD_MS).unref()
