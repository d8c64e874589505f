// SPDX-License-Identifier: Apache-2.0
/** `npm run bench`: every figure of the target table in one run, each next to what it is compared with. */
import { readFileSync, writeFileSync } from 'node:fs'
import { availableParallelism, loadavg } from 'node:os'
import { join } from 'node:path'
import { ensureQemu, setup } from '../../scripts/setup/index.ts'
import { newRunFolder } from '../../server/machine/runs.ts'
import { benchBoots } from './boots.ts'
import { benchCommands } from './commands.ts'
import { benchDashboard } from './dashboard.ts'
import { benchFaultSessions } from './faultSessions.ts'
import { type Context, evaluate, FULL, NAMES, type Name, type Part, type Peer, QUICK, type Scale } from './figure.ts'
import { benchCompute, benchParallel } from './guestWork.ts'
import { benchIdle } from './idle.ts'
import { benchIdmap } from './idmap.ts'
import {
  BENCH_SCHEMA,
  type BenchReport,
  describeMachine,
  type Failure,
  formatMarkdown,
  formatPart,
  formatText,
} from './output.ts'
import { benchParts } from './parts.ts'
import { duration, quietEnough } from './record.ts'
import { benchRecording } from './recording.ts'
import { benchScale } from './scale.ts'
import { benchSwitches } from './switches.ts'
import { benchTranslate } from './translate.ts'
import { benchTransport } from './transport.ts'
import { benchTrap } from './trap.ts'

export interface BenchOptions {
  readonly quick?: boolean
  readonly only: readonly Name[]
  /** Instead of the usual number of pairs. */
  readonly pairs?: number
  readonly peer: readonly Peer[]
  /** Seconds at the idle prompt instead of the usual ones. */
  readonly idle?: number
  /** Default: in a new folder of the runs. */
  readonly json?: string
  /** A file with the two marks below: what is between them is replaced. A run of record. */
  readonly results?: string
}

const BEGIN = '<!-- bench: written by --results -->'
const END = '<!-- /bench -->'

/** What is measured in one go. */
interface Step {
  readonly names: readonly Name[]
  /** About how long it takes on two cores of some 2.5 GHz, s. */
  readonly seconds: (scale: Scale) => number
  readonly measure: (context: Context, names: ReadonlySet<Name>) => Promise<Part>
}

/** A boot with its workload, s; timed reads come on top. */
const BOOT_S = 11
const bootSeconds = ({ reads }: Scale) => BOOT_S + reads * 2.2e-3
/** Whole boots of both sides, with what comes before them. */
const pairsOfBoots = (scale: Scale) => bootSeconds(scale) * 2 * (scale.pairs + (scale.warmUp ? 1 : 0))
const few = ({ pairs }: Scale) => Math.min(pairs, 3)

const STEPS: readonly Step[] = [
  { names: ['trap'], seconds: ({ pairs, traps }) => pairs * (10 + traps * 60e-6), measure: benchTrap },
  {
    names: ['transport'],
    seconds: scale => 2 * scale.pairs * (bootSeconds(scale) + 4 + scale.traps * 20e-6),
    measure: benchTransport,
  },
  { names: ['boot', 'reads', 'server'], seconds: pairsOfBoots, measure: benchBoots },
  { names: ['parts'], seconds: scale => bootSeconds(scale) * 2 * scale.pairs, measure: benchParts },
  {
    names: ['compute'],
    seconds: ({ pairs, rounds }) => 2 * pairs * (BOOT_S + rounds / 80),
    measure: context => benchCompute(context, availableParallelism()),
  },
  {
    names: ['parallel'],
    seconds: ({ pairs, parallelReads }) => 6 * pairs * (BOOT_S + parallelReads * 8e-3),
    measure: benchParallel,
  },
  { names: ['idle'], seconds: scale => few(scale) * (scale.idleSeconds + 20), measure: benchIdle },
  { names: ['commands'], seconds: ({ pairs, commands }) => (pairs + 1) * commands * 2e-6, measure: benchCommands },
  { names: ['idmap'], seconds: ({ pairs }) => pairs, measure: benchIdmap },
  { names: ['dashboard'], seconds: pairsOfBoots, measure: benchDashboard },
  { names: ['recording'], seconds: pairsOfBoots, measure: benchRecording },
  { names: ['translate'], seconds: scale => 1.2 * pairsOfBoots(scale), measure: benchTranslate },
  // With EL2 a boot takes twice as long.
  { names: ['switches'], seconds: scale => 4 * pairsOfBoots(scale), measure: benchSwitches },
  { names: ['faults'], seconds: scale => 30 + few(scale) * scale.sessions * 4, measure: benchFaultSessions },
  { names: ['scale'], seconds: scale => few(scale) * (4 * BOOT_S + 60), measure: benchScale },
]

/** Runs, prints, writes. @returns whether everything could be measured. @throws Error when a run of record cannot begin */
export async function bench(options: BenchOptions, signal: AbortSignal): Promise<boolean> {
  const { quick = false, only, pairs, idle, results: file } = options
  const say = (line: string) => console.error(`smmu-cosim: ${line}`)
  const template = file === undefined ? undefined : split(file)
  const [load = 0] = loadavg()
  if (file !== undefined) quietEnough(load)
  else if (load > availableParallelism() / 2)
    say(`the machine is busy (load ${load.toFixed(2)}): figures will say little`)
  const names: ReadonlySet<Name> = new Set(only.length > 0 ? only : NAMES)
  const usual = quick ? QUICK : FULL
  const scale = { ...usual, ...(pairs !== undefined && { pairs }), ...(idle !== undefined && { idleSeconds: idle }) }
  const context: Context = { scale, signal, say, peers: options.peer }
  const steps = STEPS.filter(step => step.names.some(name => names.has(name)))
  const left = (from: number) => steps.slice(from).reduce((sum, { seconds }) => sum + seconds(scale), 0)
  say(`${steps.flatMap(step => step.names.filter(name => names.has(name))).join(', ')}: about ${duration(left(0))}`)

  await setup({ signal })
  const machine = describeMachine(await ensureQemu({ signal }), load)
  const folder = options.json === undefined ? newRunFolder() : undefined
  const json = options.json ?? join(folder?.path ?? '', 'bench.json')
  const started = new Date().toISOString()
  const done: Part[] = []
  const failures: Failure[] = []
  let partial = true
  const report = (): BenchReport => ({
    schema: BENCH_SCHEMA,
    started,
    record: file !== undefined && !quick,
    partial,
    machine,
    scale,
    quick,
    results: done.flatMap(({ figures }) => figures.map(evaluate)),
    budgets: done.flatMap(({ budgets = [] }) => budgets),
    failures,
  })
  // After each part: whatever ends this process, what was measured by then is kept.
  const write = () => writeFileSync(json, `${JSON.stringify(report(), null, 2)}\n`)
  try {
    write()
    for (const [i, step] of steps.entries()) {
      const wanted = step.names.filter(name => names.has(name))
      try {
        const part = await step.measure(context, names)
        done.push(part)
        console.log(`${formatPart(part)}\n`)
      } catch (error) {
        if (!signal.aborted) failures.push({ bench: wanted.join(', '), message: (error as Error).message })
      }
      partial = signal.aborted || i < steps.length - 1
      write()
      if (signal.aborted) {
        console.log(formatText(report()))
        say(`interrupted: ${json} has what was measured by then`)
        signal.throwIfAborted()
      }
      if (partial) say(`about ${duration(left(i + 1))} left`)
    }
  } finally {
    folder?.release()
  }
  console.log(formatText(report()))
  say(json)
  if (file !== undefined && template !== undefined) {
    const [before, after] = template
    writeFileSync(file, `${before}${BEGIN}\n\n${formatMarkdown(report())}\n\n${END}${after}`)
  }
  return failures.length === 0
}

/** What stands before and after the marks. @throws Error when the file has none. */
function split(file: string): [string, string] {
  const text = readFileSync(file, 'utf8')
  const begin = text.indexOf(BEGIN)
  const end = text.indexOf(END)
  if (begin < 0 || end < begin) throw new Error(`${file} lacks the marks ${BEGIN} and ${END}`)
  return [text.slice(0, begin), text.slice(end + END.length)]
}
