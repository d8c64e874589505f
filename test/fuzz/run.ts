// SPDX-License-Identifier: Apache-2.0
/** `npm run fuzz`: hostile input against everything that takes input from outside. */
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import { ensureSanitizedQemu } from '../../scripts/setup/sanitized.ts'
import { TARGETS, type TargetName } from './names.ts'
import { PRESENT_BYTES, PRESENT_HEADER, type WorkerMessage, type WorkerOptions } from './worker.ts'

const HERE = fileURLToPath(new URL('.', import.meta.url))

/** One input gets no more of a processor, ms: a machine that is busy with other things gives it as much, only later. */
const HANG_MS = 20_000
/** One that waits for something else is given up after so many times as long. */
const WAITING = 10
/**
 * What the process may grow by, MiB. The heap of a target may be larger by far: at its limit V8 ends a thread, or, when the
 * thread is quick, the process.
 */
const GROWTH_MIB = 1024
const HEAP_MIB = 4 * GROWTH_MIB

export interface FuzzOptions {
  /** In all, each target for its share of it. */
  readonly seconds: number
  /** For each target, in place of a time: the same inputs however slow the machine is. */
  readonly inputs?: number
  readonly seed: number
  readonly only: readonly TargetName[]
  /** Where inputs of findings are put; absent: into the corpus. */
  readonly save?: string
}

export interface FuzzFinding {
  readonly target: string
  readonly message: string
  /** File of the input. */
  readonly file: string
}

/** The inputs that once failed, or are good to begin with. */
export function corpus(target: string): Uint8Array[] {
  const folder = join(HERE, 'corpus', target)
  if (!existsSync(folder)) return []
  return readdirSync(folder)
    .sort()
    .map(name => new Uint8Array(readFileSync(join(folder, name))))
}

/** @returns what was found. @throws when `signal` aborts; what was found before is kept and said */
export async function fuzz(
  { seconds, inputs: most, seed, only, save }: FuzzOptions,
  signal: AbortSignal,
  say: (line: string) => void,
): Promise<FuzzFinding[]> {
  const names = only.length > 0 ? only : TARGETS
  const all: FuzzFinding[] = []
  for (const target of names) {
    // So long an input would be a finding.
    if (target.startsWith('qemu') && process.env.SMMU_COSIM_QEMU === undefined) await ensureSanitizedQemu({ signal })
    const module = new URL(`./targets/${target}.ts`, import.meta.url).href
    const end =
      most === undefined
        ? { ms: (seconds * 1000) / names.length, inputs: Number.POSITIVE_INFINITY }
        : { ms: Number.POSITIVE_INFINITY, inputs: most }
    // What did something over the socket may do so over a ring.
    const first = [...corpus(target), ...(target === 'qemuRing' ? corpus('qemu') : [])]
    const { inputs, outcomes, findings } = await fuzzTarget({ module, seed, corpus: first, ...end }, signal)
    const different = outcomes === undefined ? '' : `, ${outcomes} outcomes`
    say(`${target}: ${inputs} inputs${different}, ${findings.length} findings`)
    for (const { message, input } of findings) {
      const file = keep(save ?? join(HERE, 'corpus', target), input)
      say(`${target}: ${message}\n  input: ${relative(process.cwd(), file)}`)
      all.push({ target, message, file })
    }
    signal.throwIfAborted()
  }
  return all
}

export interface TargetResult {
  readonly inputs: number
  /** Different ones; undefined: the thread was ended, and nobody knows. */
  readonly outcomes: number | undefined
  readonly findings: readonly { readonly message: string; readonly input: Uint8Array }[]
}

/**
 * One target, on a thread of its own: an input that never ends, or eats all memory, is a finding as well.
 * @param hangMs of processor time for one input
 */
export async function fuzzTarget(
  options: Omit<WorkerOptions, 'present'>,
  signal: AbortSignal,
  hangMs = HANG_MS,
): Promise<TargetResult> {
  const present = new SharedArrayBuffer(PRESENT_BYTES)
  const state = new Int32Array(present, 0, 2)
  const worker = new Worker(new URL('./worker.ts', import.meta.url), {
    workerData: { ...options, present } satisfies WorkerOptions,
    resourceLimits: { maxOldGenerationSizeMb: HEAP_MIB },
  })
  const findings: { message: string; input: Uint8Array }[] = []
  const presentInput = () => new Uint8Array(present, PRESENT_HEADER, Atomics.load(state, 1)).slice()
  const over = Promise.withResolvers<Pick<TargetResult, 'inputs' | 'outcomes'>>()
  const stop = () => over.resolve({ inputs: Atomics.load(state, 0), outcomes: undefined })
  let ended = false
  const end = (message: string) => {
    if (ended) return
    ended = true
    findings.push({ message, input: presentInput() })
    stop()
  }
  worker.on('message', (message: WorkerMessage) => {
    if ('done' in message) over.resolve(message.done)
    else findings.push(message.found)
  })
  worker.on('error', error => {
    // Before the first input it is the target that does not load.
    if (Atomics.load(state, 0) === 0) over.reject(error)
    else end(`the thread ended: ${error instanceof Error ? error.message : error}`)
  })
  worker.on('exit', code => over.reject(new Error(`the thread ended with ${code}`)))
  // What was found so far is told.
  signal.addEventListener('abort', stop)
  let last = 0
  let since = performance.now()
  let used = process.cpuUsage()
  const before = process.memoryUsage.rss()
  const watch = setInterval(() => {
    const count = Atomics.load(state, 0)
    if (count !== last) [since, used] = [performance.now(), process.cpuUsage()]
    last = count
    const { user, system } = process.cpuUsage(used)
    if (count > 0 && user + system > 1000 * hangMs)
      end(`nothing came of it within ${hangMs / 1000} s of processor time`)
    if (count > 0 && performance.now() - since > WAITING * hangMs)
      end(`nothing came of it within ${(WAITING * hangMs) / 1000} s`)
    const grown = (process.memoryUsage.rss() - before) / 2 ** 20
    if (grown > GROWTH_MIB) end(`the process grew by ${Math.round(grown)} MiB`)
  }, 50)
  try {
    signal.throwIfAborted()
    return { ...(await over.promise), findings }
  } finally {
    clearInterval(watch)
    signal.removeEventListener('abort', stop)
    await worker.terminate()
  }
}

/** Named by what is in it. */
function keep(folder: string, input: Uint8Array): string {
  mkdirSync(folder, { recursive: true })
  const file = join(folder, createHash('sha256').update(input).digest('hex').slice(0, 16))
  writeFileSync(file, input)
  return file
}
