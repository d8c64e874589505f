// SPDX-License-Identifier: Apache-2.0
/**
 * Matrices: kernels, devices, prefixes of the series, translation modes and granules, all with all. A cell is one `boot` in a process
 * of its own, so that it is the same run that a person would make, and what came of it is what the report of that run says.
 */
import { spawn } from 'node:child_process'
import { closeSync, copyFileSync, existsSync, fstatSync, openSync, readFileSync, readSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Type } from 'typebox'
import { Compile } from 'typebox/compile'
import { enums } from '../../protocol/messages.ts'
import { runsFolder } from '../machine/runs.ts'
import { ownFolder } from '../machine/scratch.ts'
import { GRANULES, type Granule, SERIES_STEPS, type SeriesStep } from '../policy/policy.ts'
import { OUTCOMES, type Outcome } from '../run/ending.ts'
import { isSeries } from '../run/files.ts'
import { qemuText } from '../run/runReport.ts'
import type { TranslateMode } from '../translate/translator.ts'
import type { Transport } from '../trap/messages.ts'
import { type CampaignOf, type Kind, type RowOf, Store, salvage } from './store.ts'

const MAIN = fileURLToPath(new URL('../cli/main.ts', import.meta.url))
/** Who translates for devices. */
export const TRANSLATE_MODES = Object.keys(enums.translateMode) as TranslateMode[]
/** Beyond the guest's time limit: the start, and the end, s. A boot without a guest that runs takes no longer. */
const SPARE_S = 180
/** Until a boot that was told to end is killed, ms. */
const KILL_MS = 20_000
const MOST_STDERR = 1 << 14
const CONSOLE_LINES = 60
const CONSOLE_BYTES = 1 << 13
const MOST_ENTRIES = 100

/** What all cells have in common, as of `boot`. */
export interface MatrixMachine {
  readonly policy: string
  readonly memory: string
  readonly smp: number
  /** Of the guest, s. */
  readonly timeout: number
  readonly modules?: string
  readonly initrd?: string
  readonly append?: string
  readonly qemuArgs?: readonly string[]
}

export interface Cell {
  /** One of Debian's, an image, or the folder of a build. */
  readonly kernel: string
  /** Beside the usual four. */
  readonly devices: readonly string[]
  readonly until: SeriesStep
  readonly translate: TranslateMode
  readonly granule: Granule
  readonly machine: MatrixMachine
}

/** `harness-error`: the boot left no report, so that nothing is known of the guest. */
export type CellVerdict = Outcome | 'harness-error'

export interface CellResult {
  readonly verdict: CellVerdict
  readonly asExpected: boolean
  readonly ms: number
  /** Of a run that is not `ok`. */
  readonly message: string
  /** Release of the kernel, as the guest said it. */
  readonly release: string | null
  /** Which QEMU it was, in words; absent: of an older matrix, or nothing is known. */
  readonly qemu?: string
  /** Checks of the workload. */
  readonly checks: readonly { readonly name: string; readonly error: string }[]
  /** Unexpected hyp warnings, by code. */
  readonly warnings: readonly string[]
  readonly traps: number | null
  /** The end of the guest's console, of a run that is not `ok`. */
  readonly console: readonly string[]
}

export type Matrix = CampaignOf<Cell>
export type MatrixRow = RowOf<Cell, CellResult>

/** How the devices of a cell are called. */
export const devicesText = ({ devices }: Pick<Cell, 'devices'>): string => devices.join('+') || 'usual'

/** What a cell is besides its kernel: cells of different kernels that are held against each other have it in common. */
export const placeOf = (cell: Cell): string =>
  [devicesText(cell), cell.until, cell.translate, String(cell.granule)].join(' ')

export const cellName = (cell: Cell): string => `${cell.kernel} ${placeOf(cell)}`

const Words = Type.Array(Type.String())
const Plan = Compile(
  Type.Array(
    Type.Object({
      kernel: Type.String(),
      devices: Words,
      until: Type.Enum([...SERIES_STEPS]),
      translate: Type.Enum([...TRANSLATE_MODES]),
      granule: Type.Enum([...GRANULES]),
      machine: Type.Object({
        policy: Type.String(),
        memory: Type.String(),
        smp: Type.Integer({ minimum: 1, maximum: 64 }),
        timeout: Type.Integer({ minimum: 1 }),
        modules: Type.Optional(Type.String()),
        initrd: Type.Optional(Type.String()),
        append: Type.Optional(Type.String()),
        qemuArgs: Type.Optional(Words),
      }),
    }),
  ),
)

const CELLS: Kind<Cell> = {
  nameOf: cellName,
  isPlan: (plan): plan is readonly Cell[] => Plan.Check(plan),
  noun: 'matrix',
  list: 'matrix list',
  salvage: 'matrix salvage',
}

/** Default file of matrices. */
export const defaultMatrices = (): string => join(dirname(runsFolder()), 'matrices.db')

export class MatrixDatabase extends Store<Cell, CellResult> {
  /** @throws as `Store` */
  constructor(path: string) {
    super(path, CELLS)
  }
}

export const salvageMatrices = (from: string, to: string) => salvage(from, to, CELLS)

/** The axes of a matrix. */
export interface Axes {
  readonly kernels: readonly string[]
  readonly devices: readonly (readonly string[])[]
  readonly steps: readonly SeriesStep[]
  readonly modes: readonly TranslateMode[]
  readonly granules: readonly Granule[]
}

/** All combinations, kernel by kernel, each once. Where there is no second stage the granule makes no difference: the first is taken. */
export function cellsOf({ kernels, devices, steps, modes, granules }: Axes, machine: MatrixMachine): Cell[] {
  const cells = new Map<string, Cell>()
  for (const kernel of kernels) {
    for (const until of steps) {
      for (const granule of until === 'nested' ? granules : granules.slice(0, 1)) {
        for (const translate of modes) {
          for (const names of devices) {
            const cell: Cell = { kernel, devices: names, until, translate, granule, machine }
            cells.set(cellName(cell), cell)
          }
        }
      }
    }
  }
  return [...cells.values()]
}

/** The words behind `smmu-cosim` that boot a cell. */
export function bootWords({ kernel, devices, until, translate, granule, machine }: Cell): string[] {
  const { policy, memory, smp, timeout, modules, initrd, append, qemuArgs = [] } = machine
  return [
    ...['boot', '--kernel', kernel],
    ...devices.flatMap(name => ['--device', name]),
    ...['--policy', policy, '--until', until, '--translate', translate, '--granule', String(granule)],
    ...['--memory', memory, '--smp', String(smp), '--timeout', String(timeout)],
    // Debian's kernels, which others are held against, have their own.
    ...(modules === undefined || isSeries(kernel) ? [] : ['--modules', modules]),
    ...(initrd === undefined ? [] : ['--initrd', initrd]),
    ...(append === undefined ? [] : [`--append=${append}`]),
    ...qemuArgs.map(word => `--qemu-arg=${word}`),
  ]
}

/** Of the machine that cells are booted on; it decides nothing. */
export interface OwnMachine {
  readonly ramDir: string
  readonly transport: Transport
  readonly sandbox: boolean
  readonly qemu?: string
}

/** Words of `boot` that say where and how machines run. */
export const ownWords = ({ ramDir, transport, sandbox, qemu }: OwnMachine): string[] => [
  ...(qemu === undefined ? [] : ['--qemu', qemu]),
  ...['--ram-dir', ramDir, '--transport', transport],
  ...(sandbox ? [] : ['--no-sandbox']),
]

/**
 * Boots a cell.
 * @param own words for this machine (`ownWords`)
 * @param keep folder that report and console are put into; default: they are not kept
 * @throws Error only when `signal` aborts; all else is a verdict
 */
export async function runCell(
  cell: Cell,
  own: readonly string[],
  signal: AbortSignal,
  keep?: string,
): Promise<CellResult> {
  const folder = ownFolder(tmpdir(), 'cell-')
  const file = join(folder.path, 'report.json')
  const started = performance.now()
  try {
    const words = [...bootWords(cell), ...own, '--report', file, '--no-record', '--quiet']
    const said = await finished(words, (cell.machine.timeout + SPARE_S) * 1000, signal)
    signal.throwIfAborted()
    const ms = Math.round(performance.now() - started)
    if (keep !== undefined) keepFiles(file, keep)
    return { ...resultOf(file, said), ms }
  } finally {
    folder.remove()
  }
}

/** @returns the end of what was said on standard error */
function finished(words: readonly string[], limitMs: number, signal: AbortSignal): Promise<string> {
  const child = spawn(process.execPath, [MAIN, ...words], { stdio: ['ignore', 'ignore', 'pipe'] })
  let said = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    said = (said + text).slice(-MOST_STDERR)
  })
  let killer: NodeJS.Timeout | undefined
  const end = () => {
    child.kill('SIGTERM')
    killer ??= setTimeout(() => child.kill('SIGKILL'), KILL_MS)
  }
  const timer = setTimeout(end, limitMs)
  signal.addEventListener('abort', end, { once: true })
  if (signal.aborted) end()
  return new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('close', () => {
      clearTimeout(timer)
      clearTimeout(killer)
      signal.removeEventListener('abort', end)
      resolve(said)
    })
  })
}

/** Whether the machine never ran: that is so of every cell where it was tried. */
export const neverRan = ({ verdict, traps }: Pick<CellResult, 'verdict' | 'traps'>): boolean =>
  verdict === 'harness-error' || (verdict === 'qemu-died' && !traps)

/** What a report has of what is kept. It has words of the guest in it: each is bounded. */
const ReportPart = Compile(
  Type.Object({
    outcome: Type.Enum(Object.keys(OUTCOMES) as Outcome[]),
    message: Type.Optional(Type.String()),
    kernel: Type.String(),
    qemu: Type.Optional(Type.String()),
    qemuOwn: Type.Optional(Type.Object({ what: Type.Enum(['source', 'binary']), path: Type.String() })),
    console: Type.String(),
    traps: Type.Union([Type.Object({ total: Type.Number() }), Type.Null()]),
    workload: Type.Array(
      Type.Object({
        device: Type.String(),
        operation: Type.String(),
        ok: Type.Boolean(),
        error: Type.Optional(Type.String()),
      }),
    ),
    warnings: Type.Optional(Type.Array(Type.Object({ code: Type.String(), expected: Type.Boolean() }))),
  }),
)

function readReport(file: string): unknown {
  try {
    return JSON.parse(readFileSync(file, 'utf8'))
  } catch {
    return undefined
  }
}

/** What a boot that came to an end left. */
function keepFiles(file: string, folder: string): void {
  const report = readReport(file)
  if (!ReportPart.Check(report)) return
  copyFileSync(file, join(folder, 'report.json'))
  if (existsSync(report.console)) copyFileSync(report.console, join(folder, 'console.log'))
}

function resultOf(file: string, said: string): Omit<CellResult, 'ms'> {
  const report = readReport(file)
  if (!ReportPart.Check(report)) {
    const lines = said.trimEnd().split('\n')
    const message = lines.at(-1)?.slice(0, 500) || 'the boot said nothing'
    const nothing = { release: null, checks: [], warnings: [], traps: null }
    return { verdict: 'harness-error', asExpected: false, message, ...nothing, console: lines.slice(-CONSOLE_LINES) }
  }
  const { outcome, message = '', kernel, traps, workload, warnings = [] } = report
  const ok = outcome === 'ok'
  return {
    verdict: outcome,
    asExpected: ok,
    message: message.slice(0, 500),
    release: kernel.slice(0, 100),
    qemu: qemuText(report).slice(0, 200),
    checks: workload.slice(0, MOST_ENTRIES).map(({ device, operation, ok, error = '' }) => ({
      name: `${device} ${operation}`.slice(0, 100),
      error: ok ? '' : error.slice(0, 200) || 'failed',
    })),
    warnings: warnings
      .filter(({ expected }) => !expected)
      .slice(0, MOST_ENTRIES)
      .map(({ code }) => code.slice(0, 60)),
    traps: traps?.total ?? null,
    console: ok ? [] : tail(report.console),
  }
}

/** The end of a text file that may be long; nothing of one that cannot be read. */
function tail(path: string): string[] {
  try {
    const fd = openSync(path, 'r')
    try {
      const { size } = fstatSync(fd)
      const bytes = Buffer.alloc(Math.min(size, CONSOLE_BYTES))
      readSync(fd, bytes, 0, bytes.length, size - bytes.length)
      return bytes
        .toString('latin1')
        .split('\n')
        .slice(-CONSOLE_LINES)
        .map(line => line.replace(/\r$/, ''))
    } finally {
      closeSync(fd)
    }
  } catch {
    return []
  }
}

/** How a kernel does in a place where another one was tried, too. */
export type Compared = 'same' | 'worse' | 'better' | 'other' | 'not run'

/** What becomes of one cell, by what became of the one that it is held against. */
export function compareVerdicts(before: string | undefined, after: string | undefined): Compared {
  if (before === undefined || after === undefined) return 'not run'
  if (before === after) return 'same'
  if (before === 'ok') return 'worse'
  return after === 'ok' ? 'better' : 'other'
}

/** A place, and what the kernel under test and the one it is held against did there. */
export interface Against {
  readonly kernel: string
  readonly place: string
  readonly before: string | undefined
  readonly after: string | undefined
  readonly compared: Compared
}

/** Kernels held against another one of the same matrix, worst first. */
export function against(plan: readonly Cell[], rows: readonly MatrixRow[], reference: string): Against[] {
  const verdicts = new Map(rows.map(({ job, result }) => [cellName(job), result.verdict]))
  const ORDER: readonly Compared[] = ['worse', 'other', 'not run', 'same', 'better']
  return plan
    .filter(({ kernel }) => kernel !== reference)
    .map(cell => {
      const before = verdicts.get(cellName({ ...cell, kernel: reference }))
      const after = verdicts.get(cellName(cell))
      return { kernel: cell.kernel, place: placeOf(cell), before, after, compared: compareVerdicts(before, after) }
    })
    .sort((a, b) => ORDER.indexOf(a.compared) - ORDER.indexOf(b.compared))
}
