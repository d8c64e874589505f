// SPDX-License-Identifier: Apache-2.0
/** `boot --exec`: a command in the guest, as if it ran here. */
import { type GuestAgent, MachineEnded } from '../machine/guestAgent.ts'
import { pass, terminalSize } from './terminal.ts'

/**
 * Runs the command when the guest is ready, then has the guest power off.
 * @param shared it starts in the folder that is shared
 * @returns its exit code; undefined: the machine ended first
 * @throws Error when the agent cannot run it, or breaks its protocol: the machine still runs, and nobody would end it
 */
export async function execute(agent: GuestAgent, command: string, shared: boolean): Promise<number | undefined> {
  const size = terminalSize()
  const script = [
    ...(size === undefined ? [] : [`export COLUMNS=${size.columns} LINES=${size.lines}`]),
    ...(shared ? ['cd /share'] : []),
    command,
  ].join('\n')
  // Nobody reads its output any more, as in `| head`: it ends, as it would here.
  const unread = new AbortController()
  try {
    await agent.ready
    return await agent.run(script, (stream, chunk) => pass(stream, chunk).catch(() => unread.abort()), unread.signal)
  } catch (error) {
    if (!(error instanceof MachineEnded)) throw error
    return undefined // why, the report says
  } finally {
    agent.end()
  }
}
