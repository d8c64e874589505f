// SPDX-License-Identifier: Apache-2.0
import { Command } from 'commander'
import { benchCommand } from './bench.ts'
import { bootCommand } from './boot.ts'
import { ctlCommand } from './ctl.ts'
import { devCommand } from './dev.ts'
import { faultsCommand } from './faults.ts'
import { serveCommand } from './serve.ts'
import { setupCommand } from './setup.ts'
import { traceCommand } from './trace.ts'
import { walkCommand } from './walk.ts'

const program = new Command('smmu-cosim')
  .description('Arm SMMUv3 trap-and-emulate, decided in TypeScript, against a real Linux on a patched QEMU')
  .showHelpAfterError('(--help lists what there is)')
bootCommand(program)
devCommand(program)
serveCommand(program)
ctlCommand(program)
walkCommand(program)
faultsCommand(program)
traceCommand(program)
setupCommand(program)
benchCommand(program)

await program.parseAsync()
