// SPDX-License-Identifier: Apache-2.0
/** The Redis of server/fleet/README.md, as it is written there: with TLS and one user, workers and senders get in, and nobody else. */
import { execFileSync } from 'node:child_process'
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { connectionOf } from '../../server/cli/queueOptions.ts'
import { parseQueue } from '../../server/fleet/queue.ts'
import { connect, redisOptions } from '../../server/fleet/redis.ts'
import { throughQueue } from '../../server/fleet/sender.ts'
import { FleetWorker } from '../../server/fleet/worker.ts'
import { privateFolder } from '../../server/machine/scratch.ts'
import { runJobs } from '../../server/sessions/campaign.ts'
import { Database } from '../../server/sessions/database.ts'
import { code } from '../unit/docs/markdown.ts'
import { RedisServer } from './redis.ts'
import { job, sentStubs, verdictOf } from './stub.ts'

const PASSWORD = 'f00d5f0b6d1c9a874e23'
const README = new URL('../../server/fleet/README.md', import.meta.url)
const folder = privateFolder(tmpdir(), 'secured-')
const at = (name: string) => join(folder, name)
const none = new AbortController().signal

/** A certificate for the loopback interface, by an authority of our own. */
function certify(): void {
  const openssl = (...words: string[]) => execFileSync('openssl', words, { cwd: folder, stdio: 'pipe' })
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '1']
  openssl('req', '-x509', ...key, '-keyout', 'ca.key', '-out', 'ca.crt', '-subj', '/CN=authority')
  openssl('req', ...key.slice(0, -2), '-keyout', 'queue.key', '-out', 'queue.csr', '-subj', '/CN=queue')
  writeFileSync(at('names'), 'subjectAltName=IP:127.0.0.1')
  const by = ['-CA', 'ca.crt', '-CAkey', 'ca.key', '-CAcreateserial', '-extfile', 'names', '-days', '1']
  openssl('x509', '-req', '-in', 'queue.csr', ...by, '-out', 'queue.crt')
}

let redis: RedisServer
let database: Database
beforeAll(async () => {
  certify()
  const [conf = ''] = code(readFileSync(README, 'utf8'), '').filter(text => text.startsWith('# redis.conf'))
  mkdirSync(at('redis'))
  redis = await RedisServer.start(at('redis'), conf.replaceAll('/etc/redis', folder).replace('PASSWORD', PASSWORD))
  writeFileSync(at('password'), `${PASSWORD}\n`, { mode: 0o600 })
  database = new Database(at('campaigns.db'))
})
afterAll(async () => {
  await redis?.kill()
  database?.close()
  rmSync(folder, { recursive: true })
})

const queue = (user: string) => parseQueue(`rediss://${user}127.0.0.1:${redis.connection.port}`)
const files = () => ({ queuePasswordFile: at('password'), queueCa: at('ca.crt') })

test('a worker and a sender do all that they have to, and the user cannot do more', async () => {
  const connection = connectionOf({ queue: queue('cosim@'), ...files() })
  if (connection === undefined) throw new Error('no connection')
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
  const plan = [1, 2, 3].map(seed => job('stub', seed, 1))
  const campaign = database.begin('test', plan)
  const runner = throughQueue(sentStubs(folder), { connection, campaign: 'secured', say, sweepMs: 500 })
  await runJobs(database, campaign, runner, none)
  expect(database.rows(campaign).map(({ result }) => result.verdict)).toEqual(plan.map(verdictOf))
  stop.abort(new Error('the test is over'))
  await worker
  expect(said.filter(line => /NOPERM|permission/.test(line))).toEqual([])

  const client = new Redis(redisOptions(connection))
  await expect(client.set('elsewhere', '1')).rejects.toThrow('NOPERM')
  await expect(client.flushall()).rejects.toThrow('NOPERM')
  await expect(client.config('GET', 'dir')).rejects.toThrow('NOPERM')
  client.disconnect()
})

test.each([
  ['without a user', '', PASSWORD, /WRONGPASS|NOAUTH/],
  ['with another password', 'cosim@', 'guessed', /WRONGPASS/],
])('%s: refused at once', async (_what, user, password, why) => {
  const connection = connectionOf({ queue: queue(user), queueCa: at('ca.crt') }, password)
  if (connection === undefined) throw new Error('no connection')
  await expect(connect(connection, true, () => {}, none)).rejects.toThrow(why)
})

test('whose certificate nobody vouches for: not trusted', async () => {
  const connection = connectionOf({ queue: queue('cosim@') }, PASSWORD)
  if (connection === undefined) throw new Error('no connection')
  await expect(connect(connection, true, () => {}, none)).rejects.toThrow(/certificate/)
})
