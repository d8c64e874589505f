// SPDX-License-Identifier: Apache-2.0
/** `smmu-cosim ctl`: what the dashboard does, for scripts. Every command is one request of the API. */
import type { Command } from 'commander'
import { attackCommands } from './ctl/attack.ts'
import { breakpointCommands } from './ctl/breakpoints.ts'
import { urlOptions } from './ctl/client.ts'
import { adder } from './ctl/command.ts'
import { faultCommands } from './ctl/faults.ts'
import { lifecycleCommands } from './ctl/lifecycle.ts'
import { pageCommands } from './ctl/pages.ts'
import { recordingCommands } from './ctl/recordings.ts'
import { smmuCommands } from './ctl/smmus.ts'
import { traceCommands } from './ctl/trace.ts'

/** `smmu-cosim ctl …`. */
export function ctlCommand(program: Command): void {
  const ctl = urlOptions(program.command('ctl')).description(
    'watch and steer the machine of a running server (serve, or boot --dashboard)',
  )
  const add = adder(ctl)
  lifecycleCommands(add)
  traceCommands(add)
  smmuCommands(add)
  pageCommands(add)
  faultCommands(add)
  attackCommands(add)
  recordingCommands(add)
  breakpointCommands(add)
}
