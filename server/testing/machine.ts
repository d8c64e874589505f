// SPDX-License-Identifier: Apache-2.0
/** A machine of a test: QEMU, the hypervisor and a guest that waits for what to do. */
import { once } from 'node:events'
import { cp, mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Hello } from '../../protocol/generated/messages.ts'
import { NO_STREAM } from '../../protocol/messages.ts'
import { say } from '../cli/terminal.ts'
import type { SavedMachine, Session, SessionEnd } from '../control/session.ts'
import type { TrapThread } from '../control/trapThread.ts'
import type { GuestAgent } from '../machine/guestAgent.ts'
import { parseGuestEvent } from '../machine/guestEvents.ts'
import type { LockedFolder } from '../machine/lockedFolder.ts'
import { masterNames, untranslatedMasters } from '../machine/masters.ts'
import { ownFolder } from '../machine/scratch.ts'
import { NO_WARNINGS } from '../policy/warnings.ts'
import { machineFailure, panicOf, withPanic } from '../run/outcome.ts'
import { RunningMachine } from '../run/runningMachine.ts'
import { ensureSnapshot } from '../sessions/snapshot.ts'
import type { Recorder } from '../trace/recorder.ts'
import type { OracleReport } from '../trap/oracleReport.ts'
import { Console } from './console.ts'
import { Device } from './device.ts'
import { Guest } from './guest.ts'
import { Hyp } from './hyp.ts'
import { type HypWarningSeen, type Log, MachineLog, type SmmuCommand, type SmmuEvent, type SmmuTrap } from './log.ts'
import { type MachineOptions, type Plan, plan, SLOT } from './options.ts'
import { Steps } from './steps.ts'
import { type Transaction, type Translation, translate } from './tables.ts'

const BOOT_MS = 240_000
/** Until a guest that is ready is at rest. */
const REST_MS = 300
const QMP_MS = 10_000
const END_MS = 30_000
const RECORDING_BYTES = 256 << 20
/** Of a snapshot: what the guest said until it was saved. */
const CONSOLE = 'console'

/** What a machine leaves behind when its test fails. */
export interface Artefacts {
  /** Why the machine ended, if it did. */
  readonly ended?: string
  /** For `smmu-cosim trace` and `replay`. */
  readonly recording: string
  readonly console: string
  /** The end of the trace, in lines, and steps of the test in it. */
  readonly traps: readonly string[]
  readonly seed: number
}

/** A running machine and what a test can do with it. Made by the fixture `machine`. */
export class Machine {
  readonly console: Console
  readonly guest: Guest
  readonly hyp: Hyp
  /** Events that the SMMU recorded. */
  readonly events: Log<SmmuEvent>
  /** Accesses of vCPUs to the SMMU's registers. */
  readonly traps: Log<SmmuTrap>
  /** Commands of the host, and what became of them; and those of the hypervisor. */
  readonly commands: Log<SmmuCommand>
  readonly warnings: Log<HypWarningSeen>
  readonly seed: number
  readonly #machine: RunningMachine
  readonly #agent: GuestAgent
  readonly #thread: TrapThread
  readonly #hello: Hello
  readonly #log: MachineLog
  readonly #recorder: Recorder | undefined
  readonly #folder: LockedFolder
  readonly #steps: Steps
  readonly #devices: readonly string[]
  /** Why it ended; undefined: it runs. */
  #ended: { readonly message: string; readonly wrong: boolean } | undefined
  /** The test has been told. */
  #told = false

  private constructor(parts: {
    readonly plan: Plan
    readonly machine: RunningMachine
    readonly agent: GuestAgent
    readonly thread: TrapThread
    readonly hello: Hello
    readonly log: MachineLog
    readonly recorder: Recorder | undefined
    readonly folder: LockedFolder
    readonly before: readonly string[]
  }) {
    const { machine, agent, thread, hello, log } = parts
    const { session } = machine
    this.seed = parts.plan.seed
    this.#machine = machine
    this.#agent = agent
    this.#thread = thread
    this.#hello = hello
    this.#log = log
    this.#recorder = parts.recorder
    this.#folder = parts.folder
    this.#devices = parts.plan.devices
    this.#steps = new Steps((what, details) => session.pump?.control(what, details))
    this.events = log.events
    this.traps = log.traps
    this.commands = log.commands
    this.warnings = log.warnings
    this.console = new Console(session.console, parts.before, () => this.#gone())
    this.guest = new Guest(agent, this.#steps)
    this.hyp = new Hyp(thread, hello, this.#steps)
    let panic: string | undefined
    session.console.on('line', line => {
      panic ??= panicOf(line)
    })
    session.once('panic', text => this.#end({ message: text, wrong: true }))
    void session.ended.then(
      end => this.#end(ending(end, panic)),
      error => this.#end({ message: (error as Error).message, wrong: true }),
    )
  }

  /**
   * Starts a machine, from a snapshot where it can: the first of its kind boots once, and is saved.
   * @param stop nobody wants it any more
   * @throws Error when it cannot be made ready, or does not start
   */
  static async start(options: MachineOptions = {}, stop?: AbortSignal): Promise<Machine> {
    const signal = AbortSignal.any([AbortSignal.timeout(2 * BOOT_MS), ...(stop ? [stop] : [])])
    const planned = await plan(options, signal)
    const snapshot = planned.saved ? await ensureSnapshot(savable(planned), signal, say) : undefined
    const folder = ownFolder(tmpdir(), 'test-')
    let machine: RunningMachine | undefined
    try {
      machine = await RunningMachine.start(planned.run(folder.path, snapshot), planned.files)
      const { agent, session } = machine
      const { thread, pump } = session
      if (agent === undefined || thread === undefined || pump === undefined)
        throw new Error('the machine has no server')
      const log = new MachineLog(
        () => pump.drain(),
        (smmu, sid) => deviceName(session.hello, smmu, sid) ?? '',
        () => thread.policy?.warnings ?? NO_WARNINGS,
      )
      pump.add(log)
      const recorder = await machine.record(undefined, RECORDING_BYTES, say)
      const before = snapshot === undefined ? [] : await consoleOf(snapshot)
      if (snapshot === undefined) await ready(session, signal)
      const hello = session.hello ?? (await connected(session, signal))
      const made = new Machine({ plan: planned, machine, agent, thread, hello, log, recorder, folder, before })
      signal.throwIfAborted()
      if (planned.devices.includes('nvme')) await made.#plugNvme()
      return made
    } catch (error) {
      const errors = machine?.session.qemu.errors.trim()
      await machine?.close()
      folder.remove()
      const { message } = error as Error
      throw errors ? new Error(`${message}; QEMU: ${errors}`, { cause: error }) : error
    }
  }

  /** @param name of its devices: `edu`, `virtio-blk` */
  device(name: string): Device {
    const found = this.#hello.devices.find(device => device.name === name)
    if (found === undefined && !this.#devices.some(device => device === name)) {
      const there = [...new Set([...this.#hello.devices.map(device => device.name), ...this.#devices])]
      throw new Error(`the machine has no device "${name}": it has ${there.join(', ')}`)
    }
    // Behind a bus that had no number yet when QEMU was asked it has none.
    const sid = found?.sid === NO_STREAM ? undefined : found?.sid
    return new Device(name, sid, this.#agent, this.#steps)
  }

  /** What the tables in RAM make of a transaction. @throws Error when this SMMU cannot be walked, or the machine has ended */
  translate(transaction: Transaction): Promise<Translation> {
    return translate(this.#thread, this.#hello, this.#machine.session.ram, transaction)
  }

  /**
   * What speaks against the isolation of devices, all of it looked at now: of the policy's promise, QEMU's devices, and what the
   * tables let devices reach, held against who owns the pages. Empty: nothing.
   */
  async isolationProblems(): Promise<readonly string[]> {
    this.#told = true
    if (this.#ended?.wrong) return [this.#ended.message]
    const oracle: OracleReport | null = await this.#thread.call('oracle').catch(error => {
      if (this.#ended?.wrong) return null
      throw error
    })
    if (this.#ended?.wrong) return [this.#ended.message]
    if (oracle === null) return ['nobody looks at what devices reach']
    if (oracle.unjudged !== undefined) return [`nothing was judged: ${oracle.unjudged}`]
    const problems = oracle.violations.map(({ message }) => message)
    const { isolated } = (await this.#thread.call('sections')) as { readonly isolated?: boolean }
    if (isolated !== true) problems.push('the policy isolates no devices')
    const masters = await untranslatedMasters(await this.#qmp())
    if (masters.length > 0) problems.push(`not behind the SMMU: ${masterNames(masters)}`)
    return problems
  }

  /**
   * Waits until the machine has ended, because it is expected to: the guest powers off, or panics.
   * @param options `timeout` in ms, 30,000 by default
   * @returns why it ended
   */
  async waitForEnd({ timeout = END_MS }: { readonly timeout?: number } = {}): Promise<string> {
    this.#told = true
    const late = sleep(timeout, undefined, { ref: false }).then(() => {
      throw new Error(`the machine has not ended within ${timeout} ms`)
    })
    await Promise.race([this.#machine.session.ended, late])
    // Who else waits for it is told first.
    await sleep(0)
    return this.#ended?.message ?? ''
  }

  /** Why the test has to fail although it did not notice; undefined: nothing went wrong, or the test knows. */
  get unnoticed(): string | undefined {
    return this.#ended?.wrong && !this.#told ? this.#ended.message : undefined
  }

  /**
   * Ends it.
   * @param keep folder for what it leaves behind; undefined: nothing is kept
   */
  async close(keep: string | undefined): Promise<Artefacts | undefined> {
    try {
      const ended = this.#ended?.message
      this.#machine.session.pump?.drain()
      const traps = [...this.#log.excerpt()]
      await this.#machine.session.stop()
      await this.#recorder?.close()
      if (keep === undefined) return undefined
      await rm(keep, { recursive: true, force: true })
      await mkdir(dirname(keep), { recursive: true })
      await cp(this.#folder.path, keep, { recursive: true, filter: path => !path.endsWith('.lock') })
      await writeFile(join(keep, 'traps.txt'), traps.map(line => `${line}\n`).join(''))
      return {
        ...(ended !== undefined && { ended }),
        recording: join(keep, 'trace'),
        console: join(keep, 'console.log'),
        traps,
        seed: this.seed,
      }
    } finally {
      this.#machine.dispose()
      this.#folder.remove()
    }
  }

  #end(how: { readonly message: string; readonly wrong: boolean }): void {
    this.#ended ??= how
    this.#agent.fail(new Error(`the machine has ended: ${this.#ended.message}`))
    this.console.look()
  }

  #gone(): Error | undefined {
    return this.#ended && new Error(`the machine has ended: ${this.#ended.message}`)
  }

  #qmp() {
    return this.#machine.session.qmp(AbortSignal.timeout(QMP_MS))
  }

  /** QEMU cannot save an NVMe controller, but plug one in. */
  async #plugNvme(): Promise<void> {
    const { path, serial } = this.#machine.workload.nvmeDisk
    const qmp = await this.#qmp()
    const node = { 'node-name': 'nvme-drive', driver: 'raw', file: { driver: 'file', filename: path } }
    await qmp.execute('blockdev-add', node)
    await qmp.execute('device_add', { driver: 'nvme', id: 'nvme', drive: 'nvme-drive', serial, bus: SLOT })
    const wait = 'i=0; until [ -b /dev/nvme0n1 ]; do i=$((i + 1)); [ $i -lt 200 ] || exit 1; sleep 0.05; done'
    const { code } = await this.guest.run(wait)
    if (code !== 0) throw new Error('the guest has no NVMe disk 10 s after it was plugged in')
  }
}

/** Why the machine ended, and whether that is an error. */
function ending(end: SessionEnd, panic: string | undefined): { readonly message: string; readonly wrong: boolean } {
  const failure = withPanic(machineFailure(end), panic)
  return failure === undefined
    ? { message: 'the guest powered off', wrong: false }
    : { message: `${failure.outcome}: ${failure.message}`, wrong: !end.qemu.asked }
}

const deviceName = (hello: Hello | undefined, smmu: number, sid: number): string | undefined =>
  hello?.devices.find(device => device.smmu === smmu && device.sid === sid)?.name

/** What QEMU says of the machine. */
async function connected(session: Session, signal: AbortSignal): Promise<Hello> {
  const [hello] = (await once(session, 'connected', { signal })) as [Hello]
  return hello
}

/** Resolves when the guest waits for what to do. @throws Error when it ends first, or time is up */
async function ready(session: Session, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted()
  const reached = Promise.withResolvers<void>()
  const take = (line: string) => {
    const event = parseGuestEvent(line)
    if (event?.event === 'ready') reached.resolve()
    if (event?.ok === false) reached.reject(new Error(`guest step "${event.event}": ${event.error ?? 'failed'}`))
  }
  session.console.on('line', take)
  const abort = () => reached.reject(new Error('the guest was not ready in time'))
  signal.addEventListener('abort', abort, { once: true })
  void session.ended.then(
    end => reached.reject(new Error(`the machine ended in its boot: ${ending(end, undefined).message}`)),
    reached.reject,
  )
  try {
    await reached.promise
  } finally {
    session.console.off('line', take)
    signal.removeEventListener('abort', abort)
  }
}

/** How the machine is booted once, and saved. */
const savable = ({ files, description, run }: Plan) => ({
  files,
  description,
  label: `Linux ${files.kernel.version} for tests`,
  async save(to: SavedMachine, signal: AbortSignal): Promise<void> {
    const folder = ownFolder(tmpdir(), 'test-')
    let machine: RunningMachine | undefined
    try {
      const { policy, ...options } = run(folder.path)
      // Faults act in the test.
      const { faults: _, ...plain } = policy ?? { name: '', options: {}, panicOnWarn: false }
      machine = await RunningMachine.start({ ...options, ...(policy && { policy: plain }) }, files)
      await ready(machine.session, signal)
      await sleep(REST_MS)
      await machine.session.save(to)
      await machine.session.stop()
      await cp(machine.session.console.logPath, join(dirname(to.ram), CONSOLE))
    } finally {
      await machine?.close()
      folder.remove()
    }
  },
})

async function consoleOf({ ram }: SavedMachine): Promise<string[]> {
  const text = await readFile(join(dirname(ram), CONSOLE), 'latin1')
  return text.split(/\r*\n/).filter(line => line !== '')
}
