// SPDX-License-Identifier: Apache-2.0
/** The host's end of the agent in the guest: the protocol of scripts/guest/agent/README.md, on a Unix socket that QEMU connects to. */
import { once } from 'node:events'
import { createServer, type Server, type Socket } from 'node:net'

/** Bytes behind the line of a message, and of the line. */
const MAX_DATA = 65_536
const MAX_LINE = 127
/** Bytes of a command of the user's; a few words go in front of it. */
export const MAX_COMMAND = MAX_DATA - 256
/** Of a process. */
const MAX_EXIT_CODE = 255

/** Output of a command. Resolves when more may come. */
export type TakeOutput = (stream: 'stdout' | 'stderr', chunk: Buffer) => void | Promise<void>

/** A message of the guest, whole. */
interface Message {
  readonly id: number
  readonly word: string
  readonly value: number
  readonly data: Buffer
}

/** What waits for messages of an id. */
interface Waiting {
  take(message: Message): void | Promise<void>
  fail(error: Error): void
}

/** There is no agent any more, because there is no machine any more. */
export class MachineEnded extends Error {
  constructor() {
    super('the machine has ended')
  }
}

/** The guest's agent. What it says is the guest's word: bounds are checked, and nothing in it is trusted. */
export class GuestAgent {
  /** Resolves when the agent has started; a machine that was saved with it never says so. */
  readonly ready: Promise<void>
  readonly #ready = Promise.withResolvers<void>()
  readonly #server: Server
  #socket: Socket | undefined
  readonly #connected = Promise.withResolvers<Socket>()
  readonly #waiting = new Map<number, Waiting>()
  #id = 0
  #received: Buffer = Buffer.alloc(0)
  #taking = false
  #failure: Error | undefined

  private constructor(server: Server) {
    this.#server = server
    this.ready = this.#ready.promise
    this.ready.catch(() => {})
    this.#connected.promise.catch(() => {})
    server.once('connection', socket => {
      // There is one serial port, and one QEMU.
      server.close()
      this.#socket = socket
      socket.on('data', (chunk: Buffer) => {
        this.#received = Buffer.concat([this.#received, chunk])
        void this.#take()
      })
      socket.on('error', () => {})
      socket.on('close', () => this.fail(new MachineEnded()))
      this.#connected.resolve(socket)
    })
  }

  /** @param path of a Unix socket, for QEMU to connect to. @throws Error when it cannot be made */
  static async listen(path: string): Promise<GuestAgent> {
    const server = createServer()
    server.listen(path)
    await once(server, 'listening')
    return new GuestAgent(server)
  }

  /**
   * Runs a command by /bin/sh in the guest. Several may run at a time.
   * @param take its output, as it comes
   * @param signal ends it, with SIGKILL
   * @returns its exit code; 128 and the signal's number for one that a signal ended
   * @throws Error when it cannot be started, or the machine ends
   */
  async run(command: string, take: TakeOutput, signal?: AbortSignal): Promise<number> {
    signal?.throwIfAborted()
    if (Buffer.byteLength(command) > MAX_DATA) throw new Error(`a command of more than ${MAX_DATA} bytes`)
    const id = ++this.#id
    const exit = Promise.withResolvers<number>()
    exit.promise.catch(() => {})
    this.#expect(id, {
      take: ({ word, value, data }) => {
        if (word === 'out' || word === 'err') return take(word === 'out' ? 'stdout' : 'stderr', data)
        // A larger one would be cut when it becomes that of this process: 256 would be 0.
        if (word === 'exit' && value > MAX_EXIT_CODE) throw broken(`exit code ${value}`)
        this.#waiting.delete(id)
        if (word === 'exit') exit.resolve(value)
        else exit.reject(new Error(`the guest: ${data.toString('utf8')}`))
      },
      fail: exit.reject,
    })
    const kill = () => void this.#send(id, 'kill').catch(() => {})
    signal?.addEventListener('abort', kill, { once: true })
    try {
      await this.#send(id, 'run', 0, 0, Buffer.from(command))
      return await exit.promise
    } finally {
      signal?.removeEventListener('abort', kill)
    }
  }

  /**
   * Memory of the guest that stays where it is, zeroed and physically contiguous.
   * @param bytes up to a page, or a huge page (2 MiB with pages of 4 KiB)
   * @returns its physical address
   */
  async allocate(bytes: number): Promise<number> {
    return (await this.#ask('allocate', bytes)).value
  }

  /** @param address as `allocate` returned it */
  async free(address: number): Promise<void> {
    await this.#ask('free', address)
  }

  /** Reads allocated memory with the CPU. @throws Error also when the CPU is kept from it */
  async read(address: number, length: number): Promise<Buffer> {
    return (await this.#ask('read', address, length)).data
  }

  /** Writes allocated memory with the CPU. @throws Error also when the CPU is kept from it */
  async write(address: number, bytes: Uint8Array): Promise<void> {
    await this.#ask('write', address, 0, bytes)
  }

  /** The edu device reads memory. @returns what it has afterwards: bytes of 0xa5 are those that never came */
  async dmaRead(address: number, length: number): Promise<Buffer> {
    return (await this.#ask('dma-read', address, length)).data
  }

  /** The edu device writes memory. That it was told to does not mean that anything arrived. */
  async dmaWrite(address: number, bytes: Uint8Array): Promise<void> {
    await this.#ask('dma-write', address, 0, bytes)
  }

  /** The agent ends, and the guest powers off. */
  end(): void {
    void this.#send(++this.#id, 'end').catch(() => {})
  }

  /** Nothing comes any more: whatever waits ends with this error. */
  fail(error: Error): void {
    this.#failure ??= error
    this.#ready.reject(this.#failure)
    this.#connected.reject(this.#failure)
    const waiting = [...this.#waiting.values()]
    this.#waiting.clear()
    for (const { fail } of waiting) fail(this.#failure)
  }

  /** The machine has ended: an agent that never came does not come any more. What one that did has said is still taken. */
  ended(): void {
    if (this.#socket === undefined) this.close()
  }

  close(): void {
    this.fail(new MachineEnded())
    this.#socket?.destroy()
    this.#server.close()
  }

  async #ask(verb: string, a: number, b = 0, data: Uint8Array = Buffer.alloc(0)): Promise<Message> {
    const id = ++this.#id
    const answer = Promise.withResolvers<Message>()
    answer.promise.catch(() => {})
    this.#expect(id, {
      take: message => {
        this.#waiting.delete(id)
        if (message.word === 'done') answer.resolve(message)
        else answer.reject(new Error(`the guest: ${message.data.toString('utf8')}`))
      },
      fail: answer.reject,
    })
    await this.#send(id, verb, a, b, data)
    return answer.promise
  }

  #expect(id: number, waiting: Waiting): void {
    if (this.#failure !== undefined) throw this.#failure
    this.#waiting.set(id, waiting)
  }

  async #send(id: number, verb: string, a = 0, b = 0, data: Uint8Array = Buffer.alloc(0)): Promise<void> {
    for (const value of [a, b])
      if (!Number.isSafeInteger(value) || value < 0) throw new Error(`${verb}: ${value} is no address or size`)
    if (data.length > MAX_DATA) throw new Error(`${verb}: more than ${MAX_DATA} bytes`)
    const socket = await this.#connected.promise
    // In one piece: requests may come from several sides.
    socket.write(Buffer.concat([Buffer.from(`${id} ${verb} ${a} ${b} ${data.length}\n`), data]))
  }

  /** Takes the whole messages that have come, one after the other: somebody may not want more output for a while. */
  async #take(): Promise<void> {
    if (this.#taking) return
    this.#taking = true
    try {
      for (let message = this.#next(); message !== undefined; message = this.#next()) {
        const wait = message.id === 0 ? this.#announced(message) : this.#waiting.get(message.id)?.take(message)
        if (wait === undefined) continue
        this.#socket?.pause()
        await wait
        this.#socket?.resume()
      }
    } catch (error) {
      this.fail(error as Error)
      this.#socket?.destroy()
    } finally {
      this.#taking = false
    }
  }

  #announced({ word }: Message): void {
    if (word === 'ready') this.#ready.resolve()
  }

  /** @throws Error when this is no message */
  #next(): Message | undefined {
    const end = this.#received.subarray(0, MAX_LINE + 1).indexOf(0x0a)
    if (end < 0) {
      if (this.#received.length > MAX_LINE) throw broken('a line without an end')
      return undefined
    }
    const line = this.#received.toString('latin1', 0, end)
    const [, id, word = '', value, length] =
      /^(\d{1,10}) ([a-z-]{1,15}) (\d{1,16}) \d{1,16} (\d{1,5})$/.exec(line) ?? []
    if (length === undefined || Number(length) > MAX_DATA || !Number.isSafeInteger(Number(value)))
      throw broken(JSON.stringify(line))
    const whole = end + 1 + Number(length)
    if (this.#received.length < whole) return undefined
    const data = Buffer.from(this.#received.subarray(end + 1, whole))
    this.#received = this.#received.subarray(whole)
    return { id: Number(id), word, value: Number(value), data }
  }
}

const broken = (how: string): Error => new Error(`the guest's agent broke the protocol: ${how}`)
