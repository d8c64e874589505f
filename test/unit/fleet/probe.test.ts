// SPDX-License-Identifier: Apache-2.0
/** What may be at the address that a user gives for a queue, and is none. */
import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, rmSync } from 'node:fs'
import { createServer as createHttp } from 'node:http'
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createServer as createTls } from 'node:tls'
import { afterAll, afterEach, describe, expect, test } from 'vitest'
import { probe } from '../../../server/fleet/probe.ts'
import type { QueueConnection } from '../../../server/fleet/queue.ts'
import { connect } from '../../../server/fleet/redis.ts'
import { QueueWatch } from '../../../server/fleet/watch.ts'
import { privateFolder } from '../../../server/machine/scratch.ts'

const folder = privateFolder(tmpdir(), 'probe-')
const [cert, key] = ['cert', 'key'].map(name => join(folder, name))
execFileSync(
  'openssl',
  ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '1'].concat([
    '-subj',
    '/CN=queue',
    '-keyout',
    key ?? '',
    '-out',
    cert ?? '',
  ]),
  { stdio: 'pipe' },
)
afterAll(() => rmSync(folder, { recursive: true }))

const never = new AbortController().signal
const servers: Server[] = []
const sockets = new Set<Socket>()
afterEach(() => {
  for (const socket of sockets) socket.destroy()
  for (const server of servers.splice(0)) server.close()
})

async function listening(server: Server, port = 0): Promise<QueueConnection> {
  servers.push(server)
  server.on('connection', socket => {
    sockets.add(socket.on('error', () => {}))
    socket.once('close', () => sockets.delete(socket))
  })
  server.listen(port, '127.0.0.1')
  await once(server, 'listening')
  return { host: '127.0.0.1', port: (server.address() as AddressInfo).port, db: 0 }
}

/** It says so to whoever asks. */
const says = (answer: string) =>
  createServer(socket => void socket.on('error', () => {}).once('data', () => socket.write(answer)))
const silent = () => createServer(() => {})
const http = () => createHttp((_, response) => response.end('hello'))
const encrypted = () => {
  const server = createTls({ cert: readFileSync(cert ?? ''), key: readFileSync(key ?? '') }, () => {})
  return server.on('tlsClientError', () => {})
}
/** Where nobody is. */
async function closed(): Promise<QueueConnection> {
  const server = createServer()
  const connection = await listening(server)
  server.close()
  await once(server, 'close')
  return connection
}

describe('what answers', () => {
  test.each<[string, () => Server, boolean, RegExp]>([
    ['a web server', http, true, /^it is no Redis: it answers "HTTP\/1\.1 400 Bad Request"$/],
    [
      'a mail server',
      () => says('220 mail.example ESMTP\r\n'),
      true,
      /^it is no Redis: it answers "220 mail\.example ESMTP"$/,
    ],
    [
      'what ends lines with control characters',
      () => says('\x1b[2J\n'),
      true,
      /^it is no Redis: it answers "\\u001b\[2J"$/,
    ],
    [
      'a server with TLS that says so',
      () => says('\x15\x03\x01\0\x02\x02\x46'),
      true,
      /^it speaks TLS: rediss:\/\/ does as well$/,
    ],
    [
      'a server with TLS that does not',
      encrypted,
      false,
      /^it ends connections without an answer, as one with TLS \(rediss:\/\/\) does$/,
    ],
    ['nobody to whom it speaks', silent, false, /^it takes connections, and answers nothing within 0\.3 s$/],
    [
      'who hangs up',
      () => createServer(socket => socket.destroy()),
      false,
      /reset|ends connections without an answer/i,
    ],
    [
      'a Redis that lets in nobody from elsewhere',
      () => says('-DENIED Redis is running in protected mode\r\n'),
      true,
      /^DENIED Redis is/,
    ],
    [
      'a Redis that reads its data',
      () => says('-LOADING Redis is loading the dataset in memory\r\n'),
      false,
      /^LOADING/,
    ],
    [
      'a Redis whose disk is full',
      () => says('-MISCONF Redis is configured to save RDB snapshots, but is unable to persist to disk.\r\n'),
      false,
      /^MISCONF/,
    ],
  ])('%s is told', async (_, server, hopeless, why) => {
    const connection = await listening(server())
    const limit = server === silent ? 300 : 30_000
    expect(await probe(connection, never, limit)).toEqual({ there: false, hopeless, why: expect.stringMatching(why) })
  })

  test.each(['+PONG\r\n', '-NOAUTH Authentication required.\r\n'])('%j is a Redis', async answer => {
    expect(await probe(await listening(says(answer)), never)).toEqual({ there: true })
  })

  test('a Redis whose answer comes in pieces is one', async () => {
    const slowly = createServer(socket => {
      const pieces = ['+P', 'ON', 'G\r', '\n']
      const timer = setInterval(() => {
        const piece = pieces.shift()
        if (piece === undefined) clearInterval(timer)
        else socket.write(piece)
      }, 20)
      socket.on('error', () => {}).once('close', () => clearInterval(timer))
    }).on('connection', socket => socket.setNoDelay())
    expect(await probe(await listening(slowly), never)).toEqual({ there: true })
  })

  test('half a line, and the end, is told', async () => {
    const server = createServer(socket => void socket.on('error', () => {}).once('data', () => socket.end('hel')))
    const why = 'it is no Redis: it answers "hel"'
    expect(await probe(await listening(server), never)).toEqual({ there: false, hopeless: true, why })
  })

  test('half a line, and nothing more, is told', async () => {
    const why = 'it is no Redis: it answers "hel"'
    expect(await probe(await listening(says('hel')), never, 300)).toEqual({ there: false, hopeless: true, why })
  })

  test('what never ends a line is not read for ever', async () => {
    const why = `it is no Redis: it answers "${'x'.repeat(100)}"`
    const answer = probe(await listening(says('x'.repeat(1 << 20))), never)
    expect(await answer).toEqual({ there: false, hopeless: true, why })
  })

  test.each<[string, () => Server, RegExp]>([
    ['a Redis without TLS', () => says('-ERR unknown command\r\n'), /^it speaks no TLS that we know/],
    ['a certificate that nobody vouches for', encrypted, /certificate/],
  ])('to who asks with TLS, %s is told', async (_, server, why) => {
    const connection = { ...(await listening(server())), tls: {} }
    expect(await probe(connection, never)).toEqual({ there: false, hopeless: true, why: expect.stringMatching(why) })
  })

  test('who does not want to know any more is not kept waiting', async () => {
    const stop = new AbortController()
    const asked = probe(await listening(silent()), stop.signal)
    stop.abort(new Error('enough'))
    await expect(asked).rejects.toThrow('enough')
  })
})

describe('a sender', () => {
  test('gives up a port that is closed, and says how often it tried', async () => {
    const connection = await closed()
    await expect(connect(connection, false, () => {}, never)).rejects.toThrow(
      /^the queue redis:\/\/127\.0\.0\.1:\d+\/0: connect ECONNREFUSED .*; tried \d+ times in \d+ s$/,
    )
  })

  test('gives up what says nothing', async () => {
    await expect(connect(await listening(silent()), false, () => {}, never)).rejects.toThrow(
      /: it takes connections, and answers nothing within 5 s; tried once$/,
    )
  })
})

describe('a worker', () => {
  test('does not wait for what is no Redis', async () => {
    await expect(connect(await listening(http()), true, () => {}, never)).rejects.toThrow(
      /: it is no Redis: it answers/,
    )
  })

  test('waits for one that is not there yet, and says so once', async () => {
    const connection = await closed()
    const said: string[] = []
    const stop = new AbortController()
    const connected = connect(connection, true, line => said.push(line), stop.signal)
    await expect.poll(() => said.length, { timeout: 10_000 }).toBe(1)
    // Enough for the probe; ioredis is not answered.
    await listening(says('-NOAUTH Authentication required.\r\n'), connection.port)
    await expect.poll(() => said.at(-1), { timeout: 20_000 }).toMatch(/^the queue .* is there$/)
    stop.abort(new Error('enough'))
    await expect(connected).rejects.toThrow(/enough|NOAUTH/)
    expect(said[0]).toMatch(
      /^the queue redis:\/\/127\.0\.0\.1:\d+\/0 is not there yet: connect ECONNREFUSED .*; waits for it$/,
    )
    expect(said).toHaveLength(2)
  })
})

test.each<[string, () => Server, RegExp]>([
  ['a web server', http, /^it is no Redis: it answers "HTTP\/1\.1 400 Bad Request"$/],
  ['what says nothing', silent, /^it takes connections, and answers nothing within 5 s$/],
])('a server that looks at the queue says once that it is %s', async (_, server, why) => {
  const troubles: string[] = []
  const watch = new QueueWatch(await listening(server()), line => troubles.push(line))
  await expect.poll(() => troubles.length, { timeout: 20_000 }).toBe(1)
  expect(await watch.metrics()).toContain('smmu_cosim_queue_up 0')
  expect(troubles).toEqual([expect.stringMatching(why)])
  await watch.close()
})
