// SPDX-License-Identifier: Apache-2.0
import { once } from 'node:events'
import { chmodSync, lstatSync, mkdtempSync, renameSync, rmSync } from 'node:fs'
import { connect, createServer, type ListenOptions, type Server, type Socket } from 'node:net'
import { dirname, join } from 'node:path'
import { isLoopback, ownerOf } from './peer.ts'

/** Where a server listens. */
export type Address = { readonly path: string } | { readonly host: string; readonly port: number }

/** @param listen path of a Unix socket, or `host:port` (`[::1]:port`) */
export function parseAddress(listen: string): Address {
  const tcp = /^(?:\[([^\]]*)\]|([^/]*)):(\d+)$/.exec(listen)
  return tcp ? { host: tcp[1] ?? tcp[2] ?? '', port: Number(tcp[3]) } : { path: listen }
}

/**
 * The socket that QEMU connects to, which can be opened and closed again and again. Only this user reaches it (and root): the
 * kernel lets nobody else connect to a Unix socket of mode 0600, and of a connection over loopback it tells whose it is. Where
 * peers have to know a token, anybody may come.
 */
export class Listener {
  readonly #listen: string
  readonly #address: Address
  readonly #take: (socket: Socket) => void
  readonly #turnedAway: (reason: string) => void
  readonly #token: boolean
  #server: Server | undefined

  /**
   * @param listen path of a Unix socket, or `host:port`
   * @param take gets each connection, nothing of it read yet
   * @param turnedAway hears of connections of other users
   * @param token whoever is taken has to prove that it knows a token
   */
  constructor(listen: string, take: (socket: Socket) => void, turnedAway: (reason: string) => void, token = false) {
    this.#token = token
    this.#listen = listen
    this.#address = parseAddress(listen)
    this.#take = take
    this.#turnedAway = turnedAway
  }

  /** @throws Error when somebody else listens there, or the address cannot be used. */
  async open(): Promise<void> {
    const address = this.#address
    try {
      this.#server = 'path' in address ? await this.#openPath(address.path) : await this.#openPort(address)
    } catch (error) {
      throw new Error(`cannot listen on ${this.#listen}: ${(error as Error).message}`)
    }
  }

  /** The socket is made where nobody else can enter, and moved to its place when its mode is right. */
  async #openPath(path: string): Promise<Server> {
    const there = lstatSync(path, { throwIfNoEntry: false })
    if (there !== undefined) {
      if (!there.isSocket()) throw new Error('there is a file of that name')
      if (await isServed(path)) throw new Error('in use: another server listens there')
    }
    const folder = mkdtempSync(join(dirname(path), '.t'))
    try {
      const made = join(folder, 's')
      const server = await this.#bind({ path: made }, this.#take)
      chmodSync(made, 0o600)
      // A server that was killed left its socket behind: this one takes its place.
      renameSync(made, path)
      return server
    } finally {
      rmSync(folder, { recursive: true })
    }
  }

  async #openPort(address: { readonly host: string; readonly port: number }): Promise<Server> {
    if (!this.#token && !isLoopback(address.host)) {
      throw new Error('without a token (--token-file), only the loopback interface is possible')
    }
    try {
      return await this.#bind(address, this.#token ? this.#take : socket => this.#check(socket))
    } catch (error) {
      const inUse = (error as NodeJS.ErrnoException).code === 'EADDRINUSE'
      throw inUse ? new Error('in use: another server listens there') : error
    }
  }

  #check(socket: Socket): void {
    const owner = ownerOf(socket)
    if (owner === 0 || owner === process.getuid?.()) return this.#take(socket)
    socket.destroy()
    this.#turnedAway(`a peer of ${owner === undefined ? 'unknown owner' : `user ${owner}`} was turned away`)
  }

  async #bind(address: ListenOptions, take: (socket: Socket) => void): Promise<Server> {
    const server = createServer({ noDelay: true, pauseOnConnect: true }, take)
    server.listen(address)
    await once(server, 'listening')
    return server
  }

  /** Resolves when the address is free and the connections that were made through it have ended. */
  async close(): Promise<void> {
    const server = this.#server
    this.#server = undefined
    if (server === undefined) return
    const closed = once(server, 'close')
    server.close()
    if ('path' in this.#address) rmSync(this.#address.path, { force: true })
    await closed
  }
}

/** Removes the socket of a listener that ended without closing it, unless it is another server's. */
export async function forget(listen: string): Promise<void> {
  const address = parseAddress(listen)
  if (!('path' in address) || !lstatSync(address.path, { throwIfNoEntry: false })?.isSocket()) return
  if (!(await isServed(address.path))) rmSync(address.path, { force: true })
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
