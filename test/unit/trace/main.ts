// SPDX-License-Identifier: Apache-2.0
/** The trace verbs alone, for cli.test.ts. */
import { Command } from 'commander'
import { traceCommand } from '../../../server/cli/trace.ts'

const program = new Command('smmu-cosim').showHelpAfterError()
traceCommand(program)
await program.parseAsync()
