// SPDX-License-Identifier: Apache-2.0
/** `smmu-cosim boot`: one machine, its workload, its report. */
import { statSync } from 'node:fs'
import { cpus } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { type Command, Option } from 'commander'
import { MAX_FRAMES } from '../../protocol/messages.ts'
import {
  DEFAULT_QEMU,
  isQemuVersion,
  matchingSeries,
  type QemuVersion,
  qemuVersion,
} from '../../scripts/setup/index.ts'
import { FaultController } from '../control/faultController.ts'
import type { Session } from '../control/session.ts'
import type { FaultStatus } from '../faults/injector.ts'
import { needsServer, planOf } from '../faults/plan.ts'
import type { FaultPlan } from '../faults/rule.ts'
import { expectFree, gdbCommand } from '../machine/gdb.ts'
import { type GuestEvent, GuestEvents, MAX_GUEST_EVENTS, parseGuestEvent } from '../machine/guestEvents.ts'
import { runsLimit } from '../machine/runs.ts'
import { parseSize } from '../machine/scratch.ts'
import { writeWhole } from '../machine/wholeFile.ts'
import { loadPolicy, POLICY_NAMES, type PolicyModule, policyFile } from '../policy/load.ts'
import {
  blockOptions,
  blocksProblem,
  powerOptions,
  powerProblem,
  stage2Options,
  stage2Problem,
} from '../policy/policy.ts'
import { AttackTable, attackOutcome, deviceReached } from '../run/attackTable.ts'
import { EL2_COMMAND_LINE, EL2_KERNEL, el2Failure, el2QemuArgs } from '../run/el2.ts'
import { type Ending, OUTCOMES } from '../run/ending.ts'
import {
  isSeries,
  kernelArgs,
  type MachineFiles,
  machineFiles,
  qemuPath,
  qemuThatRan,
  type WantedFiles,
} from '../run/files.ts'
import { gdbSymbols, KernelPlace } from '../run/gdbSymbols.ts'
import { acpiReport } from '../run/iort.ts'
import { isolationViolation, notJudged } from '../run/isolation.ts'
import { checkFiles, checkSizes, commandLine, DEFAULTS, type RunOptions, ramFolder } from '../run/options.ts'
import {
  acpiFailure,
  execFailure,
  machineFailure,
  notRecorded,
  panicOf,
  streamlessFailure,
  withPanic,
  workloadFailure,
} from '../run/outcome.ts'
import { kernelFolders } from '../run/ownKernel.ts'
import { RunningMachine } from '../run/runningMachine.ts'
import { REPORT_SCHEMA, type Report } from '../run/runReport.ts'
import { Stall } from '../run/stall.ts'
import { BothWorkloads, KDUMP_COMMAND_LINE, KEXEC_MEMORY } from '../run/successor.ts'
import type { Recorder } from '../trace/recorder.ts'
import { parseAddress } from '../trap/listener.ts'
import { type BootOptions, bootOptions, OF_THE_SERVER, policyOf, tokenFile } from './bootOptions.ts'
import { confine, type Named, policyFolder } from './confine.ts'
import { type Dashboard, openDashboard } from './dashboard.ts'
import { execute } from './exec.ts'
import { abortOnSignal, EXIT, fail, UsageError, usage } from './exit.ts'
import { checkKernel } from './kernels.ts'
import { expectDistinct, serverAddress } from './paths.ts'
import { checkPolicy, checkQuirkNames } from './policyCheck.ts'
import { printSummary } from './summary.ts'
import { ConsolePrinter, raw, say } from './terminal.ts'
import { readToken } from './tokenFile.ts'

/** Called with the session of each machine that is started, before it is waited for. */
export type SessionHook = (session: Session, kernel: MachineFiles['kernel']) => void

/** The first half of the flash of QEMU's virt machine. */
const MAX_FIRMWARE = 64 << 20

/** `smmu-cosim boot`. */
export function bootCommand(program: Command): void {
  bootOptions(program.command('boot'), 0)
    .description('boot Linux with every SMMUv3 register access decided by the server, run the workload, report')
    .addOption(
      new Option(
        '--server <socket|host:port>',
        'use the server that listens there (smmu-cosim dev --listen) instead of one of its own',
      )
        .argParser(serverAddress)
        .conflicts([...OF_THE_SERVER]),
    )
    .addOption(tokenFile())
    .action((options: BootOptions) => bootAction(options))
}

/** Boots; the outcome is the process's exit code. */
export async function bootAction(options: BootOptions, hook?: SessionHook): Promise<void> {
  const { signal, dispose } = abortOnSignal()
  let dashboard: Dashboard | undefined
  try {
    // A confined process cannot look for what it was not allowed to read.
    usage(() => check(options))
    await checkQuirkNames(options.policy, options.quirk)
    await checkKernel({ ...wantedFiles(options), qemuArgs: options.qemuArg, pkvm: options.el2 === 'pkvm' }, say)
    await checkPolicy(options.policy, options.typeCheck, signal)
    if (options.dashboard !== undefined) {
      await confine(options.sandbox, namedFiles(options), signal)
      dashboard = await openDashboard(options)
    }
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

/** What a served machine needs of the files that the command line names. */
function namedFiles(options: BootOptions): Named {
  const { policy, kernel, modules, symbols, initrd, firmware, qemu, faults = [], ramDir, report, record } = options
  const folder = (file: string | false | undefined) => (file ? dirname(resolve(file)) : undefined)
  return {
    read: [
      policyFolder(policy),
      ...(kernel === undefined || isSeries(kernel) ? [] : kernelFolders(kernel, modules)),
      symbols,
      initrd,
      ...(typeof firmware === 'string' ? [firmware] : []),
      qemuPath(qemu),
      options.share?.path,
      ...faults,
    ],
    write: [ramFolder(ramDir), folder(report), folder(record)],
  }
}

type Stage2Choices = 'policy' | 'until' | 'el2' | 'blocks' | 'bbm' | 'power' | 'ats' | 'stage2' | 'populate'

/** @throws Error when `--blocks`, `--bbm`, `--power`, `--stage2` and `--populate` say nothing, or do not fit each other */
export function checkStage2(options: Pick<BootOptions, Stage2Choices>): void {
  const policy = policyOf(options)
  const builtIn = POLICY_NAMES.includes(policy)
  const problem =
    blocksProblem(policy, builtIn, options) ??
    powerProblem(policy, builtIn, options) ??
    stage2Problem(policy, builtIn, options.el2 === 'pkvm', options)
  if (problem !== undefined) throw new Error(`--${problem.replace('with ', 'with --')}`)
}

/** Checks before any work is done, so that a typo costs no boot. @throws Error naming option and file. */
function check(options: BootOptions): void {
  const { record, report } = options
  if (!POLICY_NAMES.includes(options.policy)) policyFile(options.policy)
  checkFiles(wantedFiles(options))
  checkStage2(options)
  if (options.storm > 0 && options.el2 === 'none') throw new Error('--storm: only with --el2 pkvm or kernel')
  if (typeof record === 'string' && (options.baseline || options.server !== undefined))
    throw new Error('--record: needs the server of this run: not with --baseline or --server')
  const { kernel, initrd, symbols, policy, firmware, tokenFile } = options
  const inputs = { '--kernel': kernel, '--initrd': initrd, '--symbols': symbols, '--policy': policy }
  expectDistinct(
    { '--report': report, '--record': record },
    { ...inputs, '--firmware': firmware === true ? undefined : firmware, '--token-file': tokenFile },
  )
  if (options.requireRecording && record === false) throw new Error('--require-recording: not with --no-record')
  if (options.tokenFile !== undefined) {
    if (options.server === undefined)
      throw new Error('--token-file: only with a server that runs elsewhere (boot --server, dev --listen)')
    readToken(options.tokenFile)
  }
  if (options.el2 === 'pkvm' && options.granule !== '4096') {
    throw new Error(`--granule ${options.granule}: EL2 gives and takes pages of 4096 bytes, the idmap has to follow`)
  }
  if (options.el2 !== 'none' && options.reboots > 0) throw new Error(`--reboots: not with --el2 ${options.el2}`)
  if (options.kexec !== undefined && options.el2 !== 'none')
    throw new Error(`--kexec: not with --el2 ${options.el2}, which lets no kernel follow`)
  if (options.kexec !== undefined && parseSize(options.memory) < KEXEC_MEMORY)
    throw new Error(`--kexec: two kernels do not fit into --memory ${options.memory}: at least ${KEXEC_MEMORY >> 20}M`)
  const { qemu = DEFAULT_QEMU } = options
  if (options.firmware !== undefined) checkFirmware(options)
  if (isQemuVersion(qemu)) checkAcpi(options, qemu)
  checkSizes(options, '--')
  runsLimit()
}

/**
 * Firmware goes by ACPI.
 * @param series of QEMU; undefined: not known, and what the guest sees of its IORT is checked
 * @throws Error for SMMUs that are in no table
 */
function checkAcpi({ firmware, smmus, qemuArg }: BootOptions, series: QemuVersion | undefined): void {
  if (firmware === undefined || smmus === 1 || series !== '10.0' || qemuArg.some(arg => arg.includes('acpi=off')))
    return
  throw new Error(
    `--firmware: not with --smmus ${smmus}, which QEMU ${series} has no ACPI tables for: --qemu 10.2 has (--qemu-arg=-machine --qemu-arg=acpi=off: none)`,
  )
}

/** @throws Error for what firmware cannot start */
function checkFirmware({ firmware, el2 }: BootOptions): void {
  if (el2 !== 'none') throw new Error(`--firmware: not with --el2 ${el2}, whose kernel QEMU has to start itself`)
  if (typeof firmware !== 'string') return
  const { size } = statSync(firmware)
  if (size === 0 || size > MAX_FIRMWARE)
    throw new Error(`--firmware ${firmware}: ${size} bytes; the flash of the machine has 1 to ${MAX_FIRMWARE}`)
}

/** Runs one machine. @returns the exit code. @throws Error for what was wrong before a machine ran. */
async function boot(options: BootOptions, signal: AbortSignal, hook?: SessionHook): Promise<number> {
  if (typeof options.gdb === 'number') await expectFree(options.gdb, '--gdb')
  // A file is loaded by the trap thread only.
  if (POLICY_NAMES.includes(options.policy)) checkOracle(options, await loadPolicy(options.policy, options.quirk))
  const faults = await faultsOf(options, signal)
  const files = await machineFiles(wantedFiles(options), { signal })
  signal.throwIfAborted()
  const version = options.smmus > 1 ? await qemuVersion(files.qemu) : undefined
  usage(() => checkAcpi(options, matchingSeries(version ?? '')))
  const run = runOptions(options, faults)
  const qemuArgs = [...kernelArgs(files.kernel), ...(run.qemuArgs ?? [])]
  const machine = await RunningMachine.start({ ...run, qemuArgs }, files)
  try {
    const report = await watch(options, machine, files, faults, signal, hook)
    printSummary(report)
    const text = `${JSON.stringify(report, null, 2)}\n`
    // Nobody asked for this one: a full disk is no outcome of the run.
    await writeWhole(join(machine.folder, 'report.json'), text).catch(error => say(error.message))
    if (options.report !== undefined) await writeWhole(options.report, text)
    return exitCode(report)
  } finally {
    await machine.close()
  }
}

/** A command that ended by itself has the last word, in a machine that nothing else is wrong with. */
function exitCode({ outcome, exec }: Report): number {
  if (outcome === 'ok') return EXIT.ok
  if (outcome === 'interrupted') return EXIT.interrupted
  return outcome === 'guest-failed' && exec?.code ? exec.code : EXIT.failed
}

/** @throws Error when there would be nothing to hold the machine against */
function checkOracle({ oracle, policy, until, el2 }: BootOptions, { description }: PolicyModule): void {
  if (!oracle || el2 !== 'none' || description === undefined) return
  if (description.facilities({ until }).includes('stage2')) return
  const short = description.facilities({}).includes('stage2') ? `--until ${until}` : `--policy ${policy}`
  throw new UsageError(`--oracle: with ${short} there is no second stage, and nothing is isolated`)
}

/** What is not said depends on what runs at EL2. */
function wantedFiles({
  kernel,
  modules,
  symbols,
  initrd,
  firmware,
  qemu,
  el2,
  exec,
  share,
  device,
  slots,
  kexec,
  interactive,
}: BootOptions): WantedFiles {
  return {
    kernel: kernel ?? (el2 === 'none' ? DEFAULTS.kernel : EL2_KERNEL),
    ...(modules !== undefined && { modules }),
    ...(symbols !== undefined && { symbols: resolve(symbols) }),
    ...(initrd !== undefined && { initrd }),
    ...(firmware !== undefined && { firmware }),
    ...(qemu !== undefined && { qemu }),
    attack: el2 !== 'none',
    agent: exec !== undefined,
    share: share !== undefined,
    devices: device,
    slots: slots > 0,
    ...(kexec !== undefined && { successor: kexec }),
    shell: interactive === true,
  }
}

function runOptions(options: BootOptions, faults: FaultPlan | undefined): RunOptions {
  const { memory, carveout, smp, ramDir, sandbox, interactive, reboots, bench, qemuArg, el2, storm, exec, share } =
    options
  const work = el2 === 'none' ? 'workload' : 'el2'
  const task = exec !== undefined ? 'remote' : reboots > 0 ? `reboot:${reboots + 1}` : (options.kexec ?? work)
  const run = interactive ? 'shell' : task
  const append = [
    ...(el2 === 'none' ? [] : [EL2_COMMAND_LINE, `cosim.storm=${storm}`]),
    ...(share === undefined ? [] : [`cosim.share=${share.writable ? 'rw' : 'ro'}`]),
    ...(options.kexec === 'kdump' ? [KDUMP_COMMAND_LINE] : []),
    options.append ?? '',
  ]
    .join(' ')
    .trim()
  return {
    memory,
    carveout,
    smp,
    ramDir,
    sandbox,
    say,
    agent: exec !== undefined,
    ...(share && { share }),
    ...(options.smmus > 1 && { smmus: options.smmus }),
    devices: options.device,
    slots: options.slots,
    ...(options.kexec !== undefined && { successor: options.kexec }),
    ...(options.load > 0 && { load: options.load }),
    commandLine: commandLine({ run, bench, ...(append !== '' && { append }) }),
    ...(options.gdb !== undefined && { gdb: options.gdb === true ? {} : { port: options.gdb } }),
    qemuArgs: [
      ...(reboots > 0 ? [] : ['-no-reboot']),
      ...(el2 === 'none' ? [] : el2QemuArgs(options.stage2 === 'shared')),
      ...qemuArg,
    ],
    ...(!options.baseline && {
      policy: {
        name: policyOf(options),
        options: {
          until: options.until,
          granule: Number(options.granule),
          requireIsolation: options.requireIsolation === true,
          ats: options.ats === true,
          ...blockOptions(options),
          ...powerOptions(options),
          ...stage2Options(options),
          quirks: options.quirk,
        },
        panicOnWarn: options.panicOnWarn === true,
        oracle: options.oracle === true || el2 === 'kernel',
        faithful: options.faithful === true,
        transport: options.transport,
        translate: faults !== undefined && needsServer(faults.rules) ? 'server' : options.translate,
        ...(faults && { faults }),
        ...(options.callStacks && { callStacks: options.callStacks === true ? MAX_FRAMES : options.callStacks }),
        reconnectMs: options.reconnect * 1000,
        ...(options.server !== undefined && { server: whereabouts(options.server) }),
        ...(options.tokenFile !== undefined && { tokenFile: resolve(options.tokenFile) }),
      },
    }),
  }
}

/** A path holds wherever QEMU is started. */
const whereabouts = (server: string): string => ('path' in parseAddress(server) ? resolve(server) : server)

/** Follows the machine until it ends. */
async function watch(
  options: BootOptions,
  machine: RunningMachine,
  files: MachineFiles,
  faults: FaultPlan | undefined,
  signal: AbortSignal,
  hook?: SessionHook,
): Promise<Report> {
  const { kernel } = files
  const { session, workload, started } = machine
  const controller = faults && new FaultController(session, faults.rules)
  const recorder = await record(machine, options)
  const attackTable = new AttackTable()
  session.pump?.add(attackTable)
  hook?.(session, kernel)
  const told = new GuestEvents()
  const events = told.all
  const both = options.kexec && new BothWorkloads(workload, options.kexec)
  let bootMs: number | null = null
  let panic: string | undefined
  session.console.on('line', line => {
    const reason = panicOf(line)
    if (reason !== undefined && !both?.asked(reason)) panic ??= reason
    const event = parseGuestEvent(line)
    if (event === undefined) return
    if (!told.add(event)) {
      if (told.dropped === 1)
        say(`the guest tells more than ${MAX_GUEST_EVENTS} events: those that follow are left out`)
      return
    }
    both?.added(events)
    if (event.event === 'userspace') bootMs ??= Math.round(performance.now() - started)
    // The guest switches its SMMU off before it powers off: this is the end of what there is to see.
    if (event.event === 'done' && options.oracle) session.thread?.call('oracle').catch(() => {})
  })
  session.console.on('refused', message =>
    say(`the console's log is cut short: ${session.console.logPath}: ${message}`),
  )
  announceFaults(session)
  if (options.gdb !== undefined) announceGdb(session, kernel, machine.folder)
  // With a command, standard output is that of the command.
  const command =
    options.exec === undefined || machine.agent === undefined
      ? undefined
      : execute(machine.agent, options.exec, options.share !== undefined)
  if (!options.quiet && command === undefined) showConsole(session, options.interactive === true)
  const terminal = options.interactive ? attachTerminal(session) : undefined

  let stopped: (() => Ending<'interrupted' | 'guest-hung' | 'guest-failed'>) | undefined
  const stop = (why: typeof stopped) => {
    stopped ??= why
    // What nobody reads now is not waited for.
    machine.agent?.close()
    void session.stop()
  }
  command?.catch(({ message }: Error) => stop(() => ({ outcome: 'guest-failed', message })))
  const interrupt = () => stop(() => ({ outcome: 'interrupted', message: OUTCOMES.interrupted }))
  if (signal.aborted) interrupt()
  signal.addEventListener('abort', interrupt)
  // Somebody may look with gdb for as long as they like.
  const patient = options.interactive === true || options.gdb !== undefined
  const seconds = options.timeout + options.load * (options.kexec === undefined ? 1 : 2)
  const limit = options.timeout > 0 && !patient ? seconds * 1000 : undefined
  const timer = limit && setTimeout(() => stop(() => hung(seconds, events)), limit)
  // With no limit it may be mended while it waits.
  const stalled = (message: string) => (limit ? stop(() => ({ outcome: 'guest-hung', message })) : say(message))
  if (!patient) session.pump?.add(new Stall(stalled, () => say('the guest goes on')))
  const end = await session.ended
  const recording = await recorder?.close()
  clearTimeout(timer)
  signal.removeEventListener('abort', interrupt)
  terminal?.dispose()
  const code = await command?.catch(() => undefined)

  const ownTask = options.interactive || options.exec !== undefined || options.initrd !== undefined
  const entries = ownTask ? [] : (both?.entries(events) ?? workload.check(events))
  const attacks = attackTable.report(events, session.pump !== undefined)
  const acpi = acpiReport(events, session.hello)
  const violation = isolationViolation(end.sections)
  // Whatever policy and machine promise, what was seen counts.
  const { isolated } = end.isolation ?? {}
  const broken = isolated === true && (violation !== undefined || (attacks && deviceReached(attacks)))
  const failure =
    withPanic(machineFailure(end, stopped?.()), panic) ??
    (command === undefined ? undefined : execFailure(events, code)) ??
    (ownTask ? undefined : workloadFailure(events, entries)) ??
    acpiFailure(acpi) ??
    (ownTask ? undefined : streamlessFailure(session.thread?.policy?.facilities, end.sections.streams)) ??
    attackOutcome(attacks, isolated) ??
    el2Failure(end.sections) ??
    (options.oracle ? notJudged(end.sections, options.el2 !== 'none') : undefined) ??
    (options.requireRecording ? notRecorded(recording) : undefined)
  const qemu = await qemuThatRan(files.qemu, session.hello?.qemuVersion)
  const bench = workload.bench(events)
  const timed = workload.timed(events)
  return {
    schema: REPORT_SCHEMA,
    outcome: 'ok',
    ...failure,
    policy: options.baseline ? 'baseline' : policyOf(options),
    ...(options.quirk.length > 0 && !options.baseline && { quirks: options.quirk }),
    ...(!options.baseline && { ...blockOptions(options), ...powerOptions(options), ...stage2Options(options) }),
    kernel: String(events.find(e => e.event === 'userspace')?.kernel ?? kernel.version),
    ...qemu,
    wallMs: Math.round(performance.now() - started),
    bootMs,
    ...(both && { successor: both.report(events) }),
    traps: session.counters?.traps() ?? null,
    ...(session.transport && { transport: session.transport }),
    workload: entries,
    ...(options.exec !== undefined && { exec: { command: options.exec, code: code ?? null } }),
    ...(options.initrd !== undefined && { initrd: options.initrd }),
    ...(bench.length > 0 && { bench }),
    ...(timed.length > 0 && { timed }),
    ...(acpi && { acpi }),
    ...(attacks && { attacks }),
    console: session.console.logPath,
    ...(recording && { recording }),
    ...(controller && faults && { faults: faultSection(faults, controller) }),
    ...end.sections,
    ...end.isolation,
    ...(broken && { isolated: false }),
    ...(session.counters && { commands: session.counters.commands(), events: session.counters.events() }),
    machine: { memory: options.memory, smp: options.smp, hostCpus: cpus().length, qemuArgs: options.qemuArg },
  }
}

/** The first firing of each rule is told when it comes; how often it fired, the summary says. */
function announceFaults({ thread }: Session): void {
  const told = new Set<string>()
  thread?.on('fired', ({ rule, trap, what }) => {
    if (told.has(rule)) return
    told.add(rule)
    say(`fault ${rule} fires${trap === 0 ? '' : ` at trap ${trap}`}: ${what}`)
  })
}

/** What to type, and again when it is known where the kernel is. */
function announceGdb(session: Session, { image, symbols = image }: MachineFiles['kernel'], folder: string): void {
  const target = session.gdb
  if (target === undefined) return
  say(`gdb: ${gdbCommand(target)}`)
  const failed = ({ message }: Error) => say(`gdb: no symbols: ${message}`)
  const place = new KernelPlace(
    symbols,
    offset => {
      gdbSymbols(symbols, offset, folder).then(found => say(`gdb with symbols: ${gdbCommand(target, found)}`), failed)
    },
    failed,
  )
  session.pump?.add(place)
}

/** Evaluated after the guest has ended, so that its last report is known. */
function hung(timeout: number, events: readonly GuestEvent[]): Ending<'guest-hung'> {
  const last = events.at(-1)
  const where = last === undefined ? 'it never reached userspace' : `its last report was "${last.event}"`
  return { outcome: 'guest-hung', message: `the guest was not done after ${timeout} s: ${where}` }
}

/** @throws Error when the rules do not fit the machine */
async function faultsOf(options: BootOptions, signal: AbortSignal): Promise<FaultPlan | undefined> {
  const { faults, seed, until, translate } = options
  const policy = policyOf(options)
  if (faults === undefined) return undefined
  try {
    return await planOf(faults, seed, { policy, until, translate }, signal)
  } catch (error) {
    throw new UsageError(`--faults: ${(error as Error).message}`)
  }
}

/** Fault section of the report, in case the trap thread could not send its own. */
function faultSection(
  { rules, seed }: FaultPlan,
  { firings, problems }: FaultController,
): FaultStatus & { problems: string[] } {
  const count = (name: string) => firings.filter(({ rule }) => rule === name).length
  const counts = rules.map(({ name }) => ({ rule: name, matches: count(name), fired: count(name) }))
  return { armed: false, seed, plan: rules, rules: counts, firings, problems }
}

/** @throws Error when the file cannot be written; the machine has ended then */
async function record(machine: RunningMachine, { record, recordLimit }: BootOptions): Promise<Recorder | undefined> {
  if (record === false) return undefined
  try {
    return await machine.record(record, parseSize(recordLimit), say)
  } catch (error) {
    await machine.session.stop()
    throw new Error(`--record: ${(error as Error).message}`)
  }
}

/** An interactive console is passed on unchanged. */
function showConsole({ console }: Session, interactive: boolean): void {
  const printer = new ConsolePrinter()
  console.on('data', chunk => (interactive ? raw(chunk) : printer.write(chunk)))
}

/** The user's keyboard is the guest's; Ctrl-] ends the machine, as in other console tools. */
function attachTerminal(session: Session): { dispose: () => void } {
  const { stdin } = process
  const ESCAPE = 0x1d
  say('Ctrl-] ends the machine')
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
