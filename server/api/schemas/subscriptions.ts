// SPDX-License-Identifier: Apache-2.0
/** Messages of the WebSocket: a client subscribes to streams, the server sends their items. */
import { type TSchema, Type } from 'typebox'
import { AttackRunItemSchema } from './attack.ts'
import { FiringItemSchema } from './faults.ts'
import { named, Ref, type View } from './fields.ts'
import { CountersSchema, StatusSchema } from './lifecycle.ts'
import { AttackItemSchema, PageItemSchema } from './pages.ts'
import { EventSchema, FilterSchema, RowSchema, WarningSchema } from './trace.ts'

const ConsoleItemSchema = Type.Object({ id: Type.Integer(), text: Type.String() })
export type ConsoleItem = View<typeof ConsoleItemSchema>

const CounterItemSchema = Type.Object({
  id: Type.Integer(),
  at: Type.Number({ description: 'ms since 1970' }),
  counters: Ref(CountersSchema),
})
export type CounterItem = View<typeof CounterItemSchema>

const StatusItemSchema = Type.Object({ id: Type.Integer(), status: Ref(StatusSchema) })
export type StatusItem = View<typeof StatusItemSchema>

/** What the streams carry. */
const ITEMS = {
  traps: Ref(RowSchema),
  events: Ref(EventSchema),
  warnings: Ref(WarningSchema),
  firings: named('FiringItem', FiringItemSchema),
  console: named('ConsoleItem', ConsoleItemSchema),
  counters: named('CounterItem', CounterItemSchema),
  machine: named('StatusItem', StatusItemSchema),
  pages: named('PageItem', PageItemSchema),
  attacks: named('AttackItem', AttackItemSchema),
  attack: named('AttackRunItem', AttackRunItemSchema),
} as const satisfies Readonly<Record<string, TSchema>>

export type StreamItems = { readonly [K in keyof typeof ITEMS]: View<(typeof ITEMS)[K]> }
export type StreamName = keyof StreamItems

export const STREAMS = Object.keys(ITEMS) as StreamName[]

export const SubscribeSchema = Type.Object(
  {
    type: Type.Literal('subscribe'),
    id: Type.String({ minLength: 1, maxLength: 64, description: "the client's name for the subscription" }),
    stream: Type.Enum([...STREAMS]),
    /** The last item that the client has; absent: only what comes from now on. */
    after: Type.Optional(Type.Integer({ minimum: 0 })),
    /** Begin so many items back. */
    last: Type.Optional(Type.Integer({ minimum: 0, maximum: 100_000 })),
    /**
     * Skip to the newest items rather than lag behind by more than this; what `last` asked for is not skipped. Traps are sent five
     * times a second, so this is also how many of them there may be each time: the newest are a sample of what is too much to read.
     */
    lag: Type.Optional(Type.Integer({ minimum: 100, maximum: 100_000 })),
    filter: Type.Optional(FilterSchema),
  },
  { additionalProperties: false },
)
export type Subscribe = View<typeof SubscribeSchema>

/** By their `type`. */
export const CLIENT_MESSAGES = {
  auth: Type.Object(
    { type: Type.Literal('auth'), token: Type.String({ maxLength: 512 }) },
    { additionalProperties: false },
  ),
  subscribe: SubscribeSchema,
  unsubscribe: Type.Object(
    { type: Type.Literal('unsubscribe'), id: Type.String({ maxLength: 64 }) },
    { additionalProperties: false },
  ),
} as const

export const ClientMessageSchema = Type.Union([
  CLIENT_MESSAGES.auth,
  CLIENT_MESSAGES.subscribe,
  CLIENT_MESSAGES.unsubscribe,
])
export type ClientMessage = View<typeof ClientMessageSchema>

const next = Type.Integer({ description: 'id of the item that comes next' })
const stream = Type.Enum([...STREAMS])
const id = Type.String({ description: "the client's name for the subscription" })

/** By their `type`. */
export const SERVER_MESSAGES = {
  hello: Type.Object({
    type: Type.Literal('hello'),
    session: Type.String({ description: 'changes when the server restarts: ids of items start again' }),
    streams: Type.Record(Type.String(), Type.Object({ oldest: Type.Integer(), next: Type.Integer() })),
  }),
  subscribed: Type.Object({ type: Type.Literal('subscribed'), id, stream, next }),
  items: Type.Object({
    type: Type.Literal('items'),
    id,
    items: Type.Array(Type.Unsafe<StreamItems[StreamName]>(Type.Union(Object.values<TSchema>(ITEMS))), {
      description: 'oldest first',
    }),
    next,
    dropped: Type.Optional(Type.Integer({ description: 'so many were missed before these' })),
  }),
  error: Type.Object({ type: Type.Literal('error'), id: Type.Optional(id), error: Type.String() }),
} as const

type Message<K extends keyof typeof SERVER_MESSAGES> = View<(typeof SERVER_MESSAGES)[K]>

/** What the server sends. */
export type ServerMessage = { [K in keyof typeof SERVER_MESSAGES]: Message<K> }[keyof typeof SERVER_MESSAGES]
