// SPDX-License-Identifier: Apache-2.0
/** docker/queue-server with a real Redis: who gets in, what may be done there, and what is still there when it is killed. */
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, readFileSync, rmSync, statSync, symlinkSync } from 'node:fs'
import { type AddressInfo, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Redis } from 'ioredis'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { REDIS } from '../../scripts/setup/index.ts'
import type { QueueConnection } from '../../server/fleet/queue.ts'
import { throughQueue } from '../../server/fleet/sender.ts'
import { QueueWatch } from '../../server/fleet/watch.ts'
import { FleetWorker } from '../../server/fleet/worker.ts'
import { privateFolder } from '../../server/machine/scratch.ts'
import { runJobs } from '../../server/sessions/campaign.ts'
import { Database } from '../../server/sessions/database.ts'
import { job, sentStubs, verdictOf } from './stub.ts'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const SCRIPT = join(ROOT, 'docker/queue-server')

describe('the queue', () => {
  const folder = privateFolder(tmpdir(), 'queue-')
  const [data, access, bin] = ['data', 'access', 'bin'].map(name => join(folder, name))
  let port: number
  let running: ChildProcess
  const env = () => ({
    ...process.env,
    QUEUE_DATA: data,
    QUEUE_ACCESS: access,
    QUEUE_PORT: String(port),
    PATH: `${bin}:${process.env.PATH}`,
  })

  const start = async () => {
    running = spawn(SCRIPT, { env: env(), stdio: 'ignore' })
    for (let i = 0; i < 100; i++) {
      if (spawnSync(SCRIPT, ['--check'], { env: env() }).status === 0) return
      await sleep(100)
    }
    throw new Error('it does not become ready')
  }
  const kill = async (signal: NodeJS.Signals) => {
    if (running.exitCode !== null || running.signalCode !== null) return
    running.kill(signal)
    await once(running, 'exit')
  }
  /** What the client prints; errors too. */
  const ask = (words: readonly string[], how: { user?: string; password?: string; tls?: boolean } = {}) => {
    const { user = 'fleet', password = readFileSync(join(access, 'password'), 'utf8').trim(), tls = true } = how
    const options = [...(tls ? ['--tls', '--cacert', join(access, 'ca.pem')] : []), '-p', String(port)]
    const { stdout, stderr } = spawnSync(
      'redis-cli',
      [...options, ...(user === '' ? [] : ['--user', user]), ...words],
      {
        encoding: 'utf8',
        timeout: 20_000,
        env: { ...process.env, ...(user !== '' && { REDISCLI_AUTH: password, VALKEYCLI_AUTH: password }) },
      },
    )
    return `${stdout}${stderr}`.trim()
  }

  beforeAll(async () => {
    for (const path of [data, access, bin]) mkdirSync(path)
    symlinkSync(REDIS.binary, join(bin, REDIS.argv0))
    const free = createServer().listen(0, '127.0.0.1')
    await once(free, 'listening')
    port = (free.address() as AddressInfo).port
    free.close()
    await start()
  }, 30_000)
  afterAll(async () => {
    await kill('SIGTERM')
    rmSync(folder, { recursive: true })
  })

  test('makes a password and a key that nobody else can read, and a certificate that everybody can', () => {
    expect(statSync(join(access, 'password')).mode & 0o777).toBe(0o600)
    expect(statSync(join(data, 'key.pem')).mode & 0o777).toBe(0o600)
    expect(statSync(join(access, 'ca.pem')).mode & 0o777).toBe(0o644)
    expect(readFileSync(join(access, 'password'), 'utf8')).toMatch(/^[\da-f]{64}\n$/)
    const certificate = execFileSync('openssl', ['x509', '-in', join(access, 'ca.pem'), '-noout', '-text'], {
      encoding: 'utf8',
    })
    expect(certificate).toContain('DNS:localhost, IP Address:127.0.0.1')
  })

  test('lets in who has the password, by TLS', () => {
    expect(ask(['ping'])).toBe('PONG')
    expect(ask(['ping'], { password: 'wrong' })).toMatch(/WRONGPASS|NOAUTH/)
    expect(ask(['ping'], { user: '' })).toMatch(/NOAUTH/)
    expect(ask(['ping'], { user: 'default', password: '' })).toMatch(/WRONGPASS|NOAUTH/)
    expect(ask(['ping'], { tls: false })).not.toContain('PONG')
  })

  test.each([
    ['set elsewhere 1', /NOPERM/],
    ['get elsewhere', /NOPERM/],
    ['eval return(redis.call("set","elsewhere","1")) 0', /NOPERM|can't access/],
    ['config get dir', /NOPERM/],
    ['config set dir /', /NOPERM/],
    ['flushall', /NOPERM/],
    ['keys *', /NOPERM/],
    ['shutdown nosave', /NOPERM/],
    ['debug sleep 0', /NOPERM|not allowed/],
    ['acl list', /NOPERM/],
    ['acl setuser other on nopass', /NOPERM/],
    ['replicaof 127.0.0.1 1', /NOPERM/],
    ['module load /tmp/x.so', /NOPERM|not allowed/],
    ['monitor', /NOPERM/],
    ['client kill type normal', /NOPERM/],
    ['publish anything x', /NOPERM/],
    ['set smmu-cosim:jobs:1 x', /^OK$/],
    ['eval return(redis.call("get",KEYS[1])) 1 smmu-cosim:jobs:1', /^"?x"?$/],
    ['client setname x', /^OK$/],
    ['client list', /user=fleet/],
    ['info server', /_version:/],
  ])('%s', (line, answer) => {
    expect(ask(line.split(' '))).toMatch(answer)
  })

  test('is all that a fleet needs', async () => {
    const connection: QueueConnection = {
      ...{ host: '127.0.0.1', port, db: 0, username: 'fleet', tls: { ca: readFileSync(join(access, 'ca.pem')) } },
      password: readFileSync(join(access, 'password'), 'utf8').trim(),
    }
    const stop = new AbortController()
    const said: string[] = []
    const say = (line: string) => void said.push(line)
    const worker = FleetWorker.run(
      {
        ...{ connection, name: 'one', jobs: 2, say },
        own: { jobs: 1, kernels: [], qemuArgs: [], ramDir: 'memory', transport: 'auto', sandbox: true },
        answer: async () => ({ kernel: '6.12' }),
        module: new URL('./stubProcess.ts', import.meta.url),
      },
      stop.signal,
    )
    const watch = new QueueWatch(connection, say)
    const database = new Database(join(folder, 'campaigns.db'))
    try {
      const plan = Array.from({ length: 5 }, (_, seed) => job('stub', seed, 1))
      const campaign = database.begin('test', plan)
      const runner = throughQueue(sentStubs(folder), { connection, campaign: 'tls', say })
      await runJobs(database, campaign, runner, stop.signal)
      expect(database.rows(campaign).map(({ result }) => result.verdict)).toEqual(plan.map(verdictOf))
      expect(await watch.metrics()).toMatch(/^smmu_cosim_queue_workers 1$/m)
      expect(said.filter(line => /NOPERM|permission/i.test(line))).toEqual([])
    } finally {
      stop.abort(new Error('the test is over'))
      await worker
      await watch.close()
      database.close()
    }
  }, 60_000)

  test('what is longer than anything of a fleet is not taken', async () => {
    const redis = new Redis({
      ...{ host: '127.0.0.1', port, username: 'fleet', tls: { ca: readFileSync(join(access, 'ca.pem')) } },
      ...{ password: readFileSync(join(access, 'password'), 'utf8').trim(), retryStrategy: () => null },
    })
    redis.on('error', () => {}) // the connection ends by it
    expect(await redis.set('smmu-cosim:x', Buffer.alloc(15 << 20))).toBe('OK')
    await expect(redis.set('smmu-cosim:x', Buffer.alloc(17 << 20))).rejects.toThrow()
    expect(ask(['strlen', 'smmu-cosim:x'])).toBe(String(15 << 20))
    expect(ask(['del', 'smmu-cosim:x'])).toBe('1')
    redis.disconnect()
  })

  test('the rights are those that the documentation of fleets gives', () => {
    const rights = (file: string) =>
      /^user \w+ on \S+ (.*~smmu-cosim.*)$/m.exec(readFileSync(join(ROOT, file), 'utf8'))?.[1]
    expect(rights('docker/queue-server')).toBeDefined()
    expect(rights('server/fleet/README.md')).toBe(rights('docker/queue-server'))
  })

  test('what it said is still there when it was killed, and so is the password', async () => {
    const before = readFileSync(join(access, 'password'), 'utf8')
    expect(ask(['set', 'smmu-cosim:jobs:kept', 'yes'])).toBe('OK')
    await kill('SIGKILL')
    await start()
    expect(ask(['get', 'smmu-cosim:jobs:kept'])).toMatch(/^"?yes"?$/)
    expect(readFileSync(join(access, 'password'), 'utf8')).toBe(before)
  }, 30_000)
})
