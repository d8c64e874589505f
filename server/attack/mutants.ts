// SPDX-License-Identifier: Apache-2.0
/**
 * Hypervisors with one wrong line each, made from the source: do the unit tests find them, or does the attacker? What neither finds is a
 * line that may be wrong without anybody noticing.
 */
import { spawn } from 'node:child_process'
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { stripTypeScriptTypes } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import type { Weakness } from './known.ts'
import type { WorkerMessage, WorkerOptions } from './messages.ts'
import { Random } from './random.ts'
import { HARDWARE } from './setup.ts'

const ROOT = fileURLToPath(new URL('../../', import.meta.url))
const PKVM = 'server/hypervisor/pkvm'
const COMMON = 'server/hypervisor/common'

/** The unit tests of a source: those that say most about it are run first, all others of its folder behind the attack. */
interface Source {
  readonly file: string
  readonly tests: readonly string[]
  readonly all: string
  /** An attack meets it with blocks only, where SMMUs are switched off and on, or where EL2's tables are shared. */
  readonly only?: 'blocks' | 'power' | 'shared'
  /** It is no part of what an attack meets. */
  readonly apart?: true
}

type AttackKind = NonNullable<Source['only']> | 'attack'

const pkvm = (name: string, ...tests: string[]): Source => ({
  file: `${PKVM}/${name}.ts`,
  tests: tests.map(test => `test/unit/hypervisor/pkvm/${test}`),
  all: 'test/unit/hypervisor',
})
const common = (name: string, ...tests: string[]): Source => ({ ...pkvm(name, ...tests), file: `${COMMON}/${name}.ts` })
const apart = (file: string, test: string): Source => ({ file, tests: [test], all: test, apart: true })

/** What decides about isolation; the rest of the folders shows, stores or measures. */
const SOURCES: readonly Source[] = [
  pkvm('checkpoint', 'checkpoint'),
  pkvm('commandRules', 'section6'),
  pkvm('cr0', 'section5', 'section4'),
  common('formerOwner', 'hardware', 'section3'),
  pkvm('frame', 'section4', 'section6'),
  pkvm('hostCmdq', 'section6'),
  pkvm('hostStrtab', 'section7', 'section5'),
  pkvm('hypervisor', 'section8', 'section3', 'checkpoint', 'reset', 'severalSmmus'),
  pkvm('idmap', 'section9-idmap', 'section8'),
  { ...pkvm('idmapBlocks', 'section9-blocks'), only: 'blocks' },
  pkvm('idmapBuild', 'section9-idmap'),
  pkvm('idmapGeometry', 'section9-idmap'),
  pkvm('idmapLayout', 'section9-idmap'),
  pkvm('ownership', 'section8'),
  pkvm('pool', 'pool'),
  common('probe', 'section2'),
  { ...pkvm('power', 'section19'), only: 'power' },
  pkvm('queues', 'section5'),
  pkvm('shadowCmdq', 'section6', 'checkpoint'),
  pkvm('shadowStrtab', 'section7', 'checkpoint'),
  pkvm('share', 'section8', 'section5'),
  { ...pkvm('sharedStage2', 'section20'), only: 'shared' },
  pkvm('smmu', 'section3', 'section9-idmap', 'severalSmmus', 'section7'),
  pkvm('steRules', 'section7'),
  pkvm('strtabShape', 'section3', 'section5'),
  { file: 'server/smmu/queue.ts', tests: ['test/unit/smmu/queue'], all: 'test/unit/smmu' },
  {
    file: 'server/smmu/sharedStage2.ts',
    tests: ['test/unit/smmu/sharedStage2', 'test/unit/hypervisor/pkvm/section20'],
    all: 'test/unit/smmu',
    only: 'shared',
  },
  { file: 'server/smmu/strtab.ts', tests: ['test/unit/smmu/structures'], all: 'test/unit/smmu' },
  apart('server/translate/smmuTranslator.ts', 'test/unit/translate'),
  apart('server/machine/masters.ts', 'test/unit/machine/masters'),
]

/** What a copy of the source needs to run these tests. */
const COPIED = [
  'package.json',
  'tsconfig.json',
  'vitest.config.ts',
  'protocol',
  'server',
  'scripts',
  'test/unit',
  'test/attack',
]

export interface Mutant {
  readonly file: string
  /** From 1. */
  readonly line: number
  readonly before: string
  readonly after: string
}

export interface Verdict extends Mutant {
  /** Who found it first. */
  readonly by: 'unit tests' | 'attack' | 'nobody'
  /** The test that failed, or what was found. */
  readonly what: string
  readonly seconds: number
}

export interface MutantOptions {
  /** Mutants that run. */
  readonly count: number
  readonly seed: number
  /** Of the attack on each. */
  readonly operations: number
  /** Mutants at a time. */
  readonly jobs: number
  readonly known: readonly Weakness[]
  /** Of files whose path has this in it; absent: of all. */
  readonly of?: string
}

/** Files that mutants are made of, as far as their path has a text in it. */
export const mutated = (of = ''): string[] => sourcesOf(of).map(({ file }) => file)
const sourcesOf = (of: string): Source[] => SOURCES.filter(({ file }) => file.includes(of))

/** One wrong thing each: a pattern in a line, and what stands there instead. */
const CHANGES: readonly (readonly [RegExp, string])[] = [
  [/ === /, ' !== '],
  [/ !== /, ' === '],
  [/ && /, ' || '],
  [/ \|\| /, ' && '],
  [/ < /, ' <= '],
  [/ <= /, ' < '],
  [/ > /, ' >= '],
  [/ >= /, ' > '],
  [/ & ~/, ' & '],
  [/ \| /, ' & '],
  [/ \+ /, ' - '],
  [/\bMath\.min\b/, 'Math.max'],
  [/\btrue\b/, 'false'],
  [/\bfalse\b/, 'true'],
  // OK
  [/return E[A-Z]+$/, 'return 0'],
  // A statement that is a call is left out.
  [/^( +)(?:this|hyp|smmu|memory|shadow|guard|share|registers|state)[.?#\w]*\(.*\)$/, '$1;'],
  [/^( +)[\w.#[\]]+ (?:=|\|=|&=|\^=) .*[^,{(]$/, '$1;'],
]
/** Lines that decide nothing: comments, imports, types, reports. */
const PLAIN =
  /^\s*(?:\/?\*|\/\/|import |export (?:interface|type) |readonly |\}|\{)|warn\(|warning|WARN|report\.|changed\(|queueMoved\(|throw |quirks|keepAnyway|\$1/

/** What Node makes of a text; undefined: it is no program. */
function program(text: string): string | undefined {
  try {
    return stripTypeScriptTypes(text)
  } catch {
    return undefined
  }
}

/** A block that is entered with a quirk only: no hypervisor has one unless it is asked for. */
const QUIRK_BLOCK = /quirks\.has\(.*\{$/

/** Whether a line lies in such a block, its last line included. */
function quirkLines(lines: readonly string[]): boolean[] {
  let end: string | undefined
  return lines.map(line => {
    if (end === undefined) {
      if (QUIRK_BLOCK.test(line)) end = `${' '.repeat(line.search(/\S/))}}`
      return end !== undefined
    }
    if (line === end) end = undefined
    return true
  })
}

/** All of a file, in the order of its lines. What makes another type, or no program, is none. */
export function mutantsOf(file: string, text: string): Mutant[] {
  const lines = text.split('\n')
  const whole = program(text)
  const quirks = quirkLines(lines)
  const found: Mutant[] = []
  for (const [i, before] of lines.entries()) {
    if (quirks[i] || PLAIN.test(before)) continue
    for (const [pattern, instead] of CHANGES) {
      if (!pattern.test(before)) continue
      const after = before.replace(pattern, instead)
      const made = program(lines.with(i, after).join('\n'))
      if (made === undefined || made === whole) continue
      found.push({ file, line: i + 1, before: before.trim(), after: after.trim() })
    }
  }
  return found
}

/**
 * Divides all of them, in the order of the source, into `count` parts, so that one of each is spread over it. Each part is in an order
 * of its own, the same one for the same seed.
 */
export function choose(all: readonly Mutant[], count: number, seed: number): Mutant[][] {
  const random = new Random(seed)
  const parts = Math.min(count, all.length)
  return Array.from({ length: parts }, (_, i) => {
    const part = all.slice(Math.floor((i * all.length) / parts), Math.floor(((i + 1) * all.length) / parts))
    for (let last = part.length - 1; last > 0; last--) {
      const other = random.below(last + 1)
      ;[part[last], part[other]] = [part[other], part[last]]
    }
    return part
  })
}

/** How an attack or tests ended; undefined: nothing is wrong. */
type Ending = { readonly found: string } | { readonly broken: string } | undefined

/** Errors of a text that is no program, whoever meets them. */
const BROKEN = /\b(?:SyntaxError|ReferenceError)\b/

const endingOf = (found: string): Ending => (BROKEN.test(found) ? { broken: found } : { found })

/**
 * @param told of each when it is decided; of one that `signal` interrupts nothing is said, nor of one that does not load or names what
 *   is not there: another one takes its place
 * @throws Error when attack or tests find something without a mutant: then neither says anything about one
 */
export async function mutants(
  options: MutantOptions,
  told: (verdict: Verdict) => void,
  signal: AbortSignal,
): Promise<Verdict[]> {
  const sources = sourcesOf(options.of ?? '')
  const parts = choose(
    sources.flatMap(({ file }) => mutantsOf(file, readFileSync(join(ROOT, file), 'utf8'))),
    options.count,
    options.seed,
  )
  const folder = mkdtempSync(join(tmpdir(), 'smmu-cosim-mutants-'))
  const copies = Array.from({ length: Math.min(options.jobs, parts.length) }, (_, job) => join(folder, `${job}`))
  try {
    for (const copy of copies) {
      for (const path of COPIED) cpSync(join(ROOT, path), join(copy, path), { recursive: true })
      symlinkSync(join(ROOT, 'node_modules'), join(copy, 'node_modules'))
    }
    const all = [...new Set(sources.map(({ all }) => all))]
    const kinds = [...new Set(sources.filter(({ apart }) => !apart).map(({ only }) => only ?? 'attack'))]
    const [tests, ...attacks] = await Promise.all([
      expectNothing('the unit tests fail', tested(copies[0], all, UNKNOWN_MS, signal)),
      ...kinds.map(kind =>
        expectNothing(
          FINDS[kind],
          attacked(copies[0], options, UNKNOWN_MS, signal, kind === 'attack' ? undefined : kind),
        ),
      ),
    ])
    signal.throwIfAborted()
    const durations: Durations = {
      attacks: new Map(kinds.map((kind, i) => [kind, attacks[i]])),
      tests: testTimes(join(copies[0], REPORT), tests),
    }
    const verdicts: Verdict[] = []
    const work = async (copy: string) => {
      for (let part = parts.shift(); part !== undefined; part = parts.shift()) {
        for (const mutant of part) {
          const verdict = await judge(mutant, copy, options, durations, signal)
          if (signal.aborted) return
          if (verdict === undefined) continue
          verdicts.push(verdict)
          told(verdict)
          break
        }
      }
    }
    await Promise.all(copies.map(work))
    return verdicts
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** What is wrong when an attack of a kind finds something without a mutant. */
const FINDS: Readonly<Record<AttackKind, string>> = {
  attack: 'the attack finds something',
  blocks: 'the attack finds something with blocks',
  power: 'the attack finds something with power',
  shared: 'the attack finds something with shared tables',
}

/** @returns how long that took, ms */
async function expectNothing(what: string, ending: Promise<Ending>): Promise<number> {
  const start = performance.now()
  const wrong = await ending
  if (wrong !== undefined) throw new Error(`${what} without a mutant: ${'found' in wrong ? wrong.found : wrong.broken}`)
  return performance.now() - start
}

/** Undefined: it is no program. */
async function judge(
  mutant: Mutant,
  copy: string,
  options: MutantOptions,
  durations: Durations,
  signal: AbortSignal,
): Promise<Verdict | undefined> {
  const path = join(copy, mutant.file)
  const text = readFileSync(path, 'utf8')
  const lines = text.split('\n')
  const indent = lines[mutant.line - 1].search(/\S/)
  writeFileSync(path, lines.with(mutant.line - 1, ' '.repeat(indent) + mutant.after).join('\n'))
  const start = performance.now()
  const ended = (by: Verdict['by'], what: string): Verdict => {
    return { ...mutant, by, what, seconds: (performance.now() - start) / 1000 }
  }
  const source = SOURCES.find(({ file }) => file === mutant.file)
  if (source === undefined) return undefined
  const tests = (paths: readonly string[]) => tested(copy, paths, hangsAfter(timeOf(durations.tests, paths)), signal)
  const attack = () =>
    attacked(copy, options, hangsAfter(durations.attacks.get(source.only ?? 'attack') ?? 0), signal, source.only)
  const stages: readonly (readonly [Exclude<Verdict['by'], 'nobody'>, () => Promise<Ending>])[] = [
    ['unit tests', () => tests(source.tests)],
    ...(source.apart ? [] : [['attack', attack] as const]),
    ...(source.apart ? [] : [['unit tests', () => tests([source.all])] as const]),
  ]
  try {
    for (const [by, look] of stages) {
      const ending = await look()
      if (signal.aborted || (ending !== undefined && 'broken' in ending)) return undefined
      if (ending !== undefined) return ended(by, ending.found)
    }
    return ended('nobody', '')
  } finally {
    writeFileSync(path, text)
  }
}

/** What an attack or tests may take: so many times what they took without a mutant, and some seconds for a machine that has more to do. */
const HANGS_TIMES = 6
const HANGS_MORE_MS = 15_000
const HANGS: Ending = { found: 'it does not come to an end' }

/** Until something is known of its duration, ms. */
const UNKNOWN_MS = 1_800_000

/** Whole ms, as `spawn` wants them. @param ms without a mutant */
export const hangsAfter = (ms: number): number => Math.ceil(HANGS_TIMES * ms + HANGS_MORE_MS)

/**
 * How long each file of tests took, its share of what all of them need to start included.
 * @param report vitest's JSON @param ms what the run took @returns ms by path
 */
export function testTimes(report: string, ms: number): Map<string, number> {
  const { testResults } = JSON.parse(readFileSync(report, 'utf8')) as {
    testResults: { name: string; startTime: number; endTime: number }[]
  }
  const own = testResults.map(({ startTime, endTime }) => Math.max(0, endTime - startTime))
  const rest = Math.max(0, ms - own.reduce((sum, time) => sum + time, 0)) / Math.max(1, own.length)
  return new Map(testResults.map(({ name }, i) => [name, own[i] + rest]))
}

/** @param paths parts of paths, as vitest takes them */
export function timeOf(times: ReadonlyMap<string, number>, paths: readonly string[]): number {
  return [...times].reduce((sum, [name, ms]) => sum + (paths.some(path => name.includes(path)) ? ms : 0), 0)
}

/** Of vitest, in a copy of the source. */
const REPORT = 'report.json'

/** Durations without a mutant, ms. */
interface Durations {
  /** Of those that the chosen files meet. */
  readonly attacks: ReadonlyMap<AttackKind, number>
  /** By file. */
  readonly tests: ReadonlyMap<string, number>
}

/** What an attack finds first. */
function attacked(
  copy: string,
  { operations, seed, known }: MutantOptions,
  limitMs: number,
  signal: AbortSignal,
  only?: Source['only'],
): Promise<Ending> {
  const options: WorkerOptions = {
    ...{ policy: join(copy, PKVM, 'policy.ts'), until: 'nested', hardware: HARDWARE, seed, known, operations },
    ...{ seconds: undefined, programs: [] },
    ...(only === 'blocks' && { blocks: { bbm: undefined } }),
    ...(only === 'power' && { power: { mode: undefined } }),
    ...(only === 'shared' && { shared: { populate: undefined } }),
  }
  return new Promise(resolve => {
    const worker = new Worker(new URL('./worker.ts', import.meta.url), {
      workerData: options,
      stdout: true,
      stderr: true,
    })
    const end = (what: Ending) => {
      clearTimeout(timer)
      signal.removeEventListener('abort', interrupted)
      void worker.terminate()
      resolve(what)
    }
    const interrupted = () => end(undefined)
    const timer = setTimeout(() => end(HANGS), limitMs)
    signal.addEventListener('abort', interrupted)
    if (signal.aborted) interrupted()
    worker.on('message', (message: WorkerMessage) => {
      if (message.type === 'case') end(endingOf(message.found.kind))
      else if (message.type === 'done') {
        // It refuses every machine: the command fails of that as well.
        end(message.stats.judged > 0 ? undefined : { found: 'it isolates no machine' })
      }
    })
    worker.on('error', (error: unknown) => end(endingOf(`it throws ${String(error).split('\n')[0]}`)))
    worker.on('exit', code => end({ broken: `its thread ended with ${code}` }))
  })
}

/** The first unit test below these paths that fails. */
function tested(copy: string, paths: readonly string[], limitMs: number, signal: AbortSignal): Promise<Ending> {
  const report = join(copy, REPORT)
  const vitest = join(ROOT, 'node_modules/vitest/vitest.mjs')
  const tests = ['run', '--project', 'unit', ...paths, '--maxWorkers=1', '--bail=1']
  rmSync(report, { force: true })
  return new Promise(resolve => {
    const args = [vitest, ...tests, '--reporter=json', `--outputFile=${report}`]
    const child = spawn(process.execPath, args, {
      cwd: copy,
      stdio: 'ignore',
      timeout: limitMs,
      killSignal: 'SIGKILL',
    })
    const interrupted = () => child.kill()
    signal.addEventListener('abort', interrupted)
    if (signal.aborted) interrupted()
    child.on('error', error => resolve({ broken: error.message }))
    child.on('close', (code, killed) => {
      signal.removeEventListener('abort', interrupted)
      if (code === 0 || signal.aborted) resolve(undefined)
      else resolve(killed === 'SIGKILL' ? HANGS : firstFailure(report))
    })
  })
}

/** What made the tests fail, by vitest's report; without a failed test in it they did not run. */
export function firstFailure(report: string): Ending {
  if (!existsSync(report)) return { broken: 'the unit tests do not run' }
  const { testResults } = JSON.parse(readFileSync(report, 'utf8')) as {
    testResults: {
      message?: string
      assertionResults: { status: string; fullName: string; failureMessages?: string[] }[]
    }[]
  }
  let message: string | undefined
  for (const { assertionResults, message: ofFile } of testResults) {
    const failed = assertionResults.find(({ status }) => status === 'failed')
    if (failed !== undefined) {
      const why = failed.failureMessages?.[0] ?? ''
      return BROKEN.test(why) ? { broken: why.split('\n')[0] } : { found: failed.fullName }
    }
    message ??= ofFile || undefined
  }
  return { broken: message?.split('\n')[0] ?? 'the unit tests do not run' }
}
