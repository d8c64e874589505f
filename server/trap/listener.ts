// SPDX-License-Identifier: Apache-2.0
import { once } from 'node:events'
import { lstatSync, unlinkSync } from 'node:fs'
import { connect, createServer, type Server, type Socket } from 'node:net'

/** The socket that QEMU connects to, which can be opened and closed again and again. */
export class Listener {
  readonly #listen: string
  readonly #take: (socket: Socket) => void
  #server: Server | undefined

  /** @param listen path of a Unix socket, or `host:port`. @param take gets each connection, nothing of it read yet. */
  constructor(listen: string, take: (socket: Socket) => void) {
    this.#listen = listen
    this.#take = take
  }

  /** @throws Error when somebody else listens there, or the address cannot be used. */
  async open(): Promise<void> {
    const tcp = /^(.*):(\d+)$/.exec(this.#listen)
    const address = tcp ? { host: tcp[1] ?? '', port: Number(tcp[2]) } : { path: this.#listen }
    try {
      this.#server = await this.#bind(address)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw this.#failed((error as Error).message)
      if (tcp || (await isServed(this.#listen))) throw this.#failed('in use: another server listens there')
      if (!lstatSync(this.#listen).isSocket()) throw this.#failed('there is a file of that name')
      // A server that was killed leaves its socket behind.
      unlinkSync(this.#listen)
      this.#server = await this.#bind(address)
    }
  }

  async #bind(address: { host: string; port: number } | { path: string }): Promise<Server> {
    const server = createServer({ noDelay: true, pauseOnConnect: true }, this.#take)
    server.listen(address)
    await once(server, 'listening')
    return server
  }

  #failed(reason: string): Error {
    return new Error(`cannot listen on ${this.#listen}: ${reason}`)
  }

  /** Resolves when the address is free and the connections that were made through it have ended. */
  async close(): Promise<void> {
    const server = this.#server
    this.#server = undefined
    if (server === undefined) return
    const closed = once(server, 'close')
    server.close()
    await closed
  }
}

/** Whether somebody takes connections at a Unix socket. */
async function isServed(path: string): Promise<boolean> {
  const socket = connect(path)
  try {
    await once(socket, 'connect')
    return true
  } catch {
    return false
  } finally {
    socket.destroy()
  }
}
