// SPDX-License-Identifier: Apache-2.0
import { closeSync, openSync } from 'node:fs'
import { dirname } from 'node:path'
import type { Hello } from '../../protocol/generated/messages.ts'
import type { Session, SessionEnd } from '../control/session.ts'
import type { PluggableName } from '../machine/comingDevices.ts'
import { FileMemory } from '../machine/fileMemory.ts'
import { type GdbSymbols, gdbCommand } from '../machine/gdb.ts'
import { parseGuestEvent } from '../machine/guestEvents.ts'
import type { Hotplug, Plugged } from '../machine/hotplug.ts'
import { DESCRIPTIONS } from '../policy/builtin.ts'
import { NO_WARNINGS, type WarningTable } from '../policy/warnings.ts'
import { gdbSymbols } from '../run/gdbSymbols.ts'
import { DEFAULTS } from '../run/options.ts'
import { machineFailure } from '../run/outcome.ts'
import type { RunningMachine } from '../run/runningMachine.ts'
import { Stall } from '../run/stall.ts'
import { readConsoleLine } from '../sessions/console.ts'
import { hex } from '../smmu/bits.ts'
import { ARM_SMMU_CR0, CR0_SMMUEN } from '../smmu/registers.ts'
import type { Counters } from '../trace/counters.ts'
import { u32At } from '../trace/layout.ts'
import type { Recorder } from '../trace/recorder.ts'
import { pcOf } from '../trace/symbols.ts'
import { AttackRun } from './attackRun.ts'
import { AttackControl } from './attacks.ts'
import { BreakpointControl } from './breakpointControl.ts'
import { countersView } from './countersView.ts'
import { FaultControl } from './faultControl.ts'
import { Feed } from './feed.ts'
import { History } from './history.ts'
import { Inspection } from './inspection.ts'
import { type LaunchDefaults, launch } from './launch.ts'
import { Monitor } from './monitor.ts'
import { fileNames } from './namedFiles.ts'
import { Problem } from './problem.ts'
import { Rates } from './rates.ts'
import { Recordings } from './recordings.ts'
import {
  type CountersView,
  type EndStatus,
  type GdbView,
  type HardwareView,
  type HeldView,
  type MachineState,
  type MachineStatus,
  PHASES,
  type Phase,
  type StartOptions,
} from './schemas/lifecycle.ts'
import type { StatusItem } from './schemas/subscriptions.ts'
import type { LogEntry } from './trapLog.ts'

/** What the kernel of the guest can say of itself, the worst last. */
const GUEST_TROUBLE = ['oops', 'hung', 'panic'] as const

const STOP_GRACE_MS = 10_000
/** How long QEMU may take to listen for gdb. */
const GDB_MS = 5_000

/** Its symbols are read from `symbols`, or the image. */
type Kernel = { readonly version: string; readonly image?: string; readonly symbols?: string }

/** The one machine of a server, from its start to its end. */
export class MachineManager {
  readonly history = new History(entry => this.#group(entry))
  readonly attacks = new AttackControl()
  /** In process, beside the machine. */
  readonly attackRun: AttackRun
  readonly recordings: Recordings
  readonly rates = new Rates()
  readonly statuses = new Feed<StatusItem>(1_000)
  readonly breakpoints = new BreakpointControl(
    () => this.#changed(),
    () => this.history.functions.table(),
  )
  readonly monitor = new Monitor(
    () => this.breakpoints.held !== null,
    () => this.#session?.gdb !== undefined,
    paused => this.#paused(paused),
  )
  readonly faults = new FaultControl(
    () => this.counters(),
    () => this.monitor.query('query-blockstats'),
  )
  readonly #defaults: LaunchDefaults
  readonly #closing = new AbortController()
  #state: MachineState = 'off'
  #phase: Phase = 'off'
  #step: string | null = null
  #options: StartOptions | null = null
  #startedAt: string | null = null
  #kernel: string | null = null
  #end: EndStatus | null = null
  #run = 0
  #killed = false
  #guest: MachineStatus['guest'] = null
  #stalled: string | null = null
  #session: Session | undefined
  #inspection: Inspection | undefined
  /** Descriptor of guest RAM. */
  #ram: number | undefined
  #starting: AbortController | undefined
  /** Resolves when there is no machine any more. */
  #ended: Promise<void> = Promise.resolve()
  /** Of the current or the last machine. */
  #counters: Counters | undefined
  /** Of the machines before. */
  #lost = 0
  #refused = 0
  #recording: Recorder | undefined
  #notRecorded: string | null = null

  constructor(defaults: LaunchDefaults = {}) {
    this.#defaults = defaults
    this.recordings = new Recordings(defaults.runsFolder, this.closing)
    this.attackRun = new AttackRun(defaults.policyFile)
    this.#changed()
  }

  get hasOwnPolicy(): boolean {
    return this.#defaults.policyFile !== undefined
  }

  /** Files that a machine may be started with, by name. */
  get images(): string[] {
    return fileNames(this.#defaults.imagesFolder)
  }

  /** Warnings of the current or the last machine; of the policy that is asked for, or of `pkvm`, before there is one. */
  get warningTable(): WarningTable {
    const known = this.history.warningsAt()
    if (known.length > 0 || this.#session !== undefined) return known
    return DESCRIPTIONS.get(this.#options?.policy ?? DEFAULTS.policy)?.warnings ?? NO_WARNINGS
  }

  /** What is counted, of the current or the last machine; records that are missing, of all machines. */
  counters(): CountersView {
    const lost = this.#lost + (this.#session?.pump?.lost ?? 0)
    const refused = this.#refused + (this.#recorder?.refused ?? 0)
    return countersView(this.#counters, { lost, refused }, this.history.warningsAt())
  }

  /** Of the current or the last machine. */
  get #recorder(): Recorder | undefined {
    return this.#session?.recording ?? this.#recording
  }

  /** The files of the recording, with all that was recorded up to now; none when nothing is recorded. */
  async recordedSegments(): Promise<ReturnType<Recorder['segments']>> {
    this.#session?.pump?.drain()
    await this.#session?.recording?.sync()
    return this.#recorder?.segments() ?? []
  }

  status(): MachineStatus {
    const hello = this.#session?.hello
    const { held, breaking } = this.breakpoints
    return {
      state: held === null ? this.#state : 'held',
      phase: this.#phase,
      step: this.#step,
      options: this.#options,
      startedAt: this.#startedAt,
      kernel: this.#kernel,
      machine: hello ? describe(hello) : null,
      held: this.#heldTrap(),
      guest: this.#guest,
      stalled: this.#stalled,
      notRecorded: this.#notRecorded,
      breaking,
      end: this.#end,
      run: this.#run,
    }
  }

  /** The held trap with the kernel function that made it, once that is known. */
  #heldTrap(): HeldView | null {
    const { held } = this.breakpoints
    if (held === null) return null
    const { functions, log } = this.history
    const where = functions.name(log.next, pcOf(held.trap))
    // A call is the instruction before the address that it returns to.
    const callers = held.callers.map(address => functions.describe(log.next, address - 4n))
    return { ...held, ...(where !== undefined && { where }), callers }
  }

  /** Lets gdb attach to the guest. @param port see gdbServer. @throws Problem when there is no machine, or QEMU does not answer */
  async gdb(port?: number): Promise<GdbView> {
    const session = this.#session
    if (session === undefined) throw new Problem(409, 'there is no machine')
    try {
      const target = await session.openGdb(port, AbortSignal.timeout(GDB_MS))
      const symbols = await this.#gdbSymbols(dirname(session.console.logPath)).catch(() => undefined)
      return { target, symbols: symbols?.file ?? null, command: gdbCommand(target, symbols) }
    } catch (error) {
      throw new Problem(409, (error as Error).message)
    }
  }

  /** @returns undefined: it is not known what kernel it is, or not yet where. @throws Error when there are none */
  async #gdbSymbols(folder: string): Promise<GdbSymbols | undefined> {
    const { functions } = this.history
    const offset = await functions.offset()
    const { source } = functions
    return offset === undefined || source === undefined ? undefined : gdbSymbols(source, offset, folder)
  }

  /** Starts a machine; resolves when QEMU runs. @throws Problem */
  async start(options: StartOptions): Promise<void> {
    if (this.#state !== 'off') throw new Problem(409, `a machine is ${this.#state}`)
    const controller = new AbortController()
    this.#starting = controller
    this.#begin(options)
    let machine: RunningMachine | undefined
    try {
      const defaults: LaunchDefaults = {
        ...this.#defaults,
        progress: line => {
          this.#step = line
          this.#changed()
        },
      }
      machine = await launch(options, defaults, controller.signal, (session, kernel) => this.#take(session, kernel))
      if (options.breakFirst) await this.breakpoints.breakNext(true)
      this.#ended = this.#watch(machine)
    } catch (error) {
      await machine?.close()
      const { message } = error as Error
      this.#finish({ outcome: controller.signal.aborted ? 'killed' : 'failed-to-start', message, at: now() })
      throw error instanceof Problem ? error : new Problem(409, message)
    } finally {
      this.#starting = undefined
    }
  }

  /** Takes over a machine that was started elsewhere; its owner disposes of it. */
  adopt(session: Session, options: StartOptions, kernel: Kernel): void {
    this.#begin(options)
    this.#take(session, kernel)
    this.#ended = this.#watch({ session, dispose() {} })
  }

  /** Ends the machine now, whatever it does. */
  async kill(): Promise<void> {
    if (this.#state === 'off') throw new Problem(409, 'there is no machine')
    this.#killed = true
    this.#set('ending')
    this.#starting?.abort(new Error('ended before it ran'))
    await this.#session?.stop()
    await this.#ended
  }

  /** Aborted when all of it ends: nothing is worth waiting for any more. */
  get closing(): AbortSignal {
    return this.#closing.signal
  }

  /** Ends what runs. */
  async close(): Promise<void> {
    this.#closing.abort(new Problem(503, 'the server ends'))
    this.history.past.close()
    await Promise.all([this.attackRun.close(), this.#closeMachine()])
  }

  async #closeMachine(): Promise<void> {
    if (this.#state === 'off') return
    const timer = new Promise<void>(resolve => setTimeout(resolve, STOP_GRACE_MS).unref())
    await Promise.race([this.kill().catch(() => {}), timer])
  }

  get hotplug(): Hotplug | undefined {
    return this.#session?.hotplug
  }

  /** @throws Problem when there is no machine or no slot, or QEMU refuses */
  async plug(device: PluggableName): Promise<Plugged> {
    const plugged = await this.#hotplugged(hotplug => hotplug.add(device))
    this.#session?.lookAtDevices()
    return plugged
  }

  /** @throws Problem when there is no such device, or the guest keeps it */
  unplug(name: string): Promise<void> {
    return this.#hotplugged(hotplug => hotplug.remove(name))
  }

  async #hotplugged<T>(work: (hotplug: Hotplug) => Promise<T>): Promise<T> {
    const { hotplug } = this
    if (hotplug === undefined) throw new Problem(409, 'there is no machine')
    if (this.breakpoints.held !== null)
      throw new Problem(409, 'a trap is held, and with it all of QEMU: release it first')
    try {
      return await work(hotplug)
    } catch (error) {
      throw new Problem(409, (error as Error).message)
    }
  }

  /** Types into the serial console. @throws Problem when the guest takes no input. */
  type(text: string): void {
    const stdin = this.#session?.qemu.child.stdin
    if (!stdin?.writable) throw new Problem(409, 'there is no machine with an open console')
    stdin.write(text)
  }

  get inspection(): Inspection {
    if (this.#inspection === undefined) throw new Problem(409, 'no machine is running')
    return this.#inspection
  }

  #begin(options: StartOptions): void {
    this.#run++
    this.#state = 'preparing'
    this.#phase = 'qemu'
    this.#step = null
    this.#options = options
    this.#startedAt = now()
    this.#kernel = null
    this.#guest = null
    this.#stalled = null
    this.#notRecorded = null
    this.#end = null
    this.#killed = false
    this.#changed()
  }

  /** A session that was just started. */
  #take(session: Session, { version, image, symbols = image }: Kernel): void {
    this.#kernel = version
    this.#refused += this.#recording?.refused ?? 0
    this.#recording = undefined
    this.#session = session
    this.#state = 'starting'
    this.#counters = session.counters
    this.history.follow(session, symbols)
    session.pump?.add(
      new Stall(
        message => this.#waits(message),
        () => this.#waits(null),
      ),
    )
    session.console.once('data', () => this.#reached('kernel'))
    session.console.on('line', line => this.#line(line))
    session.on('connected', hello => this.#connected(session, hello))
    session.on('devices', devices => {
      this.#inspection?.named(devices)
      this.#changed()
    })
    session.on('reset', () => {
      // The first reset is that of the start.
      this.#phase = 'qemu'
      this.#guest = null
      this.#reached('kernel')
    })
    this.attacks.follow(session)
    this.breakpoints.follow(session.thread)
    this.faults.follow(session)
    void this.monitor.follow(session)
    this.#changed()
  }

  #connected(session: Session, hello: Hello): void {
    this.#state = 'running'
    const { thread } = session
    this.breakpoints.connected(this.#inspection !== undefined)
    if (thread !== undefined) {
      const ram = hello.ram.map(({ base, size, offset }) => ({ base, size, offset }))
      if (this.#ram !== undefined) closeSync(this.#ram)
      this.#ram = openSync(`/proc/self/fd/${session.ram}`, 'r')
      const memory = new FileMemory(this.#ram, ram)
      this.#inspection = new Inspection(thread, hello, memory, this.history.verdicts, () => session.pump?.drain())
    }
    this.#changed()
  }

  async #watch(machine: Pick<RunningMachine, 'session' | 'dispose'>): Promise<void> {
    let end: EndStatus
    try {
      end = this.#judge(await machine.session.ended)
    } catch (error) {
      end = { outcome: 'qemu-died', message: (error as Error).message, at: now() }
    }
    machine.dispose()
    this.#finish(end)
  }

  #judge(end: SessionEnd): EndStatus {
    const killed = this.#killed ? ({ outcome: 'killed', message: 'ended from here' } as const) : undefined
    return { ...(machineFailure(end, killed) ?? { outcome: 'ok', message: 'the guest powered off' }), at: now() }
  }

  #finish(end: EndStatus): void {
    this.faults.ended()
    this.monitor.ended()
    this.breakpoints.ended()
    this.#lost += this.#session?.pump?.lost ?? 0
    this.#lookAtRecording()
    this.#recording = this.#recorder
    this.#session = undefined
    this.#inspection = undefined
    if (this.#ram !== undefined) closeSync(this.#ram)
    this.#ram = undefined
    this.#end = end
    this.#state = 'off'
    this.#phase = 'off'
    this.#changed()
  }

  #group({ layout, words, at }: LogEntry): void {
    if (this.#phase !== 'kernel' || layout.name !== 'trap') return
    const { write, offset, lo } = u32At.trap
    const smmuOn =
      words[at + write] === 1 && words[at + offset] === ARM_SMMU_CR0 && ((words[at + lo] ?? 0) & CR0_SMMUEN) !== 0
    if (smmuOn) this.#reached('smmu')
  }

  /** Whether the disk takes what is recorded may have changed. */
  #lookAtRecording(): void {
    const session = this.#session
    if (session === undefined) return
    const reason = session.notRecorded ?? session.recording?.refusal ?? null
    if (reason === this.#notRecorded) return
    const before = this.#notRecorded
    this.#notRecorded = reason
    if (before === null || reason === null)
      this.history.told('recording', reason === null ? 'recorded again' : 'not recorded', reason ?? '')
    this.#changed()
  }

  /** Takes a point of the history, where a machine runs. */
  sample(): void {
    this.#lookAtRecording()
    const counters = this.#session?.counters
    if (counters !== undefined) this.rates.sample(this.#run, Date.now(), counters.get('reads') + counters.get('writes'))
  }

  #line(line: string): void {
    const { verdict } = readConsoleLine(line) ?? {}
    const trouble = GUEST_TROUBLE.find(kind => verdict === `guest-${kind}`)
    if (trouble !== undefined) {
      this.history.told('guest', `guest ${trouble}`, line)
      if (this.#guest === null || GUEST_TROUBLE.indexOf(trouble) > GUEST_TROUBLE.indexOf(this.#guest)) {
        this.#guest = trouble
        this.#changed()
      }
    }
    const event = parseGuestEvent(line)
    if (event === undefined) return
    this.#step = event.name === undefined ? event.event : `${event.event} ${event.name}`
    if (event.event === 'userspace') this.#reached('userspace')
    else if (event.event === 'done') this.#reached('done')
    else this.#changed()
  }

  /** The guest waits in vain, or goes on. */
  #waits(why: string | null): void {
    this.#stalled = why
    this.history.told('guest', why === null ? 'guest goes on' : 'guest stalled', why ?? '')
    this.#changed()
  }

  #reached(phase: Phase): void {
    if (PHASES.indexOf(phase) <= PHASES.indexOf(this.#phase)) return
    this.#phase = phase
    this.#changed()
  }

  /** The vCPUs stopped, or run again. */
  #paused(paused: boolean): void {
    if (paused && (this.#state === 'running' || this.#state === 'starting')) this.#set('paused')
    if (!paused && this.#state === 'paused') this.#set('running')
  }

  #set(state: MachineState): void {
    if (this.#state === 'off' || this.#state === state) return
    this.#state = state
    this.#changed()
  }

  #changed(): void {
    this.statuses.push({ status: this.status() })
  }
}

const now = (): string => new Date().toISOString()

function describe(hello: Hello): HardwareView {
  return {
    qemu: hello.qemuVersion,
    vcpus: hello.vcpus,
    carveout: { base: hex(hello.carveoutBase), size: hello.carveoutSize },
    ram: hello.ram.map(({ base, size }) => ({ base: hex(base), size })),
    smmus: hello.smmus.map(({ base, size }) => ({ base: hex(base), size })),
    devices: hello.devices.map(({ smmu, sid, name, model }) => ({ smmu, sid, name, model })),
  }
}
