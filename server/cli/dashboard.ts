// SPDX-License-Identifier: Apache-2.0
import { MachineManager } from '../api/machine.ts'
import { DEFAULT_PORT, type RunningServer, startServer } from '../api/server.ts'
import type { Session } from '../control/session.ts'
import type { BootOptions } from './boot.ts'

/** The dashboard of a machine that the command line starts. */
export interface Dashboard {
  show(session: Session, kernel: { readonly version: string; readonly image: string }): void
  close(): Promise<void>
}

/** Opens the server and prints its URL, before there is a machine. */
export async function openDashboard(options: BootOptions): Promise<Dashboard> {
  const say = (line: string) => console.error(`smmu-cosim: ${line}`)
  const manager = new MachineManager()
  const port = options.dashboard === true ? DEFAULT_PORT : Number(options.dashboard)
  const server: RunningServer = await startServer({ manager, host: options.dashboardHost, port, say })
  say(`dashboard at ${server.url}`)
  return {
    show(session, kernel) {
      const { policy, until, memory, smp, panicOnWarn = false } = options
      const named = policy === 'pkvm' || policy === 'passthrough' ? policy : 'own'
      manager.adopt(session, { policy: named, until, memory, smp, panicOnWarn }, kernel)
    },
    async close() {
      await manager.close()
      await server.close()
    },
  }
}
