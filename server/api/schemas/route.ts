// SPDX-License-Identifier: Apache-2.0
/**
 * What describes a route. Handlers, the OpenAPI document, `ctl` and the dashboard take paths and types from these
 * descriptions: a handler whose answer does not fit, or a client that asks for what is not there, does not compile.
 */
import type { Readable } from 'node:stream'
import type { Static, TObject, TSchema } from 'typebox'
import type { View } from './fields.ts'

export const TAGS = {
  machine: 'life cycle, console, counters',
  trace: 'traps, events, warnings',
  smmu: 'registers, queues, streams, tables, walks',
  memory: 'who owns a page, who reaches it',
  breakpoints: 'hold a trap, inspect it, change its outcome, release it',
  faults: 'fault injection',
  recordings: 'what was recorded before: replay, compare; campaigns',
  attack: 'a hostile host against a policy, in process',
  server: undefined,
} as const

/** Its key is `METHOD /path`, with `:name` for parameters. */
export interface Route {
  /** The operationId: what generated clients call it. Never changed. */
  readonly id: string
  readonly tag: keyof typeof TAGS
  readonly summary: string
  readonly description?: string
  readonly params?: TObject
  readonly query?: TObject
  readonly body?: TSchema
  /** Absent: 204, an answer without content. */
  readonly answer?: TSchema
  /** 201: a resource was created. Default: 200. */
  readonly status?: 201
  /** The answer is a file for download. */
  readonly file?: { readonly type: string; readonly name: string; readonly description: string }
  /** Statuses of the problems that it may answer, besides those that every route may. */
  readonly problems?: readonly number[]
}

export type Routes = Readonly<Record<string, Route>>

type In<S> = S extends TSchema ? Static<S> : undefined

/** What a handler is given. */
export interface RequestOf<R extends Route> {
  readonly params: In<R['params']>
  readonly query: In<R['query']>
  readonly body: In<R['body']>
}

/** What a client gets. */
export type AnswerOf<R extends Route> = R extends { readonly answer: infer S extends TSchema } ? View<S> : undefined

type Handler<R extends Route> = R extends { readonly file: object }
  ? (request: RequestOf<R>) => Promise<Readable>
  : R extends { readonly answer: infer S extends TSchema }
    ? (request: RequestOf<R>) => View<S> | Promise<View<S>>
    : (request: RequestOf<R>) => void | Promise<void>

export type Handlers<R extends Routes> = { readonly [K in keyof R]: Handler<R[K]> }
