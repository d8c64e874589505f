// SPDX-License-Identifier: Apache-2.0
import { Injector } from '../faults/injector.ts'
import { view } from '../machine/sharedMemory.ts'
import type { OracleState } from '../oracle/isolationOracle.ts'
import type { PolicyFactory } from '../policy/policy.ts'
import { CountersWriter } from '../trace/counters.ts'
import { RingWriter } from '../trace/ring.ts'
import { RunningKernel } from '../trace/runningKernel.ts'
import { Breakpoints } from './breakpoints.ts'
import type { Handover, Post, Sections, ThreadOptions } from './messages.ts'
import { Reporter } from './reporter.ts'

/** What the trap thread has for as long as it lives: machines come and go. */
export class Thread {
  readonly options: ThreadOptions
  readonly factory: PolicyFactory
  readonly post: Post
  readonly ring: RingWriter
  readonly counters: CountersWriter
  readonly breakpoints = new Breakpoints()
  readonly reporter: Reporter
  readonly injector: Injector
  /** The file of guest RAM as memory of this thread; undefined: it is not mapped. */
  readonly ram: ArrayBuffer | undefined
  /** The kernel of the machine, for breakpoints in its functions. */
  readonly kernel = new RunningKernel()
  /** Traps that are held are parked: somebody may look with gdb. */
  debugged: boolean
  /** What the oracle of isolation knows of the machine, also of one whose connection was lost; null: nothing. */
  oracleState: () => OracleState | null = () => null
  /** For the machine that this thread was made for: what comes later is as with any server. */
  onRefusal: ThreadOptions['onRefusal']

  constructor(options: ThreadOptions, factory: PolicyFactory, post: Post) {
    this.options = options
    this.factory = factory
    this.post = post
    this.onRefusal = options.onRefusal
    this.debugged = options.debugged === true
    this.ram = options.ramMapping && view(options.ramMapping)
    this.ring = new RingWriter(options.ring)
    this.counters = new CountersWriter(options.counters)
    this.reporter = new Reporter(this.ring, this.counters, this.breakpoints)
    this.injector = new Injector(this.ring, firing => {
      this.counters.add('faults')
      post('fired', firing)
    })
    this.injector.prepare(options.faults)
  }

  /** The sections of a report that outlive a machine. */
  sections(): Sections {
    return { ...this.reporter.sections(), ...(this.injector.state && { faults: this.injector.status() }) }
  }

  /** @param held number of the trap that is held, 0: none */
  handover(held: number): Handover {
    return {
      held,
      breakpoints: this.breakpoints.list(),
      report: this.reporter.state,
      faults: this.injector.state,
      oracle: this.oracleState(),
      debugged: this.debugged,
    }
  }

  /** Takes what another thread left. */
  adopt({ breakpoints, report, faults, oracle, debugged }: Handover): void {
    this.debugged = debugged
    this.oracleState = () => oracle
    this.breakpoints.adopt(breakpoints)
    this.reporter.adopt(report)
    this.injector.adopt(faults)
  }
}
