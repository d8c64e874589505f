// SPDX-License-Identifier: Apache-2.0
/**
 * A hostile server against QEMU, built with sanitizers, over a socket and over a ring (qemuRing.ts). Accesses come from qtest, DMA from
 * the `edu` device; vCPUs do not run.
 */
import { createServer, type Server, type Socket } from 'node:net'
import { setTimeout } from 'node:timers/promises'
import { FrameReader } from '../../../protocol/framing.ts'
import { Decoder, Id, type MessageFromQemu, type Translate } from '../../../protocol/generated/messages.ts'
import { messageList } from '../../../protocol/generator/wire.ts'
import { enums, type Message } from '../../../protocol/messages.ts'
import { ensureQemu } from '../../../scripts/setup/index.ts'
import { ensureSanitizedQemu } from '../../../scripts/setup/sanitized.ts'
import * as R from '../../../server/smmu/registers.ts'
import { EDU_ARGS, EDU_SID, Edu } from '../../qtest/edu.ts'
import { QtestMachine, RAM, SMMU } from '../../qtest/machine.ts'
import { areaSize, Ring, sendDescriptors, WORD } from '../../qtest/ring.ts'
import { Choices } from '../choices.ts'
import { Finding, type Target, withoutNumbers } from '../target.ts'
import { messageFrame, messageNamed, messagesOf, type Values } from './messages.ts'

const MAX_STEPS = 24
/** QEMU waits so long for an answer, and for a server that it has lost, ms. */
const [REPLY_MS, RECONNECT_MS] = [500, 5_000]
/** What QEMU makes of half a frame it has made by then, ms. */
const TORN_MS = 200
/** QEMU is waited for no longer, ms; the runner, which tries what was found once more, is patient for 20 s. */
const PATIENCE_MS = 7_000
const MEMORY_MIB = 64
/** Of a ring, bytes: some messages are longer. */
const CAPACITY = 4096
/** What happens when it finds something; leaks at its end are none. */
const SANITIZERS = {
  ASAN_OPTIONS: 'detect_leaks=0:detect_stack_use_after_return=0',
  UBSAN_OPTIONS: 'halt_on_error=1:print_stacktrace=1',
}
const FOUND = /Sanitizer|runtime error|assert|BUG/i

const NAMES = new Map<number, string>(messageList.map(([name, { id }]) => [id, name]))
/** What a server may send while QEMU waits, and at any other time. */
const REQUESTS = messagesOf('server').filter(({ kind }) => kind !== 'answer')
const [WELCOME, REPLY, TRANSLATED, HOLD, RING_OPEN] = ['welcome', 'reply', 'translated', 'hold', 'ringOpen'].map(
  messageNamed,
)
/** Sent rarely: the first two end QEMU, the others the connection, at least while QEMU does not wait. */
const ENDING: readonly Message[] = [messageNamed('quit'), messageNamed('refuse')]
const RARE: readonly Message[] = [...ENDING, ...['error', 'challenge', 'confirm'].map(messageNamed), HOLD]
const [MEM_READ, MEM_WRITE, HW_WRITE, TRANSLATE_MODE] = ['memRead', 'memWrite', 'hwWrite', 'translateMode'].map(
  messageNamed,
)

const OFFSETS = [
  ...[R.ARM_SMMU_IDR0, R.ARM_SMMU_IDR1, R.ARM_SMMU_CR0, R.ARM_SMMU_CR0ACK, R.ARM_SMMU_CR1, R.ARM_SMMU_CR2],
  ...[R.ARM_SMMU_GBPA, R.ARM_SMMU_IRQ_CTRL, R.ARM_SMMU_GERROR, R.ARM_SMMU_GERRORN, R.ARM_SMMU_STRTAB_BASE],
  ...[R.ARM_SMMU_STRTAB_BASE_CFG, R.ARM_SMMU_CMDQ_BASE, R.ARM_SMMU_CMDQ_PROD, R.ARM_SMMU_CMDQ_CONS],
  ...[R.ARM_SMMU_EVTQ_BASE, R.ARM_SMMU_EVTQ_PROD, R.ARM_SMMU_EVTQ_CONS],
]
const FRAME_BYTES = 0x2_0000
/** Those that the server may write. */
const WORDS = [WORD.toQemuTail, WORD.toServerHead, WORD.serverSleeps, WORD.qemuSleeps]

/** Pages that tables, queues and buffers are in; one beyond RAM, and one in the frame. */
const place = (choices: Choices): number =>
  choices.once(16)
    ? choices.pick([SMMU, RAM + MEMORY_MIB * 2 ** 20, 0, 2 ** 48])
    : RAM + 0x1000 * choices.below(32) + (choices.once(4) ? 8 * choices.below(512) : 0)

const halves = (value: number): [number, number] => [Math.floor(value / 2 ** 32), value % 2 ** 32]

/** Table entries and commands, or what looks like some: 64 bytes, most of their addresses those of tables or of the frame. */
function entry(choices: Choices): Uint8Array {
  const words = new Uint32Array(16)
  for (let i = 0; i < words.length; i += 2) {
    const kind = choices.below(4)
    if (kind === 1) words.set([choices.u32(), choices.u32()], i)
    if (kind > 1) words[i] = choices.once(4) ? SMMU : place(choices)
  }
  const config = choices.pick([0b1001, 0b1011, 0b1101, 0b1111, 1, 3, choices.byte()])
  words[0] = ((words[0] & ~0xfff) | config) >>> 0
  return new Uint8Array(words.buffer)
}

/** Values that reach further than others. */
function likely({ fields }: Message, choices: Choices): Values {
  const values: Record<string, Values[string]> = {}
  for (const { name, type } of fields) {
    if (choices.once(48)) continue
    if (name === 'smmu' || name === 'status') values[name] = 0
    if (['offset', 'checkOffset'].includes(name)) values[name] = choices.pick(OFFSETS)
    if (name === 'size' && fields.some(field => field.name === 'offset')) values[name] = choices.pick([4, 8])
    if (['address', 'pa'].includes(name)) values[name] = place(choices)
    if (['base', 'page'].includes(name)) values[name] = place(choices) & ~0xfff
    if (name === 'size' && fields.some(field => field.name === 'base')) values[name] = 0x1000 * (1 + choices.below(8))
    if (name === 'length') values[name] = choices.below(4096)
    if (name === 'sid') values[name] = EDU_SID
    if (name === 'addressMask') values[name] = choices.pick([0xfff, 0x1f_ffff])
    if (name === 'bytes') values[name] = entry(choices)
    if (name === 'value' && type === 'u64') values[name] = halves(place(choices) + choices.below(32))
    if (name === 'value' && type === 'u32') values[name] = choices.below(256)
  }
  return values
}

/** Where a device's access goes, mostly as it has to be said. */
function translation({ iovaLo }: Translate, choices: Choices): Values {
  const addressMask = choices.pick([0xfff, 0xffff, 0x1f_ffff])
  const page = place(choices)
  const right: Values = {
    status: choices.once(4) ? choices.below(4) : enums.translation.mapped[0],
    pa: page - (page % (addressMask + 1)) + ((iovaLo & addressMask) >>> 0),
    addressMask,
    permissions: 3,
  }
  // A fault is a record of any kind; without choices left, and mostly, there is none.
  const record = choices.once(4) ? {} : Object.fromEntries([0, 1, 2, 3].map(n => [`record${n}`, [0, 0]]))
  return { ...record, ...right, ...(choices.once(16) && likely(TRANSLATED, choices)) }
}

/** Answers everything that QEMU asks, and sends whatever the choices say in between. */
class HostileServer {
  choices = new Choices(new Uint8Array(0))
  readonly outcomes = new Set<string>()
  /** It was told to end. */
  ending = false
  /** What was sent may be half a frame. */
  torn = false
  readonly #server: Server
  readonly #rings: boolean
  #socket: Socket | undefined
  /** QEMU has been asked to take a ring: what it says and what is to be sent waits for its answer to this request. */
  #opening:
    | { readonly ring: Ring; readonly seq: number; readonly said: MessageFromQemu[]; unsent: Buffer[] }
    | undefined
  #ring: Ring | undefined
  #looking = false
  #input = new FrameReader()
  readonly #decoder = new Decoder('server')
  #seq = 0
  #wasReset = () => {}
  /** Resolved by the answer with this number, or by the end of the connection. */
  #awaited: { readonly seq: number; readonly resolve: () => void } | undefined

  private constructor(server: Server, rings: boolean) {
    this.#server = server
    this.#rings = rings
    server.on('connection', socket => this.#connected(socket))
  }

  /** @param rings frames are to travel in shared memory */
  static async listen(path: string, rings: boolean): Promise<HostileServer> {
    const server = createServer()
    await new Promise<void>(resolve => server.listen(path, resolve))
    return new HostileServer(server, rings)
  }

  #connected(socket: Socket): void {
    this.#dropRing()
    this.#socket = socket
    this.#input = new FrameReader()
    socket.on('error', () => {})
    socket.on('close', () => {
      if (socket === this.#socket) this.#dropRing()
      this.#awaited?.resolve()
    })
    socket.on('data', (chunk: Buffer) => {
      if (socket !== this.#socket) return
      if (this.#ring === undefined) this.#said(chunk)
      else this.#look()
    })
  }

  #said(chunk: Uint8Array): void {
    this.#input.push(chunk)
    while (this.#input.next()) {
      const { buffer, start, end } = this.#input
      this.#take(this.#decoder.decode(buffer, start, end))
    }
  }

  /** Takes what is in the ring, and puts in what found no room. */
  #look(): void {
    const socket = this.#socket
    if (this.#looking || socket === undefined) return
    this.#looking = true
    try {
      for (let ring = this.#ring; ring !== undefined && ring === this.#ring; ) {
        this.#said(ring.take(socket))
        ring.flush(socket)
        // What was scribbled over may never come to rest.
        if (ring.doze() || this.torn) break
      }
    } finally {
      this.#looking = false
    }
  }

  #open(socket: Socket): void {
    const seq = ++this.#seq
    const ring = new Ring(CAPACITY)
    this.#opening = { ring, seq, said: [], unsent: [] }
    const frame = messageFrame(RING_OPEN, seq, new Choices(new Uint8Array(0)), { size: areaSize(CAPACITY) })
    sendDescriptors(socket, frame, [ring.file.fd])
  }

  /** QEMU has taken the ring. */
  #opened(): void {
    const opening = this.#opening
    if (opening === undefined) return
    this.#opening = undefined
    this.#ring = opening.ring
    for (const message of opening.said) this.#take(message)
    for (const bytes of opening.unsent) this.#write(bytes)
    this.#look()
  }

  #dropRing(): void {
    const ring = this.#ring ?? this.#opening?.ring
    this.#ring = undefined
    this.#opening = undefined
    ring?.dispose()
  }

  #write(bytes: Buffer): void {
    const socket = this.#socket
    if (socket === undefined) return
    if (this.#opening !== undefined) this.#opening.unsent.push(bytes)
    else if (this.#ring === undefined) socket.write(bytes)
    else {
      this.#ring.send(bytes, socket)
      this.#look()
    }
  }

  /** Writes to the shared memory what the rules of the ring do not allow. */
  #scribble(ring: Ring): void {
    const { choices } = this
    if (choices.once(2)) ring.copyIn(choices.bytes(64), (ring.put - choices.below(128)) >>> 0)
    else ring.store(choices.pick(WORDS), choices.once(2) ? choices.u32() : ring.put + choices.below(2 * CAPACITY))
    this.#socket?.write(Buffer.from([choices.once(4) ? choices.byte() : 0]))
  }

  #take(message: MessageFromQemu): void {
    const { type, seq } = message
    const opening = this.#opening
    if (opening !== undefined && type !== Id.hello) {
      if (type !== Id.done || seq !== opening.seq) opening.said.push({ ...message })
      else if (message.status === enums.status.ok[0]) this.#opened()
      else throw new Error(`QEMU does not take a ring: status ${message.status}`)
      return
    }
    const name = NAMES.get(type)
    switch (type) {
      case Id.hello:
        this.#seq = 0
        this.torn = false
        this.#send(WELCOME, seq, { version: 1, features: message.features, session: 'fuzz' })
        if (this.#rings && this.#socket !== undefined) this.#open(this.#socket)
        return
      case Id.done:
      case Id.data:
        this.outcomes.add(`${name} ${message.status}`)
        if (seq === this.#awaited?.seq) this.#awaited.resolve()
        return
      case Id.reset:
      case Id.trapRead:
      case Id.trapWrite:
      case Id.translate:
      case Id.stage2Changed:
        this.outcomes.add(`${name}`)
        this.some(4)
        if (this.choices.once(16)) this.#send(HOLD, ++this.#seq, {})
        // A reset that fails ends QEMU.
        if (type === Id.reset) {
          this.#send(REPLY, seq, { status: 0 })
          this.#wasReset()
        } else if (type === Id.translate) {
          this.#answer(TRANSLATED, seq, translation(message, this.choices))
        } else this.#answer(REPLY, seq, likely(REPLY, this.choices))
        // After `hold` QEMU would wait for the rest of a frame for ever.
        if (this.torn) void this.#cut()
        return
      case Id.error:
        this.outcomes.add(`error ${message.code}`)
        return
      default:
        this.outcomes.add(`${name}`)
    }
  }

  /** Mostly the right one, with any values. */
  #answer(message: Message, seq: number, values: Values): void {
    const odd = this.choices.once(32)
    const wrong = odd && this.choices.once(2) ? (seq % 7) + 1 : seq
    this.#send(odd ? this.choices.pick([REPLY, TRANSLATED, WELCOME]) : message, wrong, values)
  }

  /** Sends up to `most` requests and notices, whole or not. */
  some(most: number): void {
    const { choices } = this
    if (choices.left === 0) return
    for (let count = choices.below(most + 1); count > 0; count--) {
      const picked = choices.pick(REQUESTS)
      const rare = RARE.includes(picked) || (this.#rings && picked === RING_OPEN)
      const message = rare && !choices.once(32) ? MEM_READ : picked
      if (ENDING.includes(message)) this.ending = true
      this.#send(message, ++this.#seq, likely(message, choices))
    }
    if (choices.once(48)) {
      this.torn = true
      this.ending = true // garbage may spell that
      this.#write(choices.mutate(messageFrame(choices.pick(REQUESTS), ++this.#seq, choices)))
    }
    if (this.#ring !== undefined && choices.once(24)) {
      this.torn = true
      this.ending = true
      this.#scribble(this.#ring)
    }
  }

  /** Turns translation on: queues and one table of streams, whose entry for the device may be anything. */
  enable(): void {
    const { choices } = this
    const request = (message: Message, values: Values) => this.#send(message, ++this.#seq, { smmu: 0, ...values })
    const write = (offset: number, size: number, value: number) =>
      request(HW_WRITE, { offset, size, value: halves(value) })
    write(R.ARM_SMMU_STRTAB_BASE, 8, RAM)
    write(R.ARM_SMMU_STRTAB_BASE_CFG, 4, choices.once(8) ? choices.u32() : 6)
    write(R.ARM_SMMU_CMDQ_BASE, 8, RAM + 0x1_0000 + (choices.once(8) ? choices.below(32) : 4))
    write(R.ARM_SMMU_EVTQ_BASE, 8, RAM + 0x1_1000 + (choices.once(8) ? choices.below(32) : 4))
    request(MEM_WRITE, { address: RAM + 64 * EDU_SID, bytes: entry(choices) })
    request(TRANSLATE_MODE, { mode: choices.below(3) })
    write(R.ARM_SMMU_CR0, 4, R.CR0_SMMUEN | R.CR0_CMDQEN | R.CR0_EVTQEN)
  }

  #send(message: Message, seq: number, values: Values): void {
    this.#write(messageFrame(message, seq, this.choices, values))
  }

  /** Resolves when a reset has been answered. */
  reset(): Promise<void> {
    return new Promise(resolve => {
      this.#wasReset = resolve
    })
  }

  /** Resolves when QEMU has answered all that was sent, or has closed the connection. */
  async answered(): Promise<void> {
    if (this.#socket === undefined || this.#socket.closed) return
    const seq = ++this.#seq
    const { promise, resolve } = Promise.withResolvers<void>()
    this.#awaited = { seq, resolve }
    this.#send(MEM_READ, seq, { address: RAM, length: 4 })
    if (this.torn) {
      await Promise.race([promise, this.#cut()])
    } else await patiently(promise, 'a request of the server')
    this.#awaited = undefined
  }

  /** Ends a connection on which QEMU may wait for the rest of a frame. */
  async #cut(): Promise<void> {
    const socket = this.#socket
    await setTimeout(TORN_MS)
    socket?.destroy()
  }

  close(): void {
    this.#socket?.destroy()
    this.#dropRing()
    this.#server.close()
  }
}

/** @throws Finding when it takes too long */
async function patiently<T>(promise: Promise<T>, what: string): Promise<T> {
  const abort = new AbortController()
  const late = setTimeout(PATIENCE_MS, undefined, { signal: abort.signal }).then(
    () => {
      throw new Finding(`QEMU is not done with ${what} within ${PATIENCE_MS / 1000} s`)
    },
    () => promise,
  )
  try {
    return await Promise.race([promise, late])
  } finally {
    abort.abort()
  }
}

/** QEMU with its hostile server; it lives as long as it can stand it. */
class Run {
  readonly #machine = new QtestMachine()
  readonly #rings: boolean
  #server: HostileServer | undefined
  #edu: Edu | undefined
  ended = false

  constructor(rings: boolean) {
    this.#rings = rings
  }

  async start(): Promise<void> {
    this.#server = await HostileServer.listen(this.#machine.socket, this.#rings)
    Object.assign(process.env, SANITIZERS)
    await this.#machine.start({
      binary: process.env.SMMU_COSIM_QEMU === undefined ? await ensureSanitizedQemu() : await ensureQemu(),
      properties: ['carveout=4M', `reply-timeout-ms=${REPLY_MS}`, `reconnect-ms=${RECONNECT_MS}`],
      args: [...EDU_ARGS, '-qtest-log', '/dev/null'],
      memoryMiB: MEMORY_MIB,
    })
    void this.#machine.exit().then(() => {
      this.ended = true
    })
  }

  /** @returns what came of it. @throws Finding */
  async run(choices: Choices): Promise<string> {
    const machine = this.#machine
    const server = this.#server
    if (server === undefined) throw new Error('not started')
    const said = machine.errors.length
    server.choices = choices
    server.outcomes.clear()
    server.ending = false
    try {
      await patiently(Promise.all([server.reset(), machine.systemReset()]), 'a reset')
      this.#edu = await patiently(Edu.enable(machine.qtest), 'the configuration of a device')
      for (let steps = 0; steps < MAX_STEPS && choices.left > 0 && !this.ended; steps++)
        await this.#step(choices, server)
      server.choices = new Choices(new Uint8Array(0))
      await server.answered()
      await patiently(machine.qtest.read(SMMU, 4), 'a read of IDR0')
    } catch (error) {
      if (error instanceof Finding) throw error
      // Its end, which may be wanted: what it said tells.
      await patiently(machine.exit(), 'its own end')
    }
    const text = machine.errors.slice(said)
    if (FOUND.test(text)) throw new Finding(text.slice(text.search(FOUND)).slice(0, 3000))
    if (this.ended) {
      const exit = await machine.exit()
      if (typeof exit === 'string') throw new Finding(`QEMU ended with ${exit}: ${text}`)
      if (!server.ending) throw new Finding(`QEMU ended with ${exit}, and nobody told it to: ${text}`)
    }
    return [...server.outcomes, withoutNumbers(text.slice(0, 300))].sort().join(', ')
  }

  async #step(choices: Choices, server: HostileServer): Promise<void> {
    const { qtest } = this.#machine
    const edu = this.#edu
    switch (choices.below(10)) {
      case 0:
        server.enable()
        return server.answered()
      case 1:
      case 5:
        server.some(6)
        return server.answered()
      case 2:
        return patiently(
          qtest.writeBytes(RAM + 0x1000 * choices.below(32) + 64 * choices.below(64), entry(choices)),
          'RAM',
        )
      case 3:
        return patiently(
          edu?.dmaRead(place(choices), 1 + choices.below(4096)) ?? Promise.resolve(),
          'a read of a device',
        )
      case 4:
        return patiently(
          edu?.dmaWrite(place(choices), 1 + choices.below(4096)) ?? Promise.resolve(),
          'a write of a device',
        )
      default: {
        const offset = choices.once(8) ? choices.below(FRAME_BYTES / 4) * 4 : choices.pick(OFFSETS)
        const size = choices.pick([4, 8] as const)
        if (choices.once(3)) {
          await patiently(qtest.read(SMMU + offset, size), 'a read of the guest')
          return
        }
        const value = choices.once(2) ? BigInt(place(choices) + choices.below(32)) : BigInt(choices.u32())
        return patiently(
          qtest.write(SMMU + offset, size, value & (size === 4 ? 0xffff_ffffn : ~0n)),
          'a write of the guest',
        )
      }
    }
  }

  async close(): Promise<void> {
    this.#server?.close()
    await this.#machine.dispose()
  }
}

/** @param rings frames are to travel in shared memory */
export function qemuTarget(name: string, summary: string, rings: boolean): Target {
  let present: Run | undefined
  return {
    name,
    summary,
    async run(choices) {
      if (present === undefined) {
        present = new Run(rings)
        await present.start()
      }
      try {
        return await present.run(choices)
      } catch (error) {
        present.ended = true
        throw error
      } finally {
        if (present.ended) {
          await present.close()
          present = undefined
        }
      }
    },
    async close() {
      await present?.close()
      present = undefined
    },
  }
}

export default qemuTarget('qemu', "the server's frames against QEMU", false)
