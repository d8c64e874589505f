// SPDX-License-Identifier: Apache-2.0
/** Attacks as jobs of a fleet: each is one thread's attack, with a seed of its own. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Type } from 'typebox'
import { Compile } from 'typebox/compile'
import { checkPrograms, inThread, type Threads } from '../attack/attack.ts'
import type { CampaignStats } from '../attack/campaign.ts'
import { type Case, decodeCase, encodeCase } from '../attack/cases.ts'
import { FEATURES } from '../attack/feedback.ts'
import type { WorkerMessage, WorkerOptions } from '../attack/messages.ts'
import type { Program } from '../attack/program.ts'
import { POLICY_NAMES } from '../policy/load.ts'
import type { Content } from './artefacts.ts'
import { sourceIdentity } from './identity.ts'
import { type AttackWork, MOST_ARTEFACTS } from './job.ts'
import { type SenderOptions, type Sent, throughQueue } from './sender.ts'

/** Of the programs that an attack goes on from, the newest that take so much, bytes. */
const MOST_PROGRAMS = 1 << 18

/** What goes over the queue. @throws Error: a policy in a file is code */
export function attackWork(options: WorkerOptions): AttackWork {
  const { policy, quirks = [], blocks, power, shared, until, hardware, seed, known } = options
  const { seconds, operations, programs } = options
  if (!POLICY_NAMES.includes(policy)) throw new Error(`${policy}: workers have the policies ${POLICY_NAMES.join(', ')}`)
  return {
    do: 'attack',
    ...{ policy, until, seed, quirks: [...quirks], hardware: [...hardware], programs: newest(programs) },
    known: known.map(({ case: _, ...weakness }) => weakness),
    ...(blocks && { blocks: { ...(blocks.bbm !== undefined && { bbm: blocks.bbm }) } }),
    ...(power && { power: { ...(power.mode !== undefined && { mode: power.mode }) } }),
    ...(shared && { shared: { ...(shared.populate !== undefined && { populate: shared.populate }) } }),
    ...(seconds !== undefined && { seconds }),
    ...(operations !== undefined && { operations }),
  }
}

/** The latest of them that there is room for. */
function newest(programs: readonly Program[]): AttackWork['programs'] {
  let room = MOST_PROGRAMS
  const first = programs.findLastIndex(program => {
    room -= JSON.stringify(program).length
    return room < 0
  })
  return programs.slice(first + 1).map(program => ({ ...program, operations: [...program.operations] }))
}

/** What a job tells beside its cases, each of which is a file. */
interface Told {
  readonly stats: Omit<CampaignStats, 'kinds'> & { readonly kinds: readonly (readonly [string, number])[] }
  /** Of each case: since its start. */
  readonly seconds: readonly number[]
  readonly programs: readonly Program[]
}

/** Runs one on a worker. What it found is left in `folder`. */
export async function runAttack(work: AttackWork, folder: string, signal: AbortSignal): Promise<Told> {
  const { do: _, blocks, power, shared, seconds, operations, ...options } = work
  let done: (WorkerMessage & { readonly type: 'done' }) | undefined
  const times: number[] = []
  let more = 0
  await inThread(
    {
      ...options,
      ...{ seconds, operations },
      blocks: blocks && { bbm: blocks.bbm },
      power: power && { mode: power.mode },
      shared: shared && { populate: shared.populate },
    },
    message => {
      if (message.type === 'done') done = message
      if (message.type !== 'case') return
      // What there is no room for is counted as a finding without a case.
      if (times.length >= MOST_ARTEFACTS - 1) more++
      else writeFileSync(join(folder, fileOf(times.push(message.seconds) - 1)), encodeCase(message.found))
    },
    signal,
  )
  signal.throwIfAborted()
  if (done === undefined) throw new Error('the attack ended before it was done')
  const { stats, programs } = done
  const { kinds, lost, ...rest } = stats
  return { stats: { ...rest, lost: lost + more, kinds: [...kinds] }, seconds: times, programs: newest(programs) }
}

const fileOf = (index: number): string => `case-${String(index).padStart(3, '0')}.json`

const number = Type.Number({ minimum: 0 })
const ToldSchema = Compile(
  Type.Object(
    {
      stats: Type.Object(
        {
          ...{ steps: number, operations: number, cases: number, judged: number, features: number, corpus: number },
          ...{ cleans: number, cleanedLines: number, lost: number },
          coverage: Type.Array(number, { minItems: FEATURES.length, maxItems: FEATURES.length }),
          kinds: Type.Array(Type.Tuple([Type.String({ maxLength: 200 }), number]), { maxItems: 10_000 }),
        },
        { additionalProperties: false },
      ),
      seconds: Type.Array(number, { maxItems: MOST_ARTEFACTS }),
      programs: Type.Unknown(),
    },
    { additionalProperties: false },
  ),
)

/** What came of one. */
interface Came {
  readonly stats: CampaignStats
  readonly cases: readonly { readonly found: Case; readonly seconds: number }[]
  readonly programs: readonly Program[]
}

/** @throws Error when it is no result of an attack */
export function attackResult(value: unknown, files: readonly Content[]): Came {
  if (!ToldSchema.Check(value)) {
    const [first] = ToldSchema.Errors(value)
    throw new Error(`no result of an attack: ${first?.instancePath || '/'} ${first?.message ?? ''}`)
  }
  const { stats, seconds } = value
  const cases = seconds.map((seconds, i) => {
    const name = fileOf(i)
    const bytes = files.find(file => file.name === name)?.bytes
    if (bytes === undefined) throw new Error(`no result of an attack: ${name} is missing`)
    return { found: decodeCase(bytes.toString(), name), seconds }
  })
  return {
    stats: { ...stats, kinds: new Map(stats.kinds) },
    cases,
    programs: checkPrograms(value.programs, 'the result of an attack'),
  }
}

/** Of one that came to nothing: a finding without a case. */
const NOTHING: Came = {
  stats: {
    ...{ steps: 0, operations: 0, cases: 0, judged: 0, features: 0, corpus: 0, cleans: 0, cleanedLines: 0, lost: 1 },
    ...{ coverage: FEATURES.map(() => 0), kinds: new Map() },
  },
  ...{ cases: [], programs: [] },
}

/** Runs the threads of an attack on the workers of a queue. */
export function attackThrough(options: SenderOptions): Threads {
  const sent: Sent<WorkerOptions, Came> = {
    nameOf: ({ seed }) => `seed ${seed}`,
    pack: async thread => ({ identity: { source: await sourceIdentity() }, work: attackWork(thread) }),
    unpack: (value, _thread, files) => attackResult(value, files),
    lost(why, { seed }) {
      options.say(`attack with seed ${seed}: ${why}`)
      return NOTHING
    },
  }
  return (threads, take, signal) =>
    throughQueue(sent, options)(
      threads,
      rows => {
        for (const { job, result } of rows) {
          const thread = threads.indexOf(job)
          for (const { found, seconds } of result.cases) take(thread, { type: 'case', found, seconds })
          take(thread, { type: 'done', stats: result.stats, programs: result.programs })
        }
      },
      signal,
    ).catch((error: unknown) => {
      // What was found until then counts.
      if (!signal.aborted) throw error
    })
}
