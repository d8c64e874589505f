// SPDX-License-Identifier: Apache-2.0
/** A server that looks at a fleet's queue: metrics, and Bull Board, which must not change anything. */
import { mkdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Queue, Worker } from 'bullmq'
import type { FastifyInstance } from 'fastify'
import { Redis } from 'ioredis'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createApp } from '../../server/api/app.ts'
import { MachineManager } from '../../server/api/machineManager.ts'
import { QUEUE_NAME, QUEUE_PREFIX } from '../../server/fleet/queue.ts'
import { redisOptions } from '../../server/fleet/redis.ts'
import { QueueWatch } from '../../server/fleet/watch.ts'
import { privateFolder } from '../../server/machine/scratch.ts'
import { RedisServer } from './redis.ts'

const TOKEN = '0123456789abcdef0123456789abcdef'
const folder = privateFolder(tmpdir(), 'watch-')
const troubles: string[] = []
let redis: RedisServer
let watch: QueueWatch
let queue: Queue
let manager: MachineManager
/** Without a token, and with one. */
let open: FastifyInstance
let guarded: FastifyInstance

beforeAll(async () => {
  mkdirSync(join(folder, 'redis'))
  redis = await RedisServer.start(join(folder, 'redis'))
  watch = new QueueWatch(redis.connection, why => troubles.push(why))
  queue = new Queue(QUEUE_NAME, { connection: redisOptions(redis.connection), prefix: QUEUE_PREFIX })
  queue.on('error', () => {})
  manager = new MachineManager()
  const app = async (token?: string) => {
    const access = { host: '127.0.0.1', ...(token !== undefined && { token }) }
    return (await createApp({ manager, version: '0', access, queue: watch })).app
  }
  open = await app()
  guarded = await app(TOKEN)
}, 60_000)
afterAll(async () => {
  await open.close()
  await guarded.close()
  await manager.close()
  await watch.close()
  await queue.close().catch(() => {})
  await redis.kill()
  rmSync(folder, { recursive: true })
})

const get = (app: FastifyInstance, url: string, headers: Record<string, string> = {}) =>
  app.inject({ url, headers: { host: '127.0.0.1', ...headers } })
const metrics = async () => (await get(open, '/metrics')).body

describe('the metrics', () => {
  test('count jobs by state, and workers', async () => {
    await queue.addBulk(Array.from({ length: 3 }, (_, i) => ({ name: 'session', data: { i } })))
    const text = await metrics()
    expect(text).toContain('\nsmmu_cosim_queue_up 1\n')
    expect(text).toContain('\nsmmu_cosim_queue_jobs{state="waiting"} 3\n')
    expect(text).toContain('\nsmmu_cosim_queue_jobs{state="completed"} 0\n')
    expect(text).toContain('\nsmmu_cosim_queue_workers 0\n')
    // Those of the machine are there as well.
    expect(text).toContain('\nsmmu_cosim_boot_phase 0\n')
    // Of another queue of the same Redis, which has another number.
    const elsewhere = new Worker(QUEUE_NAME, async () => 'done', {
      ...{ connection: redisOptions({ ...redis.connection, db: 3 }), prefix: QUEUE_PREFIX },
    })
    await elsewhere.waitUntilReady()
    expect(await metrics()).toContain('\nsmmu_cosim_queue_workers 0\n')
    const worker = new Worker(QUEUE_NAME, async () => 'done', {
      ...{ connection: redisOptions(redis.connection), prefix: QUEUE_PREFIX },
    })
    await expect.poll(metrics).toContain('\nsmmu_cosim_queue_jobs{state="completed"} 3\n')
    expect(await metrics()).toContain('\nsmmu_cosim_queue_workers 1\n')
    await worker.close()
    await elsewhere.close()
    await expect.poll(metrics).toContain('\nsmmu_cosim_queue_workers 0\n')
  })
})

describe('Bull Board', () => {
  test('shows the queue, by a page that its policy lets work', async () => {
    const page = await get(open, '/queue/')
    expect(page.statusCode).toBe(200)
    expect(page.body).toContain('smmu-cosim')
    const policy = String(page.headers['content-security-policy'])
    expect(policy).toContain("base-uri 'self'")
    expect(policy).toContain("script-src 'self';")
    expect(policy).not.toMatch(/unsafe-eval|script-src[^;]*unsafe/)
    // Scripts and styles come from here.
    const files = [...page.body.matchAll(/(?:src|href)="((?!https?:)[^"]+\.(?:js|css))"/g)].map(([, file = '']) => file)
    expect(files.length).toBeGreaterThan(0)
    for (const file of files) {
      const { pathname } = new URL(file, 'http://127.0.0.1/queue/')
      expect((await get(open, pathname)).statusCode, pathname).toBe(200)
    }
    const { queues } = (await get(open, '/queue/api/queues')).json()
    expect(queues).toMatchObject([{ name: QUEUE_NAME, readOnlyMode: true, counts: { completed: 3 } }])
  })

  test('changes nothing', async () => {
    const job = await queue.add('session', {})
    const at = `/queue/api/queues/${QUEUE_NAME}`
    for (const [method, url] of [
      ['PUT', `${at}/pause`],
      ['PUT', `${at}/empty`],
      ['PUT', `${at}/obliterate`],
      ['PUT', `${at}/clean/completed`],
      ['PUT', `${at}/retry/failed`],
      ['POST', `${at}/add`],
      ['PUT', `${at}/${job.id}/clean`],
      ['PATCH', `${at}/${job.id}/update-data`],
    ] as const) {
      const { statusCode } = await open.inject({
        method,
        url,
        headers: { host: '127.0.0.1' },
        payload: { jobData: {} },
      })
      expect(statusCode, `${method} ${url}`).toBe(405)
    }
    expect(await queue.isPaused()).toBe(false)
    expect(await queue.getJobCounts('waiting', 'completed')).toEqual({ waiting: 1, completed: 3 })
  })

  test('shows the others where somebody has written over a job', async () => {
    const { id = '' } = await queue.add('session', {})
    const client = new Redis(redisOptions(redis.connection))
    await client.hset(`${QUEUE_PREFIX}:${QUEUE_NAME}:${id}`, 'data', '{')
    client.disconnect()
    const page = await get(open, `/queue/api/queues?activeQueue=${QUEUE_NAME}&status=waiting`)
    expect(page.statusCode).toBe(200)
    expect(page.json().queues[0]).toMatchObject({ counts: { waiting: 2 }, jobs: [{ name: 'session' }] })
    expect(page.json().queues[0].jobs).toHaveLength(1)
  })

  test('of a server with a token asks for it as a password, and nothing else of the server does', async () => {
    const basic = (password: string) => ({ authorization: `Basic ${btoa(`me:${password}`)}` })
    const asked = await get(guarded, '/queue/')
    expect(asked.statusCode).toBe(401)
    expect(asked.headers['www-authenticate']).toMatch(/^Basic /)
    expect((await get(guarded, '/queue/', basic('wrong'))).statusCode).toBe(401)
    expect((await get(guarded, '/queue/', basic(TOKEN))).statusCode).toBe(200)
    expect((await get(guarded, '/queue/api/queues', { authorization: `Bearer ${TOKEN}` })).statusCode).toBe(200)
    for (const path of ['/metrics', '/api/v1/machine', '/queues', '/queue2']) {
      const refused = await get(guarded, path, basic(TOKEN))
      expect([refused.statusCode, refused.headers['www-authenticate']], path).toEqual([401, 'Bearer'])
    }
    // A page of another site cannot make use of a password that the browser remembers.
    const foreign = await get(guarded, '/queue/api/queues', { ...basic(TOKEN), origin: 'http://elsewhere.example' })
    expect(foreign.statusCode).toBe(403)
  })

  test('is not there without a queue', async () => {
    const { app } = await createApp({ manager, version: '0', access: { host: '127.0.0.1' } })
    expect((await get(app, '/queue/')).statusCode).toBe(404)
    expect((await get(app, '/metrics')).body).not.toContain('smmu_cosim_queue')
    await app.close()
  })
})

test('a queue that says nothing any more holds up nobody, and is there again when it speaks', async () => {
  redis.pause()
  await expect.poll(metrics, { timeout: 10_000 }).toContain('\nsmmu_cosim_queue_up 0\n')
  expect((await get(open, '/queue/api/queues')).statusCode).toBe(500)
  await expect.poll(() => troubles.length, { timeout: 60_000 }).toBe(1)
  redis.resume()
  await expect.poll(metrics, { timeout: 20_000 }).toContain('\nsmmu_cosim_queue_up 1\n')
  troubles.splice(0)
}, 120_000)

test('a queue that is away is told, once, and holds up nothing else', async () => {
  await redis.kill()
  await expect.poll(metrics, { timeout: 10_000 }).toContain('\nsmmu_cosim_queue_up 0\n')
  expect(await metrics()).not.toContain('smmu_cosim_queue_jobs')
  await expect.poll(() => troubles.length).toBeGreaterThan(0)
  expect(troubles).toEqual([...new Set(troubles)])
  await redis.start()
  await expect.poll(metrics, { timeout: 20_000 }).toContain('\nsmmu_cosim_queue_up 1\n')
})
