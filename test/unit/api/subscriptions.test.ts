// SPDX-License-Identifier: Apache-2.0
import { connect } from 'node:net'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { WebSocket } from 'ws'
import { Feed, type Numbered } from '../../../server/api/feed.ts'
import { KernelFunctions } from '../../../server/api/kernelFunctions.ts'
import { TrapLog } from '../../../server/api/trapLog.ts'
import { Traps } from '../../../server/api/traps.ts'
import { ARM_SMMU_GBPA } from '../../../server/smmu/registers.ts'
import { createRing, RingReader, RingWriter } from '../../../server/trace/ring.ts'
import { type Harness, startApp } from './harness.ts'

let server: Harness
beforeEach(async () => {
  server = await startApp()
})
afterEach(() => server.close())

interface Message {
  readonly type: string
  readonly id?: string
  readonly items?: readonly Record<string, unknown>[]
  readonly next?: number
  readonly dropped?: number
  readonly error?: string
}

/** A client that collects what it gets. */
class Client {
  readonly socket: WebSocket
  readonly messages: Message[] = []
  #wake: () => void = () => {}

  constructor() {
    this.socket = new WebSocket(`ws://127.0.0.1:${server.port}/api/v1/stream`)
    this.socket.on('error', () => {})
    this.socket.on('message', data => {
      this.messages.push(JSON.parse(String(data)) as Message)
      this.#wake()
    })
    this.socket.on('close', () => this.#wake())
  }

  async until(found: (messages: readonly Message[]) => boolean): Promise<void> {
    while (!found(this.messages)) {
      await new Promise<void>(resolve => {
        this.#wake = resolve
      })
    }
  }

  async subscribe(stream: string, options: object = {}): Promise<this> {
    await this.until(messages => messages.some(({ type }) => type === 'hello'))
    this.socket.send(JSON.stringify({ type: 'subscribe', id: stream, stream, ...options }))
    return this
  }

  get items(): Record<string, unknown>[] {
    return this.messages.flatMap(({ items = [] }) => items)
  }

  get dropped(): number {
    return this.messages.reduce((sum, { dropped = 0 }) => sum + dropped, 0)
  }
}

const traps = async (count: number): Promise<void> => {
  for (let i = 0; i < count; i++) await server.qemu.write(ARM_SMMU_GBPA, 4, i)
}

test('traps arrive in order, filtered, and go on after the last one that a client has', async () => {
  const client = await new Client().subscribe('traps', { filter: { registers: ['GBPA'] } })
  await traps(20)
  await server.qemu.read(0x20, 4)
  await client.until(() => client.items.length >= 20)
  expect(client.items.map(({ value }) => value)).toEqual(Array.from({ length: 20 }, (_, i) => `0x${i.toString(16)}`))
  client.socket.close()
  await traps(5)
  const again = await new Client().subscribe('traps', { after: client.items[9]?.id })
  await again.until(() => again.items.length >= 16)
  expect(again.items.slice(0, 10).map(({ id }) => id)).toEqual(client.items.slice(10).map(({ id }) => id))
})

test('console, machine and counters', async () => {
  const client = await new Client().subscribe('console', { last: 100 })
  await client.subscribe('machine', { last: 1 })
  await client.subscribe('counters')
  server.say('grüße\r\n')
  await client.until(() => client.items.some(({ text }) => String(text).includes('grüße')))
  await client.until(() => client.items.some(item => 'counters' in item))
  expect(client.items.find(item => 'status' in item)).toMatchObject({ status: { state: 'running' } })
})

test('many clients get the same', async () => {
  const clients = await Promise.all(Array.from({ length: 40 }, () => new Client().subscribe('traps')))
  await Promise.all(clients.map(c => c.until(m => m.some(({ type }) => type === 'subscribed'))))
  await traps(50)
  // Item 1 is the reset, which happened before or after a client subscribed.
  const ids = Array.from({ length: 50 }, (_, i) => i + 2)
  await Promise.all(clients.map(client => client.until(() => client.items.at(-1)?.id === 51)))
  for (const client of clients) expect(client.items.map(({ id }) => id).filter(id => id !== 1)).toEqual(ids)
  expect(server.subscriptions.stats.clients).toBe(40)
})

test('no more clients than there may be', async () => {
  const clients = await Promise.all(Array.from({ length: 64 }, () => new Client().subscribe('machine')))
  const refused = new Client()
  await new Promise(resolve => refused.socket.on('close', resolve))
  expect(refused.messages).toEqual([])
  expect(clients).toHaveLength(64)
})

test('a client that does not read holds up nobody and costs a bounded amount of memory', async () => {
  const slow = await new Client().subscribe('traps', { lag: 100 })
  await slow.until(messages => messages.some(({ type }) => type === 'subscribed'))
  slow.socket.pause()
  const quick = await new Client().subscribe('traps')
  await quick.until(messages => messages.some(({ type }) => type === 'subscribed'))
  // A flood on the console, which has the larger items, fills the slow one's socket.
  await slow.subscribe('console')
  for (let i = 0; i < 400; i++) server.say(`${'x'.repeat(8_000)}\n`)
  await new Promise(resolve => setTimeout(resolve, 300))
  await traps(600)
  await quick.until(() => quick.items.length >= 600)
  expect(quick.dropped).toBe(0)
  await new Promise(resolve => setTimeout(resolve, 200))
  slow.socket.resume()
  // Lines of the console have numbers of their own.
  const last = quick.items.at(-1)?.id
  await slow.until(() => slow.items.some(item => item.id === last && 'register' in item))
  expect(server.subscriptions.stats.dropped).toBe(slow.dropped)
})

test('lag samples what comes faster than it is sent, counts the rest, and leaves what `last` asked for alone', async () => {
  const chunks = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => `line ${from + i}\n`)
  const first = await new Client().subscribe('console')
  await first.until(messages => messages.some(({ type }) => type === 'subscribed'))
  for (const chunk of chunks(0, 300)) server.say(chunk)
  await first.until(() => first.items.length >= 300)
  const client = await new Client().subscribe('console', { last: 300, lag: 100 })
  await client.until(() => client.items.length >= 300)
  expect(client.items.map(({ text }) => text)).toEqual(chunks(0, 300))
  expect(client.dropped).toBe(0)
  // In one go, so that nothing is sent in between.
  for (const chunk of chunks(300, 1_300)) server.say(chunk)
  await client.until(() => client.items.at(-1)?.text === 'line 1299\n')
  expect(client.items.slice(300).map(({ text }) => text)).toEqual(chunks(1_200, 1_300))
  expect(client.dropped).toBe(900)
  expect(server.subscriptions.stats.dropped).toBe(900)
})

test('a client that is gone without a word is noticed', async () => {
  const raw = connect(server.port, '127.0.0.1')
  raw.write(
    `GET /api/v1/stream HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: ${Buffer.alloc(16).toString('base64')}\r\nSec-WebSocket-Version: 13\r\n\r\n`,
  )
  await new Promise(resolve => raw.once('data', resolve))
  expect(server.subscriptions.stats.clients).toBe(1)
  raw.destroy()
  while (server.subscriptions.stats.clients > 0) await new Promise(resolve => setTimeout(resolve, 10))
})

describe('what is no request', () => {
  test.each([
    '{',
    '5',
    '{"type":"subscribe"}',
    '{"type":"subscribe","id":"1","stream":"secrets"}',
    '{"type":"x"}',
    '"'.repeat(1000),
  ])('%s is answered with an error, and the connection stays', async text => {
    const client = await new Client().subscribe('machine')
    client.socket.send(text)
    await client.until(messages => messages.some(({ type }) => type === 'error'))
    expect(client.socket.readyState).toBe(WebSocket.OPEN)
  })

  test.each([
    ['too large', `{"type":"unsubscribe","id":"${'x'.repeat(20_000)}"}`, 1, 1009],
    ['too many', '{"type":"unsubscribe","id":"1"}', 200, 4429],
  ])('%s: closed', async (_what, text, times, code) => {
    const client = await new Client().subscribe('machine')
    const closed = new Promise<number>(resolve => client.socket.on('close', resolve))
    for (let i = 0; i < times; i++) client.socket.send(text)
    expect(await closed).toBe(code)
  })
})

test('a feed by kind: one kind leaves room for the others', () => {
  const feed = new Feed<Numbered & { kind: string; n: number }>(10, ({ kind }) => kind)
  feed.push({ kind: 'reset', n: 0 })
  for (let n = 1; n <= 1_000; n++) feed.push({ kind: 'guest', n })
  feed.push({ kind: 'reset', n: 1_001 })
  const { items, next } = feed.read(1, 1_000)
  expect(items.filter(({ kind }) => kind === 'reset').map(({ n }) => n)).toEqual([0, 1_001])
  const guest = items.filter(({ kind }) => kind === 'guest')
  expect(guest.length).toBeLessThanOrEqual(12)
  expect(guest.at(-1)?.n).toBe(1_000)
  expect(next).toBe(1_003)
  // Page by page it is the same, and nothing comes twice.
  const pages: number[] = []
  for (let from = 1; from < feed.next; ) {
    const page = feed.read(from, 3)
    pages.push(...page.items.map(({ n }) => n))
    from = page.next
  }
  expect(pages).toEqual(items.map(({ n }) => n))
})

test('a feed keeps the last items, and says what it has', () => {
  const feed = new Feed<Numbered & { n: number }>(100)
  for (let n = 1; n <= 1_000; n++) feed.push({ n })
  expect(feed.next).toBe(1_001)
  expect(feed.next - feed.oldest).toBeGreaterThanOrEqual(100)
  expect(feed.next - feed.oldest).toBeLessThanOrEqual(125)
  expect(feed.read(1, 3, undefined)).toEqual({
    items: [0, 1, 2].map(i => ({ id: feed.oldest + i, n: feed.oldest + i })),
    next: feed.oldest + 3,
  })
  expect(feed.read(2_000, 3, undefined).items).toEqual([])
})

test('the trap log stays within its segments and keeps groups whole', () => {
  const buffer = createRing(1 << 20)
  const writer = new RingWriter(buffer)
  const reader = new RingReader(buffer)
  const log = new TrapLog()
  const rows = new Traps(
    log,
    new KernelFunctions(),
    () => [],
    () => undefined,
  )
  const trap = {
    seq: 0,
    smmu: 0,
    cpu: 0,
    write: true,
    offset: ARM_SMMU_GBPA,
    size: 4,
    lo: 0,
    hi: 0,
    time: 1,
    pcLo: 0,
    pcHi: 0,
    aborted: false,
  }
  const bytes = new Uint8Array(400)
  for (let seq = 1; seq <= 150_000; seq++) {
    writer.memoryAccess(false, 0x4000_0000 + seq * 4096, bytes, 0, bytes.length, true)
    writer.trap({ ...trap, seq, lo: seq }, seq, 10, 0, 0)
    if (seq % 500 === 0) reader.drain((layout, at) => log.fromRing(reader, layout, at))
  }
  expect(log.next).toBe(150_001)
  expect(log.oldest).toBeGreaterThan(1)
  expect(log.group(log.oldest - 1)).toBeUndefined()
  for (const id of [log.oldest, log.oldest + 1, 100_000, log.next - 1]) {
    const group = log.group(id)
    expect(group?.root).toMatchObject({ kind: 'trap', seq: id, lo: id })
    expect(group?.children).toMatchObject([{ kind: 'memory', address: 0x4000_0000 + id * 4096 }])
  }
  expect(rows.last(2, {}).items.map(({ seq }) => seq)).toEqual([149_999, 150_000])
})
