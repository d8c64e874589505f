// SPDX-License-Identifier: Apache-2.0
import { randomBytes } from 'node:crypto'
import { EventEmitter, once } from 'node:events'
import { request } from 'node:http'
import { connect, type Socket } from 'node:net'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { WebSocket } from 'ws'
import { Gate } from '../../../server/api/gate.ts'
import { isLoopback, refusal, tokenFor } from '../../../server/api/security.ts'
import { dashboardUrl } from '../../../server/api/server.ts'
import { type Harness, startApp } from './harness.ts'

const TOKEN = '0123456789abcdef0123456789abcdef'

/** fetch sets Host itself, so this goes lower. */
function get(
  port: number,
  path: string,
  headers: Record<string, string>,
): Promise<{ status: number; headers: NodeJS.Dict<string | string[]> }> {
  return new Promise((resolve, reject) => {
    request({ port, path, headers, host: '127.0.0.1' }, response => {
      response.resume()
      resolve({ status: response.statusCode ?? 0, headers: response.headers })
    })
      .on('error', reject)
      .end()
  })
}

describe('on loopback', () => {
  let server: Harness
  beforeAll(async () => {
    server = await startApp()
  })
  afterAll(() => server.close())

  test.each([
    ['of this server', { host: 'localhost:8642' }, 200],
    ['of another name, as after DNS rebinding', { host: 'evil.example:8642' }, 403],
    ['of another address', { host: '10.1.2.3' }, 403],
    ['its own origin', { host: 'localhost:1', origin: 'http://localhost:1' }, 200],
    ['another origin', { host: 'localhost:1', origin: 'http://localhost:2' }, 403],
    ['another site', { host: 'localhost:1', origin: 'https://evil.example' }, 403],
    ['no origin to speak of', { host: 'localhost:1', origin: 'null' }, 403],
    ['a page of another site without Origin', { host: 'localhost:1', 'sec-fetch-site': 'cross-site' }, 403],
  ])('a request %s', async (_what, headers, status) => {
    expect((await get(server.port, '/api/v1/machine', headers)).status).toBe(status)
  })

  test('strict headers', async () => {
    const { headers } = await get(server.port, '/api/v1/machine', { host: 'localhost' })
    expect(headers['content-security-policy']).toMatch("default-src 'none'")
    expect(headers['content-security-policy']).not.toMatch('unsafe')
    expect(headers).toMatchObject({ 'x-content-type-options': 'nosniff', 'cache-control': 'no-store' })
    expect(headers['cross-origin-resource-policy']).toBe('same-origin')
  })

  test('a page from elsewhere cannot open a stream', async () => {
    const socket = new WebSocket(`ws://127.0.0.1:${server.port}/api/v1/stream`, { origin: 'https://evil.example' })
    const error = await new Promise<Error>(resolve => socket.on('error', resolve))
    expect(error.message).toMatch('403')
  })

  test('paths do not leave the files that are served', async () => {
    for (const path of ['/assets/../package.json', '/assets/%2e%2e/%2e%2e/package.json', '/..%2f..%2fetc/passwd']) {
      expect((await get(server.port, path, { host: 'localhost' })).status).toBe(404)
    }
  })
})

describe('with a token', () => {
  let server: Harness
  beforeAll(async () => {
    server = await startApp({ access: { host: '0.0.0.0', token: TOKEN } })
  })
  afterAll(() => server.close())

  test.each([
    ['none', {}, 401],
    ['a wrong one', { authorization: 'Bearer wrong' }, 401],
    ['the right one', { authorization: `Bearer ${TOKEN}` }, 200],
    ['the right one, by an address', { authorization: `Bearer ${TOKEN}`, host: '192.0.2.1:8642' }, 200],
    ['the right one, by an unknown name', { authorization: `Bearer ${TOKEN}`, host: 'rebound.example' }, 403],
  ])('%s', async (_what, headers, status) => {
    expect((await get(server.port, '/api/v1/machine', { host: 'localhost', ...headers })).status).toBe(status)
    expect((await get(server.port, '/metrics', { host: 'localhost', ...headers })).status).toBe(status)
  })

  test('health needs none', async () => {
    expect((await get(server.port, '/health', { host: 'localhost' })).status).toBe(200)
  })

  const open = (headers: Record<string, string> = {}) =>
    new WebSocket(`ws://127.0.0.1:${server.port}/api/v1/stream`, { headers })
  const first = (socket: WebSocket) =>
    new Promise<string>(resolve => socket.once('message', data => resolve(String(data))))
  const closed = (socket: WebSocket) => new Promise<number>(resolve => socket.once('close', code => resolve(code)))

  test('a stream takes it in the header or in its first message', async () => {
    const byHeader = open({ authorization: `Bearer ${TOKEN}` })
    expect(await first(byHeader)).toMatch('hello')
    byHeader.close()
    const byMessage = open()
    byMessage.on('open', () => byMessage.send(JSON.stringify({ type: 'auth', token: TOKEN })))
    expect(await first(byMessage)).toMatch('hello')
    byMessage.close()
  })

  test('a stream without it, or with a wrong one, is closed', async () => {
    const wrong = open()
    wrong.on('open', () => wrong.send(JSON.stringify({ type: 'auth', token: 'wrong' })))
    expect(await closed(wrong)).toBe(4401)
    const eager = open()
    eager.on('open', () => eager.send(JSON.stringify({ type: 'subscribe', id: '1', stream: 'console' })))
    expect(await closed(eager)).toBe(4401)
  })
})

test('tokens: none on loopback, made or given elsewhere, never a short one', () => {
  expect(tokenFor('127.0.0.1', undefined)).toBeUndefined()
  expect(tokenFor('::1', undefined)).toBeUndefined()
  expect(tokenFor('0.0.0.0', undefined)).toMatch(/^[\w-]{32}$/)
  expect(tokenFor('127.0.0.1', TOKEN)).toBe(TOKEN)
})

test.each([
  ['short', /bits at most, fewer than 128: openssl rand -hex 16/],
  ['0123456789abcdef', /has 64 bits at most/],
  ['12345678901234567890123456789012345678', /has 126 bits at most/],
  ['a'.repeat(60), /has 0 bits at most/],
  ['abc'.repeat(20), /has 95 bits at most/],
])('the token %s is refused', (token, message) => {
  expect(() => tokenFor('0.0.0.0', token)).toThrow(message)
  expect(() => tokenFor('127.0.0.1', token)).toThrow(message)
})

test('every token drawn from 128 bits is accepted', () => {
  for (let i = 0; i < 500; i++) {
    for (const encoding of ['hex', 'base64url', 'base64'] as const) {
      const token = randomBytes(16).toString(encoding)
      expect(tokenFor('0.0.0.0', token)).toBe(token)
    }
  }
})

describe('the gate', () => {
  class Peer extends EventEmitter {
    destroyed = false
    readonly remoteAddress: string
    constructor(remoteAddress: string) {
      super()
      this.remoteAddress = remoteAddress
    }
    destroy() {
      this.destroyed = true
      this.emit('close')
    }
  }
  const peer = (address: string) => new Peer(address) as unknown as Socket & Peer
  let now = 0
  const gate = () => new Gate({ host: '0.0.0.0', token: TOKEN }, () => now)

  test('so many requests of an address in a time, whoever else asks', () => {
    const tested = gate()
    const one = peer('192.0.2.1')
    for (let i = 0; i < 3_000; i++) expect(tested.admit(one)).toBe(0)
    expect(tested.admit(one)).toBe(10)
    expect(tested.admit(peer('::ffff:192.0.2.1'))).toBe(10)
    expect(tested.admit(peer('192.0.2.2'))).toBe(0)
    now += 9_500
    expect(tested.admit(one)).toBe(1)
    now += 501
    expect(tested.admit(one)).toBe(0)
  })

  test('a network of IPv6 is one address', () => {
    const tested = gate()
    for (let i = 0; i < 3_000; i++) tested.admit(peer(`2001:db8:0:1::${i.toString(16)}`))
    expect(tested.admit(peer('2001:db8:0:1:ffff:ffff:ffff:ffff'))).toBeGreaterThan(0)
    expect(tested.admit(peer('2001:db8:0:2::1'))).toBe(0)
  })

  test('12,000 wrong tokens are not looked at; none is looked at until the time is over', () => {
    const tested = gate()
    const one = peer('192.0.2.1')
    const verdicts = Array.from({ length: 12_000 }, (_, i) => tested.check(one, `${TOKEN.slice(0, -1)}${i}`))
    expect(verdicts.filter(verdict => verdict === 'wrong')).toHaveLength(100)
    expect(tested.check(one, TOKEN)).toBe('late')
    // That there is none is no guess.
    expect(tested.check(one, undefined)).toBe('wrong')
    expect(tested.check(peer('192.0.2.2'), TOKEN)).toBe('right')
    now += 60_001
    expect(tested.check(one, TOKEN)).toBe('right')
  })

  test('addresses that nobody has heard of for long are forgotten', () => {
    const tested = gate()
    for (let i = 0; i < 50_000; i++) tested.admit(peer(`10.${i >> 16}.${(i >> 8) & 255}.${i & 255}`))
    expect(tested.admit(peer('10.0.0.0'))).toBe(0)
  })

  test('connections without the token make room for each other, never at the cost of one that has it', () => {
    const tested = gate()
    const mine = peer('192.0.2.1')
    tested.connected(mine)
    expect(tested.check(mine, TOKEN)).toBe('right')
    const strangers = Array.from({ length: 1_000 }, () => peer('192.0.2.9'))
    for (const stranger of strangers) tested.connected(stranger)
    expect(strangers.filter(({ destroyed }) => !destroyed)).toHaveLength(128)
    expect(mine.destroyed).toBe(false)
  })
})

describe('a server under siege', () => {
  let server: Harness
  beforeEach(async () => {
    server = await startApp({ access: { host: '0.0.0.0', token: TOKEN } })
  })
  afterEach(() => server.close())
  const right = { host: 'localhost', authorization: `Bearer ${TOKEN}` }

  test('guesses over HTTP', async () => {
    const guess = (i: number) => ({ host: 'localhost', authorization: `Bearer ${TOKEN.slice(0, -3)}${i}` })
    const statuses = await Promise.all(
      Array.from({ length: 300 }, async (_, i) => (await get(server.port, '/api/v1/machine', guess(i))).status),
    )
    expect(statuses.filter(status => status === 401)).toHaveLength(100)
    expect(statuses.filter(status => status === 429)).toHaveLength(200)
    expect((await get(server.port, '/health', { host: 'localhost' })).status).toBe(200)
  })

  test('guesses over WebSockets, in the header and in the first message', async () => {
    const url = `ws://127.0.0.1:${server.port}/api/v1/stream`
    const ends: (string | number)[] = []
    for (let i = 0; i < 60; i++) {
      const inHeader = new WebSocket(url, { headers: { authorization: `Bearer wrong${i}` } })
      ends.push(await new Promise<string>(resolve => inHeader.once('error', error => resolve(error.message))))
      const inMessage = new WebSocket(url)
      inMessage.once('open', () => inMessage.send(JSON.stringify({ type: 'auth', token: `wrong${i}` })))
      ends.push(await new Promise<number>(resolve => inMessage.once('close', resolve)))
    }
    expect(ends.slice(0, 100)).toEqual(
      Array(50)
        .fill([expect.stringContaining('401'), 4401])
        .flat(),
    )
    expect(ends.slice(100)).toEqual(
      Array(10)
        .fill([expect.stringContaining('429'), 4429])
        .flat(),
    )
  })

  test('sockets that show no token take nobody’s place', async () => {
    const url = `ws://127.0.0.1:${server.port}/api/v1/stream`
    const mine = new WebSocket(url, { headers: { authorization: `Bearer ${TOKEN}` } })
    await once(mine, 'message')
    const silent = Array.from({ length: 300 }, () => connect(server.port, '127.0.0.1').on('error', () => {}))
    const strangers = Array.from({ length: 300 }, () => new WebSocket(url).on('error', () => {}))
    await Promise.allSettled(strangers.map(stranger => once(stranger, 'open')))
    expect(server.subscriptions.stats.clients).toBe(1)
    expect((await get(server.port, '/api/v1/machine', right)).status).toBe(200)
    for (const how of ['header', 'message']) {
      const socket = new WebSocket(url, how === 'header' ? { headers: { authorization: `Bearer ${TOKEN}` } } : {})
      if (how === 'message') socket.once('open', () => socket.send(JSON.stringify({ type: 'auth', token: TOKEN })))
      const [data] = await once(socket, 'message')
      expect(String(data)).toContain('hello')
      socket.close()
    }
    expect(mine.readyState).toBe(WebSocket.OPEN)
    for (const socket of silent) socket.destroy()
    for (const stranger of strangers) stranger.terminate()
    mine.close()
  })
})

test('names', () => {
  expect(['localhost', '127.0.0.1', '127.8.8.8', '::1'].every(isLoopback)).toBe(true)
  expect(['127.evil.example', '10.0.0.1', 'localhost.evil.example'].some(isLoopback)).toBe(false)
  expect(refusal({ host: 'box.example:1' }, { host: '0.0.0.0', token: TOKEN, names: ['box.example'] })).toBeUndefined()
  expect(refusal({}, { host: '127.0.0.1' })).toMatch('Host')
})

test.each([
  ['127.0.0.1', undefined, 'http://127.0.0.1:8642/'],
  ['::1', 'abc', 'http://[::1]:8642/#token=abc'],
  ['0.0.0.0', 'abc', 'http://127.0.0.1:8642/#token=abc'],
  ['::', 'abc', 'http://[::1]:8642/#token=abc'],
  ['box.example', 'abc', 'http://box.example:8642/#token=abc'],
])('the URL that is printed for %s can be opened', (host, token, url) => {
  expect(dashboardUrl(host, 8642, token)).toBe(url)
})
