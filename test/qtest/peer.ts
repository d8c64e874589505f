// SPDX-License-Identifier: Apache-2.0
import type { Server, Socket } from 'node:net'
import { FrameReader, FrameWriter } from '../../protocol/framing.ts'
import {
  Decoder,
  encodeReply,
  encodeRingOpen,
  encodeWelcome,
  Id,
  type MessageFromQemu,
} from '../../protocol/generated/messages.ts'
import { enums } from '../../protocol/messages.ts'
import { areaSize, type Ring, sendDescriptors } from './ring.ts'
import { serve } from './server.ts'

export type Encode = (out: FrameWriter, seq: number) => void
export type MessageOf<T extends MessageFromQemu['type']> = Extract<MessageFromQemu, { type: T }>

const PATIENCE_MS = 10_000

/** A server that a test plays step by step: what QEMU says is waited for, and nothing is answered by itself. */
export class Peer {
  /** What QEMU has said and nobody has waited for. */
  readonly unread: MessageFromQemu[] = []
  readonly #server: Server
  #woken = () => {}
  #socket: Socket | undefined
  #seq = 0
  /** When the frames are there and not on the socket. */
  ring: Ring | undefined
  readonly #rings: Ring[] = []
  #stopped = false

  private constructor(server: Server) {
    this.#server = server
  }

  static async listen(path: string): Promise<Peer> {
    const messages: ((message: MessageFromQemu, socket: Socket) => void)[] = []
    const server = await serve(path, (message, _out, socket) => {
      for (const take of messages) take(message, socket)
    })
    const peer = new Peer(server)
    messages.push((message, socket) => peer.#take(message, socket))
    return peer
  }

  /** The next message of one of these types; others before it are left out, but must not be requests. */
  next<T extends MessageFromQemu['type']>(...types: readonly T[]): Promise<MessageOf<T>> {
    return this.#until(types, () => {
      for (let message = this.unread.shift(); message !== undefined; message = this.unread.shift()) {
        if (types.includes(message.type as T)) return message as MessageOf<T>
        if (ANSWERED.has(message.type)) throw new Error(`QEMU asks ${message.type} instead of ${types}`)
      }
      return undefined
    })
  }

  /** The first message of a type; what came before it stays. */
  first<T extends MessageFromQemu['type']>(type: T): Promise<MessageOf<T>> {
    return this.#until([type], () => {
      const at = this.unread.findIndex(message => message.type === type)
      return at < 0 ? undefined : (this.unread.splice(at, 1)[0] as MessageOf<T>)
    })
  }

  /** Sends messages with one write. */
  send(...messages: readonly Encode[]): void {
    this.sendBytes(this.pack(...messages))
  }

  /** The bytes of messages, which get the next numbers. */
  pack(...messages: readonly Encode[]): Buffer {
    const out = new FrameWriter()
    for (const encode of messages) encode(out, ++this.#seq)
    return Buffer.from(out.buffer.subarray(0, out.length))
  }

  sendBytes(bytes: Buffer): void {
    if (this.ring === undefined) this.#socket?.write(bytes)
    else {
      this.ring.send(bytes, this.socket)
      this.look()
    }
  }

  get socket(): Socket {
    if (this.#socket === undefined) throw new Error('QEMU is not connected')
    return this.#socket
  }

  /**
   * Sends ringOpen, and descriptors with it, and waits for the status. The frames go on in the ring when it is `ok`.
   * @param size what ringOpen says
   */
  async openRing(
    ring: Ring,
    fds: readonly number[] = [ring.file.fd],
    size: number = areaSize(ring.capacity),
  ): Promise<number> {
    this.#rings.push(ring)
    const bytes = this.pack((out, seq) => encodeRingOpen(out, seq, size))
    sendDescriptors(this.socket, bytes, fds)
    const { status } = await this.first(Id.done)
    if (status === enums.status.ok[0]) this.#useRing(ring)
    return status
  }

  /** All that comes on the socket from now on is doorbells. */
  #useRing(ring: Ring): void {
    const { socket } = this
    const input = new FrameReader()
    const decoder = new Decoder('server')
    const look = () => {
      do {
        if (this.ring !== ring || this.#stopped) return
        input.push(ring.take(socket))
        while (input.next()) this.#keep({ ...decoder.decode(input.buffer, input.start, input.end) } as MessageFromQemu)
        ring.flush(socket)
      } while (!ring.doze())
    }
    this.ring = ring
    this.look = look
    socket.removeAllListeners('data')
    socket.on('data', bells => {
      ring.bells += bells.length
      look()
    })
    // What is there when QEMU closes is still taken.
    socket.on('end', look)
    socket.on('close', look)
    look()
  }

  /** Looks at the ring, and has QEMU ring when something comes. */
  look = (): void => {}

  /** Sends a request and waits for its answer; @returns the status. */
  async ask(encode: Encode): Promise<number> {
    this.send(encode)
    const answer = await this.next(Id.done, Id.data)
    if (answer.seq !== this.#seq) throw new Error(`QEMU answers ${answer.seq} instead of ${this.#seq}`)
    return answer.status
  }

  welcome({ seq }: MessageOf<typeof Id.hello>, features = 0): void {
    this.send(out => encodeWelcome(out, seq, 1, features, 'peer'))
  }

  /** Answers QEMU up to the point where vCPUs would run. */
  async started(features = 0): Promise<void> {
    this.welcome(await this.next(Id.hello), features)
    this.reply(await this.next(Id.reset))
  }

  reply({ seq }: { readonly seq: number }, value = 0): void {
    this.send(out => encodeReply(out, seq, enums.status.ok[0], 0, value))
  }

  /** Cuts the connection. */
  cut(): void {
    this.#socket?.destroy()
  }

  /** Takes no more bytes from QEMU. */
  stopReading(): void {
    this.#stopped = true
    if (this.ring !== undefined) return
    this.#socket?.pause()
  }

  /** Takes them again. */
  readAgain(): void {
    this.#stopped = false
    if (this.ring === undefined) this.#socket?.resume()
    else this.look()
  }

  close(): void {
    this.cut()
    this.#server.close()
    this.ring = undefined
    for (const ring of this.#rings) ring.dispose()
  }

  async #until<M>(types: readonly number[], find: () => M | undefined): Promise<M> {
    const deadline = Date.now() + PATIENCE_MS
    for (;;) {
      const found = find()
      if (found !== undefined) return found
      if (Date.now() > deadline) throw new Error(`QEMU does not say ${types}`)
      await new Promise<void>(resolve => {
        const timer = setTimeout(resolve, 100)
        this.#woken = () => {
          clearTimeout(timer)
          resolve()
        }
      })
    }
  }

  #take(message: MessageFromQemu, socket: Socket): void {
    if (message.type === Id.hello) {
      this.#seq = 0
      this.ring = undefined
    }
    this.#socket = socket
    this.#keep(message)
  }

  #keep(message: MessageFromQemu): void {
    this.unread.push(message)
    this.#woken()
  }
}

const ANSWERED = new Set<number>([Id.hello, Id.reset, Id.trapRead, Id.trapWrite, Id.translate])
