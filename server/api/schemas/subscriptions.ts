// SPDX-License-Identifier: Apache-2.0
/** Messages of the WebSocket: a client subscribes to streams, the server sends their items. */
import { Type } from 'typebox'
import type { AttackRunItem } from './attack.ts'
import type { FiringItem } from './faults.ts'
import type { View } from './fields.ts'
import type { CountersView, MachineStatus } from './lifecycle.ts'
import type { AttackItem, PageItem } from './pages.ts'
import { type EventItem, FilterSchema, type TrapRow, type WarningItem } from './trace.ts'

export interface ConsoleItem {
  readonly id: number
  readonly text: string
}

export interface CounterItem {
  readonly id: number
  readonly at: number
  readonly counters: CountersView
}

export interface StatusItem {
  readonly id: number
  readonly status: MachineStatus
}

/** What the streams carry. */
export interface StreamItems {
  readonly traps: TrapRow
  readonly events: EventItem
  readonly warnings: WarningItem
  readonly firings: FiringItem
  readonly console: ConsoleItem
  readonly counters: CounterItem
  readonly machine: StatusItem
  readonly pages: PageItem
  readonly attacks: AttackItem
  readonly attack: AttackRunItem
}
export type StreamName = keyof StreamItems

export const STREAMS = [
  'traps',
  'events',
  'warnings',
  'firings',
  'console',
  'counters',
  'machine',
  'pages',
  'attacks',
  'attack',
] as const satisfies readonly StreamName[]

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

export const ClientMessageSchema = Type.Union([
  Type.Object({ type: Type.Literal('auth'), token: Type.String({ maxLength: 512 }) }, { additionalProperties: false }),
  SubscribeSchema,
  Type.Object(
    { type: Type.Literal('unsubscribe'), id: Type.String({ maxLength: 64 }) },
    { additionalProperties: false },
  ),
])
export type ClientMessage = View<typeof ClientMessageSchema>

/** What the server sends. `session` changes when it restarts: ids of items start again. */
export type ServerMessage =
  | {
      readonly type: 'hello'
      readonly session: string
      readonly streams: Readonly<Record<string, { readonly oldest: number; readonly next: number }>>
    }
  | { readonly type: 'subscribed'; readonly id: string; readonly stream: StreamName; readonly next: number }
  | {
      readonly type: 'items'
      readonly id: string
      /** Oldest first. */
      readonly items: readonly StreamItems[StreamName][]
      readonly next: number
      /** So many were missed before these. */
      readonly dropped?: number
    }
  | { readonly type: 'error'; readonly id?: string; readonly error: string }
