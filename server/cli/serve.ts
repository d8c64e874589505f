// SPDX-License-Identifier: Apache-2.0
import { dirname, resolve } from 'node:path'
import type { Command } from 'commander'
import { MachineManager } from '../api/machineManager.ts'
import { OWN_POLICY } from '../api/schemas/lifecycle.ts'
import { DEFAULT_HOST, DEFAULT_PORT } from '../api/schemas/request.ts'
import { startServer } from '../api/server.ts'
import type { QueueWatch } from '../fleet/watch.ts'
import { qemuPath } from '../run/files.ts'
import { ramFolder } from '../run/options.ts'
import { defaultDatabase } from '../sessions/database.ts'
import type { Transport } from '../trap/messages.ts'
import { noSandbox, qemuOption, qemuSourceOption, ramDirOption, transportOption } from './bootOptions.ts'
import { confine, policyFolder } from './confine.ts'
import { abortOnSignal, EXIT, fail } from './exit.ts'
import { port } from './numbers.ts'
import { folder, inputFile } from './paths.ts'
import { checkPolicy, noTypeCheck } from './policyCheck.ts'
import { connectionOf, type QueueOptions, queueOptions } from './queueOptions.ts'
import { print, say } from './terminal.ts'

interface ServeOptions extends QueueOptions {
  readonly host: string
  readonly port: number
  readonly name: readonly string[]
  readonly policy?: string
  readonly images?: string
  readonly qemu?: string
  readonly ramDir: string
  readonly transport: Transport
  readonly sandbox: boolean
  readonly typeCheck: boolean
  readonly start?: boolean
}

/** `smmu-cosim serve`. */
export function serveCommand(program: Command): void {
  const command = program
    .command('serve')
    .description('run the dashboard and the API; machines are started and stopped from there')
  queueOptions(command, "show a fleet's jobs at /queue, and their numbers in /metrics")
    .option('--host <address>', 'address to listen on; any but loopback needs the token', DEFAULT_HOST)
    .option('--port <n>', 'port; 0: any that is free', port, DEFAULT_PORT)
    .option(
      '--name <host>',
      'a further name under which the server is reached',
      (name, all: string[]) => [...all, name],
      [],
    )
    .option('--policy <file>', 'a policy of your own, offered to start machines with', inputFile)
    .option('--images <folder>', 'kernels and initramfs of your own, offered by name to start machines with', folder)
    .addOption(qemuOption())
    .addOption(qemuSourceOption())
    .addOption(ramDirOption())
    .addOption(transportOption())
    .addOption(noSandbox())
    .addOption(noTypeCheck())
    .option('--start', 'start a machine at once')
    .action(async (options: ServeOptions) => {
      const { signal, dispose } = abortOnSignal()
      try {
        const { sandbox, policy, images, qemu, ramDir } = options
        await checkPolicy(policy, options.typeCheck, signal)
        // The database of campaigns is beside the folder of runs; Node's permissions do not hold what SQLite does.
        const { queuePasswordFile, queueCa, queueCert, queueKey } = options
        const files = [queuePasswordFile, queueCa, queueCert, queueKey]
        const read = [policyFolder(policy), images, qemuPath(qemu), dirname(defaultDatabase()), ...files]
        await confine(sandbox, { read, write: [ramFolder(ramDir)] }, signal)
        await serve(options, signal)
      } catch (error) {
        fail(error, signal)
      } finally {
        dispose()
      }
    })
}

async function serve(options: ServeOptions, signal: AbortSignal): Promise<void> {
  const connection = connectionOf(options)
  if (connection === undefined) return listen(options, undefined, signal)
  const { QueueWatch } = await import('../fleet/watch.ts')
  const queue = new QueueWatch(connection, why => say(`the queue: ${why}`))
  try {
    await listen(options, queue, signal)
  } finally {
    await queue.close()
  }
}

async function listen(options: ServeOptions, queue: QueueWatch | undefined, signal: AbortSignal): Promise<void> {
  const { policy, images, qemu, host, port, name: names } = options
  const manager = new MachineManager({
    ramDir: options.ramDir,
    transport: options.transport,
    sandbox: options.sandbox,
    say,
    ...(policy !== undefined && { policyFile: policy }),
    ...(images !== undefined && { imagesFolder: resolve(images) }),
    ...(qemu !== undefined && { qemu }),
  })
  const server = await startServer({ manager, host, port, names, say, ...(queue && { queue }) })
  try {
    print(server.url)
    const told = new Promise<void>(resolve => signal.addEventListener('abort', () => resolve(), { once: true }))
    if (options.start && !signal.aborted) {
      const started = manager.start(policy === undefined ? {} : { policy: OWN_POLICY })
      started.catch(() => {}) // of one that is ended before it runs
      await Promise.race([started, told])
    }
    if (!signal.aborted) await told
    process.exitCode = EXIT.ok
  } finally {
    await manager.close()
    await server.close()
  }
}
