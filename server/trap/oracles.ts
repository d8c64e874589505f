// SPDX-License-Identifier: Apache-2.0
/**
 * What is held against a machine while it runs, by code that asks no hypervisor (server/oracle): isolation by the results of
 * donations and reclaims, and what devices reach by EL2's own tables.
 */
import type { Hello } from '../../protocol/generated/messages.ts'
import { enums } from '../../protocol/messages.ts'
import type { CpuGuard } from '../machine/ports.ts'
import { idmapReach, type Reach, streamReaches } from '../oracle/agreement.ts'
import { IsolationOracle, type OracleState, type Violation } from '../oracle/isolationOracle.ts'
import { type Programmed, readFeatures, readProgrammed } from '../oracle/programmed.ts'
import type { Policy } from '../policy/policy.ts'
import type { Features } from '../smmu/features.ts'
import { readRegister } from '../smmu/hardware.ts'
import type { GuestMemory } from '../smmu/memory.ts'
import * as R from '../smmu/registers.ts'
import { count, HISTOGRAM_WORDS, percentiles } from '../trace/histogram.ts'
import { request } from '../trace/records.ts'
import { El2Oracle, type El2Report } from './el2Oracle.ts'
import type { Link } from './link.ts'
import type { OracleReport } from './oracleReport.ts'
import type { Thread } from './thread.ts'
import { WireHardware } from './wirePorts.ts'

/** Time between two samples, ns: one takes a fraction of a millisecond. */
const PERIOD = 1e8
/** Registers that nobody wrote are read again after so long: what they are asked for costs more than the rest of a sample. */
const REREAD = 1e9

/** What stops a machine. */
export interface Stop {
  readonly text: string
  /** What stood there, in lines. */
  readonly details: readonly string[]
}

/** Registers that say where the hardware reads tables and writes queues: nobody but this thread writes them. */
const LEADING: ReadonlySet<number> = new Set(
  [
    ...[R.ARM_SMMU_CR0, R.ARM_SMMU_GBPA, R.ARM_SMMU_STRTAB_BASE_CFG],
    ...[R.ARM_SMMU_STRTAB_BASE, R.ARM_SMMU_EVTQ_BASE, R.ARM_SMMU_PRIQ_BASE],
  ].flatMap(offset => [offset, offset + 4]),
)

/** Guest memory, and whether it can be read as a whole. */
interface Ram {
  readonly memory: GuestMemory
  readonly shared: boolean
}

export class Oracles {
  /** Absent: it was not asked for, or memory cannot be read as a whole. */
  readonly isolation: IsolationOracle | undefined
  /** Absent: the vCPUs have no EL2, or memory cannot be read as a whole. */
  readonly el2: El2Oracle | undefined
  readonly #thread: Thread
  readonly #memory: GuestMemory
  readonly #policy: () => Policy
  /** The oracles' own way to the hardware: no fault stands in front of it. */
  readonly #hardware: readonly WireHardware[]
  #features: readonly Features[] | undefined
  /** As the hardware's registers were read last. */
  #programmed: readonly Programmed[] = []
  /** They were written since. */
  #stale = true
  #due = 0
  /** When the registers are read again. */
  #reread = 0
  readonly #durations = new Uint32Array(HISTOGRAM_WORDS)
  #stopped = false
  /** QEMU has reset the hardware, and waits for us to hear of it: what its registers say is not what devices will meet. */
  #resetAhead = false

  constructor(thread: Thread, link: Link, hello: Hello, { memory, shared }: Ram, policy: () => Policy) {
    const { oracle = false } = thread.options
    const carveout = { base: hello.carveoutBase, size: hello.carveoutSize }
    this.#thread = thread
    this.#memory = memory
    this.#policy = policy
    this.#hardware = hello.smmus.map((_, index) => new WireHardware(link, thread.ring, index, () => false))
    if (!shared) return
    if ((hello.features & enums.feature.stage2[0]) !== 0) {
      const reaches = (ask: boolean) => this.#reaches(ask)
      this.el2 = new El2Oracle(memory, carveout, reaches, hello.vcpus, oracle)
    }
    if (!oracle) return
    const device = (smmu: number, sid: number) =>
      hello.devices.find(d => d.smmu === smmu && d.sid === sid)?.name ?? `stream ${sid}`
    const isolation = new IsolationOracle({ memory, carveout, frames: hello.smmus, device })
    this.isolation = isolation
    if (hello.resumed === 1) this.#resume(isolation, thread.oracleState())
    thread.oracleState = () => isolation.state
  }

  #resume(isolation: IsolationOracle, left: OracleState | null): void {
    if (left !== null) isolation.adopt(left)
    // Machines are saved before anything was donated.
    else if (this.#thread.options.restored === true) isolation.begin()
    else isolation.lose()
  }

  /** The machine is gone, its memory as well: what was known is for the next connection. */
  close(): void {
    if (this.isolation === undefined) return
    const { state } = this.isolation
    this.#thread.oracleState = () => state
  }

  // What is told of the machine.

  /** A reset is what QEMU asks for next, while registers are read: until `begin` nothing is judged. */
  resetAhead(): void {
    this.#resetAhead = true
  }

  /** The machine is being reset; the policy has not been yet. */
  begin(): void {
    this.#resetAhead = false
    this.el2?.forget()
    this.isolation?.begin()
    this.#stale = true
  }

  /** The policy is ready: it was reset, or goes on with a machine that ran before. */
  ready(): void {
    const { isolation } = this
    if (isolation === undefined || isolation.lost) return
    const { inspect } = this.#policy()
    const claims = inspect?.facilities.has('stage2') === true && inspect.sections().isolated === true
    isolation.judge(claims, inspect?.partitions)
  }

  /** Somebody writes a register of the hardware. */
  written(offset: number): void {
    if (LEADING.has(offset)) this.#stale = true
  }

  /** What the hypervisor reaches guest memory through. */
  watched(memory: GuestMemory): GuestMemory {
    const { isolation } = this
    if (isolation === undefined) return memory
    return {
      ram: memory.ram,
      read(address, target, targetOffset, length) {
        isolation.hypervisorReads(address, length)
        return memory.read(address, target, targetOffset, length)
      },
      write(address, source, sourceOffset, length) {
        isolation.hypervisorWrites(address, length)
        return memory.write(address, source, sourceOffset, length)
      },
    }
  }

  /** The CPU's guard, as QEMU acknowledges it. */
  watchedGuard(guard: CpuGuard): CpuGuard {
    const { isolation } = this
    if (isolation === undefined) return guard
    return {
      add(base, size) {
        const done = guard.add(base, size)
        if (done) isolation.guard.add(base, size)
        return done
      },
      remove(base, size) {
        isolation.opening(base, size)
        const done = guard.remove(base, size)
        if (done) isolation.guard.remove(base, size)
        return done
      },
    }
  }

  // What is found.

  /**
   * To be called often, between two messages; looks when it is time.
   * @param waiting a vCPU waits in EL2 for an answer that was not given yet
   * @returns why the machine has to stand still, once
   */
  sample(waiting: boolean): Stop | undefined {
    const { isolation, el2 } = this
    if (this.#stopped || (isolation === undefined && el2 === undefined)) return undefined
    const now = this.#thread.ring.now()
    // What is found while the hypervisor works is known already.
    if (isolation?.claims && isolation.violation === undefined && !waiting && now >= this.#due) {
      const programmed = this.#stale || now >= this.#reread ? this.#read() : this.#programmed
      if (this.#resetAhead) return undefined
      isolation.sample(programmed)
      const end = this.#thread.ring.now()
      count(this.#durations, 0, end - now)
      this.#due = end + PERIOD
    }
    const violation = isolation?.violation
    if (violation !== undefined) return this.#stop(violation.message, details(violation))
    // Between two messages: it is a request of its own on the trace.
    if (!waiting && el2 !== undefined && el2.registers !== null && el2.id === undefined) this.#identify(el2)
    const difference = el2?.sample(now, waiting)
    return difference === undefined ? undefined : this.#stop(`EL2 and the SMMU do not agree: ${difference}`, [])
  }

  #stop(text: string, details: readonly string[]): Stop {
    this.#stopped = true
    return { text, details }
  }

  /** Looks at all of it. @param ask the hardware can be asked; else its registers are as they were read last, if nobody wrote them since */
  whole(ask: boolean): void {
    const { isolation } = this
    if (!isolation?.claims) return
    const programmed = ask ? this.#read() : this.#stale ? [] : this.#programmed
    if (!this.#resetAhead) isolation.whole(programmed)
  }

  report(): OracleReport | undefined {
    const { isolation } = this
    if (isolation === undefined) return undefined
    const { p50, p90, p99, max } = percentiles(this.#durations)
    const sampleUs = { p50: p50 / 1000, p90: p90 / 1000, p99: p99 / 1000, max: max / 1000 }
    return { ...isolation.summary(), sampleUs }
  }

  el2Report(): El2Report | undefined {
    return this.el2?.report()
  }

  /** Reads the hardware's registers; that is a request of its own on the trace. */
  #read(): readonly Programmed[] {
    const { ring } = this.#thread
    const start = ring.now()
    const features = this.#features ?? this.#hardware.map(readFeatures)
    this.#features = features
    this.#programmed = this.#hardware.map((hardware, index) => readProgrammed(hardware, features[index]))
    this.#stale = false
    this.#reread = start + REREAD
    ring.request(request.other, 0, start, ring.now() - start, 0, 0, 0, 0)
    return this.#programmed
  }

  /** Reads ID registers of the first SMMU, once. */
  #identify(el2: El2Oracle): void {
    const [hardware] = this.#hardware
    if (hardware === undefined) return
    const { ring } = this.#thread
    const start = ring.now()
    const read = (offset: number) => readRegister(hardware, offset, 4).lo
    el2.id = {
      idr0: read(R.ARM_SMMU_IDR0),
      idr1: read(R.ARM_SMMU_IDR1),
      idr3: read(R.ARM_SMMU_IDR3),
      idr5: read(R.ARM_SMMU_IDR5),
    }
    ring.request(request.other, 0, start, ring.now() - start, 0, 0, 0, 0)
  }

  /** What devices reach memory through. @param ask the hardware's registers can be read; else as they were last */
  #reaches(ask: boolean): Reach[] {
    const { inspect, observes } = this.#policy()
    if (observes !== true) return (inspect?.faults.stage2() ?? []).map(table => idmapReach(this.#memory, table))
    const programmed = ask ? this.#read() : this.#programmed
    if (this.#resetAhead) return []
    return streamReaches(
      this.#memory,
      programmed.map(({ tables }) => tables),
    )
  }
}

/** A violation, in lines. */
function details({ page, stream, walk }: Violation): string[] {
  return [
    ...(page === undefined ? [] : [`page ${page}`]),
    ...(stream === undefined ? [] : [`stream ${stream.smmu}:0x${stream.sid.toString(16)}, ${stream.device}`]),
    ...walk.map(line => `  ${line}`),
  ]
}
