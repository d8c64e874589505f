// SPDX-License-Identifier: Apache-2.0
import { FrameReader, FrameWriter } from '../../../protocol/framing.ts'
import { Decoder, encodeData, encodeDone, Id, type MessageFromServer } from '../../../protocol/generated/messages.ts'
import type { Element } from '../../../protocol/generator/pack.ts'
import { recordFields } from '../../../protocol/generator/wire.ts'
import { enums, type RecordName } from '../../../protocol/messages.ts'
import passthrough from '../../../server/hypervisor/passthrough/policy.ts'
import pkvm from '../../../server/hypervisor/pkvm/policy.ts'
import { OperationError } from '../../../server/policy/operationError.ts'
import { createCounters } from '../../../server/trace/counters.ts'
import { createRing } from '../../../server/trace/ring.ts'
import { type ByteStream, LinkClosed, NOTHING, type Receiver } from '../../../server/trap/byteStream.ts'
import { Dispatcher } from '../../../server/trap/dispatcher.ts'
import type { Post, ThreadOptions } from '../../../server/trap/messages.ts'
import type { Operations } from '../../../server/trap/operations.ts'
import type { Call } from '../../../server/trap/rpc.ts'
import { Choices } from '../choices.ts'
import { computed, Finding, isBugText, type Target, withoutNumbers } from '../target.ts'
import { FuzzMachine, HELLO, SMMU, type Write } from './machine.ts'
import { frameOf, messageFrame, messageNamed, messagesOf, type Values } from './messages.ts'

const MAX_STEPS = 64
/** One connection of so many steps takes no longer, ms of the processor. */
const LIMIT_MS = 5_000
/** A server that looks so often in a row for what does not come. */
const MAX_PAUSES = 20

const BY_NAME = {
  trapRead: messageNamed('trapRead'),
  trapWrite: messageNamed('trapWrite'),
  hello: messageNamed('hello'),
}
const FROM_QEMU = messagesOf('qemu')
const NOTICES = ['event', 'gerror', 'guardFault', 'predictedRead', 'postMismatch'].map(messageNamed)
const { ok: OK, aborted: ABORTED, range: RANGE } = enums.status

/** How QEMU answers the server. */
type Manner = 'honest' | 'aborts' | 'other number' | 'other type' | 'cut data' | 'twice' | 'garbage' | 'not at all'
const MANNERS: readonly Manner[] = [
  'aborts',
  'other number',
  'other type',
  'cut data',
  'twice',
  'garbage',
  'not at all',
]

/** A QEMU that does what the choices say: at first what a real one does, with a guest that does as it likes. */
class HostileQemu implements ByteStream {
  readonly sleeps = false
  readonly machine: FuzzMachine
  /** No frame and no answer was false so far. */
  honest = true
  /** Requests that were answered. */
  readonly replies = new Set<number>()
  welcome = false
  session = ''
  checkpoint = new Uint8Array(0)
  closed = false
  held = false
  readonly #choices: Choices
  readonly #liar: boolean
  readonly #arriving: Buffer[] = []
  readonly #in = new FrameReader()
  readonly #decoder = new Decoder('qemu')
  readonly #out = new FrameWriter()
  #received: (chunk: Buffer, count: number) => void = () => {}
  #pauses = 0

  /** @param liar its answers may be false */
  constructor(machine: FuzzMachine, choices: Choices, liar: boolean) {
    this.machine = machine
    this.#choices = choices
    this.#liar = liar
  }

  start(receiver: Receiver): void {
    this.#received = (chunk, count) => receiver.received(chunk, count)
  }

  read(into: Buffer, at: number): number {
    const chunk = this.#arriving.shift()
    if (chunk === undefined) return NOTHING
    this.#pauses = 0
    const count = chunk.copy(into, at)
    if (count < chunk.length) this.#arriving.unshift(chunk.subarray(count))
    return count
  }

  wait(): number {
    throw new Finding('it sleeps where it must not')
  }

  write(from: Buffer, at: number, end: number): number {
    if (this.closed) throw new LinkClosed('closed')
    const count = this.#choices.once(32) ? this.#choices.below(1 + Math.min(end - at, 200)) : end - at
    if (count > 0) this.#pauses = 0
    this.#in.push(Buffer.from(from.subarray(at, at + count)))
    while (this.#in.next()) this.#take(this.#decoder.decode(this.#in.buffer, this.#in.start, this.#in.end))
    return count
  }

  pause(): void {
    if (++this.#pauses > MAX_PAUSES) throw new LinkClosed('QEMU is gone')
  }

  close(): void {
    this.closed = true
  }

  send(bytes: Buffer): void {
    this.#arriving.push(bytes)
  }

  /** The event loop hands over what has arrived, in one piece or several. */
  turn(): void {
    for (let chunk = this.#arriving.shift(); chunk !== undefined && !this.closed; chunk = this.#arriving.shift()) {
      const cut = this.#choices.once(8) ? this.#choices.below(chunk.length + 1) : chunk.length
      for (const part of [chunk.subarray(0, cut), chunk.subarray(cut)]) {
        if (part.length > 0 && !this.closed) this.#received(part, part.length)
      }
    }
  }

  #take(message: MessageFromServer): void {
    switch (message.type) {
      case Id.welcome:
        this.welcome = true
        this.session = message.session
        return
      case Id.reply:
      case Id.translated:
        this.replies.add(message.seq)
        return
      case Id.hold:
        this.held = true
        return
      case Id.checkpoint:
        this.checkpoint = new Uint8Array(message.bytes)
        return
      case Id.refuse:
      case Id.error:
      case Id.quit:
      case Id.hwPost:
        return
      default:
        this.#answer(message)
    }
  }

  #answer(message: MessageFromServer): void {
    const manner: Manner = this.#liar && this.#choices.once(24) ? this.#choices.pick(MANNERS) : 'honest'
    if (manner !== 'honest') this.honest = false
    if (manner === 'not at all') return
    if (manner === 'garbage') return this.send(frameOf(this.#choices.bytes(16)))
    const seq = manner === 'other number' ? 1 + this.#choices.integer(0xffff_fffe) : message.seq
    const out = this.#out
    if ((message.type === Id.memRead) !== (manner === 'other type')) this.#data(message, seq, manner)
    else this.#done(message, seq, manner)
    const frame = Buffer.from(out.buffer.subarray(0, out.length))
    out.reset()
    for (let times = manner === 'twice' ? 2 : 1; times > 0; times--) this.send(frame)
  }

  #data(message: MessageFromServer, seq: number, manner: Manner): void {
    if (message.type !== Id.memRead) return encodeData(this.#out, seq, OK[0], this.#choices.bytes(16))
    const bytes = new Uint8Array(message.length)
    const fine = this.machine.memory.read(message.address, bytes, 0, bytes.length) && manner !== 'aborts'
    const cut = manner === 'cut data' ? this.#choices.below(1 + Math.min(bytes.length, 64)) : bytes.length
    encodeData(this.#out, seq, fine ? OK[0] : RANGE[0], fine ? bytes.subarray(0, cut) : new Uint8Array(0))
  }

  #done(message: MessageFromServer, seq: number, manner: Manner): void {
    const value = { lo: 0, hi: 0 }
    let fine = true
    if (message.type === Id.hwRead) fine = this.machine.hardware.read(message.offset, message.size, value)
    else if (message.type === Id.hwWrite) {
      fine = this.machine.hardware.write(message.offset, message.size, message.valueLo, message.valueHi)
    } else if (message.type === Id.memWrite) {
      fine = this.machine.memory.write(message.address, message.bytes, 0, message.bytes.length)
    }
    if (manner === 'cut data') value.lo = this.#choices.u32()
    encodeDone(this.#out, seq, manner === 'aborts' || !fine ? ABORTED[0] : OK[0], value.hi, value.lo)
  }
}

/** Elements of a record of the wire. */
const record = (name: RecordName, values: Readonly<Record<string, Element>>): Element[] =>
  recordFields(name).map(field => values[field.name] ?? 0)

/** A run of one thread: machines come, do something, and go. */
class Run {
  readonly #choices: Choices
  readonly #dispatcher: Dispatcher
  readonly #outcomes = new Set<string>()
  readonly #posted: string[] = []
  readonly #options: ThreadOptions
  /** Only the guest is hostile. */
  readonly #trusted: boolean
  #qemu: HostileQemu
  /** The honest one that comes last. */
  #last: HostileQemu | undefined
  #seq = 0

  constructor(choices: Choices) {
    this.#choices = choices
    this.#trusted = choices.once(2)
    const policy = choices.once(4) ? passthrough : pkvm
    this.#options = {
      listen: '',
      policy: 'pkvm',
      // The number of looks ends a wait, not the time: it is the same each time.
      policyOptions: { waitMs: 60_000, waitPolls: 100 },
      ramFile: '',
      ring: RING,
      counters: COUNTERS,
      panicOnWarn: choices.once(16),
      translate: choices.pick(['hardware', 'server', 'lockstep'] as const),
      faithful: choices.once(2),
    }
    const post: Post = (event, ...args) => {
      // What cannot be cloned does not reach the control thread.
      structuredClone(args)
      this.#posted.push(event)
      if (event === 'disconnected' && args[2] === true) this.#fault(String(args[0]))
      if (event === 'refused') this.#fault(String(args[0]))
    }
    this.#dispatcher = new Dispatcher(this.#options, policy, post)
    this.#qemu = this.#connect()
  }

  /** A policy must not fail over what a guest does; over what QEMU does only as it meant to. */
  #fault(message: string): void {
    if (isBugText(message) || (this.#qemu.honest && !/HypFatal/.test(message))) throw new Finding(message)
    this.#outcomes.add(message.split('\n')[0].replaceAll(/\d+/g, '0').slice(0, 60))
  }

  #connect(): HostileQemu {
    const qemu = new HostileQemu(this.#qemu?.machine ?? new FuzzMachine(), this.#choices, !this.#trusted)
    this.#dispatcher.attach(qemu)
    return qemu
  }

  run(): string {
    this.#hello({})
    for (let steps = 0; steps < MAX_STEPS && this.#choices.left > 0; steps++) {
      this.#step()
      if (this.#qemu.closed) this.#again()
    }
    const sections = JSON.stringify(this.#dispatcher.operate({ method: 'sections', args: [] }))
    this.#outcomes.add(withoutNumbers(sections).slice(0, 2000))
    this.#goodbye()
    return [...this.#outcomes, ...new Set(this.#posted)].sort().join(' ')
  }

  /** Whatever was, the next machine is served. */
  #goodbye(): void {
    this.#qemu.close()
    this.#dispatcher.retire()
    this.#qemu = new HostileQemu(new FuzzMachine(), NO_CHOICES, false)
    this.#last = this.#qemu
    this.#dispatcher.attach(this.#qemu)
    this.#hello({})
    if (!this.#qemu.welcome) throw new Finding('afterwards, an honest machine is not welcome')
    this.#dispatcher.retire()
  }

  #step(): void {
    const { machine } = this.#qemu
    switch (this.#choices.below(13)) {
      case 0:
        for (const write of machine.probe(this.#choices)) this.#trap(write, true)
        return
      case 1:
        return this.#trap(machine.commands(this.#choices), true)
      case 2:
        return machine.ste(this.#choices)
      case 3:
        return machine.scribble(this.#choices)
      case 4:
        return this.#message()
      case 5:
        return this.#trusted ? this.#trap(machine.commands(this.#choices), true) : this.#garbage()
      case 6:
        return this.#operation()
      case 7:
        return this.#reset()
      case 8:
        return this.#translate()
      default:
        return this.#trap(machine.write(this.#choices), this.#choices.once(2))
    }
  }

  #again(): void {
    this.#outcomes.add('closed')
    const { session, checkpoint, honest } = this.#qemu
    this.#qemu = this.#connect()
    const resumed = this.#choices.once(2)
    if (!resumed) return this.#hello({})
    const damaged = !this.#trusted && this.#choices.once(2)
    // Of a machine that has told lies before, there may be no checkpoint that fits.
    if (damaged || !honest || checkpoint.length === 0) this.#qemu.honest = false
    const bytes = damaged ? this.#choices.mutate(Buffer.from(checkpoint)) : checkpoint
    this.#hello({
      session,
      resumed: 1,
      checkpoint: bytes,
      lastSeq: this.#choices.once(4) ? this.#choices.u32() : this.#seq,
    })
  }

  #hello(values: Values): void {
    const { ram, smmus, devices, ...plain } = HELLO
    const described: Values = {
      ...plain,
      ram: ram.map(each => record('ramRange', { ...each })),
      smmus: smmus.map(each => record('smmu', { ...each })),
      devices: devices.map(each => record('device', { ...each })),
      ...values,
    }
    const odd = this.#qemu !== this.#last && !this.#trusted && this.#choices.once(8)
    if (odd) this.#qemu.honest = false
    const kept = odd ? Object.fromEntries(Object.entries(described).filter(() => !this.#choices.once(4))) : described
    this.#qemu.send(messageFrame(BY_NAME.hello, ++this.#seq, this.#choices, kept))
    this.#deliver()
    if (this.#qemu.honest && !this.#qemu.closed && !this.#qemu.welcome)
      throw new Finding('an honest hello has no answer')
    if (this.#qemu.welcome && this.#choices.once(2)) this.#reset()
  }

  #reset(): void {
    const seq = ++this.#seq
    this.#qemu.send(messageFrame(messageNamed('reset'), seq, this.#choices))
    this.#deliver()
    this.#expectReply(seq)
  }

  #trap({ offset, size, lo, hi }: Write, write: boolean): void {
    if (this.#qemu.held || this.#qemu.closed || !this.#qemu.welcome) return
    const seq = ++this.#seq
    const common: Values = { smmu: this.#choices.once(16) ? this.#choices.byte() : 0, offset, size }
    const message = write ? BY_NAME.trapWrite : BY_NAME.trapRead
    this.#qemu.send(messageFrame(message, seq, this.#choices, write ? { ...common, value: [hi, lo] } : common))
    this.#deliver()
    this.#expectReply(seq)
  }

  /** A device's access that missed the TLB. */
  #translate(): void {
    if (this.#options.translate === 'hardware' || this.#qemu.held || !this.#qemu.welcome) return
    const seq = ++this.#seq
    const values = { smmu: 0, sid: this.#choices.below(16), iova: [0, this.#choices.u32()] }
    this.#qemu.send(messageFrame(messageNamed('translate'), seq, this.#choices, values))
    this.#deliver()
    this.#expectReply(seq)
  }

  #expectReply(seq: number): void {
    const { honest, closed, held, welcome, replies } = this.#qemu
    if (honest && welcome && !closed && !held && !replies.has(seq)) throw new Finding(`request ${seq} has no reply`)
  }

  /** Any message, whether or not it is its turn. */
  #message(): void {
    const message = this.#choices.pick(this.#trusted ? NOTICES : FROM_QEMU)
    if (message.kind !== 'notice') this.#qemu.honest = false
    this.#qemu.send(
      messageFrame(message, 1 + this.#choices.integer(0xffff_fffe), this.#choices, { smmu: this.#choices.below(2) }),
    )
    this.#deliver()
  }

  #garbage(): void {
    this.#qemu.honest = false
    const message = this.#choices.pick(FROM_QEMU)
    this.#qemu.send(this.#choices.mutate(messageFrame(message, 1, this.#choices)))
    this.#deliver()
  }

  #operation(): void {
    const choices = this.#choices
    const address = () => choices.pick([HELLO.carveoutBase, HELLO.ram[0].base, SMMU.base, 0]) + 4096 * choices.below(64)
    const calls: readonly (() => Call<Operations>)[] = [
      () => ({ method: 'sections', args: [] }),
      () => ({ method: 'checkpoint', args: [] }),
      () => ({ method: 'breakNext', args: [choices.once(2)] }),
      () => ({ method: 'held', args: [] }),
      () => ({ method: 'release', args: [{ action: choices.pick(['continue', 'step', 'drop', 'abort'] as const) }] }),
      () => ({
        method: 'registers',
        args: [choices.below(2), choices.pick(['host', 'hardware'] as const), [0, 0x20, 0x80]],
      }),
      () => ({ method: 'memory', args: [address(), choices.below(5000)] }),
      () => ({ method: 'ownership', args: [0, 2 ** 33, 1 + choices.below(50)] }),
      () => ({ method: 'donate', args: [address(), 4096 * (1 + choices.below(4)), choices.below(3)] }),
      () => ({ method: 'reclaim', args: [address(), 4096 * (1 + choices.below(4)), choices.below(3)] }),
      () => ({ method: 'addBreakpoint', args: [{ match: { on: 'command' }, skip: 0, once: true, enabled: true }] }),
    ]
    const call = choices.pick(calls)()
    try {
      structuredClone(this.#dispatcher.operate(call))
      this.#outcomes.add(call.method)
    } catch (error) {
      const mine = error instanceof OperationError || error instanceof LinkClosed
      const theirs = !this.#qemu.honest && (error as Error).constructor === Error
      if (!mine && !theirs && (error as Error).name !== 'ProtocolError') throw error
    }
    if (call.method === 'release') this.#qemu.held = false
  }

  #deliver(): void {
    const start = computed()
    this.#qemu.turn()
    const ms = computed() - start
    if (ms > LIMIT_MS) throw new Finding(`one message took ${Math.round(ms / 1000)} s`)
  }
}

const NO_CHOICES = new Choices(new Uint8Array(0))
const RING = createRing(1 << 20)
const COUNTERS = createCounters()

const frames: Target = {
  name: 'frames',
  summary: "QEMU's frames, and a hostile guest's accesses in them, against the trap thread",
  run: choices => new Run(choices).run(),
}

export default frames
