// SPDX-License-Identifier: Apache-2.0
/** Somebody on the queue who means no good, or has other code: by BullMQ and Redis alone, as whoever knows the password can. */
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { mkdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { gzipSync } from 'node:zlib'
import { Queue, Worker } from 'bullmq'
import { Redis } from 'ioredis'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import { putArtefacts } from '../../server/fleet/artefacts.ts'
import { QUEUE_NAME, QUEUE_PREFIX } from '../../server/fleet/queue.ts'
import { connect, redisOptions } from '../../server/fleet/redis.ts'
import { throughQueue } from '../../server/fleet/sender.ts'
import { FleetWorker, type WorkerOptions } from '../../server/fleet/worker.ts'
import { WorkerMetrics } from '../../server/fleet/workerMetrics.ts'
import { privateFolder } from '../../server/machine/scratch.ts'
import type { Job, SessionResult } from '../../server/sessions/session.ts'
import { RedisServer } from './redis.ts'
import { IDENTITY, job, resultOf, SOURCE, sentStubs, verdictOf } from './stub.ts'

const MAIN = fileURLToPath(new URL('../../server/cli/main.ts', import.meta.url))
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

let client: Redis
let queue: Queue
let stop: AbortController
let said: string[]
let workers: Promise<void>[]
let liars: Worker[]
beforeEach(() => {
  client = new Redis(redisOptions(redis.connection))
  queue = new Queue(QUEUE_NAME, { connection: redisOptions(redis.connection), prefix: QUEUE_PREFIX })
  stop = new AbortController()
  said = []
  workers = []
  liars = []
})
afterEach(async () => {
  stop.abort(new Error('the test is over'))
  await Promise.all([...workers, ...liars.map(liar => liar.close())])
  await queue.close()
  await client.flushall()
  client.disconnect()
})

const say = (line: string) => void said.push(line)

function work(more: Partial<WorkerOptions> = {}): void {
  const options: WorkerOptions = {
    ...{ connection: redis.connection, name: 'one', jobs: 1, say, lockMs: 3_000 },
    own: { jobs: 1, kernels: [], qemuArgs: [], ramDir: 'memory', transport: 'auto', sandbox: true },
    answer: async ({ identity }) => (identity.source === SOURCE ? { kernel: '6.12' } : { refused: 'other code' }),
    module: new URL('./stubProcess.ts', import.meta.url),
    ...more,
  }
  workers.push(FleetWorker.run(options, stop.signal))
}

/** A worker that is none of ours. */
function lie(answer: (id: string) => Promise<unknown>): void {
  const connection = redisOptions(redis.connection)
  liars.push(new Worker(QUEUE_NAME, ({ id }) => answer(id ?? ''), { connection, prefix: QUEUE_PREFIX }))
}

/** @returns what became of these jobs */
async function send(plan: readonly Job[], campaign = 'test', identity: typeof IDENTITY = IDENTITY) {
  const results: SessionResult[] = []
  const runner = throughQueue(sentStubs(folder, identity), {
    ...{ connection: redis.connection, campaign, say, sweepMs: 500 },
  })
  await runner(plan, rows => results.push(...rows.map(({ result }) => result)), stop.signal)
  return results
}

test.each([
  ['nothing', undefined],
  ['a number', 3],
  ['no artefacts', { worker: 'liar', artefacts: [] }],
  ['a name that leads elsewhere', { worker: 'liar', artefacts: [{ name: '../result', sha256: '0'.repeat(64) }] }],
])('a worker that answers with %s has no result, and the sender goes on', async (_, answer) => {
  lie(async () => answer)
  const [result] = await send([job('forged', 1, 1)])
  expect(result?.findings).toEqual([{ verdict: 'harness-error', text: 'what answered it is no worker of smmu-cosim' }])
})

test('what unpacks to a result, but is longer than any worker sends, is not read', async () => {
  const session = job('padded', 1, 1)
  const bytes = Buffer.from(JSON.stringify(resultOf(session)))
  const sha256 = createHash('sha256').update(bytes).digest('hex')
  // Members with nothing in them.
  const nothing = gzipSync('')
  const padding = Buffer.alloc(nothing.length << 20, nothing)
  lie(async id => {
    await client.hset(`${QUEUE_PREFIX}:artefacts:${id}`, sha256, Buffer.concat([gzipSync(bytes), padding]))
    return { worker: 'liar', artefacts: [{ name: 'result', sha256 }] }
  })
  const [result] = await send([session])
  expect(result?.findings[0]?.text).toBe('what came of it on liar is not what it was')
})

test('a job that a worker refuses does not hold up those behind it', async () => {
  const foreign = send([job('foreign', 1, 1)], 'other', { ...IDENTITY, source: 'c'.repeat(20) })
  foreign.catch(() => {})
  await expect.poll(() => queue.getWaitingCount()).toBe(1)
  work()
  await expect.poll(() => said).toContain('refuses a job: other code')
  const mine = job('mine', 1, 1)
  const [result] = await send([mine])
  expect(result?.verdict).toBe(verdictOf(mine))
}, 90_000)

test('what is written to the queue by hand does not stop a worker', async () => {
  const key = `${QUEUE_PREFIX}:${QUEUE_NAME}`
  await client.hset(`${key}:job-a`, { name: 'session', data: '{', opts: '{}', timestamp: '1' })
  await client.hset(`${key}:job-b`, { name: 'session', data: '{}', opts: '[', timestamp: 'x' })
  await client.hset(`${key}:job-c`, { name: '../../x', data: 'null' })
  await client.lpush(`${key}:wait`, 'job-a', 'job-b', 'job-c', 'job-d')
  work()
  const mine = job('mine', 1, 1)
  const [result] = await send([mine])
  expect(result?.verdict).toBe(verdictOf(mine))
}, 90_000)

test.each([
  ['data that is no JSON', (key: string) => client.hset(key, 'data', '{'), 'JSON'],
  ['no job at all', async (key: string) => void (await client.set(key, 'mine')), 'WRONGTYPE'],
])('%s in the place of a job: it is lost, and the others come', async (_, forge, why) => {
  const [damaged, whole] = [job('damaged', 1, 1), job('whole', 2, 1)]
  const all = send([damaged, whole])
  all.catch(() => {})
  await expect.poll(() => queue.getWaitingCount()).toBe(2)
  const [{ id = '' } = {}] = await queue.getWaiting()
  const key = `${QUEUE_PREFIX}:${QUEUE_NAME}`
  await forge(`${key}:${id}`)
  await client.lrem(`${key}:wait`, 0, id)
  await client.zadd(`${key}:completed`, Date.now(), id)
  work()
  const results = await all
  const told = results.flatMap(({ findings }) => findings.map(({ text }) => text)).join('\n')
  expect(told).toMatch(/^seed [12]$/m)
  expect(told).toContain(`what the queue has as job ${id} is none: `)
  expect(told).toContain(why)
})

test('what is no hash in the place of what came of a job does not stop the sender', async () => {
  lie(async id => {
    await client.set(`${QUEUE_PREFIX}:artefacts:${id}`, 'mine')
    return { worker: 'liar', artefacts: [{ name: 'result', sha256: '0'.repeat(64) }] }
  })
  const [result] = await send([job('forged', 1, 1)])
  expect(result?.findings[0]?.text).toBe('what came of it on liar is not what it was')
})

test('files that are longer together than those of any worker are not taken', async () => {
  const files = Array.from({ length: 4 }, (_, i) => Buffer.alloc(4 << 20, i))
  lie(async id => {
    const artefacts = files.map((bytes, i) => ({ name: `file-${i}`, bytes }))
    return { worker: 'liar', artefacts: await putArtefacts(client, id, artefacts) }
  })
  const [result] = await send([job('many', 1, 1)])
  expect(result?.findings[0]?.text).toBe('what came of it on liar is not what it was')
})

test('a job whose process is held up is given up, and the worker goes on', async () => {
  work({ deadline: ({ do: what, ...rest }) => (JSON.stringify([what, rest]).includes('held up') ? 1 : 60) })
  const plan = [job('held up', 1, 60_000), job('mine', 1, 1)]
  const results = await send(plan)
  const of = (name: string) => results.find(({ findings: [found] }) => found?.text.includes(name))
  expect(of('killed')?.findings).toEqual([
    {
      verdict: 'harness-error',
      text: 'tried 3 times without a result; at last: its process was killed after 1 s, on worker one',
    },
  ])
  expect(of('seed 1')?.verdict).toBe(verdictOf(job('mine', 1, 1)))
}, 90_000)

test('refusals that somebody makes up are told up to a bound', async () => {
  const all = send([job('forged', 1, 1)])
  all.catch(() => {})
  await expect.poll(() => queue.getWaitingCount()).toBe(1)
  const [waiting] = await queue.getWaiting()
  for (let i = 0; i < 300; i++) await waiting?.updateProgress({ refused: `for reason ${i}`, worker: 'liar' })
  await expect.poll(() => said).toContain('more refusals are not told')
  work()
  await all
  expect(said.filter(line => line.startsWith('worker liar refuses: '))).toHaveLength(100)
  expect(said.filter(line => line === 'more refusals are not told')).toHaveLength(1)
}, 90_000)

test('a Redis that says nothing any more is told, and so is that it speaks again', async () => {
  const own = await connect(redis.connection, true, say, stop.signal)
  redis.pause()
  await expect.poll(() => said, { timeout: 60_000 }).toEqual([`the queue ${redis.url}/0 is away: it does not answer`])
  redis.resume()
  await expect.poll(() => said.at(-1), { timeout: 30_000 }).toBe(`the queue ${redis.url}/0 is back`)
  own.disconnect()
}, 120_000)

test('a Redis that says nothing keeps neither a sender nor a worker from ending', async () => {
  const worker = spawn(process.execPath, [MAIN, 'worker', '--queue', redis.url], {
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  const ended = once(worker, 'exit')
  const interrupt = new AbortController()
  const options = { connection: redis.connection, campaign: 'held', say, sweepMs: 500 }
  const stubs = sentStubs(folder, { ...IDENTITY, source: 'c'.repeat(20) })
  const all = throughQueue(stubs, options)([job('held', 1, 1)], () => {}, interrupt.signal)
  all.catch(() => {})
  let told = ''
  worker.stderr.setEncoding('utf8').on('data', (text: string) => {
    told += text
  })
  const begun = () => told.includes('takes jobs') && said.some(line => line.startsWith('1 job to come'))
  await expect.poll(begun, { timeout: 60_000 }).toBe(true)
  redis.pause()
  try {
    worker.kill('SIGTERM')
    interrupt.abort(new Error('interrupted'))
    await expect(all).rejects.toThrow('interrupted')
    await ended
  } finally {
    redis.resume()
    worker.kill('SIGKILL')
  }
}, 120_000)

test('names of jobs do not become metrics', async () => {
  const metrics = new WorkerMetrics()
  work({ metrics })
  await queue.add('a name of mine', {})
  await expect.poll(() => metrics.text()).toContain('result="failed"')
  expect(metrics.text()).not.toContain('a name of mine')
})
