// SPDX-License-Identifier: Apache-2.0
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { closeSync, fstatSync, openSync, readdirSync, readlinkSync, readSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { setTimeout } from 'node:timers/promises'
import { FrameReader, FrameWriter } from '../../../protocol/framing.ts'
import {
  type Challenge,
  Decoder,
  encodeData,
  encodeDone,
  encodeEvent,
  encodeHello,
  encodePredictedRead,
  encodeProof,
  encodeReset,
  encodeShutdown,
  encodeTrapRead,
  encodeTrapWrite,
  type Hello,
  Id,
  type MessageFromServer,
} from '../../../protocol/generated/messages.ts'
import { enums, TOKEN_BYTES } from '../../../protocol/messages.ts'
import { map, view } from '../../../server/machine/sharedMemory.ts'
import { BYTES, RingEnd, ROOM } from '../../../server/trap/ringEnd.ts'
import { tokenMac } from '../../../server/trap/token.ts'

const RING = enums.feature.ring[0]

/** Both ends number what they send: only these refer to a request of ours. */
const ANSWERS: ReadonlySet<number> = new Set([Id.welcome, Id.refuse, Id.reply, Id.translated])

/**
 * QEMU's end of the wire, for what the real one never does: other versions, garbage, traps at chosen moments. Its
 * hardware is an array of 32-bit registers; accesses of any other size are aborted.
 */
export class FakeQemu {
  readonly registers = new Map<number, number>()
  /** Registers of 64 bits that can be read. */
  readonly wide = new Map<number, readonly [lo: number, hi: number]>()
  readonly memory = Buffer.alloc(1 << 20)
  /** Its memory, if it is this file. */
  ram: number | undefined
  readonly socket: Socket
  readonly out = new FrameWriter()
  readonly received: MessageFromServer[] = []
  /** Puts something in front of the answer to each access to a register. */
  meanwhile: (() => void) | undefined
  /** Whether it serves requests of the server. */
  serves = true
  /** What it knows; undefined: it was given none. */
  token: Uint8Array | undefined
  /** What it answers to a challenge instead of what it would; null: nothing. */
  prove: ((challenge: Challenge, hello: Uint8Array) => { nonce: Uint8Array; mac: Uint8Array } | null) | undefined
  /** The server has proved that it knows the token as well. */
  confirmed = false
  #hello: Uint8Array = new Uint8Array(0)
  #wanted: Uint8Array | undefined
  /** What it answers to callStack; undefined: it can neither do that nor park. */
  frames: readonly bigint[] | undefined
  /** It sends all of them, however many were asked for. */
  generous = false
  /** Times that it parked a vCPU. */
  parks = 0
  /** Times that it was asked for a call stack. */
  stacks = 0
  /** Guest time of its traps, ns. */
  time = 1_000
  /** Where its traps come from. */
  pc = 0n
  /** Offers the ring. */
  offersRing = false
  /** Status of its answer to ringOpen. */
  ringStatus: number = enums.status.ok[0]
  /** The area of the ring, once it is in use. */
  area: ArrayBuffer | undefined
  #ring: RingEnd | undefined
  #rung: (() => void) | undefined
  /** What the ring has no room for. */
  #late = Buffer.alloc(0)
  #seq = 0
  /** For the next connection of this machine. */
  #session = ''
  #checkpoint = new Uint8Array(0)
  #lastSeq = 0
  readonly #in = new FrameReader()
  readonly #decoder = new Decoder('qemu')
  #waiting: (() => void) | undefined

  private constructor(socket: Socket) {
    this.socket = socket
    socket.on('error', () => {})
    socket.on('data', (chunk: Buffer) => {
      if (this.#ring === undefined) this.#arrived(chunk)
      else if (chunk.some(byte => byte !== 0)) throw new Error('a byte beside the ring is no doorbell')
      this.#rung?.()
    })
    socket.on('close', () => {
      this.#waiting?.()
      this.#rung?.()
    })
  }

  #arrived(chunk: Buffer): void {
    this.#in.push(chunk)
    while (this.#in.next()) this.#take(this.#decoder.decode(this.#in.buffer, this.#in.start, this.#in.end))
    this.#waiting?.()
  }

  /** Takes the ring: from its file, which the server, in this process, holds open until it has the answer. */
  #openRing(size: number): RingEnd {
    const files = readdirSync('/proc/self/fd').flatMap(name => {
      try {
        const fd = Number(name)
        return readlinkSync(`/proc/self/fd/${name}`).includes('memfd:smmu-cosim ring') ? [{ fd, ...fstatSync(fd) }] : []
      } catch {
        return [] // closed meanwhile
      }
    })
    const [newest] = files.sort((a, b) => b.ino - a.ino)
    const fd = openSync(`/proc/self/fd/${newest.fd}`, 'r+')
    this.area = view(map(fd, size))
    closeSync(fd)
    return new RingEnd(this.area, 'qemu', () => this.socket.write(Buffer.alloc(1)))
  }

  /** Looks at the ring for a while, then sleeps until its bell rings. */
  async #look(): Promise<void> {
    const ring = this.#ring
    const chunk = Buffer.alloc(5_000)
    for (let idle = 0; ring !== undefined && !this.socket.destroyed; ) {
      this.#late = this.#late.subarray(ring.write(this.#late, 0, this.#late.length))
      const count = ring.read(chunk, 0)
      if (count > 0) {
        idle = 0
        this.#arrived(chunk.subarray(0, count))
      } else if (++idle < 20) await new Promise(setImmediate)
      else if (ring.sleep(this.#late.length > 0 ? BYTES | ROOM : BYTES)) {
        await new Promise<void>(resolve => {
          this.#rung = resolve
        })
        ring.awake()
        idle = 0
      }
    }
  }

  /** @param address path of a Unix socket, or a port of 127.0.0.1 */
  static async connect(address: string | number): Promise<FakeQemu> {
    const socket = typeof address === 'string' ? connect(address) : connect(address, '127.0.0.1')
    await once(socket, 'connect')
    return new FakeQemu(socket)
  }

  /** The same, with a ring. @param path of a Unix socket */
  static async withRing(path: string): Promise<FakeQemu> {
    const qemu = await FakeQemu.connect(path)
    qemu.offersRing = true
    return qemu
  }

  /** The same machine on a new connection, welcomed. It tries again and again, as QEMU does. */
  async reconnect(path: string): Promise<FakeQemu> {
    for (;;) {
      try {
        const next = await FakeQemu.connect(path)
        next.#seq = this.#seq
        next.#session = this.#session
        next.#checkpoint = this.#checkpoint
        next.#lastSeq = this.#lastSeq
        next.token = this.token
        next.offersRing = this.offersRing
        for (const [offset, value] of this.registers) next.registers.set(offset, value)
        next.memory.set(this.memory)
        await next.hello()
        return next
      } catch {
        await setTimeout(5)
      }
    }
  }

  /** @param other what it says instead of what it would */
  async hello(versions: [number, number] = [1, 1], other: Partial<Hello> = {}): Promise<MessageFromServer> {
    const seq = ++this.#seq
    encodeHello(this.out, seq, {
      minVersion: versions[0],
      maxVersion: versions[1],
      features:
        (this.token === undefined ? 0 : enums.feature.token[0]) |
        (this.frames === undefined ? 0 : enums.feature.debug[0]) |
        (this.offersRing ? RING : 0),
      session: this.#session,
      resumed: this.#session === '' ? 0 : 1,
      lastSeq: this.#lastSeq,
      checkpoint: this.#checkpoint,
      qemuVersion: 'fake',
      vcpus: 1,
      carveoutBase: 0,
      carveoutSize: 0,
      ram: [{ base: 0x4000_0000, size: this.memory.length, path: '', offset: 0 }],
      smmus: [{ base: 0x0905_0000, size: 0x2_0000, irqEvtq: 1, irqPriq: 2, irqCmdSync: 3, irqGerror: 4 }],
      devices: [],
      ...other,
    })
    this.#hello = Buffer.from(this.out.buffer.subarray(4, this.out.length))
    return this.send(seq)
  }

  #challenge(message: Challenge): void {
    const nonce = randomBytes(TOKEN_BYTES)
    const token = this.token ?? new Uint8Array(0)
    const right = { nonce, mac: tokenMac(token, 'qemu', message.nonce, nonce, this.#hello) }
    const proof = this.prove === undefined ? right : this.prove(message, this.#hello)
    if (proof === null) return
    this.#wanted = tokenMac(token, 'server', message.nonce, proof.nonce, this.#hello)
    encodeProof(this.out, message.seq, proof.nonce, proof.mac)
    this.flush()
  }

  /** @param time of the guest, ns */
  reset(time = 0): Promise<MessageFromServer> {
    const seq = ++this.#seq
    encodeReset(this.out, seq, 0, time)
    return this.send(seq)
  }

  /** @param repeated number of a request whose answer was lost */
  read(offset: number, size: number, repeated?: number): Promise<MessageFromServer> {
    const seq = repeated ?? ++this.#seq
    encodeTrapRead(this.out, seq, 0, 0, offset, size, this.time, ...this.#pc, 5_000)
    return this.send(seq)
  }

  write(offset: number, size: number, lo: number, hi = 0): Promise<MessageFromServer> {
    const seq = ++this.#seq
    encodeTrapWrite(this.out, seq, 0, 0, offset, size, this.time, ...this.#pc, 5_000, hi, lo)
    return this.send(seq)
  }

  get #pc(): readonly [hi: number, lo: number] {
    return [Number(this.pc >> 32n), Number(this.pc & 0xffff_ffffn)]
  }

  /** Tells of a read that was answered here, with what is sent next. */
  predictedRead(offset: number, value: number): void {
    encodePredictedRead(this.out, ++this.#seq, 0, 0, offset, 1_500, 0, 0, value)
  }

  /** Number of the newest request. */
  get seq(): number {
    return this.#seq
  }

  /** An event record of `id` for a StreamID. @param time of the guest, ns */
  event(id: number, sid: number, time = 2_000): void {
    encodeEvent(this.out, ++this.#seq, 0, time, sid, id, 0, 0, 0, 0, 0, 0)
    this.flush()
  }

  shutdown(): void {
    encodeShutdown(this.out, ++this.#seq, 0, 0, 5_000)
    this.flush()
    this.socket.end()
  }

  flush(): void {
    const bytes = Buffer.from(this.out.buffer.subarray(0, this.out.length))
    this.out.reset()
    this.raw(bytes)
  }

  /** Sends bytes that are maybe no frames. */
  raw(bytes: Buffer): void {
    if (this.#ring === undefined) {
      this.socket.write(bytes)
      return
    }
    const all = Buffer.concat([this.#late, bytes])
    this.#late = all.subarray(this.#ring.write(all, 0, all.length))
  }

  /** Sends what was encoded; resolves with the answer to request `seq`. Rejects when the server closes instead. */
  async send(seq: number): Promise<MessageFromServer> {
    this.flush()
    for (;;) {
      const at = this.received.findIndex(m => ANSWERS.has(m.type) && m.seq === seq)
      const [message] = at < 0 ? [] : this.received.splice(at, 1)
      if (message) {
        this.#lastSeq = seq
        if (message.type === Id.welcome) this.#session = message.session
        return message
      }
      if (this.socket.destroyed) throw new Error('the server closed the connection')
      await new Promise<void>(resolve => {
        this.#waiting = resolve
      })
    }
  }

  #take(message: MessageFromServer): void {
    if (!this.serves && !ANSWERS.has(message.type)) {
      this.received.push({ ...message })
      return
    }
    switch (message.type) {
      case Id.hwRead: {
        this.meanwhile?.()
        const wide = message.size === 8 ? this.wide.get(message.offset) : undefined
        if (wide !== undefined) {
          encodeDone(this.out, message.seq, 0, wide[1], wide[0])
          return this.flush()
        }
        const ok = message.size === 4
        encodeDone(this.out, message.seq, ok ? 0 : 1, 0, ok ? (this.registers.get(message.offset) ?? 0) : 0)
        return this.flush()
      }
      case Id.hwWrite: {
        this.meanwhile?.()
        const ok = message.size === 4
        if (ok) this.registers.set(message.offset, message.valueLo)
        encodeDone(this.out, message.seq, ok ? 0 : 1, 0, 0)
        return this.flush()
      }
      case Id.memRead: {
        const at = message.address - 0x4000_0000
        const bytes = this.memory.subarray(at, at + message.length)
        if (this.ram !== undefined) readSync(this.ram, bytes, 0, message.length, at)
        encodeData(this.out, message.seq, 0, bytes)
        return this.flush()
      }
      case Id.memWrite:
        this.memory.set(message.bytes, message.address - 0x4000_0000)
        encodeDone(this.out, message.seq, 0, 0, 0)
        return this.flush()
      case Id.callStack: {
        this.stacks++
        const frames = BigUint64Array.from(this.frames?.slice(0, this.generous ? undefined : message.depth) ?? [])
        encodeData(this.out, message.seq, 0, new Uint8Array(frames.buffer))
        return this.flush()
      }
      case Id.park:
        this.parks++
        encodeDone(this.out, message.seq, 0, 0, 0)
        return this.flush()
      case Id.challenge:
        return this.#challenge(message)
      case Id.confirm:
        this.confirmed = Buffer.from(message.mac).equals(this.#wanted ?? Buffer.alloc(0))
        return
      case Id.ringOpen: {
        const ring = this.ringStatus === enums.status.ok[0] ? this.#openRing(message.size) : undefined
        encodeDone(this.out, message.seq, this.ringStatus, 0, 0)
        this.flush()
        this.#ring = ring
        // A test may scribble over the ring: then this end finds nonsense, too.
        void this.#look().catch(() => {})
        return
      }
      case Id.checkpoint:
        this.#checkpoint = new Uint8Array(message.bytes)
        this.received.push({ ...message })
        return
      default:
        this.received.push({ ...message })
    }
  }
}
