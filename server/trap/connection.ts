// SPDX-License-Identifier: Apache-2.0
import { randomUUID } from 'node:crypto'
import {
  encodeInvalidate,
  encodeIrq,
  encodeQuit,
  encodeReply,
  encodeTranslateMode,
  encodeWelcome,
  type Hello,
  type PostMismatch,
  type Reset,
  type Stage2Changed,
  type Translate,
} from '../../protocol/generated/messages.ts'
import { enums, NO_STREAM, VERSION } from '../../protocol/messages.ts'
import type { FaultContext } from '../faults/faultContext.ts'
import { FileMemory } from '../machine/fileMemory.ts'
import { MappedMemory } from '../machine/mappedMemory.ts'
import type { Machine } from '../machine/ports.ts'
import { sharedMemoryFault } from '../machine/sharedMemory.ts'
import type { NamedDevice } from '../machine/streams.ts'
import { machineFault } from '../policy/machineFault.ts'
import { type Policy, pageAddresses, policyInfo, type Stage2Change } from '../policy/policy.ts'
import { gatedHardware } from '../smmu/gatedHardware.ts'
import type { GuestMemory } from '../smmu/memory.ts'
import { ARM_SMMU_IDR0 } from '../smmu/registers.ts'
import { request } from '../trace/records.ts'
import { pcOf } from '../trace/symbols.ts'
import { TracedMemory } from '../trace/tracedMemory.ts'
import { TrackedHardware } from '../translate/trackedHardware.ts'
import { Translator } from '../translate/translator.ts'
import { LinkClosed } from './byteStream.ts'
import { Inspector } from './inspect.ts'
import type { Link } from './link.ts'
import type { Sections, TransportUse } from './messages.ts'
import { ModelPower } from './modelPower.ts'
import { oops } from './oops.ts'
import { Operator } from './operator.ts'
import { Oracles } from './oracles.ts'
import { openRamFile, RamFileRefused } from './ramFile.ts'
import { refuse } from './refusal.ts'
import { newRingArea, type RingArea } from './ringStream.ts'
import { isSameMemory } from './sameMemory.ts'
import { policySections } from './sections.ts'
import { TakeOver } from './takeOver.ts'
import type { Thread } from './thread.ts'
import { TrapPath } from './trapPath.ts'
import { WaitingVcpu } from './waitingVcpu.ts'
import { WireEl2, WireGuard, WireHardware, WireMemory } from './wirePorts.ts'

const OK = enums.status.ok[0]
const RING = enums.feature.ring[0]
const STAGE2 = enums.feature.stage2[0]
const TLBI = enums.feature.stage2Tlbi[0]

/** Guest memory whose accesses nobody records, and its end. */
interface Ram {
  readonly memory: GuestMemory
  readonly kind: TransportUse['ram']
  /** It can be read when QEMU has ended, and without asking it. */
  readonly shared: boolean
  close(): void
}

/** A machine and its policy, from the machine's hello to the end of its connection. */
export class Connection {
  readonly path: TrapPath
  /** Operations that concern the machine. */
  readonly operator: Operator
  readonly oracles: Oracles
  readonly #thread: Thread
  readonly #link: Link
  readonly #hello: Hello
  /** Devices with StreamIDs, as everybody here sees them: what is in it changes with `nameDevices`. */
  readonly #devices: NamedDevice[]
  /** With those that have none yet, which rules may name. */
  readonly #known: NamedDevice[]
  readonly #version: number
  readonly #session: string
  readonly #ram: Ram
  readonly #machine: Machine
  readonly #power: ModelPower
  readonly #policy: Policy
  readonly #translator: Translator | undefined
  /** The machine is welcome; before, the policy's state is kept for it afterwards. */
  #served = false
  #unkept = false

  private constructor(thread: Thread, link: Link, described: Hello, version: number, ram: Ram) {
    this.#thread = thread
    this.#link = link
    this.#known = [...described.devices]
    this.#devices = described.devices.filter(({ sid }) => sid !== NO_STREAM)
    const hello = { ...described, devices: this.#devices }
    this.#hello = hello
    this.#version = version
    thread.counters.machine(hello.smmus.length)
    this.#session = hello.session === '' ? randomUUID() : hello.session
    this.#ram = ram
    // With breakpoints and with call stacks, every access is to come by.
    const { faithful, callStacks = 0 } = thread.options
    const capable = !faithful && callStacks === 0 && (hello.features & enums.feature.postedWrites[0]) !== 0
    const mayPost = () => capable && !thread.breakpoints.armed
    const oracles = new Oracles(thread, link, hello, ram, () => this.#policy)
    this.oracles = oracles
    const written = (offset: number) => oracles.written(offset)
    const hardware = hello.smmus.map((_, index) => new WireHardware(link, thread.ring, index, mayPost, written))
    const { translate = 'hardware' } = thread.options
    const tracked = translate === 'hardware' ? undefined : hardware.map(port => new TrackedHardware(port, ram.memory))
    // Faults stand in front of what the policy reads and writes, and of nothing else: the two have an object each.
    const memory = { plain: ram.memory, traced: new TracedMemory(ram.memory, thread.ring) }
    this.#translator = tracked && new Translator(translate, memory, thread.ring, tracked)
    const carveout = { base: hello.carveoutBase, size: hello.carveoutSize }
    const power = new ModelPower(link, hello.smmus.length, written)
    this.#power = power
    const switches = thread.options.policyOptions.power !== undefined
    const ports = (tracked ?? hardware).map((port, index) =>
      switches ? gatedHardware(port, () => power.isOn(index)) : port,
    )
    const follows = (hello.features & STAGE2) !== 0
    this.#machine = {
      memory: new TracedMemory(oracles.watched(ram.memory), thread.ring),
      carveout,
      smmus: hello.smmus.map(({ base, size }, index) => ({ base, size, hardware: ports[index] })),
      devices: this.#devices,
      guard: oracles.watchedGuard(new WireGuard(link, thread.ring)),
      ...(follows && {
        el2: new WireEl2(link, thread.ring, registers => {
          if (oracles.el2 !== undefined) oracles.el2.registers = registers
        }),
      }),
      ...(switches && { power }),
    }
    this.#policy = thread.factory(this.#machine, {
      options: thread.options.policyOptions,
      report: thread.reporter,
      persist: () => this.#persist(),
    })
    const vcpu = new WaitingVcpu(link, hello.features)
    this.path = new TrapPath(thread, link, vcpu, this.#session, this.#policy, text => this.#panic(text))
    const inspector = new Inspector(this.#machine, this.#policy, ram.memory)
    this.operator = new Operator(this.#policy, inspector, thread, oracles.isolation)
    thread.breakpoints.connect(
      trap => inspector.commandsAhead(trap),
      (name, trap) => {
        const { write, offset } = trap
        return thread.kernel.within(name, { write, offset, pc: pcOf(trap) }, () => vcpu.callers(trap))
      },
    )
  }

  /**
   * Makes a policy for the machine.
   * @throws LinkClosed when QEMU speaks other versions or describes no machine, and what the policy throws
   */
  static open(thread: Thread, link: Link, hello: Hello): Connection {
    const version = agreedVersion(link, hello)
    const { carveoutBase, carveoutSize } = hello
    const fault = machineFault({ ...hello, carveout: { base: carveoutBase, size: carveoutSize } })
    if (fault !== undefined) refuse(link, hello, `the machine that QEMU describes: ${fault}`)
    const deaf = (hello.features & (STAGE2 | TLBI)) === STAGE2
    if (sharesTables(thread) && deaf)
      refuse(link, hello, "stage2 shared: QEMU does not tell of EL2's TLBI, behind which tables are used again")
    const ram = openRam(thread, link, hello)
    try {
      return new Connection(thread, link, hello, version, ram)
    } catch (error) {
      ram.close()
      throw error
    }
  }

  /** Answers hello. @throws LinkClosed when the machine is refused */
  welcome(): void {
    const { post } = this.#thread
    const hello = this.#hello
    const link = this.#link
    const takeOver = hello.resumed === 1 ? new TakeOver(this.#thread, link, hello, this.#policy) : undefined
    if (takeOver !== undefined) {
      this.path.resume(takeOver)
      this.#translator?.reset()
      this.#announceTranslator()
    }
    // Of a machine that is new nothing is judged before its reset.
    if (takeOver !== undefined && takeOver.lost === undefined) this.oracles.ready()
    this.#connectFaults()
    const { area, reason } = this.#ringArea()
    const unused = (area === undefined ? RING : 0) | (sharesTables(this.#thread) ? 0 : TLBI)
    const features = hello.features & ~unused
    encodeWelcome(link.out, hello.seq, this.#version, features >>> 0, this.#session)
    link.flush()
    const use = this.#openRing(area, reason)
    post('connected', hello, takeOver !== undefined, takeOver?.repairs ?? [], policyInfo(this.#policy))
    post('transport', use)
    if (takeOver?.lost !== undefined) post('lost', takeOver.lost)
    else this.#thread.onRefusal = undefined
    this.#served = true
    if (this.#unkept) this.path.keepNow()
  }

  /** Memory for a ring, or why there is none. @throws LinkClosed when the machine is refused for it */
  #ringArea(): { readonly area?: RingArea; readonly reason?: string } {
    const { options, post } = this.#thread
    const { transport = 'auto' } = options
    if (transport === 'socket') return {}
    const link = this.#link
    const offered = (this.#hello.features & RING) !== 0 && link.mayRing
    let reason = offered ? sharedMemoryFault() : 'QEMU offers none'
    try {
      if (reason === undefined) return { area: newRingArea((mapping, is) => post('mapped', mapping, is)) }
    } catch (error) {
      reason = (error as Error).message
    }
    if (transport === 'ring') refuse(link, this.#hello, `transport ring: ${reason}`)
    return { reason }
  }

  /** @throws LinkClosed when there has to be a ring, and QEMU does not take it */
  #openRing(area: RingArea | undefined, reason: string | undefined): TransportUse {
    const { kind: ram } = this.#ram
    if (area === undefined) return { frames: 'socket', ram, ...(reason !== undefined && { reason }) }
    const link = this.#link
    let status: number | undefined
    try {
      status = link.openRing(area)
    } finally {
      area.closeFile()
      if (status !== OK) area.free()
    }
    if (status === OK) return { frames: 'ring', ram }
    const text = `QEMU does not take it (status ${status})`
    if (this.#thread.options.transport !== 'ring') return { frames: 'socket', ram, reason: text }
    encodeQuit(link.out, link.nextSeq(), 1, `transport ring: ${text}`)
    link.flush()
    throw new LinkClosed(`transport ring: ${text}`)
  }

  /** The machine was reset: the one thing that helps a machine whose traps nobody can decide. */
  reset({ seq, cause, time }: Reset): void {
    const { ring, counters, injector, post } = this.#thread
    const link = this.#link
    const start = ring.now()
    if (this.path.lost !== undefined) this.#thread.onRefusal = undefined
    this.path.startOver()
    this.#thread.kernel.reset()
    this.#translator?.reset()
    this.#power.reset()
    this.oracles.begin()
    if (injector.armed) injector.reset(this.#policy)
    else this.#policy.reset()
    this.oracles.ready()
    this.#announceTranslator()
    this.path.checkpoints.keep(seq, OK, 0, 0)
    encodeReply(link.out, seq, OK, 0, 0)
    link.flush()
    ring.reset(cause, time, start, ring.now() - start)
    counters.add('resets')
    post('reset', cause)
  }

  /** @returns false when the machine translates by itself */
  translate(message: Translate): boolean {
    if (this.#translator === undefined) return false
    const pa = this.#translator.request(this.#link.out, message)
    this.#link.flush()
    if (pa >= 0) this.oracles.el2?.translated(pa)
    this.#thread.counters.add('translations')
    return true
  }

  /** EL2 waits until devices reach what it lets its host reach, and no more: in front of its return, or behind its TLBI. */
  stage2Changed({ seq, cpu, time, all, vttbrLo, vttbrHi, vtcrLo, vtcrHi, pages }: Stage2Changed): void {
    const { ring } = this.#thread
    const link = this.#link
    const start = ring.now()
    // What the message holds is gone with the next request.
    const addresses = pageAddresses(pages)
    ring.stage2(cpu, time, all === 1, vttbrLo, vttbrHi, vtcrLo, vtcrHi, pages, 0, pages.length)
    const change = { cpu, time, all: all === 1, vttbrLo, vttbrHi, vtcrLo, vtcrHi, pages: addresses }
    let followed: boolean
    try {
      followed = this.#follow(change)
    } catch (error) {
      // A policy's own copy of the class is another one.
      if ((error as Error).name !== 'HypFatal') throw error
      // The vCPU waits in EL2 for good.
      this.path.stop((error as Error).message)
      return
    }
    const status = followed ? OK : enums.status.aborted[0]
    const { el2 } = this.oracles
    if (el2 !== undefined) {
      el2.registers = { vttbrLo, vttbrHi, vtcrLo, vtcrHi }
      el2.changed(ring.now() - start)
      if (this.#violated(true)) return
    }
    this.path.checkpoints.keep(seq, status, 0, 0)
    encodeReply(link.out, seq, status, 0, 0)
    link.flush()
    ring.request(request.stage2Changed, status, start, ring.now() - start, vttbrLo, vttbrHi, addresses.length, all)
  }

  /** @throws HypFatal when what the options ask for is not possible on this machine */
  #follow(change: Stage2Change): boolean {
    const { injector } = this.#thread
    if (injector.armed) return injector.stage2Changed(this.#policy, change)
    return this.#policy.stage2Changed?.(change) ?? true
  }

  /** Between two messages. */
  sample(): void {
    this.#violated(false)
    // What QEMU told while its registers were read comes before its next message on the trace.
    this.path.settle()
  }

  /** @param waiting a vCPU waits in EL2 @returns whether the machine stands still for good: it is not isolated */
  #violated(waiting: boolean): boolean {
    const found = this.oracles.sample(waiting)
    if (found === undefined) return false
    if (waiting) this.path.stop(found.text)
    else this.#panic(found.text, found.details)
    return true
  }

  /** What was posted to the hardware did not lead to what it was to lead to. */
  postMismatch({ smmu, offset, value }: PostMismatch): void {
    const { ring } = this.#thread
    const start = ring.now()
    this.#policy.postMismatch?.(smmu)
    this.path.keepNow()
    ring.request(request.postMismatch, 0, start, ring.now() - start, smmu, offset, value, 0)
  }

  /** What is about to be armed is to see the next access: QEMU must not answer it by itself. */
  askAgain(): void {
    const { breakpoints, injector } = this.#thread
    if (breakpoints.armed || injector.armed || !this.#link.open) return
    for (const { hardware } of this.#machine.smmus) hardware.read(ARM_SMMU_IDR0, 4, { lo: 0, hi: 0 })
  }

  /** The guest has numbered buses, or devices came or went. */
  nameDevices(devices: readonly NamedDevice[]): void {
    this.#known.splice(0, Number.POSITIVE_INFINITY, ...devices)
    this.#devices.splice(0, Number.POSITIVE_INFINITY, ...devices)
    this.#thread.injector.renamed()
  }

  /** Of a report. */
  sections(): Sections {
    const oracle = this.oracles.report()
    const el2 = this.oracles.el2Report()
    return {
      ...policySections(this.#policy, this.#machine),
      ...this.#thread.sections(),
      ...(oracle && { oracle }),
      ...(el2 && { el2 }),
      ...(this.#translator && { translate: this.#translator.report() }),
    }
  }

  /** The connection has ended. */
  close(): void {
    this.path.holding.end()
    this.oracles.close()
    this.#ram.close()
  }

  /** The policy has begun what must be finished, or has finished it. */
  #persist(): void {
    if (this.#served) this.path.keepNow()
    else this.#unkept = true
  }

  /** Tells QEMU who translates. @throws LinkClosed, ProtocolError */
  #announceTranslator(): void {
    if (this.#translator === undefined) return
    const link = this.#link
    for (const index of this.#hello.smmus.keys()) {
      const seq = link.nextSeq()
      encodeTranslateMode(link.out, seq, index, enums.translateMode[this.#translator.mode][0])
      link.call(seq)
    }
  }

  /** @param details of a violation of isolation; absent: it is a hyp warning */
  #panic(text: string, details?: readonly string[]): void {
    const lines = oops(text, this.path.trap, this.#policy, details)
    this.#thread.post('panic', text, { ...this.sections(), oops: lines })
  }

  #connectFaults(): void {
    const { injector } = this.#thread
    try {
      injector.connect(this.#faultContext(), this.#hello.resumed === 1)
    } catch (error) {
      throw new LinkClosed(`faults: ${(error as Error).message}`)
    }
    if (this.#translator !== undefined) this.#translator.faults = injector
  }

  #faultContext(): FaultContext {
    const thread = this.#thread
    const link = this.#link
    const { operator, path } = this
    return {
      machine: this.#machine,
      policy: this.#policy,
      devices: this.#known,
      memory: this.#ram.memory,
      translates: this.#translator?.mode === 'server',
      clock: () => path.trap.time,
      irq(smmu, line) {
        const seq = link.nextSeq()
        encodeIrq(link.out, seq, smmu, line)
        link.call(seq)
      },
      invalidate(smmu) {
        const seq = link.nextSeq()
        encodeInvalidate(link.out, seq, smmu, enums.invalidateScope.all[0], 0)
        link.call(seq)
      },
      loseState: smmu => this.#power.lose(smmu),
      warn: (warning, trap, smmu) => thread.reporter.warn(warning, trap, smmu, 0, 0, 0, 0),
      donate: (base, size, vm) => operator.donate(base, size, vm),
      reclaim: (base, size, vm) => operator.reclaim(base, size, vm),
      cut() {
        throw new LinkClosed('a fault cut the connection')
      },
      garble: () => link.garble(),
      die() {
        thread.post('killed', thread.handover(0))
        process.exit(1)
      },
    }
  }
}

/** The highest version that both know. @throws LinkClosed when there is none: QEMU is told */
function agreedVersion(link: Link, hello: Hello): number {
  const version = Math.min(hello.maxVersion, VERSION.max)
  if (version >= Math.max(hello.minVersion, VERSION.min)) return version
  const theirs = `${hello.minVersion} to ${hello.maxVersion}`
  return refuse(link, hello, `QEMU speaks protocol versions ${theirs}, this server ${VERSION.min} to ${VERSION.max}`)
}

/** EL2's tables are the second stage: what it does behind its TLBI matters. */
const sharesTables = ({ options }: Thread): boolean => options.policyOptions.stage2 === 'shared'

/** The shared file if this server may open it, as memory where it is mapped; else over the wire. @throws RamFileRefused */
function openRam({ options, ram }: Thread, link: Link, hello: Hello): Ram {
  const file = openRamFile(hello.ram, options.ramFile, 'r+')
  const wire = new WireMemory(link, hello.ram)
  if (file === undefined) return { memory: wire, kind: 'wire', shared: false, close() {} }
  const own = file.fd === options.ramFile && ram !== undefined
  const memory = own ? new MappedMemory(ram, hello.ram) : new FileMemory(file.fd, hello.ram)
  try {
    if (!isSameMemory(memory, wire, hello)) {
      throw new RamFileRefused(`guest RAM ${hello.ram[0]?.path}: it is not the memory that QEMU uses`)
    }
  } catch (error) {
    file.close()
    throw error
  }
  return { memory, kind: own ? 'mapped' : 'file', shared: true, close: () => file.close() }
}
