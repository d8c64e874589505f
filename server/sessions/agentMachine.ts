// SPDX-License-Identifier: Apache-2.0
/** The machine of a session: what it is made of, how it is started, and the guest's agent on its console. */
import { tmpdir } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import type { SavedMachine, Session } from '../control/session.ts'
import type { FaultPlan } from '../faults/rule.ts'
import { type DeviceName, isDevice } from '../machine/devices.ts'
import { type GuestEvent, GuestEvents, parseGuestEvent } from '../machine/guestEvents.ts'
import type { RamPool } from '../machine/guestRam.ts'
import { ownFolder } from '../machine/scratch.ts'
import type { WorkloadEntry } from '../machine/workload.ts'
import type { SeriesStep } from '../policy/policy.ts'
import { EL2_COMMAND_LINE, type El2Mode, el2QemuArgs } from '../run/el2.ts'
import { kernelArgs, type MachineFiles, machineFiles } from '../run/files.ts'
import { DEFAULTS } from '../run/options.ts'
import { machineFailure } from '../run/outcome.ts'
import { RunningMachine } from '../run/runningMachine.ts'
import type { TranslateMode } from '../translate/translator.ts'
import type { Transport } from '../trap/messages.ts'
import { ProcessorWait } from './processorWait.ts'
import type { Savable } from './snapshot.ts'

/** The same as for `boot`, so that addresses are comparable. Of RAM only touched pages are copied for a session. */
const { memory, carveout, granule } = DEFAULTS
/** Whole disk read, half of it written, the file fetched over each network card. */
const SIZE = { disk: 1 << 20, file: 256 << 10 }
/** QEMU cannot save an NVMe controller. */
const SAVED_DEVICES = ['virtio-blk', 'virtio-net', 'e1000e']
const ALL_DEVICES = ['virtio-blk', 'nvme', 'virtio-net', 'e1000e']
/** Seconds that the guest waits for a disk, or for an answer over the network. */
const PATIENCE_S = 6
/** Seconds that the NVMe driver waits for a command, instead of its 30 and 60. */
const NVME_S = 10
const BOOT_MS = 240_000
/** Until a guest that is ready is at rest. */
const REST_MS = 300

/** What decides which snapshot a session can use. */
export interface Description {
  readonly kernel: string
  readonly until: SeriesStep
  readonly smp: number
  readonly memory: string
  readonly carveout: string
  readonly devices: readonly string[]
  readonly append: string
  /** Words for QEMU that the user added; absent: none. */
  readonly qemuArgs?: readonly string[]
}

/** A machine whose files are there. */
export interface Prepared {
  readonly description: Description
  readonly files: MachineFiles
  readonly ramDir: string
  readonly transport?: Transport
  readonly el2: El2Mode
  /** Whether QEMU is confined; default: it is. */
  readonly sandbox?: boolean
  /** RAM of machines that have ended; default: it is made anew for each. */
  readonly pool?: RamPool
}

/** What was asked of a machine besides, as of `boot`. */
export interface JobMachine {
  /** Of a kernel of one's own. */
  readonly modules?: string
  /** With the workload's agent in it. */
  readonly initrd?: string
  /** Added to the kernel's command line. */
  readonly append?: string
  /** Beside the usual ones. */
  readonly devices?: readonly DeviceName[]
  /** Added to QEMU's. */
  readonly qemuArgs?: readonly string[]
}

export interface MachineOptions {
  /** Debian's 6.12 or 6.1, or the path of an arm64 Image. */
  readonly kernel: string
  readonly until: SeriesStep
  readonly smp: number
  /** Boots from the beginning: with all devices, a snapshot has no NVMe. */
  readonly fresh: boolean
  /** `pkvm`: the agent starts a protected VM and attacks it before it uses the devices. */
  readonly el2: El2Mode
  /** A qemu-system-aarch64 with the patches, built elsewhere. */
  readonly qemu?: string
  readonly ramDir: string
  readonly transport?: Transport
  readonly sandbox: boolean
  /** What else was asked for. */
  readonly machine?: JobMachine
}

/** What a session adds to the machine. */
export interface StartOptions {
  readonly faults?: FaultPlan
  readonly translate?: TranslateMode
  /** Seconds that the machine waits for a lost server. */
  readonly reconnect?: number
  /** With EL2: protected VMs more, under attack. */
  readonly storm?: number
}

/** Whether its initramfs has the program that runs a protected VM and attacks it. */
export const needsAttack = (el2: El2Mode = 'none'): boolean => el2 === 'pkvm'

/** Fetches and builds what is missing. */
export async function prepare(options: MachineOptions, signal: AbortSignal): Promise<Prepared> {
  const { kernel, until, smp, fresh, el2, ramDir, transport, sandbox, machine = {} } = options
  const { modules, initrd, qemuArgs = [], devices: extra = [] } = machine
  const attack = needsAttack(el2)
  const files = await machineFiles(
    {
      kernel,
      attack,
      devices: extra,
      ...(modules !== undefined && { modules }),
      ...(initrd !== undefined && { initrd }),
      ...(options.qemu !== undefined && { qemu: options.qemu }),
    },
    { signal },
  )
  const devices = [...(fresh ? ALL_DEVICES : SAVED_DEVICES), ...extra]
  const append = [
    'console=ttyAMA0 panic=0 cosim.run=agent',
    `cosim.devices=${devices.join(',')} cosim.patience=${PATIENCE_S}`,
    ...(attack ? [EL2_COMMAND_LINE] : []),
    ...(fresh ? [`nvme_core.io_timeout=${NVME_S} nvme_core.admin_timeout=${NVME_S}`] : []),
    ...(machine.append === undefined ? [] : [machine.append]),
  ].join(' ')
  return {
    description: {
      ...{ kernel: files.kernel.version, until, smp, memory, carveout, devices, append },
      ...(qemuArgs.length > 0 && { qemuArgs }),
    },
    files,
    ramDir,
    ...(transport && { transport }),
    el2,
    sandbox,
  }
}

/** The machine as it can be saved. */
export const savable = (prepared: Prepared): Savable => ({
  files: prepared.files,
  description: prepared.description,
  label: `Linux ${prepared.files.kernel.version} until ${prepared.description.until}`,
  save: (to, signal) => AgentMachine.save(prepared, to, signal),
  measure: (from, signal) => AgentMachine.measure(prepared, from, signal),
})

/** A started machine with its own sockets, disks, RAM and network, and the agent in it. */
export class AgentMachine {
  readonly #machine: RunningMachine
  readonly #devices: readonly string[]
  /** What the agent is told. */
  readonly #command: string
  /** Of the workload that the agent was told last. */
  #events = new GuestEvents()
  /** How many times the agent has become ready. */
  readies = 0
  #toldAt = 0
  #wait: ProcessorWait | undefined
  workloadMs = 0
  /** Of it, how long QEMU and this process were kept waiting for a processor by others, ms. */
  waitedMs = 0

  private constructor(machine: RunningMachine, devices: readonly string[], command: string) {
    this.#machine = machine
    this.#devices = devices
    this.#command = command
  }

  get session(): Session {
    return this.#machine.session
  }

  /**
   * @param seed of all bytes that the workload moves
   * @throws Error when the machine cannot be started, or the saved one does not fit.
   */
  static async start(
    prepared: Prepared,
    seed: string,
    folder: string,
    options: StartOptions = {},
    restore?: SavedMachine,
  ): Promise<AgentMachine> {
    const { description, files, ramDir, transport, sandbox = true, el2 } = prepared
    const { memory, carveout, smp, until, devices, append, qemuArgs = [] } = description
    const machine = await RunningMachine.start(
      {
        memory,
        carveout,
        smp,
        ramDir,
        sandbox,
        commandLine: () => append,
        workload: { seed, size: SIZE },
        nvme: devices.includes('nvme'),
        devices: devices.filter(isDevice),
        policy: {
          name: DEFAULTS.policy,
          options: { until, granule, requireIsolation: false },
          panicOnWarn: false,
          ...(transport && { transport }),
          reconnectMs: (options.reconnect ?? 0) * 1000,
          oracle: true,
          ...(options.translate && { translate: options.translate }),
          ...(options.faults && { faults: options.faults }),
        },
        ...(restore && { restore }),
        ...(prepared.pool && { pool: prepared.pool }),
        qemuArgs: [...kernelArgs(files.kernel), ...(el2 === 'pkvm' ? el2QemuArgs() : []), ...qemuArgs],
        folder,
      },
      files,
    )
    const command = el2 === 'pkvm' ? `attack cosim.storm=${options.storm ?? 0}` : 'workload'
    return new AgentMachine(machine, devices, command)
  }

  /** Tells the agent to run the workload. */
  tell(): void {
    this.#events = new GuestEvents()
    this.#toldAt = performance.now()
    const { pid } = this.session.qemu.child
    this.#wait = new ProcessorWait(pid === undefined ? [process.pid] : [pid, process.pid])
    this.session.qemu.child.stdin?.write(`${this.#command} ${this.#machine.workload.append(0)}\n`)
  }

  /** Takes a line of the console; returns the guest's event in it. */
  take(line: string): GuestEvent | undefined {
    const event = parseGuestEvent(line)
    if (event === undefined) return undefined
    this.#events.add(event)
    if (event.event === 'ready') this.readies++
    if (event.event === 'worked') {
      this.workloadMs = Math.round(performance.now() - this.#toldAt)
      this.waitedMs = Math.round(Math.min(this.#wait?.ms() ?? 0, this.workloadMs))
    }
    return event
  }

  /** Data that arrived, compared with the expected data, for the devices of this machine. */
  checks(): WorkloadEntry[] {
    return this.#machine.workload
      .check(this.#events.all)
      .filter(({ device }) => this.#devices.includes(device.split('.')[0] ?? ''))
  }

  /** Events that the checks do not see: there were too many before them. */
  get droppedEvents(): number {
    return this.#events.dropped
  }

  async close(): Promise<void> {
    await this.#machine.close()
  }

  /** Boots until the agent is ready, and saves the machine. */
  static async save(prepared: Prepared, to: SavedMachine, signal: AbortSignal): Promise<void> {
    await AgentMachine.#run(prepared, undefined, async machine => {
      await machine.#until('ready', signal)
      await sleep(REST_MS)
      await machine.session.save(to)
    })
  }

  /** The workload without faults on a saved machine, without what others kept it waiting, ms. @throws Error when the workload fails. */
  static async measure(prepared: Prepared, from: SavedMachine, signal: AbortSignal): Promise<number> {
    return AgentMachine.#run(prepared, from, async machine => {
      const worked = machine.#until('worked', signal)
      machine.tell()
      await worked
      const bad = machine.checks().find(({ ok }) => !ok)
      if (bad)
        throw new Error(`the snapshot's workload fails without faults: ${bad.device} ${bad.operation}: ${bad.error}`)
      return machine.workloadMs - machine.waitedMs
    })
  }

  static async #run<T>(
    prepared: Prepared,
    from: SavedMachine | undefined,
    act: (machine: AgentMachine) => Promise<T>,
  ): Promise<T> {
    const folder = ownFolder(tmpdir(), 'boot-')
    let machine: AgentMachine | undefined
    try {
      machine = await AgentMachine.start(prepared, 'snapshot', folder.path, {}, from)
      return await act(machine)
    } finally {
      await machine?.close()
      folder.remove()
    }
  }

  async #until(name: string, signal: AbortSignal): Promise<void> {
    const { session } = this
    const reached = Promise.withResolvers<void>()
    session.console.on('line', line => {
      if (this.take(line)?.event === name) reached.resolve()
    })
    const limit = AbortSignal.any([signal, AbortSignal.timeout(BOOT_MS)])
    const abort = () => reached.reject(signal.aborted ? signal.reason : new Error(`the guest was not ${name} in time`))
    limit.addEventListener('abort', abort, { once: true })
    void session.ended.then(end => {
      const { message = 'the guest powered off' } = machineFailure(end) ?? {}
      reached.reject(new Error(`the machine ended: ${message}`))
    })
    try {
      await reached.promise
    } finally {
      limit.removeEventListener('abort', abort)
    }
  }
}
