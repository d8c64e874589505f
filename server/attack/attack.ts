// SPDX-License-Identifier: Apache-2.0
/** An attack on a policy: as many threads as asked for, what they found, and what is known already. */

import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import { type Static, Type } from 'typebox'
import { Value } from 'typebox/value'
import type { SeriesStep } from '../policy/policy.ts'
import type { CampaignStats } from './campaign.ts'
import { type Case, encodeCase } from './cases.ts'
import { PROGRAMS, readJson } from './files.ts'
import type { Weakness } from './known.ts'
import type { Found, Recheck, RecheckOptions, WorkerMessage, WorkerOptions } from './messages.ts'
import { MODES, type Program, repertoire } from './program.ts'
import type { Blocks, HardwareOption, Power, Shared } from './setup.ts'

export interface AttackOptions {
  readonly policy: string
  readonly quirks: readonly string[]
  readonly until: SeriesStep
  /** Absent: RAM is mapped in pages. */
  readonly blocks?: Blocks | undefined
  /** Absent: SMMUs are on. */
  readonly power?: Power | undefined
  /** Absent: there is no EL2. */
  readonly shared?: Shared | undefined
  readonly hardware: readonly HardwareOption[]
  readonly seconds: number | undefined
  /** Of all threads together. */
  readonly operations: number | undefined
  readonly seed: number
  readonly jobs: number
  /** Folder of cases that must not show anything, and where new ones go. */
  readonly corpus: string | undefined
  /** File of known weaknesses. */
  readonly known: string | undefined
}

export interface AttackResult {
  readonly cases: readonly Found[]
  readonly mended: readonly Weakness[]
  readonly known: readonly Weakness[]
  readonly steps: number
  readonly operations: number
  readonly programs: number
  /** Programs on machines that the policy claimed to isolate: of the others the oracle says nothing but that it failed. */
  readonly judged: number
  /** Findings that did not come again on a machine of their own, so that there is no case of them. */
  readonly lost: number
  readonly features: number
  /** Cleans of the policy to the point of coherency, and cache lines that they were about: of SMMUs that are not coherent. */
  readonly cleans: number
  readonly cleanedLines: number
  readonly seconds: number
  readonly kinds: ReadonlyMap<string, number>
}

export interface Progress {
  readonly operations: number
  readonly steps: number
  readonly programs: number
  readonly judged: number
  readonly lost: number
  /** Of the thread that noticed most: features by kind, and programs that are kept for one. */
  readonly coverage: readonly number[]
  readonly corpus: number
  readonly cases: number
  readonly seconds: number
}

const MAX_PROGRAMS = 100_000
export const ProgramsSchema = Type.Array(
  Type.Object(
    {
      mode: Type.Enum([...MODES]),
      seed: Type.Integer({ minimum: 0, maximum: 2 ** 32 - 1 }),
      interleaving: Type.Integer({ minimum: 0, maximum: 100 }),
      operations: Type.Array(
        Type.Object(
          { name: Type.String({ maxLength: 100 }), seed: Type.Integer({ minimum: 0, maximum: 2 ** 32 - 1 }) },
          { additionalProperties: false },
        ),
        { minItems: 1, maxItems: 1000 },
      ),
    },
    { additionalProperties: false },
  ),
  { maxItems: MAX_PROGRAMS },
)
type Programs = Static<typeof ProgramsSchema>

/** Programs that an earlier attack left in the corpus. */
function readPrograms(corpus: string | undefined): Programs {
  const file = corpus === undefined ? undefined : join(corpus, PROGRAMS)
  return file === undefined || !existsSync(file) ? [] : checkPrograms(readJson(file), file)
}

/** @param file for people @throws Error when they are none */
export function checkPrograms(value: unknown, file: string): Programs {
  if (!Value.Check(ProgramsSchema, value)) throw new Error(`${file}: no programs of an attack`)
  for (const { mode, operations } of value) {
    const unknown = operations.find(({ name }) => repertoire(mode, 'all').get(name) === undefined)
    if (unknown !== undefined) throw new Error(`${file}: there is no operation "${unknown.name}"`)
  }
  return value
}

/** Each once: threads that started from the same programs hand them over again. The latest, as many as are read. */
function writePrograms(corpus: string, programs: readonly Program[]): void {
  const texts = [...new Set(programs.map(program => JSON.stringify(program)))].slice(-MAX_PROGRAMS)
  writeFileSync(join(corpus, PROGRAMS), `[${texts.join(',')}]\n`)
}

/** A name for a file: the kind, and a few digits of what is in it. */
function fileName({ kind, steps }: Case): string {
  const digest = createHash('sha256').update(JSON.stringify(steps)).digest('hex').slice(0, 8)
  return `${kind
    .replace(/[^A-Za-z0-9]+/g, '-')
    .replace(/^-|-$/g, '')
    .slice(0, 60)}-${digest}.json`
}

function save(corpus: string | undefined, case_: Case): string | undefined {
  if (corpus === undefined) return undefined
  const file = join(corpus, fileName(case_))
  writeFileSync(file, encodeCase(case_))
  return file
}

/**
 * Runs the threads of an attack, here or elsewhere, until each is done or `signal` aborts them.
 * @param take told by which of them, what it found and how far it is; the last is `done`, unless it was aborted
 * @throws Error when one fails
 */
export type Threads = (
  threads: readonly WorkerOptions[],
  take: (thread: number, message: WorkerMessage) => void,
  signal: AbortSignal,
) => Promise<void>

/**
 * Attacks until time or operations are over, or `signal` aborts it.
 * @param onFound told at once, cases of the corpus first
 * @param run default: in threads of this process
 */
export async function attack(
  options: AttackOptions,
  onFound: (found: Found) => void,
  onProgress: (progress: Progress) => void,
  signal: AbortSignal,
  run: Threads = inThreads,
): Promise<AttackResult> {
  const { corpus, jobs } = options
  const { known: weaknesses, mended: unseen, cases: again } = await recheck(options, signal)
  if (corpus !== undefined) mkdirSync(corpus, { recursive: true })
  const cases = [...again]
  for (const found of cases) onFound(found)
  const programs = readPrograms(corpus)
  const start = performance.now()
  const seconds = () => (performance.now() - start) / 1000
  const latest: (CampaignStats | undefined)[] = new Array<CampaignStats | undefined>(jobs).fill(undefined)
  const total = (of: (stats: CampaignStats) => number) =>
    latest.reduce((sum, stats) => sum + (stats ? of(stats) : 0), 0)
  const kept: Program[] = []
  const threads = latest.map((_, job) => ({
    policy: options.policy,
    quirks: options.quirks,
    blocks: options.blocks,
    power: options.power,
    shared: options.shared,
    until: options.until,
    hardware: options.hardware,
    seed: (options.seed + job) >>> 0,
    known: weaknesses,
    seconds: options.seconds,
    operations: options.operations === undefined ? undefined : Math.ceil(options.operations / jobs),
    programs,
  }))
  const take = (job: number, message: WorkerMessage) => {
    if (message.type === 'case') {
      const found = { found: message.found, file: save(corpus, message.found), seconds: message.seconds }
      cases.push(found)
      onFound(found)
      return
    }
    latest[job] = message.stats
    if (message.type === 'done') kept.push(...message.programs)
    const most = latest.reduce<Pick<CampaignStats, 'features' | 'coverage' | 'corpus'>>(
      (best, stats) => (stats !== undefined && stats.features > best.features ? stats : best),
      message.stats,
    )
    onProgress({
      operations: total(({ operations }) => operations),
      steps: total(({ steps }) => steps),
      programs: total(stats => stats.cases),
      judged: total(({ judged }) => judged),
      lost: total(({ lost }) => lost),
      ...{ coverage: most.coverage, corpus: most.corpus, cases: cases.length, seconds: seconds() },
    })
  }
  await run(threads, take, signal)
  if (corpus !== undefined && kept.length > 0) writePrograms(corpus, kept)
  const kinds = new Map<string, number>()
  for (const stats of latest)
    for (const [kind, times] of stats?.kinds ?? []) kinds.set(kind, (kinds.get(kind) ?? 0) + times)
  return {
    cases,
    known: weaknesses,
    // Hardware's choices fall elsewhere when a hypervisor changes: a case may miss what another program still meets.
    mended: unseen.filter(({ kind }) => !kinds.has(kind)),
    steps: total(stats => stats.steps),
    operations: total(stats => stats.operations),
    programs: total(stats => stats.cases),
    judged: total(stats => stats.judged),
    lost: total(stats => stats.lost),
    cleans: total(stats => stats.cleans),
    cleanedLines: total(stats => stats.cleanedLines),
    features: Math.max(0, ...latest.map(stats => stats?.features ?? 0)),
    seconds: seconds(),
    kinds,
  }
}

/** Objects that do not live long are most of what an attack makes, MiB. */
const YOUNG_MIB = 64

/** Time that a thread which is told to stop has for the program that it runs, ms: a policy may never come back from one. */
const STOP_MS = 1_000

/** @throws Error when the policy, what it is to show, or a file is wrong */
async function recheck({ policy, quirks, corpus, known }: RecheckOptions, signal: AbortSignal): Promise<Recheck> {
  const workerData: RecheckOptions = { policy, quirks, corpus, known }
  const worker = new Worker(new URL('./recheck.ts', import.meta.url), { workerData })
  const told = once(worker, 'message', { signal }) as Promise<[Recheck]>
  const ended = once(worker, 'exit').then(([code]) => {
    throw new Error(`policy ${policy}: it ended its thread with ${code}`)
  })
  ended.catch(() => {}) // also comes, unasked for, when it is done
  try {
    const [result] = await Promise.race([told, ended])
    return result
  } finally {
    await worker.terminate()
  }
}

/** In threads of this process: one that fails ends the others. */
const inThreads: Threads = async (threads, take, signal) => {
  const failed = new AbortController()
  const ended = AbortSignal.any([signal, failed.signal])
  await Promise.all(
    threads.map((options, thread) =>
      inThread(options, message => take(thread, message), ended).catch((error: unknown) => {
        failed.abort()
        throw error
      }),
    ),
  )
}

/** One thread, until it is done. @throws Error when it ends before, or what it found cannot be kept */
export function inThread(
  options: WorkerOptions,
  take: (message: WorkerMessage) => void,
  signal: AbortSignal,
): Promise<void> {
  return new Promise((resolve, reject) => {
    const worker = new Worker(new URL('./worker.ts', import.meta.url), {
      workerData: options,
      resourceLimits: { maxYoungGenerationSizeMb: YOUNG_MIB },
    })
    let done = false
    let late: NodeJS.Timeout | undefined
    const stop = () => {
      worker.postMessage('stop')
      late = setTimeout(() => void worker.terminate(), STOP_MS)
    }
    signal.addEventListener('abort', stop)
    if (signal.aborted) stop()
    worker.on('message', (message: WorkerMessage) => {
      done ||= message.type === 'done'
      try {
        take(message)
      } catch (error) {
        reject(error)
        void worker.terminate()
      }
    })
    worker.on('error', reject)
    worker.on('exit', code => {
      clearTimeout(late)
      signal.removeEventListener('abort', stop)
      if (done || signal.aborted) resolve()
      else reject(new Error(`a thread of the attack ended with ${code} before it was done`))
    })
  })
}
