// SPDX-License-Identifier: Apache-2.0
/** `npm run bench`: every figure of the target table in one run, each next to what it is compared with. */
import { readFileSync, writeFileSync } from 'node:fs'
import { ensureQemu, setup } from '../../scripts/setup/index.ts'
import { benchBoots } from './boots.ts'
import { benchCommands } from './commands.ts'
import { benchDashboard } from './dashboard.ts'
import { type Context, evaluate, FULL, NAMES, type Name, type Part, QUICK } from './figure.ts'
import { benchIdmap } from './idmap.ts'
import { BENCH_SCHEMA, type BenchReport, describeMachine, type Failure, formatMarkdown, formatText } from './output.ts'
import { benchRecording } from './recording.ts'
import { benchScale } from './scale.ts'
import { benchTranslate } from './translate.ts'
import { benchTrap } from './trap.ts'

export interface BenchOptions {
  readonly quick?: boolean
  readonly only: readonly Name[]
  /** Instead of the usual number of pairs. */
  readonly pairs?: number
  readonly json?: string
  /** A file with the two marks below: what is between them is replaced. */
  readonly results?: string
}

const BEGIN = '<!-- bench: written by --results -->'
const END = '<!-- /bench -->'

/** Runs, prints, writes. @returns whether everything could be measured. */
export async function bench(options: BenchOptions, signal: AbortSignal): Promise<boolean> {
  const { quick = false, only, pairs, json, results: file } = options
  const say = (line: string) => console.error(`smmu-cosim: ${line}`)
  const template = file === undefined ? undefined : split(file)
  const names: ReadonlySet<Name> = new Set(only.length > 0 ? only : NAMES)
  const usual = quick ? QUICK : FULL
  const context: Context = { scale: { ...usual, ...(pairs !== undefined && { pairs }) }, signal, say }

  const booting: readonly Name[] = ['boot', 'reads', 'server']
  const boots = booting.some(name => names.has(name))
  const others: readonly Name[] = ['dashboard', 'recording', 'translate', 'scale']
  if (boots || others.some(name => names.has(name))) await setup({ signal })
  const machine = describeMachine(await ensureQemu({ signal }))
  const started = new Date().toISOString()
  if (machine.load > machine.cores / 2) say(`the machine is busy (load ${machine.load}): figures will say little`)

  const parts: [string, boolean, () => Promise<Part>][] = [
    ['trap', names.has('trap'), () => benchTrap(context)],
    [booting.filter(name => names.has(name)).join(', '), boots, () => benchBoots(context, names)],
    ['commands', names.has('commands'), () => benchCommands(context)],
    ['idmap', names.has('idmap'), () => benchIdmap(context)],
    ['dashboard', names.has('dashboard'), () => benchDashboard(context)],
    ['recording', names.has('recording'), () => benchRecording(context)],
    ['translate', names.has('translate'), () => benchTranslate(context)],
    ['scale', names.has('scale'), () => benchScale(context)],
  ]
  const done: Part[] = []
  const failures: Failure[] = []
  const report = (): BenchReport => ({
    schema: BENCH_SCHEMA,
    started,
    machine,
    scale: context.scale,
    quick,
    results: done.flatMap(({ figures }) => figures.map(evaluate)),
    budgets: done.flatMap(({ budget }) => (budget === undefined ? [] : [budget])),
    failures,
  })
  // After each part: a run that is interrupted late has measured for half an hour.
  const write = () => {
    if (json !== undefined) writeFileSync(json, `${JSON.stringify(report(), null, 2)}\n`)
    if (file === undefined || template === undefined) return
    const [before, after] = template
    writeFileSync(file, `${before}${BEGIN}\n\n${formatMarkdown(report())}\n\n${END}${after}`)
  }
  for (const [name, wanted, measure] of parts) {
    if (!wanted) continue
    try {
      done.push(await measure())
    } catch (error) {
      if (signal.aborted) console.log(formatText(report()))
      signal.throwIfAborted()
      failures.push({ bench: name, message: (error as Error).message })
    }
    write()
  }
  console.log(formatText(report()))
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
