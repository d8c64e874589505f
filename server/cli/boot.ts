// SPDX-License-Identifier: Apache-2.0
import { accessSync, constants, writeFileSync } from 'node:fs'
import { cpus } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { type Command, InvalidArgumentError, Option } from 'commander'
import { enums } from '../../protocol/messages.ts'
import { ensureInitramfs, ensureKernel, ensureQemu } from '../../scripts/setup/index.ts'
import { DEFAULT_HOST } from '../api/server.ts'
import { FaultController } from '../control/faultController.ts'
import { Session, type SessionEnd } from '../control/session.ts'
import type { FaultStatus } from '../faults/injector.ts'
import { needsServer, planOf } from '../faults/plan.ts'
import type { FaultPlan } from '../faults/rule.ts'
import { type GuestEvent, parseGuestEvent } from '../machine/guestEvents.ts'
import { newRunFolder, parseSize, Scratch } from '../machine/scratch.ts'
import { Workload } from '../machine/workload.ts'
import { POLICY_NAMES } from '../policy/load.ts'
import { GRANULES, SERIES_STEPS, type SeriesStep } from '../policy/policy.ts'
import { describeMachine } from '../trace/format.ts'
import { newHeader, Recorder } from '../trace/recorder.ts'
import type { TranslateMode } from '../trap/translator.ts'
import { type Dashboard, openDashboard } from './dashboard.ts'
import { abortOnSignal, EXIT, fail } from './exit.ts'
import { OUTCOMES, type Outcome, REPORT_SCHEMA, type Report } from './report.ts'
import { printSummary } from './summary.ts'

/** What `boot` was asked for; every field is an option of the command line. */
export interface BootOptions {
  readonly policy: string
  readonly until: SeriesStep
  readonly granule: string
  readonly requireIsolation?: boolean
  readonly kernel?: string
  readonly initrd?: string
  readonly qemu?: string
  readonly append?: string
  readonly memory: string
  readonly smp: number
  readonly carveout: string
  readonly ramDir: string
  readonly interactive?: boolean
  /** Port, or true for the usual one. */
  readonly dashboard?: true | number
  readonly dashboardHost: string
  readonly baseline?: boolean
  readonly reboots: number
  readonly bench: number
  readonly timeout: number
  readonly report?: string
  readonly translate: TranslateMode
  readonly panicOnWarn?: boolean
  readonly faithful?: boolean
  /** A file, or false for none; absent: in the run's folder. */
  readonly record?: string | false
  readonly recordLimit: string
  readonly quiet?: boolean
  readonly qemuArg: readonly string[]
  /** Seconds that the machine waits for a lost server. */
  readonly reconnect: number
  /** Files of rules, and names in the catalogue. */
  readonly faults?: readonly string[]
  readonly seed: number
  /** Socket of a server that runs elsewhere. */
  readonly server?: string
}

/** Called with the session of each machine that is started, before it is waited for. */
export type SessionHook = (session: Session, kernel: Files['kernel']) => void

/** Debian's kernels that set-up can fetch; anything else is a file. */
const KERNELS = ['6.12', '6.1'] as const
type KernelSeries = (typeof KERNELS)[number]
const isSeries = (text: string): text is KernelSeries => (KERNELS as readonly string[]).includes(text)

/** `smmu-cosim boot`. */
export function bootCommand(program: Command): void {
  bootOptions(program.command('boot'), 0)
    .description('boot Linux with every SMMUv3 register access decided by the server, run the workload, report')
    .option(
      '--server <socket>',
      'use the server that listens there (smmu-cosim dev --listen) instead of one of its own',
    )
    .action((options: BootOptions) => bootAction(options))
}

/** Boots; the outcome is the process's exit code. */
export async function bootAction(options: BootOptions, hook?: SessionHook): Promise<void> {
  const { signal, dispose } = abortOnSignal()
  let dashboard: Dashboard | undefined
  try {
    if (options.dashboard !== undefined) dashboard = await openDashboard(options)
    process.exitCode = await boot(options, signal, (session, kernel) => {
      dashboard?.show(session, kernel)
      hook?.(session, kernel)
    })
  } catch (error) {
    fail(error, signal)
  } finally {
    await dashboard?.close()
    dispose()
  }
}

/** The options of a machine. */
export function bootOptions(command: Command, reconnect: number): Command {
  return command
    .option('--policy <name|file>', `${POLICY_NAMES.join(', ')}, or a file with a policy of your own`, 'pkvm')
    .addOption(
      new Option('--until <stage>', 'prefix of the series that is emulated').choices(SERIES_STEPS).default('nested'),
    )
    .addOption(
      new Option('--granule <bytes>', 'page size of the stage-2 idmap').choices(GRANULES.map(String)).default('4096'),
    )
    .option('--require-isolation', 'an SMMU that cannot be isolated stops the machine instead of being reported')
    .option('--kernel <series|file>', `Debian's ${KERNELS.join(' or ')}, or an arm64 Image`, '6.12')
    .option('--initrd <file>', "initramfs of your own instead of the workload's")
    .option('--qemu <file>', 'a qemu-system-aarch64 with the patches, built elsewhere')
    .option('--append <text>', 'added to the kernel command line')
    .option('--memory <size>', 'guest RAM, e.g. 1G', size, '1G')
    .option('--smp <n>', 'vCPUs, 1 to 64', integer(1, 64), 1)
    .option(
      '--carveout <size>',
      'hypervisor memory at the top of guest RAM, a multiple of 2M; 0: none',
      carveout,
      '64M',
    )
    .option('--ram-dir <dir>', 'memory-backed folder for guest RAM', '/dev/shm')
    .option('--interactive', 'a shell in the guest instead of the workload (end it with exit)')
    .option('--dashboard [port]', 'watch and steer the machine in a browser while it runs', integer(0, 65_535))
    .option('--dashboard-host <address>', 'address of the dashboard; any but loopback needs the token', DEFAULT_HOST)
    .option('--baseline', 'the same machine without the server, for comparison')
    .option('--reboots <n>', 'reboots before the workload', integer(0, 100), 0)
    .option('--bench <n>', 'timed 4-KiB reads of each disk', integer(0, 1_000_000), 0)
    .option(
      '--reconnect <s>',
      'how long the machine waits for a lost server; 0: it ends',
      integer(0, 86_400),
      reconnect,
    )
    .option('--timeout <s>', 'end a guest that is not done by then; 0: never', integer(0, 1_000_000), 300)
    .option('--report <file>', 'write the report as JSON')
    .addOption(
      new Option('--translate <mode>', 'who translates for devices: QEMU’s model, the server, or both compared')
        .choices(Object.keys(enums.translateMode))
        .default('hardware'),
    )
    .option('--record <file>', 'where the run is recorded; by default in the runs folder')
    .option('--no-record', 'do not record')
    .option('--record-limit <size>', 'bytes of the recording, the middle of a longer one is left out', size, '2G')
    .option('--faults <file|name...>', 'inject these faults: files of rules, or names of the catalogue')
    .option('--seed <n>', 'of what faults leave to chance', integer(0, 0xffff_ffff), 1)
    .option('--faithful', 'every access of the guest is a trap, every access to the hardware is waited for')
    .option('--panic-on-warn', 'stop the machine at the first unexpected hyp warning')
    .option('--quiet', 'no guest console on the terminal')
    .addOption(
      new Option('--qemu-arg <arg>', 'added to QEMU’s command line; may be repeated')
        .argParser(collect)
        .default([], ''),
    )
}

const collect = (value: string, before: readonly string[]): string[] => [...before, value]

function size(text: string): string {
  try {
    parseSize(text)
    return text
  } catch (error) {
    throw new InvalidArgumentError((error as Error).message)
  }
}

const carveout = (text: string): string => (text === '0' ? text : size(text))

const integer = (min: number, max: number) => (text: string) => {
  const value = Number(text)
  if (text.trim() === '' || !Number.isInteger(value) || value < min || value > max) {
    throw new InvalidArgumentError(`expected a whole number from ${min} to ${max}`)
  }
  return value
}

/** Checks before any work is done, so that a typo costs no boot. @throws Error naming option and file. */
function check(options: BootOptions): void {
  const { kernel, initrd, report } = options
  for (const [option, file] of [
    ['--kernel', kernel !== undefined && !isSeries(kernel) ? kernel : undefined],
    ['--initrd', initrd],
    ['--qemu', options.qemu],
  ]) {
    if (file === undefined) continue
    try {
      accessSync(file, constants.R_OK)
    } catch {
      const hint = option === '--kernel' ? ` (or one of Debian's series: ${KERNELS.join(', ')})` : ''
      throw new Error(`${option} ${file}: no such file, or not readable${hint}`)
    }
  }
  if (report !== undefined) {
    try {
      accessSync(dirname(resolve(report)), constants.W_OK)
    } catch {
      throw new Error(`--report ${report}: its folder does not exist, or is not writable`)
    }
  }
  if (options.carveout === '0') return
  if (parseSize(options.carveout) % (2 << 20) !== 0)
    throw new Error(`--carveout ${options.carveout}: not a multiple of 2M`)
  if (parseSize(options.carveout) * 2 > parseSize(options.memory)) {
    throw new Error(`--carveout ${options.carveout}: more than half of --memory ${options.memory}`)
  }
}

interface Files {
  readonly qemu: string
  readonly kernel: { readonly version: string; readonly image: string }
  readonly initrd: string
}

async function files(options: BootOptions, signal: AbortSignal): Promise<Files> {
  const series = options.kernel ?? '6.12'
  const qemu = options.qemu ?? (await ensureQemu({ signal }))
  const kernel = isSeries(series)
    ? await ensureKernel({ signal, kernel: series })
    : { version: series, image: series, systemMap: undefined, modules: undefined }
  const initrd = options.initrd ?? (await ensureInitramfs({ signal, modules: kernel.modules }))
  return { qemu, kernel, initrd }
}

/** Runs one machine. @returns the exit code. @throws Error for what was wrong before a machine ran. */
async function boot(options: BootOptions, signal: AbortSignal, hook?: SessionHook): Promise<number> {
  check(options)
  const { qemu, kernel, initrd } = await files(options, signal)
  signal.throwIfAborted()
  const scratch = new Scratch(parseSize(options.memory), options.ramDir)
  const runFolder = newRunFolder()
  const workload = await Workload.create(scratch.sockets)
  try {
    const run = await runMachine(options, { qemu, kernel, initrd }, scratch, runFolder, workload, signal, hook)
    printSummary(run)
    writeFileSync(join(runFolder, 'report.json'), `${JSON.stringify(run, null, 2)}\n`)
    if (options.report !== undefined) writeFileSync(options.report, `${JSON.stringify(run, null, 2)}\n`)
    return run.outcome === 'ok' ? EXIT.ok : run.outcome === 'interrupted' ? EXIT.interrupted : EXIT.failed
  } finally {
    workload.close()
    scratch.remove()
  }
}

function kernelCommandLine(options: BootOptions, workload: Workload): string {
  const run = options.interactive ? 'shell' : options.reboots > 0 ? `reboot:${options.reboots + 1}` : 'workload'
  const words = ['console=ttyAMA0', 'panic=-1', `cosim.run=${run}`, workload.append(options.bench)]
  if (options.append !== undefined) words.push(options.append)
  return words.join(' ')
}

const policyOptions = (options: BootOptions) => ({
  until: options.until,
  granule: Number(options.granule),
  requireIsolation: options.requireIsolation === true,
})

async function runMachine(
  options: BootOptions,
  { qemu, kernel, initrd }: Files,
  scratch: Scratch,
  runFolder: string,
  workload: Workload,
  signal: AbortSignal,
  hook?: SessionHook,
): Promise<Report> {
  const started = performance.now()
  const faults = faultsOf(options)
  const session = await Session.start({
    scratch,
    runFolder,
    machine: {
      binary: qemu,
      kernel: kernel.image,
      initrd,
      append: kernelCommandLine(options, workload),
      memory: options.memory,
      smp: options.smp,
      virtioDisk: workload.virtioDisk,
      nvmeDisk: workload.nvmeDisk,
      network: true,
      extra: [...(options.reboots > 0 ? [] : ['-no-reboot']), ...options.qemuArg],
    },
    ...(!options.baseline && {
      policy: {
        name: options.policy,
        options: policyOptions(options),
        panicOnWarn: options.panicOnWarn === true,
        faithful: options.faithful === true,
        translate: faults !== undefined && needsServer(faults.rules) ? 'server' : options.translate,
        ...(faults && { faults }),
        carveout: options.carveout,
        reconnectMs: options.reconnect * 1000,
        ...(options.server !== undefined && { server: resolve(options.server) }),
      },
    }),
  })
  const controller = faults && new FaultController(session, faults.rules)
  const recorder = await record(session, options, kernel, runFolder)
  hook?.(session, kernel)
  const events: GuestEvent[] = []
  let bootMs: number | null = null
  session.console.on('line', line => {
    const event = parseGuestEvent(line)
    if (event === undefined) return
    events.push(event)
    if (event.event === 'userspace') bootMs ??= Math.round(performance.now() - started)
  })
  if (!options.quiet) session.console.on('data', chunk => process.stdout.write(chunk))
  const terminal = options.interactive ? attachTerminal(session) : undefined

  let stopped: 'interrupted' | 'guest-hung' | undefined
  const stop = (why: typeof stopped) => {
    stopped ??= why
    void session.stop()
  }
  const interrupt = () => stop('interrupted')
  if (signal.aborted) interrupt()
  signal.addEventListener('abort', interrupt)
  const limit = options.timeout > 0 && !options.interactive ? options.timeout * 1000 : undefined
  const timer = limit && setTimeout(() => stop('guest-hung'), limit)
  const end = await session.ended
  const recording = await recorder?.close()
  clearTimeout(timer)
  signal.removeEventListener('abort', interrupt)
  terminal?.dispose()

  const entries = options.interactive ? [] : workload.check(events)
  const [outcome, message] = judge(options, stopped, end, events, entries)
  const bench = workload.bench(events)
  return {
    schema: REPORT_SCHEMA,
    outcome,
    ...(message !== undefined && { message }),
    policy: options.baseline ? 'baseline' : options.policy,
    kernel: String(events.find(e => e.event === 'userspace')?.kernel ?? kernel.version),
    wallMs: Math.round(performance.now() - started),
    bootMs,
    traps: session.counters?.traps() ?? null,
    workload: entries,
    ...(bench.length > 0 && { bench }),
    console: session.console.logPath,
    ...(recording && { recording }),
    ...(controller && faults && { faults: faultSection(faults, controller) }),
    ...end.sections,
    ...(session.counters && { commands: session.counters.commands(), events: session.counters.events() }),
    machine: { memory: options.memory, smp: options.smp, hostCpus: cpus().length, qemuArgs: options.qemuArg },
  }
}

/** @throws Error when the rules do not fit the machine */
function faultsOf({ faults, seed, policy, until, translate, baseline, server }: BootOptions): FaultPlan | undefined {
  if (faults === undefined) return undefined
  if (baseline || server !== undefined) throw new Error('--faults: they are injected by a server of this run’s own')
  try {
    return planOf(faults, seed, { policy, until, translate })
  } catch (error) {
    throw new Error(`--faults: ${(error as Error).message}`)
  }
}

/** For a trap thread that could not say it itself at the end. */
function faultSection(
  { rules, seed }: FaultPlan,
  { firings, problems }: FaultController,
): FaultStatus & { problems: string[] } {
  const count = (name: string) => firings.filter(({ rule }) => rule === name).length
  const counts = rules.map(({ name }) => ({ rule: name, matches: count(name), fired: count(name) }))
  return { armed: false, seed, plan: rules, rules: counts, firings, problems }
}

/** Starts the recording; a baseline run has nothing to record, a server elsewhere has the ring. */
async function record(
  session: Session,
  options: BootOptions,
  kernel: Files['kernel'],
  runFolder: string,
): Promise<Recorder | undefined> {
  const { pump } = session
  if (pump === undefined || options.record === false) return undefined
  const run = {
    policy: options.policy,
    policyOptions: policyOptions(options),
    kernel: kernel.version,
    image: resolve(kernel.image),
  }
  const path = options.record ?? join(runFolder, 'trace')
  const recorder = await Recorder.open({
    path,
    header: newHeader(pump.now(), run),
    limit: parseSize(options.recordLimit),
  }).catch(async (error: Error) => {
    await session.stop()
    throw new Error(`--record: ${error.message}`)
  })
  if (session.hello !== undefined) recorder.describe(describeMachine(session.hello))
  session.on('connected', hello => recorder.describe(describeMachine(hello)))
  pump.add(recorder)
  session.recording = recorder
  return recorder
}

/** The first thing that went wrong decides. */
function judge(
  options: BootOptions,
  stopped: 'interrupted' | 'guest-hung' | undefined,
  end: SessionEnd,
  events: readonly GuestEvent[],
  entries: Report['workload'],
): [Outcome, string?] {
  if (end.panic !== undefined) return ['hyp-panic', end.panic]
  if (stopped === 'interrupted') return ['interrupted', OUTCOMES.interrupted]
  if (end.serverError !== undefined) return ['server-died', end.serverError]
  if (stopped === 'guest-hung') {
    const last = events.at(-1)
    const where = last === undefined ? 'it never reached userspace' : `its last report was "${last.event}"`
    return ['guest-hung', `the guest was not done after ${options.timeout} s: ${where}`]
  }
  const { code, signal, asked } = end.qemu
  if (code !== 0 && !asked)
    return ['qemu-died', `QEMU ended with ${signal ?? `exit code ${code}`}: ${end.qemuErrors || 'no message'}`]
  if (options.interactive) return ['ok']
  const bad = entries.find(({ ok }) => !ok)
  if (bad) return ['guest-failed', `${bad.device} ${bad.operation}: ${bad.error ?? 'failed'}`]
  const failed = events.find(({ ok }) => !ok)
  if (failed) return ['guest-failed', `guest step "${failed.event}": ${failed.error ?? 'failed'}`]
  if (!events.some(({ event }) => event === 'done'))
    return ['guest-failed', 'the guest ended without saying that it was done']
  return ['ok']
}

/** The user's keyboard is the guest's; Ctrl-] ends the machine, as in other console tools. */
function attachTerminal(session: Session): { dispose: () => void } {
  const { stdin } = process
  const ESCAPE = 0x1d
  console.error('smmu-cosim: Ctrl-] ends the machine')
  const forward = (chunk: Buffer) => {
    if (stdin.isTTY && chunk.includes(ESCAPE)) void session.stop()
    else session.qemu.child.stdin?.write(chunk)
  }
  if (stdin.isTTY) stdin.setRawMode(true)
  stdin.on('data', forward)
  return {
    dispose: () => {
      stdin.off('data', forward)
      if (stdin.isTTY) stdin.setRawMode(false)
      stdin.pause()
    },
  }
}
