// SPDX-License-Identifier: Apache-2.0
/** Starts a machine. */
import { join, resolve } from 'node:path'
import { Session } from '../control/session.ts'
import { GuestAgent } from '../machine/guestAgent.ts'
import type { LockedFolder } from '../machine/lockedFolder.ts'
import { onlySmmuDevices } from '../machine/qemu.ts'
import { newRunFolder } from '../machine/runs.ts'
import { Scratch } from '../machine/scratch.ts'
import { sharedMemoryFault } from '../machine/sharedMemory.ts'
import { Workload } from '../machine/workload.ts'
import { describeMachine } from '../trace/format.ts'
import { newHeader, Recorder } from '../trace/recorder.ts'
import type { MachineFiles } from './files.ts'
import { DEFAULTS, type RunOptions, ramFolder } from './options.ts'
import { addSuccessor } from './successor.ts'

/** A started machine with its own sockets, disks, RAM and network. */
export class RunningMachine {
  readonly session: Session
  readonly workload: Workload
  /** The agent in the guest, if it was asked for. */
  readonly agent: GuestAgent | undefined
  /** Where console and recording are. */
  readonly folder: string
  /** When QEMU was started, ms of `performance.now()`. */
  readonly started: number
  readonly #options: RunOptions
  readonly #kernel: MachineFiles['kernel']
  /** Nobody removes it while the run is not over. */
  readonly #own: LockedFolder | undefined
  readonly #scratch: Scratch

  private constructor(
    options: RunOptions,
    kernel: MachineFiles['kernel'],
    folder: string,
    own: LockedFolder | undefined,
    scratch: Scratch,
    workload: Workload,
    agent: GuestAgent | undefined,
    session: Session,
    started: number,
  ) {
    this.#options = options
    this.#kernel = kernel
    this.#own = own
    this.#scratch = scratch
    this.folder = folder
    this.workload = workload
    this.agent = agent
    this.session = session
    this.started = started
    const ended = () => agent?.ended()
    session.ended.then(ended, ended)
  }

  /** @throws Error when there is no room, the machine cannot be started, or the saved one does not fit */
  static async start(options: RunOptions, files: MachineFiles): Promise<RunningMachine> {
    const { memory, smp, carveout, policy, restore, nvme = true, sandbox = true, qemuArgs = [] } = options
    const { qemu, kernel, initrd, firmware } = files
    const { transport = DEFAULTS.transport, server } = policy ?? {}
    const fault = transport === 'socket' ? undefined : sharedMemoryFault()
    if (transport === 'ring' && fault !== undefined) throw new Error(`transport ring: ${fault}`)
    const mapped = options.ramDir === DEFAULTS.ramDir && transport !== 'socket' && server === undefined && !fault
    const scratch = new Scratch(ramFolder(options.ramDir))
    // What a run is given it need not keep.
    const own = options.folder === undefined ? newRunFolder(options.say) : undefined
    const folder = options.folder ?? own?.path ?? ''
    const agentSocket = join(scratch.sockets, 'agent')
    let workload: Workload | undefined
    let agent: GuestAgent | undefined
    try {
      if (options.agent) agent = await GuestAgent.listen(agentSocket)
      const { seed, size } = options.workload ?? {}
      workload = await Workload.create(scratch.sockets, seed, size, options.devices)
      if (options.successor !== undefined) addSuccessor(workload, files)
      if (options.load !== undefined) workload.addLoad(options.load)
      const { smmus = 1 } = options
      const several = smmus === 1 ? {} : { smmus, smmuDevices: await onlySmmuDevices(qemu) }
      const started = performance.now()
      const session = await Session.start({
        scratch,
        runFolder: folder,
        ...(restore && { restore }),
        ...(options.pool && { pool: options.pool }),
        ...(options.gdb && { gdb: options.gdb }),
        mapped,
        machine: {
          binary: qemu,
          kernel: kernel.image,
          initrd,
          ...(firmware !== undefined && { firmware }),
          append: options.commandLine(workload),
          memory,
          smp,
          ...several,
          virtioDisk: workload.virtioDisk,
          ...(nvme && { nvmeDisk: workload.nvmeDisk }),
          network: true,
          ...(agent && { agentSocket }),
          ...(options.share && { share: options.share }),
          ...(options.slots !== undefined && { slots: options.slots }),
          devices: workload.deviceArguments,
          sandbox,
          extra: qemuArgs,
        },
        ...(policy && { policy: { ...policy, carveout } }),
      })
      return new RunningMachine(options, kernel, folder, own, scratch, workload, agent, session, started)
    } catch (error) {
      agent?.close()
      workload?.close()
      scratch.remove()
      own?.release()
      throw error
    }
  }

  /**
   * Records what the trap thread does. Without one of its own there is nothing to record: undefined.
   * @param path default: in the run's folder
   * @param limit bytes; the middle of a longer recording is left out
   * @param say told when the disk refuses what is recorded, and when it takes it again
   * @throws Error when the file cannot be written
   */
  async record(
    path = join(this.folder, 'trace'),
    limit?: number,
    say?: (message: string) => void,
  ): Promise<Recorder | undefined> {
    const { session } = this
    const { policy } = this.#options
    if (session.pump === undefined || policy === undefined) return undefined
    const header = newHeader(session.pump.now(), {
      policy: policy.name,
      policyOptions: policy.options,
      kernel: this.#kernel.version,
      image: resolve(this.#kernel.image),
      ...(policy.faults && { faults: policy.faults }),
    })
    const { pump } = session
    // While the file is made the machine goes on: its first reset is what a replay begins with.
    pump.hold()
    const recorder = await Recorder.open({
      path,
      header,
      ...(limit !== undefined && { limit }),
      ...(say && { say }),
    }).catch((error: unknown) => {
      pump.release()
      throw error
    })
    const warnings = () => session.thread?.policy?.warnings
    if (session.hello !== undefined) recorder.describe(describeMachine(session.hello), warnings)
    session.on('connected', hello => recorder.describe(describeMachine(hello), warnings))
    pump.add(recorder)
    session.recording = recorder
    return recorder
  }

  /** Ends it, whatever it is doing, and removes what it needed. */
  async close(): Promise<void> {
    try {
      await this.session.stop()
    } finally {
      this.dispose()
    }
  }

  /** Removes what it needed, once it has ended. */
  dispose(): void {
    this.agent?.close()
    this.workload.close()
    this.#scratch.remove()
    this.#own?.release()
  }
}
