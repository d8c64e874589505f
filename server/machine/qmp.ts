// SPDX-License-Identifier: Apache-2.0
import { EventEmitter, once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { createInterface } from 'node:readline'

/** A QMP event, e.g. `SHUTDOWN`. */
export interface QmpEvent {
  readonly event: string
  readonly data?: Record<string, unknown>
}

interface Reply {
  readonly id?: number
  readonly return?: unknown
  readonly error?: { readonly class: string; readonly desc: string }
  readonly event?: string
  readonly data?: Record<string, unknown>
}

/** QEMU refused a QMP command. */
export class QmpError extends Error {
  constructor(command: string, description: string) {
    super(`QMP ${command}: ${description}`)
    this.name = 'QmpError'
  }
}

/** QEMU's control socket. Emits `event` with a QmpEvent, and `close`. */
export class Qmp extends EventEmitter<{ event: [QmpEvent]; close: [] }> {
  readonly #socket: Socket
  readonly #waiting = new Map<
    number,
    { command: string; resolve: (value: unknown) => void; reject: (e: Error) => void }
  >()
  #nextId = 1

  private constructor(socket: Socket) {
    super()
    this.#socket = socket
    socket.on('error', () => {})
    socket.on('close', () => {
      for (const { command, reject } of this.#waiting.values())
        reject(new QmpError(command, 'QEMU closed the connection'))
      this.#waiting.clear()
      this.emit('close')
    })
    createInterface(socket)
      .on('error', () => {})
      .on('line', line => this.#line(line))
  }

  /** Connects to QEMU's QMP socket at `path`, retrying until `signal` aborts, and leaves negotiation mode. */
  static async connect(path: string, signal: AbortSignal): Promise<Qmp> {
    for (;;) {
      signal.throwIfAborted()
      const socket = connect(path)
      try {
        await once(socket, 'connect', { signal })
        const qmp = new Qmp(socket)
        await qmp.execute('qmp_capabilities')
        return qmp
      } catch (error) {
        socket.destroy()
        if (signal.aborted) throw error
        await new Promise(resolve => setTimeout(resolve, 20))
      }
    }
  }

  /** Runs one QMP command. @throws QmpError when QEMU refuses it or goes away. */
  execute(command: string, args: Record<string, unknown> = {}): Promise<unknown> {
    const id = this.#nextId++
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { command, resolve, reject })
      this.#socket.write(`${JSON.stringify({ execute: command, arguments: args, id })}\n`)
    })
  }

  close(): void {
    this.#socket.destroy()
  }

  #line(line: string): void {
    const reply = JSON.parse(line) as Reply
    if (reply.event !== undefined) {
      this.emit('event', { event: reply.event, ...(reply.data && { data: reply.data }) })
      return
    }
    if (reply.id === undefined) return
    const waiting = this.#waiting.get(reply.id)
    this.#waiting.delete(reply.id)
    if (reply.error) waiting?.reject(new QmpError(waiting.command, reply.error.desc))
    else waiting?.resolve(reply.return)
  }
}
