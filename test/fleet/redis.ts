// SPDX-License-Identifier: Apache-2.0
/** A real Redis on the loopback interface, with persistence: it can be killed, and started again with what it had written. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { REDIS } from '../../scripts/setup/index.ts'
import type { QueueConnection } from '../../server/fleet/queue.ts'

/** A port that nobody has. */
async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  server.close()
  await once(server, 'close')
  if (address === null || typeof address === 'string') throw new Error('no port')
  return address.port
}

export class RedisServer {
  readonly connection: QueueConnection
  readonly #folder: string
  readonly #settings: string
  #process: ChildProcess | undefined

  private constructor(port: number, folder: string, settings: string) {
    this.connection = { host: '127.0.0.1', port, db: 0 }
    this.#folder = folder
    this.#settings = settings
  }

  /** @param settings of its configuration; 6379 in them becomes its port */
  static async start(folder: string, settings = ''): Promise<RedisServer> {
    const server = new RedisServer(await freePort(), folder, settings)
    await server.start()
    return server
  }

  get url(): string {
    return `redis://127.0.0.1:${this.connection.port}`
  }

  async start(): Promise<void> {
    const { port } = this.connection
    const file = join(this.#folder, 'redis.conf')
    const own = ['bind 127.0.0.1', `port ${port}`, `dir ${this.#folder}`, 'appendonly yes', 'save ""', '']
    writeFileSync(file, own.join('\n') + this.#settings.replaceAll('6379', String(port)))
    const child = spawn(REDIS.binary, [file], { argv0: REDIS.argv0, stdio: ['ignore', 'pipe', 'inherit'] })
    this.#process = child
    let said = ''
    await new Promise<void>((resolve, reject) => {
      child.once('error', reject)
      child.once('exit', () => reject(new Error(`Redis ended: ${said}`)))
      child.stdout.setEncoding('utf8').on('data', (text: string) => {
        said = (said + text).slice(-4000)
        if (said.includes('Ready to accept connections')) resolve()
      })
    })
  }

  /** Connections stay, and nothing is answered, until `resume`. */
  pause(): void {
    this.#process?.kill('SIGSTOP')
  }

  resume(): void {
    this.#process?.kill('SIGCONT')
  }

  /** As a machine that loses power, but for what its kernel would have lost. */
  async kill(): Promise<void> {
    const child = this.#process
    this.#process = undefined
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return
    const ended = once(child, 'exit')
    child.kill('SIGKILL')
    await ended
  }
}
