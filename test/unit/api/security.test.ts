// SPDX-License-Identifier: Apache-2.0
import { request } from 'node:http'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { WebSocket } from 'ws'
import { isLoopback, refusal, tokenFor } from '../../../server/api/security.ts'
import { dashboardUrl } from '../../../server/api/server.ts'
import { type Harness, startApp } from './harness.ts'

const TOKEN = 'a-token-of-enough-length'

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
  expect(() => tokenFor('0.0.0.0', 'short')).toThrow('16 characters')
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
