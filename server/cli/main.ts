// SPDX-License-Identifier: Apache-2.0
import { Command } from 'commander'
import { checkOpenFiles } from '../machine/limits.ts'
import { attackCommand } from './attack.ts'
import { benchCommand } from './bench.ts'
import { bootCommand } from './boot.ts'
import { ctlCommand } from './ctl.ts'
import { devCommand } from './dev.ts'
import { EXIT, fail } from './exit.ts'
import { faultsCommand } from './faults.ts'
import { fuzzCommand } from './fuzz.ts'
import { serveCommand } from './serve.ts'
import { setupCommand } from './setup.ts'
import { traceCommand } from './trace.ts'
import { walkCommand } from './walk.ts'

const program = new Command('smmu-cosim')
  .description('Arm SMMUv3 trap-and-emulate, decided in TypeScript, against a real Linux on a patched QEMU')
  .showHelpAfterError('(--help lists what there is)')
  // Its own code for what it does not understand is 1, which is a failure's.
  .exitOverride(({ exitCode }) => process.exit(exitCode === 0 ? EXIT.ok : EXIT.usage))

/** Commands that run machines. */
const MACHINES: ReadonlySet<string> = new Set(['boot', 'dev', 'serve', 'faults', 'bench'])
program.hook('preSubcommand', (_program, command) => {
  if (!MACHINES.has(command.name())) return
  try {
    checkOpenFiles()
  } catch (error) {
    fail(error)
    process.exit()
  }
})
bootCommand(program)
devCommand(program)
serveCommand(program)
ctlCommand(program)
walkCommand(program)
faultsCommand(program)
attackCommand(program)
traceCommand(program)
setupCommand(program)
benchCommand(program)
fuzzCommand(program)

await program.parseAsync()
