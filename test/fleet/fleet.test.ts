// SPDX-License-Identifier: Apache-2.0
/**
 * A real Redis, real workers and senders, sessions without machines: whatever is killed, each job has one result, and it is the one that it
 * has on one machine.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Queue } from 'bullmq'
import { Redis } from 'ioredis'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import { type AttackOptions, attack, type Threads } from '../../server/attack/attack.ts'
import { Random } from '../../server/attack/random.ts'
import { putArtefacts } from '../../server/fleet/artefacts.ts'
import { attackThrough } from '../../server/fleet/attack.ts'
import { campaignKey, isWanted, jobId } from '../../server/fleet/campaigns.ts'
import { difference } from '../../server/fleet/identity.ts'
import { Images } from '../../server/fleet/images.ts'
import type { FleetJob } from '../../server/fleet/job.ts'
import { Own, type OwnOptions } from '../../server/fleet/own.ts'
import { QUEUE_NAME, QUEUE_PREFIX } from '../../server/fleet/queue.ts'
import { redisOptions } from '../../server/fleet/redis.ts'
import { nameOf, type Sent, throughQueue } from '../../server/fleet/sender.ts'
import { sentSessions } from '../../server/fleet/session.ts'
import { FleetWorker, type WorkerOptions } from '../../server/fleet/worker.ts'
import { privateFolder } from '../../server/machine/scratch.ts'
import { runJobs } from '../../server/sessions/campaign.ts'
import { Database } from '../../server/sessions/database.ts'
import type { Job, SessionResult } from '../../server/sessions/session.ts'
import { IMAGE_MAGIC } from '../../server/trace/kernelImage.ts'
import { RedisServer } from './redis.ts'
import { DEADLY, FULL, IDENTITY, job, LARGE, SOURCE, sentStubs, verdictOf } from './stub.ts'

const folder = privateFolder(tmpdir(), 'fleet-')
let redis: RedisServer
beforeAll(async () => {
  mkdirSync(join(folder, 'redis'))
  redis = await RedisServer.start(join(folder, 'redis'))
})
afterAll(async () => {
  await redis.kill()
  rmSync(folder, { recursive: true })
})

let database: Database
let stop: AbortController
let said: string[]
let workers: Promise<void>[]
let files = 0
beforeEach(() => {
  database = new Database(join(folder, `campaigns-${files++}.db`))
  stop = new AbortController()
  said = []
  workers = []
})
afterEach(async () => {
  stop.abort(new Error('the test is over'))
  await Promise.all(workers)
  database.close()
  const client = new Redis(redisOptions(redis.connection))
  await client.flushall()
  client.disconnect()
})

const say = (line: string) => void said.push(line)

/** A worker in this process; its jobs have processes of their own. */
function work(name: string, more: Partial<WorkerOptions> = {}): void {
  const options: WorkerOptions = {
    ...{ connection: redis.connection, name, jobs: 2, say, lockMs: 3_000 },
    own: { jobs: 1, kernels: [], qemuArgs: [], ramDir: 'memory', transport: 'auto', sandbox: true },
    answer: async () => ({ kernel: '6.12' }),
    module: new URL('./stubProcess.ts', import.meta.url),
    ...more,
  }
  workers.push(FleetWorker.run(options, stop.signal))
}

/** Sends a campaign and waits for its end. @returns verdicts, in the order of the plan */
async function send(
  plan: readonly Job[],
  sent: Sent<Job, SessionResult> = sentStubs(folder),
  signal = new AbortController().signal,
): Promise<SessionResult[]> {
  const campaign = database.begin('test', plan)
  const runner = throughQueue(sent, { connection: redis.connection, campaign: `${files}`, say, sweepMs: 500 })
  await runJobs(database, campaign, runner, signal)
  return database.rows(campaign).map(({ result }) => result)
}

const jobs = (count: number, ms = 1) => Array.from({ length: count }, (_, seed) => job('stub', seed, ms))
const verdicts = (results: readonly SessionResult[]) => results.map(({ verdict }) => verdict)

test('each job has the result that it has here, and its files come with it', async () => {
  const consoles: string[] = []
  const stubs = sentStubs(folder)
  work('one')
  const plan = jobs(20)
  const results = await send(plan, {
    ...stubs,
    unpack(value, job, [console]) {
      consoles.push(console?.bytes.toString() ?? '')
      return stubs.unpack(value, job, [])
    },
  })
  expect(verdicts(results)).toEqual(plan.map(verdictOf))
  expect(consoles.sort()).toEqual(plan.map(({ seed }) => `console of stub, seed ${seed}\n`).sort())
})

test('nothing of a campaign stays in the queue', async () => {
  work('one')
  await send(jobs(5))
  const client = new Redis(redisOptions(redis.connection))
  const kept = (await client.keys(`${QUEUE_PREFIX}:*`)).filter(key => /:(job-|artefacts:)/.test(key))
  client.disconnect()
  expect(kept).toEqual([])
})

test('a worker with other code leaves jobs to others, and both hashes are told', async () => {
  const other = { ...IDENTITY, source: 'c'.repeat(20) }
  work('old', { answer: async ({ identity }: FleetJob) => ({ refused: difference(identity, other) }) })
  const all = send(jobs(3))
  await expect
    .poll(() => said)
    .toContain(`worker old refuses: source tree: the job is of ${SOURCE}, this worker has ${'c'.repeat(20)}`)
  expect(database.list()).toMatchObject([{ done: 0 }])
  work('new')
  expect(verdicts(await all)).toEqual(jobs(3).map(verdictOf))
})

test('what changes while a job runs makes no result of it', async () => {
  let answers = 0
  work('edited', {
    jobs: 1,
    answer: async () => (++answers === 1 ? { kernel: '6.12' } : { refused: 'edited meanwhile' }),
  })
  const all = send(jobs(1))
  await expect.poll(() => said).toContain('worker edited refuses: edited meanwhile')
  expect(database.list()).toMatchObject([{ done: 0 }])
  work('other')
  await all
})

test('a job that ends its processes again and again is a finding; the others have their results', async () => {
  work('one')
  const plan = [...jobs(6, 50), job(DEADLY, 1, 50)]
  const results = await send(plan)
  expect(verdicts(results)).toEqual([...jobs(6).map(verdictOf), 'harness-error'])
  expect(results.at(-1)?.findings).toEqual([
    {
      verdict: 'harness-error',
      text: 'tried 3 times without a result; at last: its process ended with SIGKILL, on worker one',
    },
  ])
})

const BROKEN: OwnOptions = { jobs: 1, kernels: [], qemuArgs: [], ramDir: FULL, transport: 'auto', sandbox: true }

test('a worker that can start no machine takes no results from the others, and says why', async () => {
  work('broken', { own: BROKEN })
  const plan = jobs(12)
  const all = send(plan)
  await expect.poll(() => said).toContain(`worker broken refuses: it cannot be run there: no room in ${FULL}`)
  work('whole')
  expect(verdicts(await all)).toEqual(plan.map(verdictOf))
})

test('a job that no worker can start is a finding after some tries, and is run when its campaign is gone on with', async () => {
  work('broken', { own: BROKEN, restMs: 50 })
  const campaign = database.begin('test', jobs(1))
  const queue = { connection: redis.connection, campaign: 'resumed', say, sweepMs: 500 }
  const run = () => runJobs(database, campaign, throughQueue(sentStubs(folder), queue), new AbortController().signal)
  const found = () => database.rows(campaign).map(({ result }) => result.findings[0]?.text)
  await run()
  const why = `no room in ${FULL}, on worker broken`
  expect(found()).toEqual([`tried 3 times without a result; at last: ${why}`])
  stop.abort(new Error('mended'))
  await Promise.all(workers)
  stop = new AbortController()
  work('mended')
  await run()
  expect(found()).toEqual(['seed 0'])
})

test('a result that is too large is told as one, with its size and the limit', async () => {
  work('one')
  const [result] = await send([job(LARGE, 1, 1)])
  expect(result?.findings[0]?.text).toBe(
    'it ran, but its result is too large: 5,242,882 bytes, on worker one; a result has 4,194,304 at most',
  )
})

test('what is no job is not run, and what is no result is not taken', async () => {
  work('one')
  const stubs = sentStubs(folder)
  const [result] = await send(jobs(1), {
    ...stubs,
    pack: async (job, signal) => {
      const { identity, work } = await stubs.pack(job, signal)
      return { identity, work: { ...work, kernel: '' } }
    },
  })
  expect(result?.findings[0]?.text).toMatch(/^it cannot be run: no job: /)
  const queue = new Queue(QUEUE_NAME, { connection: redisOptions(redis.connection), prefix: QUEUE_PREFIX })
  const client = new Redis(redisOptions(redis.connection))
  stop.abort(new Error('a worker of our own follows'))
  await Promise.all(workers)
  const all = send([job('forged', 1, 1)])
  await expect.poll(() => queue.getWaitingCount()).toBe(1)
  const [waiting] = await queue.getWaiting()
  const forged = await putArtefacts(client, waiting?.id ?? '', [
    { name: 'result', bytes: Buffer.from('{"verdict":"ok"}') },
  ])
  stop = new AbortController()
  const { Worker } = await import('bullmq')
  const liar = new Worker(QUEUE_NAME, async () => ({ worker: 'liar', artefacts: forged }), {
    ...{ connection: redisOptions(redis.connection), prefix: QUEUE_PREFIX },
  })
  const [taken] = await all
  expect(taken?.verdict).toBe('harness-error')
  expect(taken?.findings[0]?.text).toMatch(/^liar sent what is no result: no result of a session: /)
  await Promise.all([liar.close(), queue.close()])
  client.disconnect()
})

test('what a queue has forgotten is sent again', async () => {
  const all = send(jobs(3))
  const client = new Redis(redisOptions(redis.connection))
  await expect.poll(() => client.llen(`${QUEUE_PREFIX}:${QUEUE_NAME}:wait`)).toBe(3)
  await client.flushall()
  client.disconnect()
  work('one')
  expect(verdicts(await all)).toEqual(jobs(3).map(verdictOf))
})

test('what has not begun is taken back when the sender is interrupted, and its campaign goes on later', async () => {
  const interrupt = new AbortController()
  const all = send(jobs(4), undefined, interrupt.signal)
  const client = new Redis(redisOptions(redis.connection))
  const waiting = () => client.llen(`${QUEUE_PREFIX}:${QUEUE_NAME}:wait`)
  await expect.poll(waiting).toBe(4)
  interrupt.abort(new Error('interrupted'))
  await expect(all).rejects.toThrow('interrupted')
  expect(await waiting()).toBe(0)
  client.disconnect()
  expect(database.unfinished()).toBe(1)
})

/** Jobs in the queue by their state. */
async function counts(): Promise<Record<string, number>> {
  const queue = new Queue(QUEUE_NAME, { connection: redisOptions(redis.connection), prefix: QUEUE_PREFIX })
  const found = await queue.getJobCounts('wait', 'delayed', 'active', 'completed', 'failed')
  await queue.close()
  return found
}
const NO_JOBS = { wait: 0, delayed: 0, active: 0, completed: 0, failed: 0 }

/** Sends a campaign from a process that is killed when its jobs are in the queue. */
async function sendAndDie(plan: readonly Job[]) {
  const campaign = database.begin('test', plan)
  const sender = new Child('./senderProcess.ts', [database.path, String(redis.connection.port)])
  await expect.poll(counts).toMatchObject({ wait: plan.length })
  await sender.kill()
  return campaign
}

test('what becomes complete after a sender is gone is there when it goes on, whoever works then', async () => {
  const plan = jobs(5)
  const campaign = await sendAndDie(plan)
  work('one')
  await expect.poll(counts).toEqual({ ...NO_JOBS, completed: 5 })
  stop.abort(new Error('nobody works any more'))
  await Promise.all(workers)
  const options = { connection: redis.connection, campaign: nameOf(campaign), say, sweepMs: 500 }
  await runJobs(database, campaign, throughQueue(sentStubs(folder), options), new AbortController().signal)
  expect(database.rows(campaign).map(({ result }) => result.verdict)).toEqual(plan.map(verdictOf))
})

test('a sender that was not heard of for an hour has no jobs any more: what runs ends, what waits is not begun', async () => {
  const campaign = await sendAndDie([1, 2, 3].map(seed => job('long', seed, 60_000)))
  const client = new Redis(redisOptions(redis.connection))
  const key = `${QUEUE_PREFIX}:wanted:${campaignKey(nameOf(campaign))}`
  work('one', { jobs: 1, wantedMs: 100 })
  await expect.poll(counts).toMatchObject({ wait: 2, active: 1 })
  expect(await client.ttl(key)).toBeGreaterThan(3000)
  // As if it had passed.
  await client.del(key)
  client.disconnect()
  await expect.poll(counts).toEqual(NO_JOBS)
  expect(said).toContain('drops jobs: nobody waits for them any more')
})

test('a sender that is still there sends again what was dropped', async () => {
  work('one', { wantedMs: 100 })
  const plan = jobs(4, 2_000)
  const all = send(plan)
  await expect.poll(counts).toMatchObject({ active: 2 })
  const client = new Redis(redisOptions(redis.connection))
  for (const key of await client.keys(`${QUEUE_PREFIX}:wanted:*`)) await client.del(key)
  client.disconnect()
  expect(verdicts(await all)).toEqual(plan.map(verdictOf))
})

test('an interrupted sender loses no result, drops the rest, and says how many and how it goes on', async () => {
  const plan = [...jobs(20), job('long', 1, 60_000), job('waits', 1, 1)]
  const campaign = await sendAndDie(plan)
  work('one', { jobs: 1, wantedMs: 100 })
  await expect.poll(counts).toEqual({ ...NO_JOBS, completed: 20, active: 1, wait: 1 })
  const interrupt = new AbortController()
  const stubs = sentStubs(folder)
  const interrupted: Sent<Job, SessionResult> = {
    ...stubs,
    unpack(...came) {
      interrupt.abort(new Error('interrupted'))
      return stubs.unpack(...came)
    },
  }
  const goesOn = '"--resume" goes on'
  const options = { connection: redis.connection, campaign: nameOf(campaign), goesOn, say, sweepMs: 500 }
  await expect(runJobs(database, campaign, throughQueue(interrupted, options), interrupt.signal)).rejects.toThrow(
    'interrupted',
  )
  expect(database.rows(campaign).map(({ result }) => result.verdict)).toEqual(jobs(20).map(verdictOf))
  expect(said).toContain(
    'interrupted: 4 results collected at the end, 2 jobs dropped, 1 of them while they ran; "--resume" goes on',
  )
  await expect.poll(counts).toEqual(NO_JOBS)
})

test('a campaign that is purged has no jobs and no results any more, and its sender ends', async () => {
  work('one', { jobs: 1, wantedMs: 100 })
  const all = send([job('long', 1, 60_000), ...jobs(3)])
  all.catch(() => {})
  await expect.poll(counts).toMatchObject({ active: 1, wait: 3 })
  const key = campaignKey(String(files))
  const main = '../../server/cli/main.ts'
  const listed = new Child(main, ['queue', 'list', '--queue', redis.url])
  await listed.ended
  expect(listed.said).toMatch(
    new RegExp(
      `^${key}  3 wait, 1 run, 0 results not collected; sender heard of \\d+ seconds? ago; ${files}, from \\S+$`,
      'm',
    ),
  )
  const purged = new Child(main, ['queue', 'purge', key, '--queue', redis.url])
  await purged.ended
  expect(purged.said).toBe(`smmu-cosim: ${key}: 3 jobs removed; workers end 1 more, which run\n`)
  await expect(all).rejects.toThrow(`somebody has purged ${key} from the queue`)
  await expect.poll(counts).toEqual(NO_JOBS)
  const none = new Child(main, ['queue', 'list', '--queue', redis.url])
  await none.ended
  expect(none.said).toBe('smmu-cosim: there are no jobs\n')
})

test('whether somebody waits is asked of names that senders make up, and of nothing else', async () => {
  const client = new Redis(redisOptions(redis.connection))
  expect(await isWanted(client, 'of somebody else')).toBe(true)
  expect(await isWanted(client, jobId(campaignKey('a'), 'a job'))).toBe(false)
  await client.lpush(`${QUEUE_PREFIX}:wanted:${campaignKey('b')}`, 'no value at all')
  expect(await isWanted(client, jobId(campaignKey('b'), 'a job'))).toBe(true)
  client.disconnect()
})

test("a kernel of the sender's own comes to a worker by its hash, and nothing else under its name does", async () => {
  const shared = join(folder, 'shared')
  mkdirSync(join(shared, 'sha256'), { recursive: true })
  const at = (name: string, bytes: Buffer | string) => {
    writeFileSync(join(folder, name), bytes)
    return join(folder, name)
  }
  const header = Buffer.alloc(64)
  header.write(IMAGE_MAGIC, 56)
  const kernel = at('Image', header)
  const [initrd, qemu] = [at('initrd', 'an initramfs'), at('qemu', 'no matter')]
  const own: OwnOptions = {
    jobs: 1,
    kernels: [],
    qemu,
    qemuArgs: [],
    ramDir: 'memory',
    transport: 'auto',
    sandbox: true,
  }
  const images = new Images({ folder: shared }, {}, join(folder, 'kept'))
  const mine = new Own(own, stop.signal, images)
  const got: unknown[] = []
  const [plain] = jobs(1)
  const plan: Job[] = [{ ...plain, kernel, machine: { initrd } }]
  const sha256 = createHash('sha256').update(header).digest('hex')
  const all = send(plan, { ...sentSessions(join(folder, 'sessions'), qemu, shared) })
  await expect.poll(() => existsSync(join(shared, 'sha256', sha256))).toBe(true)
  // Somebody else writes to that folder.
  writeFileSync(join(shared, 'sha256', sha256), 'another kernel')
  const another = createHash('sha256').update('another kernel').digest('hex')
  work('one', {
    own,
    answer: async (job, signal) => {
      const answer = await mine.answer(job, signal)
      got.push(answer)
      return answer
    },
  })
  await expect
    .poll(() => said, { timeout: 20_000 })
    .toContain(
      `worker one refuses: kernel: the job is of ${sha256} (${kernel}), --kernel of this worker is none; ` +
        `--kernels-from ${shared}/sha256: 14 bytes under the name ${sha256} have the hash ${another}`,
    )
  writeFileSync(join(shared, 'sha256', sha256), header)
  expect(verdicts(await all)).toEqual(plan.map(verdictOf))
  const kept = (name: string) => join(folder, 'kept', createHash('sha256').update(readFileSync(name)).digest('hex'))
  expect(got.at(-1)).toEqual({ kernel: kept(kernel), initrd: kept(initrd) })
})

test('an attack finds on workers what it finds here', async () => {
  const own: OwnOptions = { jobs: 1, kernels: [], qemuArgs: [], ramDir: 'memory', transport: 'auto', sandbox: true }
  const mine = new Own(own, stop.signal)
  work('one', {
    own,
    answer: (job, signal) => mine.answer(job, signal),
    module: new URL('../../server/fleet/jobProcess.ts', import.meta.url),
  })
  const options: AttackOptions = {
    ...{ policy: 'pkvm', quirks: ['eats'], until: 'nested', hardware: ['ats'], seconds: undefined, operations: 4_000 },
    ...{ seed: 3, jobs: 2, corpus: undefined, known: undefined },
  }
  const run = async (threads?: Threads) => {
    const found: string[] = []
    const { steps, operations, judged, kinds } = await attack(
      options,
      ({ found: { kind, steps } }) => found.push(`${kind} ${JSON.stringify(steps)}`),
      () => {},
      stop.signal,
      threads,
    )
    return { found: found.sort(), steps, operations, judged, kinds }
  }
  const there = await run(attackThrough({ connection: redis.connection, campaign: 'attack', say, sweepMs: 500 }))
  expect(there.found.length).toBeGreaterThan(0)
  expect(there).toEqual(await run())
})

/** A process of the test, whose end is waited for. */
class Child {
  readonly process: ChildProcess
  readonly ended: Promise<unknown>
  said = ''

  constructor(file: string, words: readonly string[]) {
    const path = fileURLToPath(new URL(file, import.meta.url))
    this.process = spawn(process.execPath, [path, ...words], { stdio: ['ignore', 'pipe', 'pipe'] })
    this.ended = once(this.process, 'close')
    for (const stream of [this.process.stdout, this.process.stderr]) {
      stream?.setEncoding('utf8').on('data', (text: string) => {
        this.said += text
      })
    }
  }

  async kill(): Promise<void> {
    this.process.kill('SIGKILL')
    await this.ended
  }
}

test('workers, Redis and the sender are killed: 60 jobs, 60 results, as on one machine', async () => {
  const random = new Random(7)
  const plan = jobs(60).map(({ seed }) => job('stub', seed, 100 + random.below(300)))
  const campaign = database.begin('test', plan)
  const port = String(redis.connection.port)
  const worker = (i: number) => new Child('./workerProcess.ts', [`worker-${i}`, port, '2', '4000'])
  const all = [0, 1, 2, 3].map(worker)
  const begin = () => new Child('./senderProcess.ts', [database.path, port])
  let sender = begin()
  const say: string[] = []
  try {
    // No job can meet three of two that are killed.
    for (const what of ['worker', 'sender', 'redis', 'worker', 'redis', 'sender']) {
      await sleep(300 + random.below(900))
      if (what === 'redis') {
        await redis.kill()
        await sleep(random.below(500))
        await redis.start()
      } else if (what === 'sender') {
        await sender.kill()
        say.push(sender.said)
        sender = begin()
      } else {
        const i = random.below(all.length)
        await all[i].kill()
        say.push(all[i].said)
        all[i] = worker(i + 4)
      }
    }
    await sender.ended
    expect(sender.process.exitCode, sender.said).toBe(0)
  } finally {
    await Promise.all([sender, ...all].map(child => child.kill()))
  }
  const rows = database.rows(campaign)
  const told = [...say, sender, ...all].map(child => (typeof child === 'string' ? child : child.said)).join('\n')
  expect(
    rows.map(({ job, result }) => [job.seed, result.verdict]),
    told,
  ).toEqual(plan.map(job => [job.seed, verdictOf(job)]))
  expect(database.list()).toMatchObject([{ planned: 60, done: 60 }])
})
