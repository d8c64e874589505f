// SPDX-License-Identifier: Apache-2.0
/** `smmu-cosim matrix`: kernels, devices, prefixes of the series, translation modes and granules, all with all. */
import { availableParallelism } from 'node:os'
import { resolve } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import { type Command, InvalidArgumentError, Option } from 'commander'
import type { QueueConnection } from '../fleet/queue.ts'
import { DEVICE_NAMES, type DeviceName, inOrder, isDevice } from '../machine/devices.ts'
import { newRunFolder } from '../machine/runs.ts'
import { parseSize } from '../machine/scratch.ts'
import { writeWhole } from '../machine/wholeFile.ts'
import { POLICY_NAMES, policyFile } from '../policy/load.ts'
import { GRANULES, type Granule, SERIES_STEPS, type SeriesStep } from '../policy/policy.ts'
import { builtQemu, isSeries, KERNELS, machineFiles } from '../run/files.ts'
import { checkSizes, DEFAULTS } from '../run/options.ts'
import { onThisMachine, type Runner, runJobs } from '../sessions/campaign.ts'
import {
  against,
  type Cell,
  type CellResult,
  cellName,
  cellsOf,
  defaultMatrices,
  type Matrix,
  MatrixDatabase,
  type MatrixMachine,
  ownWords,
  runCell,
  salvageMatrices,
  TRANSLATE_MODES,
} from '../sessions/matrix.ts'
import {
  againstText,
  compareMatrices,
  matrixJunit,
  matrixPage,
  matrixText,
  repeatCell,
} from '../sessions/matrixReport.ts'
import { counted, grouped, tenths } from '../trace/words.ts'
import type { TranslateMode } from '../translate/translator.ts'
import type { Transport } from '../trap/messages.ts'
import {
  appendOption,
  initrdOption,
  memoryOption,
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
import { list, within } from './numbers.ts'
import { databaseFile, expectReports, inputFile, outputFile } from './paths.ts'
import { connectionOf, endSoon, ONLY_BUILT_IN, publishOption, type QueueOptions, queueOptions } from './queueOptions.ts'
import { print, say } from './terminal.ts'

interface OutputOptions {
  readonly database: string
  readonly against?: string
  readonly json?: true
  readonly junit?: string
  readonly html?: string
}

interface MatrixOptions extends OutputOptions, QueueOptions {
  readonly kernel: readonly string[]
  readonly device: readonly (readonly DeviceName[])[]
  readonly until: readonly SeriesStep[]
  readonly translate: readonly TranslateMode[]
  readonly granule: readonly Granule[]
  readonly policy: string
  readonly memory: string
  readonly smp: number
  readonly timeout: number
  readonly modules?: string
  readonly initrd?: string
  readonly append?: string
  readonly qemuArg: readonly string[]
  readonly jobs: number
  readonly ramDir: string
  readonly transport: Transport
  readonly sandbox: boolean
  readonly qemu?: string
  readonly resume?: true | number
}

/** A list of words that are known. @throws InvalidArgumentError */
const words =
  <T extends string | number>(known: readonly T[]) =>
  (text: string): T[] =>
    list(text).map(word => {
      const found = known.find(value => String(value) === word)
      if (found === undefined) throw new InvalidArgumentError(`"${word}" is none of ${known.join(', ')}`)
      return found
    })

/** `usual,igb,ahci+e1000`: what each machine has beside the usual four. @throws InvalidArgumentError */
function devices(text: string): DeviceName[][] {
  return list(text).map(names =>
    names === 'usual'
      ? []
      : inOrder(
          names.split('+').map(name => {
            if (!isDevice(name))
              throw new InvalidArgumentError(`"${name}" is none of usual, ${DEVICE_NAMES.join(', ')}`)
            return name
          }),
        ),
  )
}

const id = within(1)

/** @param database of which kind its file is: one that is there, or one that may be new */
const outputOptions = (command: Command, database: (path: string) => string): Command =>
  command
    .option('--database <file>', 'where matrices are kept', database, defaultMatrices())
    .option('--against <kernel>', 'a kernel of the matrix that the others are held against')
    .option('--json', 'the result as JSON')
    .option('--junit <file>', 'write JUnit XML', outputFile)
    .option('--html <file>', 'write a page with a table and what there is of each cell', outputFile)

export function matrixCommand(program: Command): void {
  const matrix = program
    .command('matrix')
    .description('boot kernels with devices, steps, modes and granules, all with all')
  const run = matrix.command('run', { isDefault: true }).description('boot all cells; goes on where it was interrupted')
  queueOptions(outputOptions(run, databaseFile), 'boot the cells on the workers of a queue')
    .addOption(publishOption())
    .addOption(
      new Option(
        '--kernel <list>',
        `Debian's ${KERNELS.join(', ')}, arm64 Images (or Image.gz), folders of kernel builds`,
      )
        .argParser(list)
        .default([DEFAULTS.kernel], DEFAULTS.kernel),
    )
    .addOption(modulesOption())
    .addOption(
      new Option(
        '--device <list>',
        `what machines have beside virtio-blk, nvme, virtio-net and e1000e: usual (nothing), ${DEVICE_NAMES.join(', ')}; a+b: both at once`,
      )
        .argParser(devices)
        .default([[]], 'usual'),
    )
    .addOption(
      new Option('--until <list>', 'prefixes of the series')
        .argParser(words(SERIES_STEPS))
        .default(['nested'], 'nested'),
    )
    .addOption(
      new Option('--translate <list>', 'who translates for devices')
        .argParser(words(TRANSLATE_MODES))
        .default(['hardware'], 'hardware'),
    )
    .addOption(
      new Option('--granule <list>', 'page sizes of the stage-2 idmap')
        .argParser(words(GRANULES))
        .default([DEFAULTS.granule], String(DEFAULTS.granule)),
    )
    .option('--policy <name|file>', `${POLICY_NAMES.join(', ')}, or a file with a policy of your own`, DEFAULTS.policy)
    .addOption(memoryOption())
    .option('--smp <n>', 'vCPUs, 1 to 64', within(1, 64), DEFAULTS.smp)
    .option('--timeout <s>', 'time limit of each guest', within(1, 86_400), 300)
    .addOption(initrdOption())
    .addOption(appendOption())
    .addOption(qemuArgOption())
    .option('--jobs <n>', 'machines at a time', within(1, 256), availableParallelism())
    .addOption(ramDirOption())
    .addOption(transportOption())
    .addOption(noSandbox())
    .addOption(qemuOption())
    .addOption(qemuSourceOption())
    .option('--resume [id]', 'go on with an interrupted matrix, by default the newest', id)
    .action((options: MatrixOptions) => act(signal => start(options, signal)))
  matrix
    .command('list')
    .description('matrices so far')
    .option('--database <file>', 'where matrices are kept', inputFile, defaultMatrices())
    .action(({ database }: OutputOptions) =>
      act(async () => {
        for (const { id, started, finished, what, planned, done, asExpected } of new MatrixDatabase(database).list()) {
          const state = finished === null ? 'not finished' : 'finished'
          print(
            `${id}  ${started}  ${what}: ${grouped(done)} of ${counted(planned, 'cell')}, ${grouped(asExpected)} ok, ${state}`,
          )
        }
      }),
    )
  outputOptions(matrix.command('report').argument('<matrix>', 'its number', id), inputFile)
    .description('what came of a matrix')
    .action((number: number, options: OutputOptions) =>
      act(async () => {
        usage(() => expectReports(options))
        const database = new MatrixDatabase(options.database)
        await output(database, database.campaign(number), options)
      }),
    )
  matrix
    .command('salvage')
    .argument('<damaged>', 'a database', inputFile)
    .argument('<new>', 'another one', outputFile)
    .description('what can be read of a damaged database, in a new one')
    .action((damaged: string, made: string) =>
      act(async () => {
        const { campaigns, sessions } = salvageMatrices(damaged, made)
        say(`${made}: ${counted(campaigns, 'matrix', 'matrices')} with ${counted(sessions, 'cell')}`)
      }),
    )
  compareCommand(matrix, 'matrix', defaultMatrices(), (path, before, after) => {
    const database = new MatrixDatabase(path)
    const rows = (ids: readonly number[]) => ids.flatMap(number => database.rows(database.campaign(number)))
    return compareMatrices(rows(before), rows(after))
  })
}

const machineOf = (options: MatrixOptions): MatrixMachine => {
  const { policy, memory, smp, timeout, modules, initrd, append, qemuArg } = options
  return {
    ...{ policy: POLICY_NAMES.includes(policy) ? policy : policyFile(policy), memory, smp, timeout },
    ...(modules !== undefined && { modules: resolve(modules) }),
    ...(initrd !== undefined && { initrd: resolve(initrd) }),
    ...(append !== undefined && { append }),
    ...(qemuArg.length > 0 && { qemuArgs: qemuArg }),
  }
}

const kernelsOf = ({ kernel, against }: MatrixOptions): string[] => [
  ...new Set([...(against === undefined ? [] : [against]), ...kernel].map(kernelName)),
]

async function start(options: MatrixOptions, signal: AbortSignal): Promise<void> {
  usage(() => expectReports(options))
  const connection = connectionOf(options)
  const kernels = kernelsOf(options)
  const { memory, modules, initrd } = options
  usage(() => checkSizes({ memory, carveout: DEFAULTS.carveout }, '--'))
  usage(() => machineOf(options))
  if (connection !== undefined && !POLICY_NAMES.includes(options.policy))
    throw new UsageError(`--policy: ${ONLY_BUILT_IN}`)
  if (modules !== undefined && kernels.every(isSeries))
    throw new UsageError("--modules: not with Debian's kernels, which have their own")
  for (const kernel of kernels) {
    const own = isSeries(kernel) ? {} : { ...(modules && { modules }), ...(initrd && { initrd }) }
    await checkKernel({ kernel, devices: options.device.flat(), qemuArgs: options.qemuArg, ...own }, say)
  }
  const database = new MatrixDatabase(options.database)
  const matrix = options.resume === undefined ? begin(database, kernels, options) : resumed(database, kernels, options)
  const own = { ...options, ...(await builtQemu(options, signal)) }
  if (connection === undefined) await setUp(matrix, own, signal)
  const left = database.remaining(matrix).length
  const where = connection === undefined ? `${options.jobs} at a time` : 'on workers'
  say(`matrix ${matrix.id}: ${grouped(left)} of ${counted(matrix.plan.length, 'cell')}, ${where}`)
  const begun = performance.now()
  const runner =
    connection === undefined
      ? onThisMachine(
          options.jobs,
          (cell: Cell, either) => runCell(cell, ownWords(own), either),
          ({ machine }) => parseSize(machine.memory),
        )
      : await onWorkers(connection, matrix, own.qemu, options.publish)
  try {
    await runJobs(database, matrix, runner, signal, (cell, { verdict, message, ms }, count, total) => {
      const why = verdict === 'ok' ? '' : `: ${message}`
      const place = `${String(count).padStart(String(total).length)}/${total}`
      say(`${place}  ${cellName(cell)}: ${verdict}${why}  ${tenths(ms / 1000)} s`)
    })
  } catch (error) {
    if (connection !== undefined) endSoon()
    else if (signal.aborted) say(`interrupted: ${goesOn(matrix)}`)
    throw error
  }
  const minutes = (performance.now() - begun) / 60_000
  const nothing = database.remaining(matrix).length
  if (nothing > 0) say(`${counted(nothing, 'cell')} came to nothing: "matrix --resume ${matrix.id}" repeats that`)
  if (left > 0) say(`${counted(left, 'cell')} in ${tenths(minutes)} min, ${tenths(left / minutes)} a minute`)
  await output(database, database.campaign(matrix.id), options)
}

/** What talks to a queue is loaded when there is one. */
async function onWorkers(
  connection: QueueConnection,
  matrix: Matrix,
  qemu: string | undefined,
  publish: string | undefined,
): Promise<Runner<Cell, CellResult>> {
  const { nameOf, throughQueue } = await import('../fleet/sender.ts')
  const { sentCells } = await import('../fleet/cell.ts')
  const { path } = newRunFolder(say)
  const options = { connection, campaign: nameOf(matrix), goesOn: goesOn(matrix), say }
  return throughQueue(sentCells(path, qemu, publish), options)
}

const goesOn = ({ id }: Matrix): string => `"matrix --resume ${id}" goes on`

function begin(database: MatrixDatabase, kernels: readonly string[], options: MatrixOptions): Matrix {
  const { device, until, translate, granule } = options
  const axes = { kernels, devices: device, steps: until, modes: translate, granules: granule }
  const plan = cellsOf(axes, machineOf(options))
  if (plan.length === 0) throw new UsageError('there is nothing to boot')
  const counted = ([n, name]: readonly [number, string]) => `${n} ${name}${n === 1 ? '' : 's'}`
  const what = [
    [kernels.length, 'kernel'],
    [device.length, 'device'],
    [until.length, 'step'],
    [translate.length, 'mode'],
    [granule.length, 'granule'],
  ] as const
  return database.begin(`matrix of ${what.map(counted).join(' × ')}`, plan)
}

/** What a database asks for is booted only if the command line asks for it, too. */
function resumed(database: MatrixDatabase, kernels: readonly string[], options: MatrixOptions): Matrix {
  const { resume } = options
  const number = resume === true ? database.unfinished() : resume
  if (number === undefined) throw new Error(`${database.path}: every matrix is finished`)
  const matrix = database.campaign(number)
  const foreign = matrix.plan.find(({ kernel }) => !isSeries(kernel) && !kernels.includes(kernel))
  if (foreign !== undefined)
    throw new UsageError(`${cellName(foreign)}: --kernel '${foreign.kernel}' allows that kernel`)
  const machine = machineOf(options)
  const other = matrix.plan.find(cell => !isDeepStrictEqual(cell.machine, machine))
  if (other !== undefined) {
    throw new UsageError(
      `${cellName(other)}: it was begun with other options of the machine, as in: ${repeatCell(other)}`,
    )
  }
  return matrix
}

/** Fetches and builds what is missing, once, and not in each cell. */
async function setUp(matrix: Matrix, { qemu }: MatrixOptions, signal: AbortSignal): Promise<void> {
  const wanted = new Map(
    matrix.plan.map(({ kernel, devices, machine }) => [
      JSON.stringify([kernel, devices]),
      { kernel, devices, machine },
    ]),
  )
  for (const { kernel, devices, machine } of wanted.values()) {
    const { modules, initrd } = machine
    await machineFiles(
      {
        kernel,
        devices: devices.filter(isDevice),
        ...(modules !== undefined && { modules }),
        ...(initrd !== undefined && { initrd }),
        ...(qemu !== undefined && { qemu }),
      },
      { signal },
    )
  }
}

async function output(database: MatrixDatabase, matrix: Matrix, options: OutputOptions): Promise<void> {
  const rows = database.rows(matrix)
  const { plan, ...about } = matrix
  const reference = options.against === undefined ? undefined : kernelName(options.against)
  if (reference !== undefined && !plan.some(({ kernel }) => kernel === reference)) {
    throw new UsageError(
      `--against ${options.against}: this matrix has ${[...new Set(plan.map(({ kernel }) => kernel))].join(', ')}`,
    )
  }
  const found = reference === undefined ? [] : against(plan, rows, reference)
  if (options.json) {
    const cells = { schema: 'smmu-cosim/matrix/1', ...about, planned: plan.length, cells: rows }
    print(
      JSON.stringify({ ...cells, ...(reference !== undefined && { against: reference, compared: found }) }, null, 2),
    )
  } else {
    print(matrixText(plan, rows))
    if (reference !== undefined) print(againstText(found, reference))
  }
  if (options.junit !== undefined) await writeWhole(options.junit, matrixJunit(matrix, rows))
  if (options.html !== undefined) await writeWhole(options.html, matrixPage(matrix, rows, found))
  const bad =
    reference === undefined
      ? rows.some(({ result }) => !result.asExpected)
      : found.some(({ compared }) => compared === 'worse')
  if (bad || rows.length < plan.length) process.exitCode = EXIT.failed
}
