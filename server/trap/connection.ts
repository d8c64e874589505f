// SPDX-License-Identifier: Apache-2.0
import { randomUUID } from 'node:crypto'
import {
  encodeInvalidate,
  encodeIrq,
  encodeReply,
  encodeTranslateMode,
  encodeWelcome,
  type Hello,
  type PostMismatch,
  type Reset,
  type Stage2Changed,
  type Translate,
} from '../../protocol/generated/messages.ts'
import { enums, VERSION } from '../../protocol/messages.ts'
import type { FaultContext } from '../faults/faultContext.ts'
import { FileMemory } from '../machine/fileMemory.ts'
import type { Machine } from '../machine/ports.ts'
import { idmapReach, type Reach, streamReaches } from '../oracle/agreement.ts'
import { machineFault } from '../policy/machineFault.ts'
import { type Policy, pageAddresses, policyInfo } from '../policy/policy.ts'
import { decodeFeatures } from '../smmu/features.ts'
import type { SmmuHardware } from '../smmu/hardware.ts'
import type { GuestMemory } from '../smmu/memory.ts'
import type { TableRegisters } from '../smmu/reach.ts'
import {
  ARM_SMMU_CR0,
  ARM_SMMU_GBPA,
  ARM_SMMU_IDR0,
  ARM_SMMU_IDR1,
  ARM_SMMU_IDR3,
  ARM_SMMU_IDR5,
  ARM_SMMU_STRTAB_BASE,
  ARM_SMMU_STRTAB_BASE_CFG,
  CR0_SMMUEN,
  GBPA_ABORT,
} from '../smmu/registers.ts'
import { request } from '../trace/records.ts'
import { TracedMemory } from '../trace/tracedMemory.ts'
import { TrackedHardware } from '../translate/trackedHardware.ts'
import { Translator } from '../translate/translator.ts'
import { LinkClosed } from './byteStream.ts'
import { El2Oracle } from './el2Oracle.ts'
import { Inspector } from './inspect.ts'
import type { Link } from './link.ts'
import type { Sections } from './messages.ts'
import { oops } from './oops.ts'
import { Operator } from './operator.ts'
import { openRamFile } from './ramFile.ts'
import { refuse } from './refusal.ts'
import { policySections } from './sections.ts'
import { TakeOver } from './takeOver.ts'
import type { Thread } from './thread.ts'
import { TrapPath } from './trapPath.ts'
import { WireEl2, WireGuard, WireHardware, WireMemory } from './wirePorts.ts'

const OK = enums.status.ok[0]

/** Guest memory whose accesses nobody records, and its end. */
interface Ram {
  readonly memory: GuestMemory
  /** It can be read when QEMU has ended, and without asking it. */
  readonly shared: boolean
  close(): void
}

/** A machine and its policy, from the machine's hello to the end of its connection. */
export class Connection {
  readonly path: TrapPath
  /** Operations that concern the machine. */
  readonly operator: Operator
  /** Absent: the vCPUs have no EL2, or memory cannot be read as a whole. */
  readonly el2: El2Oracle | undefined
  readonly #thread: Thread
  readonly #link: Link
  readonly #hello: Hello
  readonly #version: number
  readonly #session: string
  readonly #ram: Ram
  readonly #machine: Machine
  readonly #policy: Policy
  readonly #translator: Translator | undefined
  /** As they were read last. */
  #tableRegisters: readonly TableRegisters[] = []
  /** The machine is welcome; before, the policy's state is kept for it afterwards. */
  #served = false
  #unkept = false

  private constructor(thread: Thread, link: Link, hello: Hello, version: number, ram: Ram) {
    this.#thread = thread
    this.#link = link
    this.#hello = hello
    this.#version = version
    this.#session = hello.session === '' ? randomUUID() : hello.session
    this.#ram = ram
    // With breakpoints, every access is to come by.
    const capable = !thread.options.faithful && (hello.features & enums.feature.postedWrites[0]) !== 0
    const mayPost = () => capable && !thread.breakpoints.armed
    const hardware = hello.smmus.map((_, index) => new WireHardware(link, thread.ring, index, mayPost))
    const { translate = 'hardware' } = thread.options
    const tracked = translate === 'hardware' ? undefined : hardware.map(port => new TrackedHardware(port, ram.memory))
    // Faults stand in front of what the policy reads and writes, and of nothing else: the two have an object each.
    const memory = { plain: ram.memory, traced: new TracedMemory(ram.memory, thread.ring) }
    this.#translator = tracked && new Translator(translate, memory, thread.ring, tracked)
    const carveout = { base: hello.carveoutBase, size: hello.carveoutSize }
    const follows = (hello.features & enums.feature.stage2[0]) !== 0
    if (follows && ram.shared) {
      const reaches = (ask: boolean) => this.#reaches(ask)
      this.el2 = new El2Oracle(ram.memory, carveout, reaches, hello.vcpus, thread.options.oracle === true)
    }
    this.#machine = {
      memory: new TracedMemory(ram.memory, thread.ring),
      carveout,
      smmus: hello.smmus.map(({ base, size }, index) => ({ base, size, hardware: (tracked ?? hardware)[index] })),
      devices: hello.devices,
      guard: new WireGuard(link, thread.ring),
      ...(follows && {
        el2: new WireEl2(link, thread.ring, registers => {
          if (this.el2 !== undefined) this.el2.registers = registers
        }),
      }),
    }
    this.#policy = thread.factory(this.#machine, {
      options: thread.options.policyOptions,
      report: thread.reporter,
      persist: () => this.#persist(),
    })
    this.path = new TrapPath(thread, link, this.#session, this.#policy, text => this.#panic(text))
    const inspector = new Inspector(this.#machine, this.#policy, ram.memory)
    this.operator = new Operator(this.#policy, inspector, thread.ring)
    thread.breakpoints.connect(trap => inspector.commandsAhead(trap))
    thread.reporter.canaries = thread.options.canaries === true ? ram.memory : undefined
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
    this.#connectFaults()
    encodeWelcome(link.out, hello.seq, this.#version, hello.features, this.#session)
    link.flush()
    post('connected', hello, takeOver !== undefined, takeOver?.repairs ?? [], policyInfo(this.#policy))
    if (takeOver?.lost !== undefined) post('lost', takeOver.lost)
    else this.#thread.onRefusal = undefined
    this.#served = true
    if (this.#unkept) this.path.keepNow()
  }

  /** The machine was reset: the one thing that helps a machine whose traps nobody can decide. */
  reset({ seq, cause, time }: Reset): void {
    const { ring, counters, injector, post } = this.#thread
    const link = this.#link
    const start = ring.now()
    if (this.path.lost !== undefined) this.#thread.onRefusal = undefined
    this.path.startOver()
    this.#translator?.reset()
    this.el2?.forget()
    if (injector.armed) injector.reset(this.#policy)
    else this.#policy.reset()
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
    this.#translator.request(this.#link.out, message)
    this.#link.flush()
    this.#thread.counters.add('translations')
    return true
  }

  /** EL2 waits until devices reach what it lets its host reach, and no more. */
  stage2Changed({ seq, cpu, time, all, vttbrLo, vttbrHi, vtcrLo, vtcrHi, pages }: Stage2Changed): void {
    const { ring } = this.#thread
    const link = this.#link
    const start = ring.now()
    // What the message holds is gone with the next request.
    const addresses = pageAddresses(pages)
    ring.stage2(cpu, time, all === 1, vttbrLo, vttbrHi, vtcrLo, vtcrHi, pages, 0, pages.length)
    const change = { cpu, time, all: all === 1, vttbrLo, vttbrHi, vtcrLo, vtcrHi, pages: addresses }
    const { injector } = this.#thread
    const followed = injector.armed
      ? injector.stage2Changed(this.#policy, change)
      : (this.#policy.stage2Changed?.(change) ?? true)
    const status = followed ? OK : enums.status.aborted[0]
    if (this.el2 !== undefined) {
      this.el2.registers = { vttbrLo, vttbrHi, vtcrLo, vtcrHi }
      this.el2.changed(ring.now() - start)
      if (this.#violated(true)) return
    }
    this.path.checkpoints.keep(seq, status, 0, 0)
    encodeReply(link.out, seq, status, 0, 0)
    link.flush()
    ring.request(request.stage2Changed, status, start, ring.now() - start, vttbrLo, vttbrHi, addresses.length, all)
  }

  /** What devices reach memory through. @param ask the hardware's registers can be read; else as they were last */
  #reaches(ask: boolean): Reach[] {
    const { memory } = this.#ram
    const { inspect, observes } = this.#policy
    if (observes !== true) return (inspect?.faults.stage2() ?? []).map(table => idmapReach(memory, table))
    if (ask) {
      const { ring } = this.#thread
      const start = ring.now()
      this.#tableRegisters = this.#machine.smmus.map(({ hardware }) => tableRegisters(hardware))
      ring.request(request.other, 0, start, ring.now() - start, 0, 0, 0, 0)
    }
    return streamReaches(memory, this.#tableRegisters)
  }

  /** Between two messages. */
  sample(): void {
    this.#violated(false)
  }

  /** @param waiting a vCPU waits in EL2 @returns whether the machine stands still for good: it is not isolated */
  #violated(waiting: boolean): boolean {
    const violation = this.el2?.sample(this.#thread.ring.now(), waiting)
    if (violation === undefined) return false
    const text = `EL2 and the SMMU do not agree: ${violation}`
    if (waiting) this.path.stop(text)
    else this.#panic(text)
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

  /** Of a report. */
  sections(): Sections {
    return {
      ...policySections(this.#policy, this.#machine),
      ...this.#thread.sections(),
      ...(this.el2 && { el2: this.el2.report() }),
      ...(this.#translator && { translate: this.#translator.report() }),
    }
  }

  /** The connection has ended. */
  close(): void {
    this.path.holding.end()
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

  #panic(text: string): void {
    const lines = oops(text, this.path.trap, this.#policy)
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
      devices: this.#hello.devices,
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

/** The registers of an SMMU that lead to its tables. */
function tableRegisters(hardware: SmmuHardware): TableRegisters {
  const value = { lo: 0, hi: 0 }
  const read = (offset: number) => (hardware.read(offset, 4, value) ? value.lo : 0)
  const [idr0, idr1, idr3, idr5] = [ARM_SMMU_IDR0, ARM_SMMU_IDR1, ARM_SMMU_IDR3, ARM_SMMU_IDR5].map(read)
  const { sidSize, twoLevelStreamTable: twoLevel, oas } = decodeFeatures({ idr0, idr1, idr3, idr5 })
  const strtabBaseCfg = read(ARM_SMMU_STRTAB_BASE_CFG)
  const enabled = (read(ARM_SMMU_CR0) & CR0_SMMUEN) !== 0
  const aborts = (read(ARM_SMMU_GBPA) & GBPA_ABORT) !== 0
  const base = hardware.read(ARM_SMMU_STRTAB_BASE, 8, value) ? value : { lo: 0, hi: 0 }
  return { strtabBaseLo: base.lo, strtabBaseHi: base.hi, strtabBaseCfg, sidSize, twoLevel, oas, enabled, aborts }
}

/** The shared file if this server may open it; else over the wire. @throws RamFileRefused */
function openRam({ options }: Thread, link: Link, hello: Hello): Ram {
  const file = openRamFile(hello.ram, options.ramFile, 'r+')
  if (file === undefined) return { memory: new WireMemory(link, hello.ram), shared: false, close() {} }
  return { memory: new FileMemory(file.fd, hello.ram), shared: true, close: () => file.close() }
}
