// SPDX-License-Identifier: Apache-2.0
import { EventEmitter } from 'node:events'
import { url as inspectorUrl } from 'node:inspector'
import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import type { Hello } from '../../protocol/generated/messages.ts'
import type { FaultPlan } from '../faults/rule.ts'
import { GuestConsole } from '../machine/console.ts'
import { type GdbServer, gdbServer } from '../machine/gdb.ts'
import { copySparse, GuestRam, type RamPool } from '../machine/guestRam.ts'
import { Hotplug } from '../machine/hotplug.ts'
import { masterNames, type UntranslatedMaster, untranslatedMasters } from '../machine/masters.ts'
import { type QemuExit, type QemuOptions, QemuProcess, signalOf } from '../machine/qemu.ts'
import { Qmp } from '../machine/qmp.ts'
import { ofThisProcess, parseSize, type Scratch } from '../machine/scratch.ts'
import type { NamedDevice } from '../machine/streams.ts'
import { Counters, createCounters } from '../trace/counters.ts'
import { Pump } from '../trace/pump.ts'
import type { Recorder } from '../trace/recorder.ts'
import { machineState } from '../trace/records.ts'
import { createRing } from '../trace/ring.ts'
import type { TranslateMode } from '../translate/translator.ts'
import { parseAddress } from '../trap/listener.ts'
import type { Transport, TransportUse } from '../trap/messages.ts'
import { DeviceNames } from './deviceNames.ts'
import { inTime } from './inTime.ts'
import { TrapThread } from './trapThread.ts'

/** What a session runs. */
export interface SessionOptions {
  /** Everything about the machine but the files that the session makes itself. */
  readonly machine: Omit<QemuOptions, 'ramFile' | 'qmpSocket' | 'cosim' | 'gdb'>
  /** Absent: QEMU without the server. */
  readonly policy?: {
    readonly name: string
    readonly options: Readonly<Record<string, unknown>>
    readonly panicOnWarn: boolean
    /** What devices reach is held against who owns the pages, while the machine runs and at its end (ThreadOptions). */
    readonly oracle?: boolean
    /** Who translates for devices; default `hardware`. */
    readonly translate?: TranslateMode
    /** Every access of the guest is a trap, every access to the hardware is waited for. */
    readonly faithful?: boolean
    /** What frames travel through; default `auto`. */
    readonly transport?: Transport
    /** QEMU's size notation. */
    readonly carveout: string
    /** Where a server listens that runs elsewhere, a socket or `host:port`; absent: one of this session's own. */
    readonly server?: string
    /** File with the token that this server has to know. */
    readonly tokenFile?: string
    /** How long the machine waits for a lost server, ms; absent or 0: a lost server ends it. */
    readonly reconnectMs?: number
    /** Further properties of QEMU's smmu-cosim object, `name=value`. */
    readonly properties?: readonly string[]
    /** Rules that are armed from the start. */
    readonly faults?: FaultPlan
    /** Return addresses that are recorded with each trap; default 0. */
    readonly callStacks?: number
  }
  /** gdb can attach from the start; `port`: see gdbServer. */
  readonly gdb?: { readonly port?: number }
  /** Goes on where a machine of the same description was saved, instead of booting. */
  readonly restore?: SavedMachine
  /** Guest RAM is a file in memory that has no name and cannot shrink, and the server maps it; default: a file in `scratch`. */
  readonly mapped?: boolean
  /** Where RAM that is mapped comes from if it can, and goes when the machine has ended; default: it is made anew. */
  readonly pool?: RamPool
  readonly scratch: Scratch
  /** Where the console log goes. */
  readonly runFolder: string
}

/** A machine that was saved while it was stopped: the server's state is in that of the devices. */
export interface SavedMachine {
  /** Files of guest RAM, and of the state of the devices. */
  readonly ram: string
  readonly devices: string
}

const requiresIsolation = ({ policy }: SessionOptions): boolean =>
  policy?.options.requireIsolation === true && policy.server === undefined

/** How long QEMU waits for the answer of a server that runs under a debugger: a day. */
const DEBUGGED_REPLY_MS = 86_400_000

/** Properties of QEMU's smmu-cosim object that say how long it waits for the server, and further ones. */
export function linkProperties({ reconnectMs, properties = [] }: NonNullable<SessionOptions['policy']>): string[] {
  return [
    ...(reconnectMs ? [`reconnect-ms=${reconnectMs}`] : []),
    // Somebody may stand at a line of the trap thread for as long as they like.
    ...(inspectorUrl() === undefined ? [] : [`reply-timeout-ms=${DEBUGGED_REPLY_MS}`]),
    ...properties,
  ]
}

/** QEMU leaves RAM alone that is a shared file. */
const IGNORE_SHARED = { capabilities: [{ capability: 'x-ignore-shared', state: true }] }

/** A policy that never returns must not hold up the end of a run: so long it may take to see that QEMU has ended, ms. */
const DRAIN_MS = 5_000
/** Somebody wants the run to end now. */
const STOP_DRAIN_MS = 500

/** How long the oracle may take for a machine that is about to be ended; a policy that loops must not hold it up. */
const LAST_LOOK_MS = 1_000

/** How long QEMU may take to listen, or to save its devices, ms. */
const QMP_MS = 30_000

/** How a session ended. */
export interface SessionEnd {
  readonly qemu: QemuExit
  /** What QEMU said on standard error. */
  readonly qemuErrors: string
  /** Set when the server was the cause: the thread died, or it broke off the connection. */
  readonly serverError?: string
  /** Set when the policy stopped the machine at a warning. */
  readonly panic?: string
  /** Sections of the report as the policy said them last. */
  readonly sections: Readonly<Record<string, unknown>>
  /** What the machine makes of the policy's `isolated`; absent: no policy of this session's own. */
  readonly isolation?: {
    /** By all that is known: of a QEMU that was gone before it named its devices, nothing is. */
    readonly isolated: boolean
    readonly untranslated: readonly UntranslatedMaster[]
  }
}

/** One machine with its server: trap thread, QEMU, console and QMP, started and ended together. */
export class Session extends EventEmitter<{
  connected: [Hello]
  panic: [string]
  reset: [cause: number]
  interrupted: [message: string, fault: boolean]
  /** The machine's devices have other StreamIDs, or there are others. */
  devices: [readonly NamedDevice[]]
}> {
  readonly console: GuestConsole
  readonly qemu: QemuProcess
  readonly thread: TrapThread | undefined
  readonly counters: Counters | undefined
  /** The one consumer of the trace ring; absent without the server. */
  readonly pump: Pump | undefined
  /** Set by who records. */
  recording: Recorder | undefined
  /** Why it is not recorded although it should be. */
  notRecorded: string | undefined
  /** Guest RAM: a descriptor of its file, open until the machine has ended. */
  readonly ram: number
  readonly #ram: GuestRam
  readonly #pool: RamPool | undefined
  /** What QEMU said at the handshake; its devices as they are by now. */
  hello: Hello | undefined
  /** Devices that come and go. */
  readonly hotplug: Hotplug
  /** What the frames of the connection travel through. */
  transport: TransportUse | undefined
  readonly ended: Promise<SessionEnd>
  #serverError: string | undefined
  /** Why the connection was broken off, by whoever it was. */
  #broken: string | undefined
  /** Why the machine was not served at all. */
  #refused: string | undefined
  #panic: string | undefined
  #sections: Readonly<Record<string, unknown>> = {}
  readonly #qmpSocket: string
  readonly #sockets: string
  #gdb: GdbServer | undefined
  /** Somebody has asked for it: who asks meanwhile gets the same answer. */
  #openingGdb: Promise<string> | undefined
  /** QEMU ends when its guest reboots. */
  readonly #endsAtReboot: boolean
  /** An oracle looks at it while it runs, and at its end. */
  readonly #watched: boolean
  readonly #gone = new AbortController()
  /** With a server of this session's own. */
  readonly #names: DeviceNames | undefined
  /** Devices that go past the SMMU, with a server of this session's own; undefined: QEMU was gone before it said so. */
  readonly #untranslated: Promise<readonly UntranslatedMaster[] | undefined> | undefined
  #qmp: Promise<Qmp> | undefined
  #stopping = false

  private constructor(
    options: SessionOptions,
    ram: GuestRam,
    server?: { readonly thread: TrapThread; readonly counters: Counters; readonly pump: Pump },
  ) {
    super()
    const thread = server?.thread
    this.thread = thread
    this.counters = server?.counters
    this.pump = server?.pump
    this.ram = ram.fd
    this.#ram = ram
    this.#pool = options.pool
    this.#sockets = options.scratch.sockets
    this.#qmpSocket = join(this.#sockets, 'qmp')
    this.#gdb = options.gdb && gdbServer(this.#sockets, options.gdb.port)
    const qmp = () => this.qmp(this.#gone.signal)
    this.hotplug = new Hotplug(qmp, this.#sockets, options.machine.slots ?? 0)
    this.#endsAtReboot = options.machine.extra.includes('-no-reboot')
    thread?.on('connected', (machine, resumed) => {
      this.hello = machine
      this.#names?.connected(machine, resumed)
      this.pump?.machine(resumed ? machineState.resumed : machineState.running)
      this.emit('connected', machine)
    })
    thread?.on('transport', use => {
      this.transport = use
    })
    thread?.on('reset', cause => {
      this.#names?.reset()
      this.emit('reset', cause)
    })
    thread?.on('shutdown', (_cause, sections) => {
      // What stood at the panic is what counts.
      if (this.#panic === undefined) this.#sections = sections
    })
    thread?.on('panic', (text, sections) => {
      this.#panic = text
      this.#sections = sections
      this.pump?.machine(machineState.panicked)
      this.emit('panic', text)
      void this.qemu.stop()
    })
    thread?.on('died', message => this.#serverFailed(message))
    const { policy } = options
    this.#watched = policy?.oracle === true
    thread?.on('refused', (message, resumed) => {
      // QEMU ends by itself, and does not know as much about why.
      if (!resumed) this.#refused = message
      else if (this.qemu.running) this.#interrupted(message, false, policy?.reconnectMs)
    })
    thread?.on('disconnected', (message, expected, fault) => {
      if (!expected && this.qemu.running) this.#interrupted(message, fault, policy?.reconnectMs)
    })
    this.qemu = new QemuProcess({
      ...options.machine,
      extra: [
        ...options.machine.extra,
        ...(options.restore === undefined ? [] : ['-incoming', 'defer']),
        ...(requiresIsolation(options) ? ['-S'] : []),
      ],
      // A QEMU whose server runs elsewhere is served by one that opens the file.
      ramFile: policy?.server === undefined ? ram.fd : (ram.path ?? ram.fd),
      qmpSocket: this.#qmpSocket,
      ...(this.#gdb && { gdb: this.#gdb.device }),
      ...(policy && {
        cosim: {
          server: serverAddress(policy.server ?? trapSocket(options.scratch)),
          ...(policy.tokenFile !== undefined && { tokenFile: policy.tokenFile }),
          carveout: policy.carveout,
          properties: linkProperties(policy),
        },
      }),
    })
    const { stdout } = this.qemu.child
    if (stdout === null) throw new Error('QEMU has no standard output')
    this.console = new GuestConsole(stdout, join(options.runFolder, 'console.log'))
    this.console.on('line', line => this.pump?.console(line))
    this.#untranslated = thread && this.#askMasters()
    if (this.pump !== undefined) {
      this.#names = new DeviceNames(qmp, devices => this.#named(devices))
      this.pump.add(this.#names)
    }
    this.ended = this.#end()
    if (this.pump !== undefined) void this.#watchLife(this.pump)
  }

  async #askMasters(): Promise<readonly UntranslatedMaster[] | undefined> {
    try {
      return await untranslatedMasters(await this.qmp(this.#gone.signal))
    } catch {
      return undefined
    }
  }

  /** Devices may have come: their names are asked for. */
  lookAtDevices(): void {
    this.#names?.look()
  }

  #named(devices: readonly NamedDevice[]): void {
    if (this.hello === undefined) return
    this.hello = { ...this.hello, devices }
    this.pump?.control('devices', { devices })
    this.thread?.call('nameDevices', devices).catch(() => {})
    this.emit('devices', devices)
  }

  /** A machine that must be isolated has not run yet, and does not if no policy can isolate it. */
  async #admit(): Promise<void> {
    const masters = await this.#untranslated
    if (masters !== undefined && masters.length > 0) {
      this.#serverFailed(`no DMA isolation: not behind the SMMU: ${masterNames(masters)}`)
      return
    }
    try {
      const qmp = await this.qmp(this.#gone.signal)
      await qmp.execute('cont')
    } catch {} // it has ended: `ended` says why
  }

  /**
   * When QEMU answers it has opened its RAM, in another container by its name. From then on nobody else finds it, and it is gone
   * with its last user, however that one ends.
   */
  async #hide(ram: GuestRam): Promise<void> {
    try {
      await this.qmp(this.#gone.signal)
    } catch {} // it has ended: `ended` says why
    ram.hide()
  }

  /** What becomes of the machine, put on the time line. */
  async #watchLife(pump: Pump): Promise<void> {
    try {
      const qmp = await this.qmp(this.#gone.signal)
      qmp.on('event', ({ event }) => {
        if (PLUGGED.has(event)) this.#names?.look()
        const state = LIFE[event]
        if (state !== undefined) pump.machine(state)
      })
    } catch {} // it ended before it listened
  }

  /**
   * Starts the trap thread, then QEMU.
   * @throws Error when the thread cannot listen, the policy cannot be loaded, or the saved machine does not fit.
   */
  static async start(options: SessionOptions): Promise<Session> {
    const session = await Session.#start(options)
    // Its guest may run before the caller has it, who wants the first line.
    session.console.hold()
    try {
      if (requiresIsolation(options)) {
        // Whoever records the machine comes after that, and wants its first reset.
        session.pump?.hold()
        await session.#admit()
      }
      if (options.restore !== undefined) await session.#load(options.restore)
      return session
    } finally {
      setImmediate(() => session.console.release())
    }
  }

  static async #start(options: SessionOptions): Promise<Session> {
    const { policy, scratch, restore, mapped, pool, machine } = options
    const size = parseSize(machine.memory)
    const kept = mapped ? pool?.take(size, restore?.ram) : undefined
    const ram =
      kept ??
      (mapped
        ? await GuestRam.inMemory(size, restore?.ram)
        : await GuestRam.atPath(join(scratch.ram, 'ram'), size, restore?.ram))
    try {
      // The room is taken while the trap thread loads its code.
      const reserved = kept === undefined ? ram.reserve() : Promise.resolve()
      if (policy === undefined || policy.server !== undefined) {
        await reserved
        const session = new Session(options, ram)
        // Whoever serves it opens the file by its name.
        if (policy === undefined) void session.#hide(ram)
        return session
      }
      const counters = createCounters()
      const ring = createRing()
      const [room, thread] = await Promise.allSettled([
        reserved,
        TrapThread.start({
          listen: trapSocket(scratch),
          policy: policy.name,
          policyOptions: policy.options,
          panicOnWarn: policy.panicOnWarn,
          ...(policy.oracle && { oracle: true }),
          ...(policy.translate && { translate: policy.translate }),
          ...(restore && { restored: true }),
          ...(policy.faithful && { faithful: true }),
          ...(policy.faults && { faults: policy.faults }),
          ...(policy.callStacks && { callStacks: policy.callStacks }),
          ...(options.gdb && { debugged: true }),
          ...(policy.reconnectMs && { revive: true }),
          ...(policy.transport && { transport: policy.transport }),
          ramFile: ram.fd,
          ...(ram.mapping && { ramMapping: ram.mapping }),
          peerEnds: true,
          ring,
          counters,
        }),
      ])
      if (thread.status === 'rejected') throw thread.reason
      if (room.status === 'rejected') {
        await thread.value.stop()
        throw room.reason
      }
      const server = { thread: thread.value, counters: new Counters(counters), pump: new Pump(ring) }
      const session = new Session(options, ram, server)
      void session.#hide(ram)
      return session
    } catch (error) {
      ram.close()
      throw error
    }
  }

  /** The machine's QMP connection: the same for all, as QEMU serves one. It is closed when the machine ends. */
  async qmp(signal: AbortSignal): Promise<Qmp> {
    this.#qmp ??= Qmp.connect(this.#qmpSocket, this.#gone.signal)
    return await inTime(this.#qmp, signal)
  }

  /** Resets the machine, also one that ends when its guest reboots. @throws Error when QEMU does not answer until `signal` aborts */
  async reset(signal: AbortSignal): Promise<void> {
    const qmp = await this.qmp(signal)
    if (this.#endsAtReboot) await qmp.execute('set-action', { reboot: 'reset' })
    await qmp.execute('system_reset')
    if (this.#endsAtReboot) await qmp.execute('set-action', { reboot: 'shutdown' })
  }

  /** Where gdb can attach (`target remote`); undefined: nowhere. */
  get gdb(): string | undefined {
    return this.#gdb?.target
  }

  /**
   * Lets gdb attach from now on, also while a trap is held.
   * @param port see gdbServer; where it can already stays
   * @returns what `target remote` takes
   * @throws Error when QEMU cannot, or does not answer until `signal` aborts
   */
  async openGdb(port: number | undefined, signal: AbortSignal): Promise<string> {
    if (this.#gdb !== undefined) return this.#gdb.target
    this.#openingGdb ??= this.#openGdb(port, signal).finally(() => {
      this.#openingGdb = undefined
    })
    return this.#openingGdb
  }

  async #openGdb(port: number | undefined, signal: AbortSignal): Promise<string> {
    // QEMU answers nobody while a trap is held, unless it is parked.
    await this.thread?.call('debug')
    const server = gdbServer(this.#sockets, port)
    const qmp = await this.qmp(signal)
    const said = await inTime(
      qmp.execute('human-monitor-command', { 'command-line': `gdbserver ${wordOfMonitor(server.device)}` }),
      signal,
    )
    if (!String(said).startsWith('Waiting for gdb connection')) throw new Error(`QEMU: ${String(said).trim()}`)
    this.#gdb = server
    return server.target
  }

  /**
   * Saves the machine, which stands still afterwards: `stop` it.
   * @throws Error with QEMU's reason: a device that cannot be saved, a full disk.
   */
  async save(to: SavedMachine): Promise<void> {
    const signal = AbortSignal.timeout(QMP_MS)
    const qmp = await this.qmp(signal)
    await qmp.execute('stop')
    await qmp.execute('migrate-set-capabilities', IGNORE_SHARED)
    await qmp.execute('migrate', { uri: `file:${to.devices}` })
    await migrated(qmp, signal)
    await copySparse(ofThisProcess(this.ram), to.ram)
  }

  /** Resolves when the saved machine runs. */
  async #load(from: SavedMachine): Promise<void> {
    const signal = AbortSignal.timeout(QMP_MS)
    try {
      const qmp = await this.qmp(signal)
      await qmp.execute('migrate-set-capabilities', IGNORE_SHARED)
      await qmp.execute('migrate-incoming', { uri: `file:${from.devices}` })
      await migrated(qmp, signal)
      // It was saved standing still. Before it goes on, QEMU finds the server.
      await qmp.execute('cont')
    } catch (error) {
      await this.stop()
      const { message } = error as Error
      throw new Error(`the saved machine cannot be loaded: ${this.qemu.errors.trim() || message}`)
    }
  }

  /** Ends the machine, whatever it is doing. */
  async stop(): Promise<void> {
    if (this.#watched && !this.#stopping && this.qemu.running) await this.#lastLook()
    this.#stopping = true
    await this.qemu.stop()
    await this.ended
  }

  /** While the hardware can be asked. */
  async #lastLook(): Promise<void> {
    const looked = this.thread?.call('oracle').catch(() => {})
    await Promise.race([looked, setTimeout(LAST_LOOK_MS)])
  }

  /** The machine has no server. */
  #interrupted(message: string, fault: boolean, reconnectMs = 0): void {
    this.pump?.machine(machineState.disconnected)
    // A QEMU that was told to end breaks off whatever it was asked: no failure of the server's. What the policy throws is one.
    if (this.#stopping && !fault) return
    // What a policy throws it would throw again, unless somebody mends it.
    const mendable = !fault || this.listenerCount('interrupted') > 0
    if (reconnectMs > 0 && mendable) this.emit('interrupted', message, fault)
    else if (fault) this.#serverFailed(message)
    else {
      this.#broken ??= message
      void this.qemu.stop()
    }
  }

  #serverFailed(message: string): void {
    this.#serverError ??= message
    void this.qemu.stop()
  }

  async #end(): Promise<SessionEnd> {
    try {
      const qemu = await this.qemu.exited
      this.#gone.abort(new Error('QEMU has ended'))
      this.#names?.close()
      await this.thread?.drained(this.#stopping ? STOP_DRAIN_MS : DRAIN_MS)
      const untranslated = await this.#untranslated
      // A QEMU that crashes breaks off the connection as well.
      const crashed = !qemu.asked && signalOf(qemu) !== undefined
      const broken = crashed ? undefined : this.#broken
      const serverError = this.#serverError ?? broken ?? (this.hello === undefined ? this.#refused : undefined)
      return {
        qemu,
        qemuErrors: this.qemu.errors.trim(),
        sections: this.#sections,
        ...(this.thread && {
          isolation: {
            isolated: this.#sections.isolated === true && untranslated?.length === 0,
            untranslated: untranslated ?? [],
          },
        }),
        ...(serverError !== undefined && { serverError }),
        ...(this.#panic !== undefined && { panic: this.#panic }),
      }
    } finally {
      await this.thread?.stop()
      this.pump?.machine(machineState.ended)
      this.pump?.close()
      // Neither QEMU nor a thread is left that looks at it.
      if (this.#pool !== undefined) this.#pool.give(this.#ram)
      else this.#ram.close()
      void this.#qmp?.then(qmp => qmp.close()).catch(() => {})
    }
  }
}

/** Resolves when devices are saved, or loaded. @throws Error with QEMU's reason. */
async function migrated(qmp: Qmp, signal: AbortSignal): Promise<void> {
  for (;;) {
    const { status, ...rest } = (await qmp.execute('query-migrate')) as { status?: string; 'error-desc'?: string }
    if (status === 'completed') return
    if (status === 'failed') throw new Error(rest['error-desc'] ?? 'QEMU does not say why')
    await setTimeout(5, undefined, { signal })
  }
}

/** QMP's events that change the machine's state. A reset is on the time line as the trap thread saw it. */
const LIFE: Readonly<Record<string, number>> = {
  STOP: machineState.paused,
  RESUME: machineState.running,
  POWERDOWN: machineState.powerButton,
  SHUTDOWN: machineState.poweredOff,
}

/** QMP's events after which there may be other devices. */
const PLUGGED: ReadonlySet<string> = new Set(['DEVICE_DELETED', 'DEVICE_UNPLUG_GUEST_ERROR'])

function serverAddress(listen: string): NonNullable<QemuOptions['cosim']>['server'] {
  const address = parseAddress(listen)
  return 'path' in address ? address.path : address
}

const trapSocket = (scratch: Scratch): string => join(scratch.sockets, 'trap')

/** As one word of a command of QEMU's monitor for people. */
const wordOfMonitor = (text: string): string => `"${text.replaceAll(/["\\]/g, '\\$&')}"`
