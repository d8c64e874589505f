// SPDX-License-Identifier: Apache-2.0
import { MachineManager } from '../api/machineManager.ts'
import { OWN_POLICY } from '../api/schemas/lifecycle.ts'
import { DEFAULT_PORT } from '../api/schemas/request.ts'
import { type RunningServer, startServer } from '../api/server.ts'
import type { Session } from '../control/session.ts'
import { POLICY_NAMES } from '../policy/load.ts'
import { blockOptions, powerOptions, stage2Options } from '../policy/policy.ts'
import type { KernelFile } from '../run/files.ts'
import { type BootOptions, policyOf } from './bootOptions.ts'
import { say } from './terminal.ts'

/** The dashboard of a machine that the command line starts. */
export interface Dashboard {
  show(session: Session, kernel: KernelFile): void
  close(): Promise<void>
}

/** Opens the server and prints its URL, before there is a machine. */
export async function openDashboard(options: BootOptions): Promise<Dashboard> {
  const manager = new MachineManager()
  const port = options.dashboard === true ? DEFAULT_PORT : Number(options.dashboard)
  const server: RunningServer = await startServer({
    manager,
    host: options.dashboardHost,
    port,
    portOption: '--dashboard',
    say,
  })
  say(`dashboard at ${server.url}`)
  return {
    show(session, kernel) {
      const policy = policyOf(options)
      const { until, memory, smp, quirk, panicOnWarn = false, oracle = false } = options
      const blocks = { ...blockOptions(options), ...powerOptions(options), ...stage2Options(options) }
      const named = POLICY_NAMES.includes(policy) ? policy : OWN_POLICY
      const shown = { policy: named, until, memory, smp, ...blocks, quirks: quirk, panicOnWarn, oracle }
      manager.adopt(session, shown, kernel)
    },
    async close() {
      await manager.close()
      await server.close()
    },
  }
}
