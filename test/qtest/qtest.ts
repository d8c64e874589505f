// SPDX-License-Identifier: Apache-2.0
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { createInterface } from 'node:readline'

/** QEMU's qtest protocol: guest-physical accesses and the virtual clock, with no CPU running. */
export class Qtest {
  readonly #socket: Socket
  readonly #answers: ((line: string | Error) => void)[] = []
  #ended = false

  private constructor(socket: Socket) {
    this.#socket = socket
    const end = () => {
      this.#ended = true
      for (const answer of this.#answers.splice(0)) answer(new Error('QEMU closed the qtest connection'))
    }
    socket.on('error', end)
    socket.on('close', end)
    createInterface(socket)
      .on('error', end)
      .on('line', line => {
        if (!line.startsWith('IRQ')) this.#answers.shift()?.(line)
      })
  }

  /** Connects to the socket that QEMU listens on, trying until `signal` aborts. */
  static async connect(path: string, signal: AbortSignal): Promise<Qtest> {
    for (;;) {
      signal.throwIfAborted()
      const socket = connect(path)
      try {
        await once(socket, 'connect', { signal })
        return new Qtest(socket)
      } catch {
        socket.destroy()
        await new Promise(resolve => setTimeout(resolve, 20))
      }
    }
  }

  /** Sends one command; resolves with what follows `OK`. */
  async command(text: string): Promise<string> {
    const line = await new Promise<string>((resolve, reject) => {
      // Nobody would say so later.
      if (this.#ended) return reject(new Error('QEMU has closed the qtest connection'))
      this.#answers.push(answer => (answer instanceof Error ? reject(answer) : resolve(answer)))
      this.#socket.write(`${text}\n`)
    })
    if (!line.startsWith('OK')) throw new Error(`qtest "${text}": ${line}`)
    return line.slice(3)
  }

  /** Reads 1, 2, 4 or 8 bytes at a guest physical address. */
  async read(address: number, size: 1 | 2 | 4 | 8): Promise<bigint> {
    return BigInt(await this.command(`read${SUFFIX[size]} 0x${address.toString(16)}`))
  }

  async write(address: number, size: 1 | 2 | 4 | 8, value: bigint | number): Promise<void> {
    await this.command(`write${SUFFIX[size]} 0x${address.toString(16)} 0x${value.toString(16)}`)
  }

  async readBytes(address: number, length: number): Promise<Buffer> {
    return Buffer.from((await this.command(`read 0x${address.toString(16)} 0x${length.toString(16)}`)).slice(2), 'hex')
  }

  async writeBytes(address: number, bytes: Uint8Array): Promise<void> {
    const hex = Buffer.from(bytes).toString('hex')
    await this.command(`write 0x${address.toString(16)} 0x${bytes.length.toString(16)} 0x${hex}`)
  }

  /** Moves the virtual clock on, ns. */
  async clockStep(ns: number): Promise<void> {
    await this.command(`clock_step ${ns}`)
  }

  close(): void {
    this.#socket.destroy()
  }
}

const SUFFIX = { 1: 'b', 2: 'w', 4: 'l', 8: 'q' } as const
