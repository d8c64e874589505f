// SPDX-License-Identifier: Apache-2.0
/** gdb's end of its remote protocol, as much as is needed to look at a vCPU. */
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'

const sum = (text: string): string => {
  let total = 0
  for (const byte of Buffer.from(text, 'latin1')) total = (total + byte) & 0xff
  return total.toString(16).padStart(2, '0')
}

export class Remote {
  readonly #socket: Socket
  #text = ''
  readonly #packets: string[] = []
  #arrived: (() => void) | undefined

  private constructor(socket: Socket) {
    this.#socket = socket
    socket.on('error', () => {})
    socket.setEncoding('latin1').on('data', chunk => {
      this.#text += chunk
      for (;;) {
        const found = /\$([^#]*)#../.exec(this.#text)
        if (found === null) break
        this.#text = this.#text.slice(found.index + found[0].length)
        this.#packets.push(found[1] ?? '')
        socket.write('+')
      }
      this.#arrived?.()
    })
  }

  /** The guest stands still afterwards. @param path of a Unix socket */
  static async attach(path: string): Promise<Remote> {
    const socket = connect(path)
    await once(socket, 'connect')
    const remote = new Remote(socket)
    await remote.ask('qSupported:xmlRegisters=aarch64')
    await remote.ask('?')
    return remote
  }

  #send(packet: string): void {
    this.#socket.write(`$${packet}#${sum(packet)}`)
  }

  /** The next packet, within `ms`. @throws Error when there is none */
  async next(ms = 20_000): Promise<string> {
    const end = performance.now() + ms
    for (;;) {
      const packet = this.#packets.shift()
      if (packet !== undefined) return packet
      const left = end - performance.now()
      if (left <= 0) throw new Error(`gdbstub says nothing within ${ms} ms`)
      await new Promise<void>(resolve => {
        const timer = setTimeout(resolve, left)
        this.#arrived = () => {
          clearTimeout(timer)
          resolve()
        }
      })
    }
  }

  ask(packet: string): Promise<string> {
    this.#send(packet)
    return this.next()
  }

  /** x0 to x30 are 0 to 30, 31 is sp, 32 is pc. */
  async register(number: number): Promise<bigint> {
    const text = await this.ask(`p${number.toString(16)}`)
    return Buffer.from(text, 'hex').readBigUInt64LE()
  }

  /** Bytes of memory, in hexadecimal. */
  memory(address: bigint, length: number): Promise<string> {
    return this.ask(`m${address.toString(16)},${length.toString(16)}`)
  }

  /** The vCPUs run; the answer is `next`, when they stop. */
  go(): void {
    this.#send('c')
  }

  /** One instruction of the current vCPU; the answer is `next`. */
  step(): void {
    this.#send('s')
  }

  /** Stops them. @returns why */
  interrupt(): Promise<string> {
    this.#socket.write('\x03')
    return this.next()
  }

  /** Nothing came meanwhile. */
  get quiet(): boolean {
    return this.#packets.length === 0
  }

  /** It is killed. */
  vanish(): void {
    this.#socket.destroy()
  }

  /** They run, and nobody looks any more. */
  async detach(): Promise<void> {
    await this.ask('D')
    this.#socket.destroy()
  }
}
