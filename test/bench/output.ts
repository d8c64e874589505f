// SPDX-License-Identifier: Apache-2.0
import { execFileSync } from 'node:child_process'
import { availableParallelism, cpus, machine, release, totalmem } from 'node:os'
import { type Budget, evaluate, type Part, type Result, type Scale } from './figure.ts'
import type { Summary } from './stats.ts'

export const BENCH_SCHEMA = 'smmu-cosim/bench/1'

export interface MachineInfo {
  readonly cpu: string
  readonly cores: number
  readonly memoryGiB: number
  readonly kernel: string
  readonly node: string
  readonly qemu: string
  /** Of the last minute, before the benchmark began: other work makes figures useless. */
  readonly load: number
}

export interface Failure {
  readonly bench: string
  readonly message: string
}

/** What `--json` writes. */
export interface BenchReport {
  readonly schema: typeof BENCH_SCHEMA
  readonly started: string
  /** The machine had nothing else to do when it began. */
  readonly record: boolean
  /** Not all that was asked for is in it: it was interrupted, or still runs. */
  readonly partial: boolean
  readonly machine: MachineInfo
  readonly scale: Scale
  readonly quick: boolean
  readonly results: readonly Result[]
  readonly budgets: readonly Budget[]
  readonly failures: readonly Failure[]
}

/** @param load of the last minute, taken before the benchmark began */
export function describeMachine(qemu: string, load: number): MachineInfo {
  return {
    cpu: cpus()[0]?.model.trim() || 'unknown',
    cores: availableParallelism(),
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    kernel: `Linux ${release()} ${machine()}`,
    node: process.version,
    qemu: execFileSync(qemu, ['--version'], { encoding: 'utf8' }).split('\n')[0],
    load: Math.round(load * 100) / 100,
  }
}

/** Three significant digits, but never fewer than the whole number. */
function digits(value: number): string {
  const magnitude = value === 0 ? 0 : Math.floor(Math.log10(Math.abs(value)))
  return value.toFixed(Math.max(0, 2 - magnitude))
}

const spread = ({ median, min, max }: Summary): string =>
  min === max ? digits(median) : `${digits(median)} [${digits(min)}–${digits(max)}]`

const HEAD = ['figure', 'unit', 'median [min–max]', 'compared with', 'ratio', 'target']

function row({ what, unit, a, b, summary, other, ratio, target = '' }: Result): string[] {
  return [
    b === undefined ? what : `${what}: ${a.label}`,
    unit,
    spread(summary),
    other === undefined ? '' : `${b?.label}: ${spread(other)}`,
    ratio === undefined ? '' : spread(ratio),
    target,
  ]
}

function columns(rows: readonly (readonly string[])[], separator: string): string[] {
  const widths = HEAD.map((_, i) => Math.max(...rows.map(cells => cells[i]?.length ?? 0)))
  return rows.map(cells =>
    cells
      .map((cell, i) => cell.padEnd(widths[i]))
      .join(separator)
      .trimEnd(),
  )
}

function machineLines({ machine: m, started, scale, quick, record, partial }: BenchReport): string[] {
  return [
    `${m.cpu}, ${m.cores} cores, ${m.memoryGiB} GiB, ${m.kernel}`,
    `Node ${m.node}, ${m.qemu}`,
    `${started}, ${scale.pairs} ${scale.pairs === 1 ? 'pair' : 'pairs'}${quick ? ' (--quick)' : ''}, load before it ${m.load}`,
    ...(record ? [] : ['not a run of record']),
    ...(partial ? ['partial: it was interrupted'] : []),
  ]
}

function budgetLines({ what, unit, rows }: Budget): string[] {
  const lines = rows.map(({ part, of, value }) => `  ${digits(value).padStart(8)} ${unit}  ${of ? '  ' : ''}${part}`)
  return [what, ...lines]
}

/** One part, when it is through. */
export function formatPart({ figures, budgets = [] }: Part): string {
  return [
    ...columns([HEAD, ...figures.map(figure => row(evaluate(figure)))], '  '),
    ...budgets.flatMap(budget => ['', ...budgetLines(budget)]),
  ].join('\n')
}

/** For the terminal. */
export function formatText(report: BenchReport): string {
  const { results, budgets, failures } = report
  return [
    ...machineLines(report),
    '',
    ...(results.length > 0 ? columns([HEAD, ...results.map(row)], '  ') : []),
    ...budgets.flatMap(budget => ['', ...budgetLines(budget)]),
    ...failures.map(({ bench, message }) => `\n${bench}: not measured: ${message}`),
  ].join('\n')
}

/** For RESULTS.md. */
export function formatMarkdown(report: BenchReport): string {
  const { results, budgets, failures } = report
  const rows = columns([HEAD, HEAD.map(() => '---'), ...results.map(row)], ' | ')
  return [
    '## Machine',
    '',
    ...machineLines(report).map(line => `- ${line}`),
    '',
    '## Table',
    '',
    ...rows.map(line => `| ${line} |`),
    ...budgets.flatMap(budget => ['', '```', ...budgetLines(budget), '```']),
    ...failures.flatMap(({ bench, message }) => ['', `Not measured: ${bench}: ${message}`]),
  ].join('\n')
}
