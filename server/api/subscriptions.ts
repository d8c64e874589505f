// SPDX-License-Identifier: Apache-2.0
/**
 * Subscriptions over WebSocket. A client subscribes with a filter and the id of the last item it has; the server sends what came
 * since, as fast as the client reads. Nothing is queued per client: each has a position in the shared histories. A client that
 * is too slow misses items, and is told how many.
 */
import { randomUUID } from 'node:crypto'
import type { IncomingMessage, Server } from 'node:http'
import type { Socket } from 'node:net'
import { Compile } from 'typebox/compile'
import { type RawData, WebSocket, WebSocketServer } from 'ws'
import type { Source } from './feed.ts'
import type { Gate } from './gate.ts'
import { STREAM_PATH } from './schemas/request.ts'
import {
  ClientMessageSchema,
  type ServerMessage,
  STREAMS,
  type StreamItems,
  type StreamName,
  type Subscribe,
} from './schemas/subscriptions.ts'
import { type Access, bearer, refusal } from './security.ts'

const TICK_MS = 50
const PING_MS = 15_000
const AUTH_MS = 5_000
/** Authenticated clients; the gate limits the others. */
const MAX_CLIENTS = 64
const MAX_SUBSCRIPTIONS = 16
const MAX_MESSAGE = 16_384
/** Limit of bytes buffered in a socket; above it nothing more is sent until the client catches up. */
const MAX_BUFFERED = 1 << 18
/** Items that one message carries. */
const MAX_ITEMS = 500
/** Requests of one client in a second. */
const MAX_REQUESTS = 50

const Request = Compile(ClientMessageSchema)

interface Subscription {
  readonly id: string
  readonly source: Source<StreamItems[StreamName]>
  readonly filter: unknown
  readonly lag: number
  /** What came before this item was asked for: it is sent whole. */
  readonly live: number
  next: number
}

interface Client {
  readonly socket: WebSocket
  /** The TCP connection. */
  readonly connection: Socket
  readonly subscriptions: Map<string, Subscription>
  authorized: boolean
  alive: boolean
  /** Requests left in this second. */
  budget: number
}

/** What each stream is read from. */
export type Sources = { readonly [K in StreamName]: Source<StreamItems[K]> }

/** What the subscriptions did, for metrics. */
export interface SubscriptionStats {
  clients: number
  sent: number
  dropped: number
  refused: number
}

export class Subscriptions {
  /** Changes when the server restarts: ids of items start again. */
  readonly session = randomUUID()
  readonly stats: SubscriptionStats = { clients: 0, sent: 0, dropped: 0, refused: 0 }
  readonly #sources: Sources
  readonly #access: Access
  readonly #gate: Gate
  /** Clients that have not authenticated yet. */
  readonly #waiting = new Set<Client>()
  readonly #server = new WebSocketServer({ noServer: true, maxPayload: MAX_MESSAGE, perMessageDeflate: false })
  readonly #clients = new Set<Client>()
  readonly #timers: NodeJS.Timeout[]
  #ticks = 0

  constructor(sources: Sources, access: Access, gate: Gate) {
    this.#sources = sources
    this.#access = access
    this.#gate = gate
    const every = (ms: number, work: () => void) => setInterval(work, ms).unref()
    this.#timers = [
      every(TICK_MS, () => this.#tick()),
      every(PING_MS, () => this.#ping()),
      every(1_000, () => {
        for (const client of this.#all()) client.budget = MAX_REQUESTS
      }),
    ]
  }

  /** Whether a client is subscribed to this stream. */
  watched(name: StreamName): boolean {
    const source = this.#sources[name]
    for (const { subscriptions } of this.#clients) {
      for (const subscription of subscriptions.values()) if (subscription.source === source) return true
    }
    return false
  }

  attach(server: Server): void {
    server.on('upgrade', (request, socket, head) => this.#upgrade(request, socket as Socket, head))
  }

  close(): void {
    for (const timer of this.#timers) clearInterval(timer)
    for (const { socket } of this.#all()) socket.close(1001, 'the server ends')
    setTimeout(() => {
      for (const { socket } of this.#all()) socket.terminate()
    }, 500).unref()
    this.#server.close()
  }

  *#all(): Generator<Client> {
    yield* this.#clients
    yield* this.#waiting
  }

  #upgrade(request: IncomingMessage, socket: Socket, head: Buffer): void {
    const refuse = (status: string) => {
      this.stats.refused++
      socket.end(`HTTP/1.1 ${status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`)
    }
    socket.on('error', () => {})
    if (this.#gate.admit(socket) > 0) return refuse('429 Too Many Requests')
    if (request.url?.split('?')[0] !== STREAM_PATH) return refuse('404 Not Found')
    if (refusal(request.headers, this.#access) !== undefined) return refuse('403 Forbidden')
    const given = bearer(request.headers)
    // A browser cannot set the header: it sends the token in its first message.
    const verdict = given === undefined && this.#access.token !== undefined ? 'waits' : this.#gate.check(socket, given)
    if (verdict === 'late') return refuse('429 Too Many Requests')
    if (verdict === 'wrong') return refuse('401 Unauthorized')
    if (this.#clients.size >= MAX_CLIENTS) return refuse('503 Service Unavailable')
    this.#server.handleUpgrade(request, socket, head, client => this.#accept(client, socket, verdict === 'right'))
  }

  #accept(socket: WebSocket, connection: Socket, authorized: boolean): void {
    const client: Client = {
      socket,
      connection,
      subscriptions: new Map(),
      authorized,
      alive: true,
      budget: MAX_REQUESTS,
    }
    socket.on('error', () => {})
    socket.on('pong', () => {
      client.alive = true
    })
    socket.on('close', () => {
      this.#waiting.delete(client)
      this.#clients.delete(client)
      this.stats.clients = this.#clients.size
    })
    socket.on('message', (data, binary) => this.#message(client, data, binary))
    if (authorized) this.#greet(client)
    else {
      this.#waiting.add(client)
      setTimeout(() => {
        if (!client.authorized) socket.close(4401, 'no token')
      }, AUTH_MS).unref()
    }
  }

  #greet(client: Client): void {
    client.authorized = true
    this.#waiting.delete(client)
    this.#clients.add(client)
    this.stats.clients = this.#clients.size
    const streams = Object.fromEntries(
      STREAMS.map(name => [name, { oldest: this.#sources[name].oldest, next: this.#sources[name].next }]),
    )
    send(client, { type: 'hello', session: this.session, streams })
  }

  #message(client: Client, data: RawData, binary: boolean): void {
    if (--client.budget < 0) return client.socket.close(4429, 'too many requests')
    let request: unknown
    try {
      request = binary ? undefined : JSON.parse(String(data))
    } catch {}
    if (!Request.Check(request)) {
      return send(client, { type: 'error', error: 'not a request: auth, subscribe or unsubscribe were expected' })
    }
    if (request.type === 'auth') {
      if (client.authorized) return
      const verdict = this.#gate.check(client.connection, request.token)
      if (verdict === 'late') return client.socket.close(4429, 'too many wrong tokens')
      if (verdict === 'wrong') return client.socket.close(4401, 'wrong token')
      if (this.#clients.size >= MAX_CLIENTS) return client.socket.close(4503, 'too many clients')
      return this.#greet(client)
    }
    if (!client.authorized) return client.socket.close(4401, 'no token')
    if (request.type === 'unsubscribe') return void client.subscriptions.delete(request.id)
    this.#subscribe(client, request)
  }

  #subscribe(client: Client, request: Subscribe): void {
    const { id, stream, after, last, lag = Number.POSITIVE_INFINITY, filter } = request
    if (client.subscriptions.size >= MAX_SUBSCRIPTIONS && !client.subscriptions.has(id)) {
      return send(client, { type: 'error', id, error: `there are ${MAX_SUBSCRIPTIONS} subscriptions already` })
    }
    if (filter !== undefined && stream !== 'traps') {
      return send(client, { type: 'error', id, error: 'only traps can be filtered' })
    }
    const source = this.#sources[stream]
    source.subscribed?.()
    const next = after !== undefined ? Math.min(after + 1, source.next) : Math.max(source.next - (last ?? 0), 1)
    const subscription = {
      ...{ id, source, filter, lag },
      live: after === undefined ? source.next : 0,
      next: after === undefined ? Math.max(next, source.oldest) : next,
    }
    client.subscriptions.set(id, subscription)
    send(client, { type: 'subscribed', id, stream, next: subscription.next })
    this.#serve(client, subscription)
  }

  #tick(): void {
    this.#ticks++
    for (const client of this.#clients) {
      for (const subscription of client.subscriptions.values()) {
        const { pace = 1 } = subscription.source
        if (this.#ticks % pace !== 0) continue
        for (let message = 0; message < pace && this.#serve(client, subscription); message++);
      }
    }
  }

  /** Sends what is new, if the client can take it. @returns whether there may be more. */
  #serve(client: Client, subscription: Subscription): boolean {
    const { source, filter, id } = subscription
    if (subscription.next >= source.next || client.socket.bufferedAmount > MAX_BUFFERED) return false
    const { live, lag } = subscription
    const start = Math.max(source.oldest, subscription.next < live ? 0 : source.next - lag)
    const dropped = Math.max(0, start - subscription.next)
    if (dropped > 0) subscription.next = start
    this.stats.dropped += dropped
    const { items, next } = source.read(subscription.next, MAX_ITEMS, filter)
    subscription.next = next
    if (items.length === 0 && dropped === 0) return true
    this.stats.sent += items.length
    send(client, { type: 'items', id, items, next, ...(dropped > 0 && { dropped }) })
    return true
  }

  #ping(): void {
    for (const client of this.#all()) {
      if (!client.alive) {
        client.socket.terminate()
        continue
      }
      client.alive = false
      client.socket.ping()
    }
  }
}

function send(client: Client, message: ServerMessage): void {
  if (client.socket.readyState === WebSocket.OPEN) client.socket.send(JSON.stringify(message))
}
