// SPDX-License-Identifier: Apache-2.0
/** `smmu-cosim faults run`, `campaign`, `campaigns`, `report`, `compare`. */
import { availableParallelism } from 'node:os'
import { resolve } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import { type Command, InvalidArgumentError, Option } from 'commander'
import { catalogue, entriesOf, isFile } from '../faults/catalogue.ts'
import { checkRules } from '../faults/check.ts'
import { pathText } from '../faults/load.ts'
import { needsServer } from '../faults/plan.ts'
import type { CatalogueEntry } from '../faults/rule.ts'
import type { QueueConnection } from '../fleet/queue.ts'
import type { DeviceName } from '../machine/devices.ts'
import { newRunFolder } from '../machine/runs.ts'
import { writeWhole } from '../machine/wholeFile.ts'
import { SERIES_STEPS, type SeriesStep } from '../policy/policy.ts'
import { builtQemu, isSeries, KERNELS } from '../run/files.ts'
import type { JobMachine } from '../sessions/agentMachine.ts'
import { type Runner, runJobs, sessionsHere } from '../sessions/campaign.ts'
import {
  AGAIN,
  compareCampaigns,
  htmlPage,
  junitXml,
  machineWords,
  quoted,
  tableText,
} from '../sessions/campaignReport.ts'
import { type Campaign, Database, defaultDatabase, jobName, planOf, salvage } from '../sessions/database.ts'
import type { Job, SessionResult } from '../sessions/session.ts'
import { counted, grouped, tenths } from '../trace/words.ts'
import type { Transport } from '../trap/messages.ts'
import {
  appendOption,
  deviceOption,
  initrdOption,
  modulesOption,
  noSandbox,
  qemuArgOption,
  qemuOption,
  qemuSourceOption,
  ramDirOption,
  transportOption,
} from './bootOptions.ts'
import { compareCommand } from './compare.ts'
import { act, EXIT, UsageError, usage } from './exit.ts'
import { checkKernel, kernelName } from './kernels.ts'
import { list, numbers, whole, within } from './numbers.ts'
import { databaseFile, expectReports, faultNames, inputFile, outputFile } from './paths.ts'
import { connectionOf, endSoon, publishOption, type QueueOptions, queueOptions } from './queueOptions.ts'
import { print, say } from './terminal.ts'

interface OutputOptions {
  readonly database: string
  readonly json?: true
  readonly junit?: string
  readonly html?: string
}

interface RunOptions extends OutputOptions, QueueOptions {
  readonly modules?: string
  readonly initrd?: string
  readonly append?: string
  readonly qemuArg: readonly string[]
  readonly device: readonly DeviceName[]
  readonly kernel: readonly string[]
  readonly until: readonly SeriesStep[]
  readonly seed: readonly number[]
  readonly jobs: number
  readonly ramDir: string
  readonly transport: Transport
  readonly sandbox: boolean
  readonly qemu?: string
  readonly twice?: true
  readonly resume?: true | number
}

function stages(text: string): SeriesStep[] {
  return list(text).map(word => {
    const stage = SERIES_STEPS.find(known => known === word)
    if (stage === undefined) throw new InvalidArgumentError(`"${word}" is none of ${SERIES_STEPS.join(', ')}`)
    return stage
  })
}

/** @param database of which kind its file is: one that is there, or one that may be new */
const outputOptions = (command: Command, database: (path: string) => string): Command =>
  command
    .option('--database <file>', 'where campaigns are kept', database, defaultDatabase())
    .option('--json', 'the result as JSON')
    .option('--junit <file>', 'write JUnit XML', outputFile)
    .option('--html <file>', 'write a page with time lines, console and trace', outputFile)

const runOptions = (command: Command): Command =>
  queueOptions(outputOptions(command, databaseFile), 'run the sessions on the workers of a queue')
    .addOption(publishOption())
    .addOption(
      new Option(
        '--kernel <list>',
        `Debian's ${KERNELS.join(', ')}, arm64 Images (or Image.gz), folders of kernel builds`,
      )
        .argParser(list)
        .default(['6.12'], '6.12'),
    )
    .addOption(modulesOption())
    .addOption(initrdOption("initramfs of your own, with the workload's agent in it"))
    .addOption(appendOption())
    .addOption(deviceOption())
    .addOption(qemuArgOption())
    .addOption(new Option('--until <list>', 'prefixes of the series').argParser(stages).default(['nested'], 'nested'))
    .addOption(new Option('--seed <list>', 'e.g. 1 or 1,5-8').argParser(numbers).default([1], '1'))
    .option('--jobs <n>', 'machines at a time', within(1, 256), availableParallelism())
    .addOption(ramDirOption())
    .addOption(transportOption())
    .addOption(noSandbox())
    .addOption(qemuOption())
    .addOption(qemuSourceOption())

/** Adds the commands that run sessions. */
export function faultsRunCommands(faults: Command): void {
  runOptions(faults.command('run').argument('<name|file...>', 'of the catalogue, or of your own', faultNames))
    .description('run sessions with faults of the catalogue, or of files of your own')
    .option(
      '--twice',
      'each of them twice; what the guest did until the first fault is compared, and the first firing has to be the same',
    )
    .action((what: readonly string[], options: RunOptions) =>
      act(async signal => start('run', await entriesOfAll(what, signal), what, options, signal)),
    )
  runOptions(faults.command('campaign').argument('[name|file...]', 'default: the whole catalogue', faultNames))
    .description('the whole catalogue, or a part of it; goes on where it was interrupted')
    .option('--resume [id]', 'go on with an interrupted campaign, by default the newest', whole)
    .action((what: readonly string[] = [], options: RunOptions) =>
      act(async signal => {
        const all = what.length === 0 ? catalogue() : await entriesOfAll(what, signal)
        return start('campaign', all, what, options, signal)
      }),
    )
  faults
    .command('campaigns')
    .description('campaigns so far')
    .option('--database <file>', 'where campaigns are kept', inputFile, defaultDatabase())
    .action(({ database }: OutputOptions) => act(async () => printCampaigns(new Database(database))))
  faults
    .command('salvage')
    .argument('<damaged>', 'a database', inputFile)
    .argument('<new>', 'another one', outputFile)
    .description('what can be read of a damaged database, in a new one')
    .action((damaged: string, made: string) =>
      act(async () => {
        const { campaigns, sessions } = salvage(damaged, made)
        say(`${made}: ${counted(campaigns, 'campaign')} with ${counted(sessions, 'session')}`)
      }),
    )
  outputOptions(faults.command('report').argument('<campaign>', 'its number', whole), inputFile)
    .description('what came of a campaign')
    .action((id: number, options: OutputOptions) =>
      act(async () => {
        usage(() => expectReports(options))
        const database = new Database(options.database)
        await output(database, database.campaign(id), options)
      }),
    )
  compareCommand(faults, 'campaign', defaultDatabase(), (path, before, after) => {
    const database = new Database(path)
    const rows = (ids: readonly number[]) => ids.flatMap(id => database.rows(database.campaign(id)))
    return compareCampaigns(rows(before), rows(after))
  })
}

/** Entries of an argument. A file of rules has no expected verdict: every verdict but harness-error is right. */
async function entries(argument: string, signal: AbortSignal): Promise<CatalogueEntry[]> {
  return (await entriesOf(argument, signal)).map(entry => ({
    summary: `rules of ${argument}`,
    expect: [],
    why: 'a file of rules has no expectation',
    // Rules about translations need a machine that asks the server for them.
    ...(needsServer(entry.rules) && { session: { translate: 'server' as const } }),
    ...(isFile(argument) && { source: argument }),
    ...entry,
  }))
}

const entriesOfAll = async (what: readonly string[], signal: AbortSignal): Promise<CatalogueEntry[]> =>
  (await Promise.all(what.map(argument => entries(argument, signal)))).flat()

/** Why the rules cannot act in the machine of a job, a line each; empty: they can. */
function flawsOf({ entry: { rules, session }, until }: Job): string {
  const context = { policy: 'pkvm', until, translate: session?.translate ?? 'hardware' }
  return checkRules(rules, context, ['rules'])
    .map(({ path, message }) => `${pathText(path)}: ${message}`)
    .join('\n')
}

async function start(
  how: 'run' | 'campaign',
  all: readonly CatalogueEntry[],
  what: readonly string[],
  options: RunOptions,
  signal: AbortSignal,
): Promise<void> {
  usage(() => expectReports(options))
  const connection = connectionOf(options)
  const machine = {
    ...(options.modules && { modules: options.modules }),
    ...(options.initrd && { initrd: options.initrd }),
  }
  for (const kernel of options.kernel)
    await checkKernel({ kernel, devices: options.device, qemuArgs: options.qemuArg, ...machine }, say)
  const database = new Database(options.database)
  const campaign =
    options.resume === undefined ? begin(database, how, all, what, options) : resumed(database, options.resume, options)
  const { path: folder } = newRunFolder(say)
  const where = connection === undefined ? `${options.jobs} at a time` : 'on workers'
  say(`campaign ${campaign.id}: ${counted(database.remaining(campaign).length, 'session')}, ${where}`)
  const { qemu } = await builtQemu(options, signal)
  const runner =
    connection === undefined
      ? sessionsHere({ ...options, ...(qemu !== undefined && { qemu }), folder, say })
      : await onWorkers(connection, campaign, folder, qemu, options.publish)
  const begun = performance.now()
  let ran = 0
  try {
    await runJobs(database, campaign, runner, signal, (job, result, count, total) => {
      ran++
      say(progress(job, result, count, total))
    })
  } catch (error) {
    if (connection !== undefined) endSoon()
    else if (signal.aborted) say(`interrupted: ${goesOn(campaign)}`)
    throw error
  }
  const minutes = (performance.now() - begun) / 60_000
  const nothing = database.remaining(campaign).length
  if (nothing > 0)
    say(`${counted(nothing, 'session')} came to nothing: "faults campaign --resume ${campaign.id}" repeats that`)
  if (ran > 0) say(`${counted(ran, 'session')} in ${tenths(minutes)} min, ${tenths(ran / minutes)} a minute`)
  await output(database, database.campaign(campaign.id), options)
  checkTwice(database, campaign)
}

/** What talks to a queue is loaded when there is one. */
async function onWorkers(
  connection: QueueConnection,
  campaign: Campaign,
  folder: string,
  qemu: string | undefined,
  publish: string | undefined,
): Promise<Runner<Job, SessionResult>> {
  const { nameOf, throughQueue } = await import('../fleet/sender.ts')
  const { sentSessions } = await import('../fleet/session.ts')
  const options = { connection, campaign: nameOf(campaign), goesOn: goesOn(campaign), say }
  return throughQueue(sentSessions(folder, qemu, publish), options)
}

const goesOn = ({ id }: Campaign): string => `"faults campaign --resume ${id}" goes on`

/**
 * Plans a campaign. With --twice each job is there again under another name. Jobs whose rules cannot act in their prefix of the
 * series are left out of a campaign.
 * @throws Error when no job is left, or when one that was named cannot run
 */
function begin(
  database: Database,
  how: 'run' | 'campaign',
  all: readonly CatalogueEntry[],
  what: readonly string[],
  options: RunOptions,
): Campaign {
  const again = options.twice ? all.map(entry => ({ ...entry, name: `${entry.name}${AGAIN}` })) : []
  const { kernel: kernels, until, seed } = options
  const wanted = planOf([...all, ...again], kernels, until, seed, machineOf(options)).map(job => ({
    ...job,
    kernel: kernelName(job.kernel),
  }))
  const [first, ...others] = wanted.filter(job => flawsOf(job) !== '')
  const plan = first === undefined ? wanted : wanted.filter(job => flawsOf(job) === '')
  if (first !== undefined && (plan.length === 0 || how === 'run')) {
    throw new UsageError(`${jobName(first)}: ${flawsOf(first)}`)
  }
  if (plan.length === 0) throw new UsageError('there is nothing to run')
  if (first !== undefined) {
    say(
      `${counted(others.length + 1, 'session is', 'sessions are')} left out because their rules cannot act in their prefix of the series, e.g. ${jobName(first)}`,
    )
  }
  expectNamed(plan, options)
  return database.begin([how, ...what].join(' '), plan)
}

/** What is asked of all machines. */
function machineOf({ modules, initrd, append, qemuArg, device }: RunOptions): JobMachine {
  return {
    ...(modules !== undefined && { modules: resolve(modules) }),
    ...(initrd !== undefined && { initrd: resolve(initrd) }),
    ...(append !== undefined && { append }),
    ...(device.length > 0 && { devices: device }),
    ...(qemuArg.length > 0 && { qemuArgs: qemuArg }),
  }
}

/**
 * What a file or a database asks for – a kernel image, an initramfs, words for QEMU – is done only if the command line asks for it, too.
 * @throws Error
 */
function expectNamed(plan: readonly Job[], options: RunOptions): void {
  const kernels = options.kernel.map(kernelName)
  const job = plan.find(({ kernel }) => !isSeries(kernel) && !kernels.includes(kernelName(kernel)))
  if (job !== undefined) {
    throw new UsageError(`${jobName(job)}: it asks for a kernel of its own: --kernel '${job.kernel}' allows that image`)
  }
  const machine = machineOf(options)
  const other = plan.find(job => !isDeepStrictEqual(job.machine ?? {}, machine))
  if (other === undefined) return
  const words =
    machineWords(other.machine ?? {})
      .map(quoted)
      .join(' ') || 'none of --modules, --initrd, --append, --device and --qemu-arg'
  throw new UsageError(`${jobName(other)}: it asks for another machine: ${words} allows that`)
}

function resumed(database: Database, which: true | number, options: RunOptions): Campaign {
  const id = which === true ? database.unfinished() : which
  if (id === undefined) throw new Error(`${database.path}: every campaign is finished`)
  const campaign = database.campaign(id)
  expectNamed(campaign.plan, options)
  return campaign
}

function progress(job: Job, { verdict, asExpected, ms }: SessionResult, count: number, total: number): string {
  const mark = asExpected ? '' : '  UNEXPECTED'
  return `${String(count).padStart(String(total).length)}/${total}  ${jobName(job)}: ${verdict}${mark}  ${tenths(ms / 1000)} s`
}

async function output(database: Database, campaign: Campaign, options: OutputOptions): Promise<void> {
  const rows = database.rows(campaign)
  const { plan, ...about } = campaign
  if (options.json)
    print(JSON.stringify({ schema: 'smmu-cosim/faults/1', ...about, planned: plan.length, sessions: rows }, null, 2))
  else print(tableText(rows))
  if (options.junit !== undefined) await writeWhole(options.junit, junitXml(campaign, rows))
  if (options.html !== undefined) await writeWhole(options.html, htmlPage(campaign, rows))
  if (rows.length < plan.length || rows.some(({ result }) => !result.asExpected)) process.exitCode = EXIT.failed
}

/** Compares jobs that ran twice: the guest's accesses until the first fault, and the first firing, have to be equal. */
function checkTwice(database: Database, campaign: Campaign): void {
  const rows = database.rows(campaign)
  const byName = new Map(rows.map(row => [jobName(row.job), row]))
  for (const { job, result } of rows) {
    const second = byName.get(jobName({ ...job, entry: { ...job.entry, name: `${job.entry.name}${AGAIN}` } }))
    if (second === undefined) continue
    const [a, b] = [result, second.result]
    const accesses = a.before.accesses === b.before.accesses && a.before.digest === b.before.digest
    const [first, again] = [a, b].map(({ evidence }) => evidence.firings[0])
    const firing = first?.rule === again?.rule && first?.trap === again?.trap && first?.what === again?.what
    print(
      `${job.entry.name}: ${accesses ? 'the same' : 'DIFFERENT'} ${counted(a.before.accesses, 'access', 'accesses')} until the first fault` +
        `${accesses ? '' : ` (${grouped(b.before.accesses)} the second time)`}, ${firing ? 'the same' : 'ANOTHER'} first firing; ` +
        `verdicts ${a.verdict} and ${b.verdict}`,
    )
    if (!firing) process.exitCode = EXIT.failed
  }
}

function printCampaigns(database: Database): void {
  for (const { id, started, finished, what, planned, done, asExpected } of database.list()) {
    const state = finished === null ? 'not finished' : 'finished'
    print(
      `${id}  ${started}  ${what}: ${grouped(done)} of ${counted(planned, 'session')}, ${grouped(asExpected)} as expected, ${state}`,
    )
  }
}
