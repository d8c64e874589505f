// SPDX-License-Identifier: Apache-2.0
import { once } from 'node:events'
import { realpathSync } from 'node:fs'
import { basename, dirname, resolve, sep } from 'node:path'
import { styleText } from 'node:util'
import { type Command, InvalidArgumentError, Option } from 'commander'
import { cachePath } from '../../scripts/setup/cache.ts'
import { recordingPage } from '../api/recordingPage.ts'
import { servePage } from '../api/recordingServer.ts'
import { expectRules } from '../faults/plan.ts'
import { ReplayFaults } from '../faults/replayFaults.ts'
import { POLICY_NAMES } from '../policy/load.ts'
import { type BbmLevel, blocksProblem, GRANULES, type PolicyOptions, SERIES_STEPS } from '../policy/policy.ts'
import { cut } from '../trace/cut.ts'
import { describeRoot } from '../trace/describe.ts'
import { describeHunk, diff } from '../trace/diff.ts'
import { perfetto } from '../trace/export/perfetto.ts'
import { csv, json } from '../trace/export/text.ts'
import { vcd } from '../trace/export/vcd.ts'
import { type Filter, matches } from '../trace/filter.ts'
import { flame } from '../trace/flame.ts'
import type { TraceHeader } from '../trace/format.ts'
import { groups } from '../trace/groups.ts'
import { Output } from '../trace/output.ts'
import { TraceReader } from '../trace/reader.ts'
import { recordedPolicy } from '../trace/recordedPolicy.ts'
import { type KindName, kinds } from '../trace/records.ts'
import { Replay } from '../trace/replay.ts'
import { printDivergence, printSummary, ReplaySummary } from '../trace/replayReport.ts'
import { show, title } from '../trace/show.ts'
import { printStats, stats } from '../trace/stats.ts'
import { locate, SYMBOL_FILES, Symbols } from '../trace/symbols.ts'
import { parseAddresses, parseCommand, parseInterval, parseRegister, parseTimes } from '../trace/vocabulary.ts'
import { warningsOf } from '../trace/warnings.ts'
import { counted, grouped } from '../trace/words.ts'
import { policySections } from '../trap/sections.ts'
import { bisect, parseRange } from './bisect.ts'
import { bbmOption, blocksOption } from './bootOptions.ts'
import { abortOnSignal, EXIT, fail, UsageError, usage } from './exit.ts'
import { port, whole } from './numbers.ts'
import { openPager, type Pager } from './pager.ts'
import { expectDistinct, inputFile, inputRecording, ofRecording, outputFile, outputStream } from './paths.ts'
import { checkPolicy, noTypeCheck } from './policyCheck.ts'
import { sayProblems } from './problems.ts'
import { recordingsCommands } from './recordings.ts'
import { print, say } from './terminal.ts'

/** `smmu-cosim trace …` and `smmu-cosim replay`. */
export function traceCommand(program: Command): void {
  const trace = program.command('trace').description('look into recordings of runs')
  showCommand(trace)
  statsCommand(trace)
  diffCommand(trace)
  exportCommand(trace)
  flameCommand(trace)
  cutCommand(trace)
  recordingsCommands(trace)
  openCommand(trace)
  replayCommand(program)
}

/** An option's value by a function that throws RangeError. */
const value =
  <T>(parse: (text: string) => T) =>
  (text: string): T => {
    try {
      return parse(text)
    } catch (error) {
      throw new InvalidArgumentError((error as Error).message)
    }
  }

const list = <T>(parse: (text: string) => T) => value(text => new Set(text.split(',').map(parse)))

function kind(text: string): KindName {
  if (!Object.hasOwn(kinds, text)) throw new RangeError(`no kind "${text}": there are ${Object.keys(kinds).join(', ')}`)
  return text as KindName
}

interface SymbolOptions {
  /** True: the image that was booted, which has to be one that set-up has fetched. */
  readonly symbols?: string | true
  readonly kaslr?: number
}

function symbolOptions(command: Command): Command {
  return command
    .option(
      '--symbols [file]',
      `${SYMBOL_FILES}; by default the image that was booted, if set-up has fetched it`,
      inputFile,
    )
    .option('--kaslr <offset>', 'how far the kernel was moved; worked out from the traps by default', whole)
}

/**
 * The kernel image named by a recording, if it is one that set-up has fetched. A recording is data: other paths in it are not
 * opened.
 * @throws Error that says how to give it
 */
function recordedImage({ image }: TraceHeader): string {
  if (image === '')
    throw new UsageError("the recording doesn't say which kernel image was booted: --symbols FILE says it")
  const kernels = cachePath('kernel')
  try {
    const path = realpathSync(image)
    if (path.startsWith(`${realpathSync(kernels)}${sep}`)) return path
  } catch {} // there is no such file here
  throw new Error(
    `the recording names the image ${image}, which is none of ${kernels}: --symbols FILE says which it is`,
  )
}

/** @throws Error when the kernel's place cannot be worked out. */
function loadSymbols(reader: TraceReader, { symbols: file, kaslr }: SymbolOptions): Symbols | undefined {
  if (file === undefined) return undefined
  const path = file === true ? recordedImage(reader.header) : file
  const symbols = Symbols.load(path)
  if (kaslr !== undefined) symbols.offset = BigInt(kaslr)
  else if (!locate(symbols, reader)) {
    throw new Error(
      `${path}: the traps' PCs don't fit it at any offset: is it of ${reader.header.kernel || 'the same kernel'}? ` +
        '(--kaslr OFFSET says it by hand)',
    )
  }
  return symbols
}

/**
 * Runs an action with the reader of a file, says what is wrong with the file, and sets the exit code.
 * @param trouble exit code when the file is no recording
 */
async function reading(
  path: string,
  action: (reader: TraceReader) => Promise<void>,
  trouble: number = EXIT.failed,
): Promise<void> {
  let reader: TraceReader
  try {
    reader = TraceReader.open(path)
  } catch (error) {
    fail(error)
    process.exitCode = trouble
    return
  }
  try {
    await action(reader)
    sayProblems(reader.problems)
  } catch (error) {
    fail(error)
  }
}

async function write(out: Output, pieces: Iterable<string>): Promise<void> {
  for (const piece of pieces) {
    out.text(piece)
    if (!out.full) continue
    await out.flush()
    if (out.closed) break
  }
  await out.close()
}

/** A filter by the names of its options, of which some may be given several times. */
interface ShowCommandOptions extends SymbolOptions, Omit<Filter, 'registers' | 'commands' | 'kinds'> {
  readonly register?: Filter['registers']
  readonly command?: Filter['commands']
  readonly kind?: Filter['kinds']
  readonly slowest?: number
  readonly limit?: number
  readonly nested?: boolean
}

function filterOf(options: ShowCommandOptions): Filter {
  const { register: registers, command: commands, kind: kinds, ...rest } = options
  return { ...rest, ...(registers && { registers }), ...(commands && { commands }), ...(kinds && { kinds }) }
}

function showCommand(trace: Command): void {
  const command = ofRecording(trace.command('show'))
    .description('print what happened, decoded; all filters given must hold')
    .option('--register <names>', 'traps of these registers, e.g. CR0,CMDQ_BASE or 0x20', list(parseRegister))
    .option('--command <names>', 'traps with these commands of the host, e.g. CFGI_STE', list(parseCommand))
    .option('--sid <id>', 'what concerns a StreamID', whole)
    .option('--address <range>', 'accesses to guest memory in A, A..B or A+SIZE', value(parseAddresses))
    .option('--time <range>', 'seconds since the start, A..B', value(parseTimes))
    .option('--seq <range>', 'traps by number, A or A..B', value(parseInterval))
    .option('--cpu <n>', 'traps of a vCPU', whole)
    .option('--smmu <n>', 'of an SMMU', whole)
    .option('--function <text>', 'traps made by kernel functions with this in their name (needs --symbols)')
    .option('--kind <kinds>', 'records of these kinds, e.g. console,event', list(kind))
    .option('--warnings', 'traps with hyp warnings')
    .option('--aborted', 'traps that ended in an external abort')
    .option('--slowest <n>', 'the n that took longest, slowest first', whole)
    .option('--limit <n>', 'at most n', whole)
    .option('--nested', 'with every access to hardware, memory and guard')
  symbolOptions(command).action((path: string, options: ShowCommandOptions) =>
    reading(path, async reader => {
      const symbols = loadSymbols(reader, options)
      if (options.function !== undefined && symbols === undefined) throw new UsageError('--function needs --symbols')
      const { slowest, limit } = options
      const limits = { ...(slowest !== undefined && { slowest }), ...(limit !== undefined && { limit }) }
      const out = new Output()
      await show(reader, { filter: filterOf(options), nested: options.nested === true, symbols, ...limits }, out)
      await out.close()
    }),
  )
}

function statsCommand(trace: Command): void {
  const command = ofRecording(trace.command('stats'))
    .description('numbers of a run')
    .option('--json', 'as JSON, times in ns')
  symbolOptions(command).action((path: string, options: SymbolOptions & { readonly json?: boolean }) =>
    reading(path, async reader => {
      const found = stats(reader.records(), reader.header, loadSymbols(reader, options))
      const out = new Output()
      if (options.json) out.line(JSON.stringify({ ...found, bytes: reader.size }, null, 2))
      else {
        out.line(title(reader.header))
        printStats(found, reader, out)
      }
      await out.close()
    }),
  )
}

interface DiffCommandOptions extends SymbolOptions {
  readonly values: boolean
  readonly exact?: boolean
  readonly pager: boolean
  readonly nested?: boolean
  readonly limit: number
}

function diffCommand(trace: Command): void {
  const command = trace
    .command('diff')
    .argument('<a>', 'a recording', inputRecording)
    .argument('<b>', 'the one it is compared with', inputRecording)
    .description(
      'what the second run did differently, first divergence first; as diff(1), 1 when there is something, 2 for files that are no recordings',
    )
    .option('--no-values', 'compare which registers were accessed, not the values')
    .option('--exact', "compare the guest's addresses as they are, and not which of them are the same page")
    .option('--nested', 'compare accesses to hardware and memory, too')
    .option('--limit <n>', 'places to print', whole, 10)
    .option('--no-pager', 'on a terminal: print, and do not show with PAGER')
  symbolOptions(command).action((a: string, b: string, options: DiffCommandOptions) =>
    reading(a, left => reading(b, right => printDiff(left, right, options), EXIT.usage), EXIT.usage),
  )
}

const COLOURS = { '-': 'red', '+': 'green', ' ': 'dim' } as const

async function printDiff(a: TraceReader, b: TraceReader, options: DiffCommandOptions): Promise<void> {
  const nested = options.nested === true
  const symbols = [loadSymbols(a, options), loadSymbols(b, options)] as const
  const warnings = [warningsOf(a.header), warningsOf(b.header)] as const
  const compared = {
    values: options.values,
    nested,
    warnings,
    rewritten: a.tellsRewritten && b.tellsRewritten,
    ...(!options.exact && { machines: [a.header.machine, b.header.machine] as const }),
  }
  // A pager keeps Ctrl-C to itself: while there is nothing to look at, it ends the comparison.
  let pager: Pager | undefined
  const out = new Output(() => {
    pager = options.pager ? openPager() : undefined
    return pager?.input
  })
  // Of the terminal, with or without a pager: NO_COLOR and the like are heard.
  const paint = (colour: Parameters<typeof styleText>[0]) => (shown: string) => styleText(colour, shown)
  let places = 0
  const only = { a: 0, b: 0 }
  for (const hunk of diff(a.records(), b.records(), compared)) {
    only.a += hunk.a.length
    only.b += hunk.b.length
    if (++places > options.limit) continue
    if (places === 1) {
      out.line(`--- ${title(a.header)}`, paint('bold'))
      out.line(`+++ ${title(b.header)}`, paint('bold'))
    }
    out.line(`@@ ${places === 1 ? 'first difference' : `difference ${places}`}`, paint('cyan'))
    for (const { sign, text } of describeHunk(hunk, nested, warnings, symbols)) {
      out.line(`${sign} ${text}`, paint(COLOURS[sign]))
    }
    if (out.full) await out.flush()
    if (out.closed) break
  }
  if (places === 0) out.line('no difference')
  else {
    out.line(
      `${counted(places, 'place')}; ${counted(only.a, 'decision')} only in the first, ${grouped(only.b)} only in the second`,
    )
    process.exitCode = EXIT.failed
  }
  await out.close()
  await pager?.ended()
}

/** @throws UsageError when what is read would be written over */
function expectKept(
  recording: string,
  {
    output,
    symbols,
    with: second,
  }: { readonly output?: string; readonly symbols?: string | boolean; readonly with?: string },
): void {
  const image = typeof symbols === 'string' ? symbols : undefined
  usage(() => expectDistinct({ '--output': output }, { recording, '--with': second, '--symbols': image }))
}

interface ExportCommandOptions extends SymbolOptions {
  readonly html?: boolean
  readonly with?: string
  readonly perfetto?: boolean
  readonly vcd?: boolean
  readonly json?: boolean
  readonly csv?: boolean
  readonly output?: string
}

function exportCommand(trace: Command): void {
  const formats = ['perfetto', 'vcd', 'json', 'csv', 'html']
  const format = (name: string, text: string) =>
    new Option(`--${name}`, text).conflicts(formats.filter(other => other !== name))
  const command = ofRecording(trace.command('export'))
    .description('convert a recording')
    .addOption(format('perfetto', 'for ui.perfetto.dev and chrome://tracing'))
    .addOption(format('vcd', 'registers for waveform viewers'))
    .addOption(format('json', 'one object a line'))
    .addOption(format('csv', 'one line a record'))
    .addOption(format('html', "the dashboard's views of it in one file, which opens from the disk"))
    .addOption(
      new Option('--with <recording>', 'with --html: a second recording, to be compared side by side')
        .argParser(inputRecording)
        .conflicts(formats.filter(name => name !== 'html')),
    )
    .option('-o, --output <file>', 'instead of standard output', outputStream)
  symbolOptions(command).action((path: string, options: ExportCommandOptions) =>
    reading(path, async reader => {
      expectKept(path, options)
      const { header } = reader
      if (options.html) return exportPage(path, options)
      if (options.with !== undefined) throw new UsageError('--with goes with --html')
      const pieces = () => {
        const symbols = loadSymbols(reader, options)
        if (options.perfetto) return perfetto(header, reader.records(), symbols)
        if (options.vcd) return vcd(header, () => reader.records())
        if (options.json) return json(reader, reader.records(), symbols)
        if (options.csv) return csv(reader.records(), warningsOf(header), symbols)
        throw new UsageError(`export needs a format: ${formats.map(name => `--${name}`).join(', ')}`)
      }
      const text = pieces()
      await write(new Output(options.output), text)
    }),
  )
}

/** Bytes of a recording in a page, before they are packed: some 500,000 traps. */
const PAGE_BYTES = 64 << 20

/** Symbols that were asked for, or those of the recorded image if it is here. */
function symbolsIfAny(reader: TraceReader, options: SymbolOptions): Symbols | undefined {
  if (options.symbols !== undefined) return loadSymbols(reader, options)
  try {
    return loadSymbols(reader, { ...options, symbols: true })
  } catch {
    return undefined
  }
}

/** Recordings of runs are all called alike: their folders tell them apart. */
function nameOf(path: string): string {
  const name = basename(path)
  return name === 'trace' ? `${basename(dirname(resolve(path)))}/${name}` : name
}

/** A page that carries these recordings. What of them is left out is said. */
async function pageOf(paths: readonly string[], options: SymbolOptions, signal: AbortSignal): Promise<string> {
  const recordings = paths.map(path => {
    const reader = TraceReader.open(path)
    return { name: nameOf(path), reader, symbols: symbolsIfAny(reader, options) }
  })
  const { html, cut } = await recordingPage(recordings, PAGE_BYTES, say, signal)
  for (const [i, last] of cut.entries()) {
    if (last !== undefined) say(`${paths[i]}: only its beginning is in the page, up to trap ${last}`)
  }
  for (const { reader } of recordings) sayProblems(reader.problems)
  return html
}

async function exportPage(path: string, options: ExportCommandOptions): Promise<void> {
  const { signal, dispose } = abortOnSignal()
  try {
    const html = await pageOf([path, ...(options.with === undefined ? [] : [options.with])], options, signal)
    await write(new Output(options.output), [html])
  } catch (error) {
    fail(error, signal)
  } finally {
    dispose()
  }
}

function openCommand(trace: Command): void {
  const command = trace
    .command('open')
    .argument('<recording>', 'a file, the name of a run, or latest', inputRecording)
    .argument('[other]', 'a second one, to be compared side by side', inputRecording)
    .description('look at a recording in the views of the dashboard, at any of its moments; prints a URL')
    .option('--port <n>', 'port on the loopback address; 0: any that is free', port, 0)
  symbolOptions(command).action(
    async (file: string, other: string | undefined, options: SymbolOptions & { readonly port: number }) => {
      const { signal, dispose } = abortOnSignal()
      try {
        const html = await pageOf([file, ...(other === undefined ? [] : [other])], options, signal)
        const server = await servePage(html, options.port)
        print(server.url)
        if (!signal.aborted) await once(signal, 'abort')
        await server.close()
      } catch (error) {
        fail(error, signal)
      } finally {
        dispose()
      }
    },
  )
}

function flameCommand(trace: Command): void {
  const command = ofRecording(trace.command('flame'))
    .description('folded stacks of traps by kernel function, for flamegraph.pl, speedscope, inferno')
    .addOption(new Option('--weight <what>', 'what a stack weighs').choices(['traps', 'time']).default('traps'))
    .option('-o, --output <file>', 'instead of standard output', outputStream)
  const action = (path: string, options: SymbolOptions & { weight: 'traps' | 'time'; output?: string }) =>
    reading(path, async reader => {
      expectKept(path, options)
      const symbols = loadSymbols(reader, { symbols: true, ...options })
      if (symbols === undefined) return
      const stacks = flame(reader.records(), symbols, options.weight)
      const lines = [...stacks].sort((a, b) => b[1] - a[1]).map(([stack, weight]) => `${stack} ${weight}\n`)
      await write(new Output(options.output), lines)
    })
  symbolOptions(command).action(action)
}

function cutCommand(trace: Command): void {
  ofRecording(trace.command('cut'))
    .description('keep the beginning of a recording')
    .requiredOption('--to <seq>', 'number of the last trap that is kept', whole)
    .requiredOption('-o, --output <file>', 'the new recording; compressed when its name ends in .gz', outputFile)
    .action((path: string, options: { readonly to: number; readonly output: string }) =>
      reading(path, async reader => {
        expectKept(path, options)
        const bytes = await cut(reader, options.to, options.output)
        print(`${options.output}: ${counted(bytes, 'byte')}`)
      }),
    )
}

/** Where a replay stops. */
interface Break {
  readonly filter: Filter
  /** At the first difference. */
  readonly difference: boolean
}

function parseBreak(text: string): Break {
  if (text === 'difference') return { filter: { seq: { from: -1, to: -1 } }, difference: true }
  if (text === 'warning') return { filter: { warnings: true }, difference: false }
  if (/^[0-9]+$/.test(text)) return { filter: { seq: parseInterval(text) }, difference: false }
  try {
    return { filter: { registers: new Set([parseRegister(text)]) }, difference: false }
  } catch {
    try {
      return { filter: { commands: new Set([parseCommand(text)]) }, difference: false }
    } catch {
      throw new RangeError(`"${text}": expected the number of a trap, a register, a command, warning, or difference`)
    }
  }
}

interface ReplayCommandOptions {
  readonly policy?: string
  readonly until?: PolicyOptions['until']
  readonly granule?: string
  readonly blocks?: boolean
  readonly bbm?: BbmLevel
  readonly break?: Break
  readonly bisect?: readonly [good: string, bad: string]
  readonly all?: boolean
  readonly nested?: boolean
  readonly typeCheck: boolean
}

function replayCommand(program: Command): void {
  ofRecording(program.command('replay'))
    .description('let a hypervisor decide again what was recorded, without QEMU, and say what it does differently')
    .option('--policy <name|file>', 'default: that of the recording')
    .addOption(
      new Option('--until <stage>', "the policy's stage; default: that of the recording").choices(SERIES_STEPS),
    )
    .addOption(new Option('--granule <bytes>', 'page size of stage 2').choices(GRANULES.map(String)))
    .addOption(blocksOption())
    .addOption(bbmOption())
    .option('--break <where>', 'stop after a trap number, register, command, warning, or difference', value(parseBreak))
    .option('--all', 'print every decision that goes differently')
    .addOption(
      new Option('--bisect <good..bad>', 'find the commit at which the policy began to decide differently')
        .argParser(value(parseRange))
        .conflicts(['break', 'all', 'nested']),
    )
    .option('--nested', 'print with everything that was recorded of it')
    .addOption(noTypeCheck())
    .action((path: string, options: ReplayCommandOptions) =>
      reading(path, reader =>
        options.bisect === undefined ? replay(reader, options) : bisected(path, reader, options),
      ),
    )
}

async function bisected(recording: string, { header }: TraceReader, options: ReplayCommandOptions): Promise<void> {
  const { bisect: range, policy = header.policy, until, granule, blocks, bbm } = options
  if (range === undefined) return
  checkBlocks(policy, {
    blocks: blocks === true || header.policyOptions.blocks === true,
    ...(bbm !== undefined && { bbm }),
  })
  if (options.policy === undefined) await recordedPolicy(header)
  const { signal, dispose } = abortOnSignal()
  try {
    const more = [
      ...(until ? ['--until', until] : []),
      ...(granule ? ['--granule', granule] : []),
      ...(blocks ? ['--blocks'] : []),
      ...(bbm === undefined ? [] : ['--bbm', String(bbm)]),
    ]
    const found = await bisect({ recording: resolve(recording), policy, range, more, signal, say })
    const effort = `${found.tried} replays, ${found.skipped} commits that cannot be replayed`
    if (found.commit === undefined) {
      print(`only commits that cannot be replayed are left; ${effort}`)
      process.exitCode = EXIT.failed
      return
    }
    print(`the first commit that decides differently: ${found.commit}`)
    print(found.outcome.trimEnd())
    print(effort)
  } catch (error) {
    fail(error, signal)
  } finally {
    dispose()
  }
}

/** @throws UsageError when `--blocks` and `--bbm` say nothing */
function checkBlocks(policy: string, options: PolicyOptions): void {
  const problem = blocksProblem(policy, POLICY_NAMES.includes(policy), options)
  if (problem !== undefined) throw new UsageError(`--${problem.replace('with ', 'with --')}`)
}

/** A recording is data: its rules are checked as those of a stranger. @throws Error */
function injectedAgain({ faults, machine, policyOptions }: TraceHeader): ReplayFaults | undefined {
  if (faults === undefined) return undefined
  const { rules, seed } = faults
  const until = SERIES_STEPS.find(step => step === policyOptions.until)
  expectRules(rules, { translate: 'server', ...(until && { until }) })
  return new ReplayFaults({ rules, seed }, machine.devices)
}

async function replay(reader: TraceReader, options: ReplayCommandOptions): Promise<void> {
  const { header } = reader
  const warnings = warningsOf(header)
  await checkPolicy(options.policy, options.typeCheck, new AbortController().signal)
  const recorded = await recordedPolicy(header, options.policy)
  const policyOptions: PolicyOptions = {
    ...recorded.options,
    ...(options.until && { until: options.until }),
    ...(options.granule && { granule: Number(options.granule) as (typeof GRANULES)[number] }),
    ...(options.blocks && { blocks: true }),
    ...(options.bbm !== undefined && { bbm: options.bbm }),
  }
  checkBlocks(recorded.name, policyOptions)
  const nested = options.nested === true
  const out = new Output()
  const told = { rewritten: reader.tellsRewritten, warnings }
  const injected = injectedAgain(header)
  const run = new Replay(header.machine, recorded.factory, policyOptions, told, injected)
  const summary = new ReplaySummary()
  const started = performance.now()
  for (const { group, divergence } of run.run(groups(reader.records()))) {
    if (divergence !== undefined) {
      summary.add(divergence)
      if (options.all) printDivergence(divergence, nested, warnings, out)
    }
    const where = options.break
    if (where === undefined) continue
    if (where.difference ? divergence === undefined : !matches(group, where.filter)) continue
    out.line('stopped after:')
    printDivergence(divergence ?? { group, differences: [] }, true, warnings, out)
    out.line(JSON.stringify(policySections(run.policy, run.machine), null, 2))
    break
  }
  const ms = performance.now() - started
  const words = Object.entries(policyOptions).map(([name, value]) => ` ${name}=${value}`)
  const rate = grouped(Math.round((run.traps / ms) * 1000))
  out.line(
    `${counted(run.traps, 'trap')} replayed in ${(ms / 1000).toFixed(2)} s (${rate} a second), policy ${recorded.name}${words.join('')}`,
  )
  if (run.unknownReads > 0) {
    out.line(`${counted(run.unknownReads, 'read')} of memory that the recording doesn't show: answered with 0`)
  }
  if (run.translations > 0) {
    out.line(
      `NOT replayed: ${counted(run.translations, 'translation')} of --translate server or lockstep, which depend on tables that only the guest writes`,
    )
  }
  if (injected !== undefined) {
    const count = header.faults?.rules.length ?? 0
    out.line(
      `${counted(count, 'rule')} of fault injection ${injected.lost ? 'injected again, until others were armed' : 'injected again'}`,
    )
  }
  if (run.firstFault !== undefined) {
    out.line(`NOT replayed: ${counted(run.faults, 'injected fault')}, first in ${describeRoot(run.firstFault).trim()}`)
    out.line('  what they changed is different, and what followed from it')
  }
  printSummary(summary, run.roots, nested, warnings, out)
  if (summary.divergent > 0) process.exitCode = EXIT.failed
  await out.close()
}
