// SPDX-License-Identifier: Apache-2.0
import type { AddressInfo } from 'node:net'
import { Writable } from 'node:stream'
import { pino } from 'pino'
import pretty from 'pino-pretty'
import type { QueueWatch } from '../fleet/watch.ts'
import { projectVersion } from '../trace/version.ts'
import { createApp } from './app.ts'
import type { MachineManager } from './machineManager.ts'
import { DEFAULT_HOST, DEFAULT_PORT } from './schemas/request.ts'
import { isLoopback, TOKEN_VARIABLE, tokenFor } from './security.ts'
import { buildDashboard } from './webBuild.ts'

export interface ServerOptions {
  readonly manager: MachineManager
  readonly host?: string
  /** 0: any free port. */
  readonly port?: number
  /** The option that says it. */
  readonly portOption?: string
  /** Names under which the server is reached, besides its address. */
  readonly names?: readonly string[]
  /** A fleet's, to be looked at. */
  readonly queue?: QueueWatch
  readonly say: (line: string) => void
}

export interface RunningServer {
  /** With the token, when there is one. */
  readonly url: string
  close(): Promise<void>
}

/** What to open in a browser. An address that stands for all of the machine's own is shown as the loopback one. */
export function dashboardUrl(host: string, port: number, token: string | undefined): string {
  const opened = host === '0.0.0.0' ? '127.0.0.1' : host === '::' ? '::1' : host
  const shown = opened.includes(':') ? `[${opened}]` : opened
  return `http://${shown}:${port}/${token === undefined ? '' : `#token=${token}`}`
}

/** Builds the dashboard if need be, and listens. @throws Error when it cannot. */
export async function startServer(options: ServerOptions): Promise<RunningServer> {
  const { manager, host = DEFAULT_HOST, port = DEFAULT_PORT, portOption = '--port', queue, say } = options
  const token = tokenFor(host, process.env[TOKEN_VARIABLE])
  const dashboard = await buildDashboard(say)
  // Log lines may quote requests: they are escaped like all output.
  const destination = new Writable({
    write(line, _encoding, done) {
      say(String(line).trimEnd())
      done()
    },
  })
  const logger = pino({ level: 'warn', base: null }, pretty({ destination, colorize: false }))
  const { app } = await createApp({
    manager,
    version: projectVersion(),
    access: { host, ...(token !== undefined && { token }), ...(options.names && { names: options.names }) },
    dashboard,
    logger,
    ...(queue && { queue }),
  })
  try {
    await app.listen({ host, port })
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    await app.close()
    throw new Error(
      code === 'EADDRINUSE' ? `${host}:${port} is in use: choose another ${portOption} (0: any)` : message,
    )
  }
  const address = app.server.address() as AddressInfo
  if (!isLoopback(host)) {
    say(`listening on ${host}, which others can reach: the token is needed (${TOKEN_VARIABLE} sets it)`)
  }
  return { url: dashboardUrl(host, address.port, token), close: () => app.close() }
}
