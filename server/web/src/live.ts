// SPDX-License-Identifier: Apache-2.0
/** The one WebSocket: subscriptions that survive a lost connection and a restarted server. */
import { effect, signal, untracked } from '@preact/signals'
import { STREAM_PATH } from '../../api/schemas/request.ts'
import type { ServerMessage, StreamItems, StreamName, Subscribe } from '../../api/schemas/subscriptions.ts'
import { currentToken, locked } from './api.ts'
import { moment, recording } from './recorded/open.ts'

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
  if (recording.peek() === undefined) announce(id, subscription)
  else serve(id, subscription)
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
    for (const [id, subscription] of recording.peek() === undefined ? subscriptions : []) {
      if (restarted) {
        subscription.after = undefined
        subscription.handler.restarted?.()
      }
      announce(id, subscription)
    }
  } else if (message.type === 'items') {
    const subscription = subscriptions.get(message.id)
    if (subscription === undefined || recording.peek() !== undefined) return
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

/** Traps of a recording that a list has at most, and those of one step. */
const LISTED = 50_000
const STEP = 1_000
const ALL = 1_000_000

/** Gives a subscription what the recording has for it at the moment that is shown. */
function serve(id: string, subscription: Subscription): void {
  const from = recording.peek()
  if (from === undefined) return
  const { stream, options, handler, after } = subscription
  if (stream !== 'traps') {
    handler.restarted?.()
    const { items } = from.views.stream(stream, 1, ALL)
    handler.items(items as readonly never[], 0)
    return
  }
  const filtered = options.filter !== undefined && JSON.stringify(options.filter) !== '{}'
  // Of a very long recording a list has what lies around the moment.
  const window = filtered || from.rows <= LISTED ? 1 : Math.max(1, moment.peek() - LISTED / 2)
  const step = (next: number, left: number): void => {
    if (subscriptions.get(id) !== subscription || recording.peek() !== from) return
    const read = from.views.stream('traps', next, STEP, options.filter)
    subscription.after = read.next - 1
    handler.items(read.items as readonly never[], 0)
    if (read.next <= from.rows && left > 0) setTimeout(step, 0, read.next, left - read.items.length)
  }
  step(after === undefined ? window : after + 1, LISTED)
}

/** Follows what is shown: the machine, or a recording at one of its moments. */
export function followShown(): void {
  let before = recording.peek()
  effect(() => {
    const now = recording.value
    const moved = moment.value
    if (now === undefined && before === undefined) return
    const other = now !== before
    before = now
    // What the handlers look at is not what this follows.
    untracked(() => {
      for (const [id, subscription] of subscriptions) {
        if (other) {
          subscription.after = undefined
          subscription.handler.restarted?.()
          if (now === undefined) announce(id, subscription)
          else send({ type: 'unsubscribe', id })
        }
        if (now !== undefined && moved >= 0 && (other || subscription.stream !== 'traps')) serve(id, subscription)
      }
    })
  })
}
