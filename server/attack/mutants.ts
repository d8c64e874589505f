// SPDX-License-Identifier: Apache-2.0
/**
 * Hypervisors with one wrong line each, made from the source: does the attacker find them, or do the unit tests? What neither finds is a
 * line that may be wrong without anybody noticing.
 */
import { spawn } from 'node:child_process'
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
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
/** What decides about isolation; the rest of the folder shows, stores or measures. */
const FILES: readonly string[] = [
  ...['commandRules', 'cr0', 'frame', 'hostCmdq', 'hostStrtab', 'hypervisor', 'idmap', 'idmapBuild', 'idmapLayout'],
  ...['ownership', 'pool', 'probe', 'queues', 'shadowCmdq', 'shadowStrtab', 'share', 'smmu', 'steRules'],
].map(name => `${PKVM}/${name}.ts`)
/** What a copy of the source needs to run the hypervisor's tests. */
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
  /** Who found it; `no program`: it does not load or names what is not there, so that there was nothing to find. */
  readonly by: 'attack' | 'unit tests' | 'nobody' | 'no program'
  /** What was found, the test that failed, or why it does not run. */
  readonly what: string
  readonly seconds: number
}

export interface MutantOptions {
  readonly count: number
  readonly seed: number
  /** Of the attack on each. */
  readonly seconds: number
  readonly known: readonly Weakness[]
}

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
  [/return E[A-Z]+$/, 'return OK'],
  // A statement that is a call is left out.
  [/^( +)(?:this|hyp|smmu|memory|shadow|guard|share|registers|state)[.#\w]*\(.*\)$/, '$1;'],
  [/^( +)[\w.#[\]]+ (?:=|\|=|&=|\^=) .*[^,{(]$/, '$1;'],
]
/** Lines that decide nothing: comments, imports, types, reports. */
const PLAIN =
  /^\s*(?:\/?\*|\/\/|import |export (?:interface|type) |readonly |\}|\{)|warn\(|warning|WARN|report\.|changed\(|queueMoved\(|throw |quirks|keepAnyway|\$1/

/** All of a file, in the order of its lines. */
export function mutantsOf(file: string, text: string): Mutant[] {
  const found: Mutant[] = []
  for (const [i, before] of text.split('\n').entries()) {
    if (PLAIN.test(before)) continue
    for (const [pattern, instead] of CHANGES) {
      if (!pattern.test(before)) continue
      found.push({ file, line: i + 1, before: before.trim(), after: before.replace(pattern, instead).trim() })
    }
  }
  return found
}

/** Some of all, spread over the source, the same ones for the same seed. */
export function choose(all: readonly Mutant[], count: number, seed: number): Mutant[] {
  const random = new Random(seed)
  const step = all.length / count
  if (step <= 1) return [...all]
  return Array.from(
    { length: count },
    (_, i) => all[Math.min(all.length - 1, Math.floor((i + random.below(1000) / 1000) * step))],
  )
}

/** How an attack or the tests ended. */
type Ending = { readonly found: string } | { readonly broken: string } | undefined

/** Errors of a text that is no program, whoever meets them. */
const BROKEN = /\b(?:SyntaxError|ReferenceError)\b/

const endingOf = (found: string): Ending => (BROKEN.test(found) ? { broken: found } : { found })

/**
 * @param told of each when it is decided; of one that `signal` interrupts nothing is said
 * @throws Error when attack or tests find something without a mutant: then neither says anything about one
 */
export async function mutants(
  options: MutantOptions,
  told: (verdict: Verdict) => void,
  signal: AbortSignal,
): Promise<Verdict[]> {
  const all = FILES.flatMap(file => mutantsOf(file, readFileSync(join(ROOT, file), 'utf8')))
  const copy = mkdtempSync(join(tmpdir(), 'smmu-cosim-mutants-'))
  try {
    for (const path of COPIED) cpSync(join(ROOT, path), join(copy, path), { recursive: true })
    symlinkSync(join(ROOT, 'node_modules'), join(copy, 'node_modules'))
    for (const [who, judge] of [
      ['the attack finds something', attacked],
      ['the unit tests fail', tested],
    ] as const) {
      const wrong = await judge(copy, options, signal)
      signal.throwIfAborted()
      if (wrong !== undefined) {
        throw new Error(`${who} without a mutant: ${'found' in wrong ? wrong.found : wrong.broken}`)
      }
    }
    const verdicts: Verdict[] = []
    for (const mutant of choose(all, options.count, options.seed)) {
      const verdict = await judge(mutant, copy, options, signal)
      if (signal.aborted) break
      verdicts.push(verdict)
      told(verdict)
    }
    return verdicts
  } finally {
    rmSync(copy, { recursive: true, force: true })
  }
}

async function judge(mutant: Mutant, copy: string, options: MutantOptions, signal: AbortSignal): Promise<Verdict> {
  const path = join(copy, mutant.file)
  const text = readFileSync(path, 'utf8')
  const lines = text.split('\n')
  lines[mutant.line - 1] = mutant.after
  writeFileSync(path, lines.join('\n'))
  const start = performance.now()
  try {
    const byAttack = await attacked(copy, options, signal)
    const ending = byAttack ?? (await tested(copy, options, signal))
    const seconds = (performance.now() - start) / 1000
    if (ending === undefined) return { ...mutant, by: 'nobody', what: '', seconds }
    if ('broken' in ending) return { ...mutant, by: 'no program', what: ending.broken, seconds }
    return { ...mutant, by: byAttack === undefined ? 'unit tests' : 'attack', what: ending.found, seconds }
  } finally {
    writeFileSync(path, text)
  }
}

/** What an attack finds first; a policy that never answers is one as well. */
function attacked(copy: string, { seconds, seed, known }: MutantOptions, signal: AbortSignal): Promise<Ending> {
  const options: WorkerOptions = {
    ...{ policy: join(copy, PKVM, 'policy.ts'), until: 'nested', hardware: HARDWARE, seed, known, seconds },
    ...{ operations: undefined, programs: [] },
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
    const timer = setTimeout(() => end({ found: 'it does not come to an end' }), 1000 * seconds + 20_000)
    signal.addEventListener('abort', interrupted)
    if (signal.aborted) interrupted()
    worker.on('message', (message: WorkerMessage) => {
      if (message.type === 'case') end(endingOf(message.found.kind))
      else if (message.type === 'done') {
        // It refuses every machine: the command fails of that as well.
        end(message.stats.judged > 0 ? undefined : { found: 'it isolates no machine' })
      }
    })
    worker.on('error', thrown => {
      const { name, message } = thrown instanceof Error ? thrown : new Error(String(thrown))
      end(endingOf(`it throws ${name}: ${message.split('\n')[0]}`))
    })
    worker.on('exit', code => end({ broken: `its thread ended with ${code}` }))
  })
}

/** The first of the hypervisor's unit tests that fails. */
function tested(copy: string, _: MutantOptions, signal: AbortSignal): Promise<Ending> {
  const report = join(copy, 'report.json')
  const vitest = join(ROOT, 'node_modules/vitest/vitest.mjs')
  const tests = ['run', '--project', 'unit', 'test/unit/hypervisor', '--maxWorkers=1', '--bail=1']
  rmSync(report, { force: true })
  return new Promise(resolve => {
    const args = [vitest, ...tests, '--reporter=json', `--outputFile=${report}`]
    const child = spawn(process.execPath, args, { cwd: copy, stdio: 'ignore' })
    const interrupted = () => child.kill()
    signal.addEventListener('abort', interrupted)
    if (signal.aborted) interrupted()
    child.on('error', error => resolve({ broken: error.message }))
    child.on('close', code => {
      signal.removeEventListener('abort', interrupted)
      resolve(code === 0 || signal.aborted ? undefined : firstFailure(report))
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
