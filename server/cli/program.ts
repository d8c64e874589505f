// SPDX-License-Identifier: Apache-2.0
/** The command line as a whole. */
import { Command } from 'commander'
import { VERSION } from '../../protocol/messages.ts'
import { projectVersion } from '../trace/version.ts'
import { attackCommand } from './attack.ts'
import { benchCommand } from './bench.ts'
import { bootCommand } from './boot.ts'
import { completionCommand } from './completion.ts'
import { ctlCommand } from './ctl.ts'
import { devCommand } from './dev.ts'
import { faultsCommand } from './faults.ts'
import { fuzzCommand } from './fuzz.ts'
import { matrixCommand } from './matrix.ts'
import { queueCommand } from './queue.ts'
import { serveCommand } from './serve.ts'
import { setupCommand } from './setup.ts'
import { testCommand } from './test.ts'
import { traceCommand } from './trace.ts'
import { walkCommand } from './walk.ts'
import { workerCommand } from './worker.ts'

/** @param exit called with commander's exit code for what it does not understand, for --help and --version */
export function commandLine(exit: (code: number) => never): Command {
  const program = new Command('smmu-cosim')
    .description('Arm SMMUv3 trap-and-emulate, decided in TypeScript, against a real Linux on a patched QEMU')
    .version(
      `${projectVersion()} (protocol ${VERSION.max}, Node ${process.versions.node})`,
      '--version',
      'versions of the project, of its protocol with QEMU, and of Node',
    )
    .showHelpAfterError('(--help lists what there is)')
    .exitOverride(({ exitCode }) => exit(exitCode))
  bootCommand(program)
  devCommand(program)
  serveCommand(program)
  ctlCommand(program)
  walkCommand(program)
  faultsCommand(program)
  matrixCommand(program)
  attackCommand(program)
  workerCommand(program)
  queueCommand(program)
  testCommand(program)
  traceCommand(program)
  setupCommand(program)
  benchCommand(program)
  fuzzCommand(program)
  completionCommand(program)
  return program
}
