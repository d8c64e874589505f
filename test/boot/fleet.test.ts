// SPDX-License-Identifier: Apache-2.0
/** Real machines on a worker: what a campaign and a matrix get over a queue is what they get here. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { cacheDir } from '../../scripts/setup/cache.ts'
import { ensureKernel } from '../../scripts/setup/index.ts'
import { privateFolder } from '../../server/machine/scratch.ts'
import { Database } from '../../server/sessions/database.ts'
import { MatrixDatabase } from '../../server/sessions/matrix.ts'
import { RedisServer } from '../fleet/redis.ts'
import { cosim } from './cli.ts'
import { kernelTree } from './kernelTree.ts'
import { Mark } from './marked.ts'

const MAIN = fileURLToPath(new URL('../../server/cli/main.ts', import.meta.url))
const folder = privateFolder(tmpdir(), 'fleet-')
let redis: RedisServer
beforeAll(async () => {
  mkdirSync(join(folder, 'redis'))
  redis = await RedisServer.start(join(folder, 'redis'), 'requirepass s3cret\n')
})
afterAll(async () => {
  await redis.kill()
  rmSync(folder, { recursive: true, force: true })
})

/** With the password, and with a folder of our own for what runs leave. */
const env = { ...process.env, XDG_STATE_HOME: join(folder, 'state'), SMMU_COSIM_QUEUE_PASSWORD: 's3cret' }

test('sessions and a cell through a worker, which leaves nothing behind', async () => {
  const mark = new Mark()
  const words = ['worker', '--queue', redis.url, '--jobs', '1', '--name', 'here']
  const worker = spawn(process.execPath, [MAIN, ...words], {
    env: { ...env, ...mark.env },
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  let said = ''
  worker.stderr.setEncoding('utf8').on('data', (text: string) => {
    said += text
  })
  const ended = once(worker, 'close')
  try {
    const path = join(folder, 'campaigns.db')
    // The last is carried out by the control thread.
    const names = ['donate-unmap-lost', 'warning-forced', 'vcpus-paused']
    const campaign = ['faults', 'campaign', ...names, '--queue', redis.url, '--database', path]
    const { code, stderr } = await cosim(campaign, { env })
    expect(code, `${stderr}\n${said}`).toBe(0)
    const database = new Database(path)
    const rows = database.rows(database.campaign(1))
    database.close()
    expect(rows.map(({ job, result }) => [job.entry.name, result.verdict])).toEqual([
      ['donate-unmap-lost', 'isolation-violation'],
      ['warning-forced', 'hyp-warning'],
      ['vcpus-paused', 'unaffected'],
    ])
    for (const { result } of rows) {
      expect(result.evidence.checks.map(({ ok }) => ok)).toEqual(Array(result.evidence.checks.length).fill(true))
      expect(result.folder.startsWith(env.XDG_STATE_HOME)).toBe(true)
      expect(readFileSync(join(result.folder, 'console.log'), 'latin1')).toContain('@cosim ')
    }

    const matrices = join(folder, 'matrices.db')
    const matrix = await cosim(['matrix', '--until', 'cmdq', '--queue', redis.url, '--database', matrices], { env })
    expect(matrix.code, `${matrix.stderr}\n${said}`).toBe(0)
    const cells = new MatrixDatabase(matrices)
    expect(cells.rows(cells.campaign(1)).map(({ result }) => result.verdict)).toEqual(['ok'])
    cells.close()
  } finally {
    worker.kill('SIGTERM')
    await ended
  }
  expect(worker.exitCode, said).toBe(0)
  expect([...mark.processes.values()]).toEqual([])
})

test("a kernel build of the sender's own, which the worker gets by its hash", async () => {
  const kernel = await ensureKernel({ kernel: '6.12' })
  const [tree, shared, cache] = ['tree', 'shared', 'cache'].map(name => join(folder, name))
  for (const path of [tree, shared, cache]) mkdirSync(path)
  await kernelTree(tree, kernel)
  // The worker has a cache of its own, in which there is no kernel.
  mkdirSync(join(cache, 'smmu-cosim'))
  for (const name of readdirSync(cacheDir)) {
    if (!['kernel', 'initramfs', 'snapshot', 'lock', 'tmp', 'fleet'].includes(name))
      symlinkSync(join(cacheDir, name), join(cache, 'smmu-cosim', name))
  }
  const words = ['worker', '--queue', redis.url, '--jobs', '1', '--name', 'there', '--kernels-from', shared]
  const worker = spawn(process.execPath, [MAIN, ...words], {
    env: { ...env, XDG_CACHE_HOME: cache },
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  let said = ''
  worker.stderr.setEncoding('utf8').on('data', (text: string) => {
    said += text
  })
  const ended = once(worker, 'close')
  try {
    const path = join(folder, 'own.db')
    const own = ['--kernel', tree, '--publish', shared]
    const run = ['faults', 'run', 'donate-unmap-lost', ...own, '--queue', redis.url, '--database', path]
    const { code, stderr } = await cosim(run, { env })
    expect(code, `${stderr}\n${said}`).toBe(0)
    const database = new Database(path)
    const rows = database.rows(database.campaign(1))
    database.close()
    expect(rows.map(({ result }) => result.verdict)).toEqual(['isolation-violation'])
    expect(readdirSync(join(cache, 'smmu-cosim/fleet/sha256')).sort()).toEqual(
      readdirSync(join(shared, 'sha256')).sort(),
    )
    expect(existsSync(join(cache, 'smmu-cosim/kernel'))).toBe(false)
  } finally {
    worker.kill('SIGTERM')
    await ended
  }
})

test('a password that is wrong is told at once', async () => {
  const words = ['faults', 'run', 'warning-forced', '--queue', redis.url, '--database', join(folder, 'other.db')]
  const { code, stderr } = await cosim(words, { env: { ...env, SMMU_COSIM_QUEUE_PASSWORD: 'guessed' } })
  expect(code).toBe(1)
  expect(stderr).toMatch(/the queue redis:\/\/127\.0\.0\.1:\d+\/0: WRONGPASS/)
})
