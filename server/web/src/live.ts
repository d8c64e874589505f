// SPDX-License-Identifier: Apache-2.0
/** The one WebSocket: subscriptions that survive a lost connection and a restarted server. */
import { signal } from '@preact/signals'
import { STREAM_PATH } from '../../api/schemas/request.ts'
import type { ServerMessage, StreamItems, StreamName, Subscribe } from '../../api/schemas/subscriptions.ts'
import { currentToken, locked } from './api.ts'

export type Connection = 'connecting' | 'open' | 'lost'
export const connection = signal<Connection>('connecting')

export interface Subscribed<T> {
  /** Items, oldest first. @param dropped number of items missed before them */
  items(items: readonly T[], dropped: number): void
  /** The server was restarted: earlier items are invalid. */
  restarted?(): void
}

interface Subscription {
  readonly stream: StreamName
  readonly options: Pick<Subscribe, 'last' | 'lag' | 'filter'>
  readonly handler: Subscribed<never>
  /** Last item that arrived. */
  after: number | undefined
}

const subscriptions = new Map<string, Subscription>()
let socket: WebSocket | undefined
let session: string | undefined
let ready = false
let nextId = 1
let delay = 250

function send(message: object): void {
  if (socket?.readyState === WebSocket.OPEN && ready) socket.send(JSON.stringify(message))
}

function announce(id: string, { stream, options, after }: Subscription): void {
  send({ type: 'subscribe', id, stream, ...options, ...(after !== undefined && { after }) })
}

/** @returns a function that ends the subscription */
export function subscribe<K extends StreamName>(
  stream: K,
  handler: Subscribed<StreamItems[K]>,
  options: Pick<Subscribe, 'last' | 'lag' | 'filter' | 'after'> = {},
): () => void {
  const id = `${stream}-${nextId++}`
  const { after, ...rest } = options
  const subscription: Subscription = { stream, options: rest, handler: handler as Subscribed<never>, after }
  subscriptions.set(id, subscription)
  announce(id, subscription)
  return () => {
    subscriptions.delete(id)
    send({ type: 'unsubscribe', id })
  }
}

function receive(message: ServerMessage): void {
  if (message.type === 'hello') {
    const restarted = session !== undefined && session !== message.session
    session = message.session
    ready = true
    delay = 250
    connection.value = 'open'
    for (const [id, subscription] of subscriptions) {
      if (restarted) {
        subscription.after = undefined
        subscription.handler.restarted?.()
      }
      announce(id, subscription)
    }
  } else if (message.type === 'items') {
    const subscription = subscriptions.get(message.id)
    if (subscription === undefined) return
    subscription.after = message.next - 1
    // The items are of the stream that was subscribed to under this id.
    subscription.handler.items(message.items as readonly never[], message.dropped ?? 0)
  }
}

export function connect(): void {
  if (locked.value) return
  const scheme = location.protocol === 'https:' ? 'wss' : 'ws'
  const mine = new WebSocket(`${scheme}://${location.host}${STREAM_PATH}`)
  socket = mine
  ready = false
  mine.onopen = () => {
    const token = currentToken()
    if (token !== null) mine.send(JSON.stringify({ type: 'auth', token }))
  }
  mine.onmessage = ({ data }) => receive(JSON.parse(String(data)) as ServerMessage)
  mine.onclose = ({ code }) => {
    if (socket !== mine) return
    ready = false
    connection.value = 'lost'
    if (code === 4401) locked.value = true
    else setTimeout(connect, delay)
    delay = Math.min(delay * 2, 4_000)
  }
}
