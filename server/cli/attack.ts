// SPDX-License-Identifier: Apache-2.0
/** `smmu-cosim attack`: a hostile host against a policy, in process. */
import { randomUUID } from 'node:crypto'
import { availableParallelism } from 'node:os'
import { type Command, InvalidArgumentError, Option } from 'commander'
import { type AttackOptions, type AttackResult, attack, type Threads } from '../attack/attack.ts'
import { decodeCase, performCase } from '../attack/cases.ts'
import { explain, UNJUDGED } from '../attack/explain.ts'
import { readText } from '../attack/files.ts'
import { readKnown } from '../attack/known.ts'
import type { Found } from '../attack/messages.ts'
import { mutants, mutated, type Verdict } from '../attack/mutants.ts'
import { HARDWARE, HARDWARE_MEANING, type HardwareOption, type Populate } from '../attack/setup.ts'
import type { QueueConnection } from '../fleet/queue.ts'
import { loadPolicy, POLICY_NAMES } from '../policy/load.ts'
import {
  type BbmLevel,
  blocksProblem,
  type PowerMode,
  powerProblem,
  SERIES_STEPS,
  type SeriesStep,
  type Stage2Mode,
  stage2Problem,
} from '../policy/policy.ts'
import { counted, grouped, tenths } from '../trace/words.ts'
import {
  attackPopulateOption,
  attackPowerOption,
  attackStage2Option,
  bbmLevel,
  blocksOption,
  quirkOption,
} from './bootOptions.ts'
import { abortOnSignal, EXIT, fail, UsageError } from './exit.ts'
import { within } from './numbers.ts'
import { inputFile, outputFolder } from './paths.ts'
import { checkPolicy, checkQuirkNames, noTypeCheck } from './policyCheck.ts'
import { connectionOf, ONLY_BUILT_IN, type QueueOptions, queueOptions } from './queueOptions.ts'
import { print, report, say } from './terminal.ts'

interface AttackCommandOptions extends QueueOptions {
  readonly policy: string
  readonly quirk: readonly string[]
  readonly until: SeriesStep
  readonly blocks?: true
  readonly bbm?: BbmLevel
  readonly power?: PowerMode | 'any'
  readonly stage2?: Stage2Mode
  readonly populate?: Populate
  readonly hardware: readonly HardwareOption[]
  readonly seconds?: number
  readonly ops?: number
  readonly seed?: number
  readonly jobs: number
  readonly corpus?: string
  readonly known?: string
  readonly replay?: string
  readonly mutants?: number
  readonly mutantsOf?: string
  readonly json?: true
  readonly typeCheck: boolean
}

/** Without an end in sight. */
const DEFAULT_SECONDS = 60
/** Between two lines on standard error that say how far it is. */
const PROGRESS_SECONDS = 10

const isHardware = (text: string): text is HardwareOption => (HARDWARE as readonly string[]).includes(text)

function hardware(text: string): readonly HardwareOption[] {
  if (text === 'all') return HARDWARE
  if (text === 'none') return []
  const names = text.split(',')
  const wrong = names.find(name => !isHardware(name))
  if (wrong !== undefined)
    throw new InvalidArgumentError(`there is no "${wrong}", but ${HARDWARE.join(', ')}, all, none`)
  return names.filter(isHardware)
}

const meanings = HARDWARE.map(name => `  ${name.padEnd(10)} ${HARDWARE_MEANING[name]}`).join('\n')

export function attackCommand(program: Command): void {
  queueOptions(program.command('attack'), 'run its jobs on the workers of a queue')
    .description('a hostile host against a policy, in process, with an oracle that does not ask the hypervisor')
    .option('--policy <name|file>', `${POLICY_NAMES.join(', ')}, or a file`, 'pkvm')
    .addOption(
      new Option('--until <step>', 'how much of the series is emulated').choices(SERIES_STEPS).default('nested'),
    )
    .addOption(blocksOption())
    .option('--bbm <level>', 'with --blocks: IDR3.BBML of all hardware (default: any)', bbmLevel)
    .addOption(attackPowerOption())
    .addOption(attackStage2Option())
    .addOption(attackPopulateOption())
    .addOption(quirkOption())
    .option(
      '--hardware <list>',
      `what hardware may be besides QEMU’s model: ${HARDWARE.join(',')}, all, none`,
      hardware,
      [],
    )
    .option(
      '--seconds <n>',
      `end after so many seconds (default: ${DEFAULT_SECONDS}, without --ops)`,
      within(1, 10 ** 7),
    )
    .option(
      '--ops <n>',
      'end after so many operations: what a host does in one go, as to boot, attach a device or donate pages',
      within(1, 10 ** 12),
    )
    .option('--seed <n>', 'the same attack again (default: by chance)', within(0, 0xffff_ffff))
    .option('--jobs <n>', 'threads; with --queue, jobs of a worker each', within(1, 256), 1)
    .option('--corpus <dir>', 'cases that must show nothing any more; new ones are put there', outputFolder)
    .option('--known <file>', 'weaknesses that are known; the attack fails only for others', inputFile)
    .addOption(
      new Option('--replay <case>', 'perform one case and explain it')
        .argParser(inputFile)
        .conflicts([
          'seconds',
          'ops',
          'seed',
          'jobs',
          'until',
          'hardware',
          'corpus',
          'known',
          'quirk',
          'blocks',
          'bbm',
          'power',
          'stage2',
          'populate',
          'queue',
        ]),
    )
    .addOption(
      new Option('--mutants <n>', 'run the unit tests on so many hypervisors with one wrong line each, and attack them')
        .argParser(within(1, 10_000))
        .conflicts([
          'policy',
          'until',
          'replay',
          'corpus',
          'seconds',
          'hardware',
          'quirk',
          'blocks',
          'bbm',
          'power',
          'stage2',
          'populate',
          'queue',
        ]),
    )
    .option('--mutants-of <text>', 'with --mutants: of files that have this in their path only')
    .addOption(noTypeCheck())
    .option('--json', 'the result as JSON')
    .addHelpText(
      'after',
      `\nHardware:\n${meanings}\n\nExit codes: 0 nothing new was found; 1 something was, nothing could be, or an error; 130 interrupted.`,
    )
    .action(async (options: AttackCommandOptions) => {
      if (options.replay !== undefined) {
        // On this thread, without a look at signals: they end the process.
        await again(options.replay, options).then(code => {
          process.exitCode = code
        }, fail)
        return
      }
      const { signal, dispose } = abortOnSignal()
      try {
        if (options.mutantsOf !== undefined) checkMutantsOf(options.mutantsOf, options.mutants)
        if (options.mutants !== undefined) process.exitCode = await mutate(options.mutants, options, signal)
        else process.exitCode = await run(options, signal)
      } catch (error) {
        fail(error, signal)
      } finally {
        dispose()
      }
    })
}

/** What talks to a queue is loaded when there is one. */
async function onWorkers(connection: QueueConnection): Promise<Threads> {
  const { attackThrough } = await import('../fleet/attack.ts')
  return attackThrough({ connection, campaign: randomUUID(), say })
}

async function run(options: AttackCommandOptions, signal: AbortSignal): Promise<number> {
  const { policy, blocks, bbm, stage2, populate } = options
  const connection = connectionOf(options)
  const builtIn = POLICY_NAMES.includes(policy)
  if (connection !== undefined && !builtIn) throw new UsageError(`--policy: ${ONLY_BUILT_IN}`)
  const mode = options.power === 'any' ? undefined : options.power
  const problem =
    blocksProblem(policy, builtIn, { ...(blocks && { blocks }), ...(bbm !== undefined && { bbm }) }) ??
    powerProblem(policy, builtIn, options.power === undefined ? {} : { power: mode ?? 'keep' }) ??
    stage2Problem(policy, builtIn, true, {
      ...{ until: options.until, ...(blocks && { blocks }), ...(options.power && { power: mode ?? 'keep' }) },
      ...{ ...(stage2 && { stage2 }), ...(populate && { populate }) },
    })
  if (problem !== undefined) throw new UsageError(`--${problem.replace('with ', 'with --')}`)
  await checkQuirkNames(policy, options.quirk)
  await checkPolicy(options.policy, options.typeCheck, signal)
  const attackOptions: AttackOptions = {
    policy: options.policy,
    quirks: options.quirk,
    until: options.until,
    hardware: options.hardware,
    ...(blocks && { blocks: { bbm } }),
    ...(options.power !== undefined && { power: { mode } }),
    ...(stage2 === 'shared' && { shared: { populate } }),
    seconds: options.seconds ?? (options.ops === undefined ? DEFAULT_SECONDS : undefined),
    operations: options.ops,
    seed: options.seed ?? Math.floor(Math.random() * 2 ** 32),
    jobs: connection === undefined ? Math.min(options.jobs, 4 * availableParallelism()) : options.jobs,
    corpus: options.corpus,
    known: options.known,
  }
  const quiet = options.json === true
  if (!quiet) {
    const hardwareNames = options.hardware.length > 0 ? options.hardware.join(',') : 'none'
    const quirks = options.quirk.length > 0 ? ` with ${options.quirk.join(', ')}` : ''
    const level = options.bbm === undefined ? '' : ` (BBM level ${options.bbm})`
    const inBlocks = options.blocks ? `, RAM in blocks${level}` : ''
    const power = options.power === undefined ? '' : `, SMMUs switched off and on (${options.power})`
    const shared = stage2 === 'shared' ? `, EL2's tables shared (${populate ?? 'mapped ahead or never'})` : ''
    print(
      `attack on ${options.policy}${quirks}${inBlocks}${power}${shared}, hardware ${hardwareNames}, seed ${attackOptions.seed}, ${counted(attackOptions.jobs, 'job')}`,
    )
  }
  let told = 0
  const result = await attack(
    attackOptions,
    found => {
      if (!quiet) tell(found)
    },
    ({ operations, cases, seconds }) => {
      if (quiet || seconds - told < PROGRESS_SECONDS) return
      told = seconds
      const rate = grouped(Math.round(operations / seconds))
      report([`${Math.round(seconds)} s: ${counted(operations, 'operation')}, ${rate}/s, ${counted(cases, 'finding')}`])
    },
    signal,
    connection && (await onWorkers(connection)),
  )
  if (quiet) print(JSON.stringify(asJson(result, attackOptions), null, 2))
  else summarise(result, signal.aborted)
  if (signal.aborted) return EXIT.interrupted
  return result.cases.length > 0 || result.lost > 0 || result.judged === 0 ? EXIT.failed : EXIT.ok
}

function tell({ found, file, seconds }: Found): void {
  const when = seconds === undefined ? 'corpus' : `${tenths(seconds)} s`
  print(`${when}: ${found.kind}`)
  for (const line of seconds === undefined ? [found.message] : (found.explanation ?? [found.message]))
    print(`    ${line}`)
  if (file !== undefined) print(`    ${file}`)
}

function summarise(result: AttackResult, interrupted: boolean): void {
  const { steps, operations, programs, judged, lost, seconds, features, cases, known, kinds } = result
  const { cleans, cleanedLines } = result
  const rate = grouped(Math.round(operations / Math.max(seconds, 0.001)))
  print(
    `${counted(operations, 'operation')} in ${counted(programs, 'program')}, ${tenths(seconds)} s, ${rate} operations/s, ${counted(features, 'feature')}`,
  )
  print(
    `(what a host does in one go: boots, attaches a device, donates pages, …), ${counted(steps, 'step')} (traps, stores, accesses of devices, …)`,
  )
  if (cleans > 0) {
    const lines = tenths(cleanedLines / cleans)
    print(
      `${counted(cleans, 'clean')} to the point of coherency, ${lines} cache lines each, ${tenths(cleans / operations)} an operation`,
    )
  }
  for (const { kind } of known) print(`known: ${kind}: seen ${counted(kinds.get(kind) ?? 0, 'time')}`)
  for (const { kind } of result.mended) {
    print(`mended: ${kind}: its case does not show it any more; take it off the list`)
  }
  if (lost > 0) print(`${counted(lost, 'finding')} did not come again on another machine: there is no case of that`)
  if (judged < programs) print(`${grouped(programs - judged)} of ${counted(programs, 'program')}: ${UNJUDGED}`)
  const early = interrupted ? 'interrupted: ' : ''
  if (cases.length > 0) print(`${early}${counted(cases.length, 'finding')}`)
  else if (lost === 0 && judged > 0) print(`${early}nothing new was found`)
  else if (programs === 0) print(`${early}no program was run`)
}

function asJson(result: AttackResult, options: AttackOptions): unknown {
  const { seed, jobs, policy, quirks, blocks, power, shared, hardware } = options
  const { cases, kinds, ...rest } = result
  return {
    ...{ policy, quirks, hardware, seed, jobs },
    ...(blocks && { blocks: true, bbm: blocks.bbm ?? null }),
    ...(power && { power: power.mode ?? 'any' }),
    ...(shared && { stage2: 'shared', populate: shared.populate ?? 'any' }),
    ...rest,
    kinds: Object.fromEntries(kinds),
    cases: cases.map(({ found, file, seconds }) => ({
      ...{ kind: found.kind, message: found.message, file, seconds },
      explanation: found.explanation,
    })),
  }
}

function checkMutantsOf(text: string, number: number | undefined): void {
  if (number === undefined) throw new UsageError('--mutants-of needs --mutants')
  if (mutated(text).length > 0) return
  throw new UsageError(`--mutants-of: no file has ${JSON.stringify(text)} in its path, of ${mutated().join(', ')}`)
}

/** Operations of an attack on a mutant. */
const MUTANT_OPERATIONS = 300_000

const LABELS: Readonly<Record<Verdict['by'], string>> = {
  ...{ attack: 'attack', 'unit tests': 'unit tests', nobody: 'SURVIVES' },
}

async function mutate(
  number: number,
  { ops, seed, jobs, known, mutantsOf, json }: AttackCommandOptions,
  signal: AbortSignal,
): Promise<number> {
  const options = {
    ...{ count: number, seed: seed ?? 1, operations: ops ?? MUTANT_OPERATIONS, jobs },
    known: known === undefined ? [] : readKnown(known),
    ...(mutantsOf !== undefined && { of: mutantsOf }),
  }
  const verdicts = await mutants(
    options,
    verdict => {
      const { file, line, before, after, by, what } = verdict
      if (!json) print(`${LABELS[by]}: ${file}:${line}: ${before} → ${after}${what ? ` (${what})` : ''}`)
    },
    signal,
  )
  const survivors = verdicts.filter(({ by }) => by === 'nobody')
  if (json) print(JSON.stringify({ verdicts }, null, 2))
  else {
    const number = (who: Verdict['by']) => verdicts.filter(({ by }) => by === who).length
    const found = `${number('unit tests')} found by unit tests, ${number('attack')} by attack`
    const percent = Math.round((1000 * (verdicts.length - survivors.length)) / Math.max(1, verdicts.length)) / 10
    print(`${counted(verdicts.length, 'mutant')}: ${found}, ${survivors.length} left: ${percent} % found`)
  }
  return signal.aborted ? EXIT.interrupted : survivors.length > 0 ? EXIT.failed : EXIT.ok
}

async function again(file: string, options: AttackCommandOptions): Promise<number> {
  const case_ = decodeCase(readText(file), file)
  await checkPolicy(options.policy, options.typeCheck, new AbortController().signal)
  const { factory } = await loadPolicy(options.policy, case_.quirks)
  const { finding, judged } = performCase(case_, factory)
  const explanation = explain(case_, factory)
  if (options.json) print(JSON.stringify({ finding: finding ?? null, judged, explanation }, null, 2))
  else {
    if (case_.policy !== options.policy) print(`a case of policy ${case_.policy}, on ${options.policy}`)
    for (const line of explanation) print(line)
  }
  return finding === undefined && judged ? EXIT.ok : EXIT.failed
}
