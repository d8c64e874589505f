// SPDX-License-Identifier: Apache-2.0
/** `smmu-cosim trace list`, `pin`, `unpin`: the recordings in the folder of runs. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Command } from 'commander'
import { isLive, pinRun, type Run, runBytes, runs, runsFolder, runsLimit } from '../machine/runs.ts'
import { OUTCOMES } from '../run/ending.ts'
import { TraceReader } from '../trace/reader.ts'
import { fail } from './exit.ts'
import { runsByName } from './paths.ts'
import { print, say } from './terminal.ts'

const SHOWN = 20

/** One line of the list. */
interface Listed {
  readonly name: string
  readonly created: string
  readonly policy: string
  readonly kernel: string
  /** What came of the run; null: it has not ended, or nobody wrote it down. */
  readonly outcome: string | null
  /** Of the run's folder. */
  readonly bytes: number
  readonly live: boolean
  readonly pinned: boolean
}

export function recordingsCommands(trace: Command): void {
  trace
    .command('list')
    .description('recordings in the folder of runs, the newest last')
    .option('--all', `all of them, not the newest ${SHOWN}`)
    .option('--json', 'as JSON')
    .action((options: { readonly all?: true; readonly json?: true }) => attempt(() => list(options)))
  const pinning = (name: string, pinned: boolean, about: string) =>
    trace
      .command(name)
      .argument('<run...>', 'names of runs, or latest', runsByName)
      .description(about)
      .action((named: readonly Run[]) =>
        attempt(() => {
          for (const run of named) {
            pinRun(run, pinned)
            print(`${run.name}: ${pinned ? 'kept' : 'removed when room is needed'}`)
          }
        }),
      )
  pinning('pin', true, 'keep runs that would be removed to make room')
  pinning('unpin', false, 'let pinned runs be removed again')
}

function attempt(work: () => void): void {
  try {
    work()
  } catch (error) {
    fail(error)
  }
}

/** What a recording's header says; undefined: it is no recording. */
function listed(run: Run): Listed | undefined {
  if (run.recording === undefined) return undefined
  try {
    const { created, policy, kernel } = TraceReader.open(run.recording).header
    const { name, path, pinned } = run
    return { name, created, policy, kernel, outcome: outcomeOf(path), bytes: runBytes(run), live: isLive(run), pinned }
  } catch {
    return undefined
  }
}

/** Of the report beside a recording. */
function outcomeOf(folder: string): string | null {
  try {
    const { outcome } = JSON.parse(readFileSync(join(folder, 'report.json'), 'utf8')) as { readonly outcome?: unknown }
    return typeof outcome === 'string' && Object.hasOwn(OUTCOMES, outcome) ? outcome : null
  } catch {
    return null
  }
}

function list({ all, json }: { readonly all?: true; readonly json?: true }): void {
  const folder = runsFolder()
  const recorded = runs(folder).filter(({ recording }) => recording !== undefined)
  const shown = (all ? recorded : recorded.slice(-SHOWN)).flatMap(run => listed(run) ?? [])
  if (json) {
    print(JSON.stringify({ schema: 'smmu-cosim/recordings/1', folder, recordings: shown }, null, 2))
    return
  }
  const cells = shown.map(({ name, policy, kernel, outcome, bytes, live, pinned }) => [
    name,
    policy,
    kernel,
    live ? 'runs' : (outcome ?? ''),
    size(bytes),
    pinned ? 'pinned' : '',
  ])
  const widths = [0, 1, 2, 3, 4].map(i => Math.max(0, ...cells.map(row => row[i]?.length ?? 0)))
  for (const row of cells)
    print(
      row
        .map((cell, i) => cell.padEnd(widths[i] ?? 0))
        .join('  ')
        .trimEnd(),
    )
  const limit = runsLimit()
  const most = limit === Number.POSITIVE_INFINITY ? 'no limit' : `at most ${size(limit)}`
  const older = recorded.length > shown.length && !all ? `; ${recorded.length - shown.length} older ones: --all` : ''
  say(`${folder}: ${size(runs(folder).reduce((sum, run) => sum + runBytes(run), 0))}, ${most}${older}`)
}

const size = (bytes: number): string =>
  bytes >= 2 ** 30 ? `${(bytes / 2 ** 30).toFixed(1)} GiB` : `${Math.ceil(bytes / 2 ** 20)} MiB`
