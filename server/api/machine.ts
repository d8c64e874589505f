// SPDX-License-Identifier: Apache-2.0
import { closeSync, openSync } from 'node:fs'
import { StringDecoder } from 'node:string_decoder'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Hello } from '../../protocol/generated/messages.ts'
import { FaultController } from '../control/faultController.ts'
import type { Session, SessionEnd } from '../control/session.ts'
import type { TrapThread } from '../control/trapThread.ts'
import type { FaultStatus } from '../faults/injector.ts'
import type { FaultRule } from '../faults/rule.ts'
import { HYP_WARNINGS } from '../hypervisor/pkvm/warnings.ts'
import { FileMemory } from '../machine/fileMemory.ts'
import { parseGuestEvent } from '../machine/guestEvents.ts'
import type { Qmp } from '../machine/qmp.ts'
import { formatWarningValues } from '../policy/warnings.ts'
import { machineFailure } from '../run/outcome.ts'
import type { RunningMachine } from '../run/runningMachine.ts'
import { hex } from '../smmu/bits.ts'
import { decodeEvent, describeEvent, eventName } from '../smmu/events.ts'
import { ARM_SMMU_CR0, CR0_SMMUEN } from '../smmu/registers.ts'
import type { Counters } from '../trace/counters.ts'
import { describeRecord } from '../trace/describe.ts'
import { u32At } from '../trace/layout.ts'
import type { Recorder } from '../trace/recorder.ts'
import { roots, type TraceRecord } from '../trace/records.ts'
import { pcOf } from '../trace/symbols.ts'
import type { Breakpoint, BreakpointSpec } from '../trap/breakpoints.ts'
import { type HeldTrap, OperationError, type Release } from '../trap/operations.ts'
import { Feed } from './feed.ts'
import { words } from './hex.ts'
import { Inspection } from './inspection.ts'
import { KernelFunctions } from './kernelFunctions.ts'
import { type LaunchDefaults, launch } from './launch.ts'
import { Problem } from './problems.ts'
import type { FaultEffect, FiringItem } from './schemas/faults.ts'
import {
  type CountersView,
  type EndStatus,
  type HardwareView,
  type HeldView,
  type MachineState,
  type MachineStatus,
  PHASES,
  type Phase,
  type QmpCommand,
  type StartOptions,
} from './schemas/lifecycle.ts'
import type { ConsoleItem, StatusItem } from './schemas/subscriptions.ts'
import type { EventItem, WarningItem } from './schemas/trace.ts'
import { disks, nothing, span, type Tally } from './tally.ts'
import { type LogEntry, TrapLog } from './trapLog.ts'
import { Traps } from './traps.ts'
import { Verdicts } from './verdicts.ts'

/** Chunks of console that are kept: the scrollback of somebody who comes late. */
const CONSOLE_CHUNKS = 20_000
const MAX_CHUNK = 4096
const EVENTS = 5_000
const STOP_GRACE_MS = 10_000

const QMP_TIMEOUT_MS = 3_000
/** What the trap thread may take to say that it is between two traps. */
const SETTLE_MS = 1_000

/** The one machine of a server: its life, what it told, and what can be done with it. */
export class MachineManager {
  readonly log = new TrapLog()
  readonly functions = new KernelFunctions()
  readonly traps = new Traps(this.log, this.functions)
  readonly verdicts = new Verdicts(this.log)
  readonly events = new Feed<EventItem>(EVENTS)
  readonly warnings = new Feed<WarningItem>(EVENTS)
  readonly firings = new Feed<FiringItem>(EVENTS)
  readonly console = new Feed<ConsoleItem>(CONSOLE_CHUNKS)
  readonly statuses = new Feed<StatusItem>(1_000)
  readonly #defaults: LaunchDefaults
  readonly #breakpoints = new Map<number, BreakpointSpec>()
  #nextBreakpoint = 1
  #state: MachineState = 'off'
  #phase: Phase = 'off'
  #step: string | null = null
  #options: StartOptions | null = null
  #startedAt: string | null = null
  #kernel: string | null = null
  #held: HeldTrap | null = null
  #breaking = false
  #end: EndStatus | null = null
  #run = 0
  #killed = false
  #session: Session | undefined
  #qmp: Qmp | undefined
  #inspection: Inspection | undefined
  /** Descriptor of guest RAM. */
  #ram: number | undefined
  #starting: AbortController | undefined
  /** Resolves when there is no machine any more. */
  #ended: Promise<void> = Promise.resolve()
  /** Counters of the current or the last machine. */
  counters: Counters | undefined
  #lost = 0
  /** Around the rules that were armed from here: since when is compared, when they were armed, when disarmed. */
  #marks: { readonly from: Tally; readonly armed?: Tally; readonly to?: Tally } = { from: nothing(Date.now()) }
  #recording: Recorder | undefined

  constructor(defaults: LaunchDefaults = {}) {
    this.#defaults = defaults
    this.log.onRecord = record => this.#record(record)
    this.log.onGroup = entry => this.#group(entry)
    this.#changed()
  }

  /** Of this run, or of the last one. */
  get recording(): Recorder | undefined {
    return this.#session?.recording ?? this.#recording
  }

  /** The files of the recording, with all that was recorded up to now; none when nothing is recorded. */
  async recordedSegments(): Promise<ReturnType<Recorder['segments']>> {
    this.#session?.pump?.drain()
    await this.#session?.recording?.sync()
    return this.recording?.segments() ?? []
  }

  get hasOwnPolicy(): boolean {
    return this.#defaults.policyFile !== undefined
  }

  /** Records that the ring lost, of all machines. */
  get lost(): number {
    return this.#lost + (this.#session?.pump?.lost ?? 0)
  }

  status(): MachineStatus {
    const hello = this.#session?.hello
    return {
      state: this.#held === null ? this.#state : 'held',
      phase: this.#phase,
      step: this.#step,
      options: this.#options,
      startedAt: this.#startedAt,
      kernel: this.#kernel,
      machine: hello ? describe(hello) : null,
      held: this.#heldTrap(),
      breaking: this.#breaking,
      end: this.#end,
      run: this.#run,
    }
  }

  /** The held trap with the kernel function that made it, once that is known. */
  #heldTrap(): HeldView | null {
    if (this.#held === null) return null
    const where = this.functions.name(this.log.next, pcOf(this.#held.trap))
    return { ...this.#held, ...(where !== undefined && { where }) }
  }

  /** Starts a machine; resolves when QEMU runs. @throws Problem */
  async start(options: StartOptions): Promise<void> {
    if (this.#state !== 'off') throw new Problem(409, `a machine is ${this.#state}`)
    const controller = new AbortController()
    this.#starting = controller
    this.#begin(options)
    try {
      const defaults: LaunchDefaults = {
        ...this.#defaults,
        progress: line => {
          this.#step = line
          this.#changed()
        },
      }
      const launched = await launch(options, defaults, controller.signal, (session, kernel) => {
        this.#kernel = kernel.version
        this.#take(session, kernel.image)
      })
      if (options.breakFirst) await this.breakNext(true)
      this.#ended = this.#watch(launched)
    } catch (error) {
      this.#finish({
        outcome: controller.signal.aborted ? 'killed' : 'failed-to-start',
        message: (error as Error).message,
        at: new Date().toISOString(),
      })
      throw error instanceof Problem ? error : new Problem(409, (error as Error).message)
    } finally {
      this.#starting = undefined
    }
  }

  /** Takes over a machine that somebody else started and will dispose of. */
  adopt(session: Session, options: StartOptions, kernel: { readonly version: string; readonly image?: string }): void {
    this.#begin(options)
    this.#kernel = kernel.version
    this.#take(session, kernel.image)
    this.#ended = this.#watch({ session, dispose() {} })
  }

  #begin(options: StartOptions): void {
    this.#run++
    this.#state = 'preparing'
    this.#phase = 'qemu'
    this.#step = null
    this.#options = options
    this.#startedAt = new Date().toISOString()
    this.#kernel = null
    this.#end = null
    this.#killed = false
    this.#changed()
  }

  /** A session that was just started. @param image its kernel, where that is known. */
  #take(session: Session, image: string | undefined): void {
    this.#session = session
    this.functions.machine(image, this.log.next)
    this.#state = 'starting'
    this.counters = session.counters
    this.#marks = { from: nothing(Date.now()) }
    session.pump?.add(this.log)
    const decoder = new StringDecoder('utf8')
    session.console.on('data', chunk => {
      const text = decoder.write(chunk)
      for (let at = 0; at < text.length; at += MAX_CHUNK) this.console.push({ text: text.slice(at, at + MAX_CHUNK) })
    })
    session.console.once('data', () => this.#reached('kernel'))
    session.console.on('line', line => this.#line(line))
    session.on('connected', hello => this.#connected(session, hello))
    session.on('reset', () => {
      // The first comes with the start.
      this.#phase = 'qemu'
      this.#reached('kernel')
    })
    session.thread?.on('held', held => {
      this.#held = held
      this.#breaking = false
      const { breakpoint } = held.hit
      if (this.#breakpoints.get(breakpoint)?.once) this.#breakpoints.delete(breakpoint)
      this.#changed()
    })
    session.thread?.on('fired', firing => this.firings.push({ at: new Date().toISOString(), ...firing }))
    session.thread?.on('released', () => {
      this.#held = null
      this.#changed()
    })
    for (const [id, spec] of this.#breakpoints) void session.thread?.call('addBreakpoint', spec, id).catch(() => {})
    void this.#connectQmp(session)
    this.#changed()
  }

  #connected(session: Session, hello: Hello): void {
    this.#state = 'running'
    this.#held = null
    this.#breaking = false
    const { thread } = session
    if (thread !== undefined) {
      const again = this.#inspection !== undefined
      const ram = hello.ram.map(({ base, size, offset }) => ({ base, size, offset }))
      if (this.#ram !== undefined) closeSync(this.#ram)
      this.#ram = openSync(session.ramFile, 'r')
      this.#inspection = new Inspection(thread, hello, new FileMemory(this.#ram, ram), this.verdicts, () =>
        session.pump?.drain(),
      )
      // New code of the trap thread knows of no breakpoints.
      if (again) for (const [id, spec] of this.#breakpoints) void thread.call('addBreakpoint', spec, id).catch(() => {})
    }
    this.#changed()
  }

  async #connectQmp(session: Session): Promise<void> {
    const signal = AbortSignal.timeout(60_000)
    try {
      const qmp = await session.qmp(signal)
      if (this.#session !== session) return
      this.#qmp = qmp
      qmp.on('event', ({ event }) => {
        if (event === 'STOP' && this.#state === 'running') this.#set('paused')
        if (event === 'RESUME' && this.#state === 'paused') this.#set('running')
      })
    } catch {} // QEMU ended, or is too busy: lifecycle requests will say so
  }

  async #watch(launched: Pick<RunningMachine, 'session' | 'dispose'>): Promise<void> {
    const { session } = launched
    let end: EndStatus
    try {
      end = this.#judge(await session.ended)
    } catch (error) {
      end = { outcome: 'qemu-died', message: (error as Error).message, at: new Date().toISOString() }
    }
    launched.dispose()
    this.#finish(end)
  }

  #judge(end: SessionEnd): EndStatus {
    const at = new Date().toISOString()
    const killed = this.#killed ? ({ outcome: 'killed', message: 'ended from here' } as const) : undefined
    return { ...(machineFailure(end, killed) ?? { outcome: 'ok', message: 'the guest powered off' }), at }
  }

  #finish(end: EndStatus): void {
    this.#lost += this.#session?.pump?.lost ?? 0
    this.#marks = { to: { ...this.#counted(), disk: null }, ...this.#marks }
    this.#recording = this.#session?.recording ?? this.#recording
    this.#qmp = undefined
    this.#session = undefined
    this.#inspection = undefined
    if (this.#ram !== undefined) closeSync(this.#ram)
    this.#ram = undefined
    this.#held = null
    this.#breaking = false
    this.#end = end
    this.#state = 'off'
    this.#phase = 'off'
    this.#changed()
  }

  // Life.

  async pause(): Promise<void> {
    await this.#execute('stop')
    this.#set('paused')
  }

  async resume(): Promise<void> {
    await this.#execute('cont')
    this.#set('running')
  }

  async reset(): Promise<void> {
    await this.#inTime(() => this.#session?.reset(AbortSignal.timeout(QMP_TIMEOUT_MS)))
  }

  async powerOff(): Promise<void> {
    await this.#execute('system_powerdown')
  }

  /** Ends the machine now, whatever it does. */
  async kill(): Promise<void> {
    if (this.#state === 'off') throw new Problem(409, 'there is no machine')
    this.#killed = true
    this.#set('ending')
    this.#starting?.abort(new Error('ended before it ran'))
    await this.#session?.qemu.stop()
    await this.#ended
  }

  /** Ends what runs. */
  async close(): Promise<void> {
    if (this.#state === 'off') return
    const timer = new Promise<void>(resolve => setTimeout(resolve, STOP_GRACE_MS).unref())
    await Promise.race([this.kill().catch(() => {}), timer])
  }

  qmp(command: QmpCommand): Promise<unknown> {
    return this.#execute(command)
  }

  #execute(command: string): Promise<unknown> {
    return this.#inTime(qmp => qmp.execute(command))
  }

  /** What QEMU is asked for. @throws Problem when nobody is there to answer, or does not */
  async #inTime<T>(ask: (qmp: Qmp) => T | Promise<T>): Promise<T> {
    if (this.#held !== null) throw new Problem(409, 'a trap is held, and with it all of QEMU: release it first')
    const qmp = this.#qmp
    if (qmp === undefined) throw new Problem(409, 'there is no machine that answers')
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Problem(409, 'QEMU does not answer')), QMP_TIMEOUT_MS)
    })
    try {
      return await Promise.race([ask(qmp), late])
    } finally {
      clearTimeout(timer)
    }
  }

  /** @throws Problem when the guest takes no input. */
  type(text: string): void {
    const stdin = this.#session?.qemu.child.stdin
    if (!stdin?.writable) throw new Problem(409, 'there is no machine that listens')
    stdin.write(text)
  }

  // Looking.

  get inspection(): Inspection {
    if (this.#inspection === undefined) throw new Problem(409, 'no machine is running')
    return this.#inspection
  }

  // Breakpoints. They outlive machines: set one, then start.

  async breakpoints(): Promise<Breakpoint[]> {
    const live = (await this.#session?.thread?.call('breakpoints').catch(() => [])) ?? []
    const byId = new Map(live.map(b => [b.id, b]))
    return [...this.#breakpoints].map(([id, spec]) => byId.get(id) ?? { ...spec, id, matches: 0 })
  }

  async addBreakpoint(spec: BreakpointSpec): Promise<Breakpoint> {
    const id = this.#nextBreakpoint++
    const added = await this.#session?.thread?.call('addBreakpoint', spec, id)
    this.#breakpoints.set(id, spec)
    return added ?? { ...spec, id, matches: 0 }
  }

  async removeBreakpoint(id: number): Promise<void> {
    if (!this.#breakpoints.delete(id)) throw new Problem(404, `no breakpoint ${id}`)
    await this.#session?.thread?.call('removeBreakpoint', id).catch(ignoreAbsent)
  }

  async enableBreakpoint(id: number, enabled: boolean): Promise<void> {
    const spec = this.#breakpoints.get(id)
    if (spec === undefined) throw new Problem(404, `no breakpoint ${id}`)
    this.#breakpoints.set(id, { ...spec, enabled })
    await this.#session?.thread?.call('enableBreakpoint', id, enabled).catch(ignoreAbsent)
  }

  // Faults. They belong to the machine that runs.

  get #armory(): { readonly session: Session; readonly thread: TrapThread } {
    const session = this.#session
    if (session?.thread === undefined) throw new Problem(409, 'there is no machine with a server of its own')
    return { session, thread: session.thread }
  }

  async faults(): Promise<FaultStatus> {
    const nothing = { armed: false, seed: 0, plan: [], rules: [], firings: [] }
    return (await this.#session?.thread?.call('faults').catch(() => nothing)) ?? nothing
  }

  async armFaults(rules: readonly FaultRule[], seed: number): Promise<void> {
    const { session, thread } = this.#armory
    await this.#settled()
    const [armed] = await Promise.all([this.#tally(), thread.call('armFaults', rules, seed)])
    FaultController.of(session).watch(rules)
    this.#marks = { from: this.#marks.to ?? this.#marks.armed ?? this.#marks.from, armed }
  }

  async disarmFaults(): Promise<void> {
    const { session, thread } = this.#armory
    await this.#settled()
    const [to] = await Promise.all([this.#tally(), thread.call('disarmFaults')])
    FaultController.of(session).watch([])
    if (this.#marks.armed !== undefined) this.#marks = { to, ...this.#marks }
  }

  /**
   * What was counted before rules were armed from here, since the machine started or the rules before them ended, and what
   * since, until they were disarmed. Null when none were.
   */
  async faultEffect(): Promise<FaultEffect | null> {
    const { from, armed, to } = this.#marks
    if (armed === undefined) return null
    await this.#settled()
    return { before: span(from, armed), since: span(armed, to ?? (await this.#tally())), over: to !== undefined }
  }

  /**
   * The trap thread counts a trap after it answered: what the guest has seen until now is counted when this resolves. One that
   * stands still, because a fault delays it, counts nothing meanwhile.
   */
  async #settled(): Promise<void> {
    const settled = this.#session?.thread?.call('held').catch(ignoreAbsent)
    await Promise.race([settled, sleep(SETTLE_MS, undefined, { ref: false })])
  }

  async #tally(): Promise<Tally> {
    const counted = this.#counted()
    return { ...counted, disk: disks(await this.#execute('query-blockstats').catch(() => null)) }
  }

  #counted(): Omit<Tally, 'disk'> {
    const { traps, aborted, gerrors, guardFaults, warnings, events } = snapshot(this)
    return { at: Date.now(), traps, aborted, gerrors, guardFaults, warnings, events }
  }

  async fireFault(rule: string): Promise<void> {
    await this.#armory.thread.call('fireFault', rule)
  }

  async breakNext(on: boolean): Promise<void> {
    const { thread } = this.#session ?? {}
    if (thread === undefined) throw new Problem(409, 'there is no machine')
    await thread.call('breakNext', on)
    this.#breaking = on && this.#held === null
    this.#changed()
  }

  async release(how: Release): Promise<void> {
    const { thread } = this.#session ?? {}
    if (thread === undefined || this.#held === null) throw new Problem(409, 'no trap is held')
    await thread.call('release', how)
  }

  // What the trace tells.

  #record(record: TraceRecord): void {
    const at = new Date().toISOString()
    switch (record.kind) {
      case 'warning': {
        const warning = HYP_WARNINGS[record.id - 1]
        if (warning === undefined) return
        const { code, section, meaning, expected } = warning
        const values = formatWarningValues(warning, [record.v0, record.v1, record.v2, record.v3])
        this.warnings.push({ at, code, section, meaning, expected, values, row: this.log.next })
        return
      }
      case 'event': {
        const event = decodeEvent(words(record.bytes))
        const text = describeEvent(event)
        this.events.push({ at, kind: 'event', name: eventName(event.id), text, smmu: record.smmu, sid: event.streamId })
        return
      }
      case 'gerror':
      case 'guardFault':
      case 'lost':
      case 'fault':
      case 'machine':
        this.events.push({ at, kind: record.kind, name: record.kind, text: describeRecord(record) })
        return
      default:
        return
    }
  }

  #group(entry: LogEntry): void {
    this.verdicts.group(entry)
    this.functions.group(entry)
    const { layout, words, at } = entry
    if (this.#phase !== 'kernel' || !roots.has(layout.name) || layout.name !== 'trap') return
    const { write, offset, lo } = u32At.trap
    const smmuOn =
      words[at + write] === 1 && words[at + offset] === ARM_SMMU_CR0 && ((words[at + lo] ?? 0) & CR0_SMMUEN) !== 0
    if (smmuOn) this.#reached('smmu')
  }

  #line(line: string): void {
    const event = parseGuestEvent(line)
    if (event === undefined) return
    this.#step = event.name === undefined ? event.event : `${event.event} ${event.name}`
    if (event.event === 'userspace') this.#reached('userspace')
    else if (event.event === 'done') this.#reached('done')
    else this.#changed()
  }

  #reached(phase: Phase): void {
    if (PHASES.indexOf(phase) <= PHASES.indexOf(this.#phase)) return
    this.#phase = phase
    this.#changed()
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

function ignoreAbsent(error: unknown): void {
  if (!(error instanceof OperationError)) throw error
}

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

/** Everything counted, for a snapshot. */
export function snapshot(manager: MachineManager): CountersView {
  const { counters } = manager
  const us = (ns: number) => Math.round(ns / 10) / 100
  const quantiles = (p: { p50: number; p90: number; p99: number; max: number } | undefined) =>
    p ? { p50: us(p.p50), p90: us(p.p90), p99: us(p.p99), max: us(p.max) } : { p50: 0, p90: 0, p99: 0, max: 0 }
  const get = (name: Parameters<Counters['get']>[0]) => counters?.get(name) ?? 0
  return {
    traps: get('reads') + get('writes'),
    reads: get('reads'),
    writes: get('writes'),
    aborted: get('aborted'),
    hardwareReads: get('hardwareReads'),
    hardwareWrites: get('hardwareWrites'),
    gerrors: get('gerrors'),
    guardFaults: get('guardFaults'),
    resets: get('resets'),
    breakpoints: get('breakpoints'),
    lost: manager.lost,
    latencyUs: quantiles(counters?.latency()),
    serverUs: quantiles(counters?.server()),
    registers: (counters?.registers() ?? []).map(({ register, offset, reads, writes }) => ({
      register,
      offset,
      reads,
      writes,
    })),
    commands: (counters?.commands() ?? []).map(({ opcode, command, kept, rewritten, dropped, own }) => ({
      opcode,
      command,
      kept,
      rewritten,
      dropped,
      own,
    })),
    warnings: (counters?.warnings() ?? []).map(({ id, count }) => ({
      code: HYP_WARNINGS[id - 1]?.code ?? String(id),
      expected: HYP_WARNINGS[id - 1]?.expected ?? false,
      count,
    })),
    events: (counters?.events() ?? []).map(({ id, count }) => ({ name: eventName(id), count })),
    histogram: counters?.serverBuckets() ?? [],
  }
}
