// SPDX-License-Identifier: Apache-2.0
/** All routes of the API, and how a client asks for one. */
import type { Static, TSchema } from 'typebox'
import { AttackBodySchema, AttackRunSchema, attack } from './attack.ts'
import { BreakpointBodySchema, BreakpointSchema, breakpoints } from './breakpoints.ts'
import {
  ArmBodySchema,
  EffectSchema,
  EntrySchema,
  FaultStatusSchema,
  FiringSchema,
  faults,
  SpanSchema,
} from './faults.ts'
import { CountersSchema, HeldSchema, lifecycle, StartSchema, StatusSchema } from './lifecycle.ts'
import { pages } from './pages.ts'
import { ProblemSchema } from './problem.ts'
import { recordings } from './recordings.ts'
import type { AnswerOf, Route } from './route.ts'
import { QueueSchema, SteSchema, smmus } from './smmus.ts'
import { EventSchema, RowSchema, trace, WarningSchema } from './trace.ts'

export const contract = {
  ...lifecycle,
  ...trace,
  ...smmus,
  ...pages,
  ...breakpoints,
  ...faults,
  ...attack,
  ...recordings,
}
export type Contract = typeof contract

/** The schemas that others refer to by name. */
export const NAMED = [
  ProblemSchema,
  StartSchema,
  HeldSchema,
  StatusSchema,
  CountersSchema,
  RowSchema,
  EventSchema,
  WarningSchema,
  QueueSchema,
  SteSchema,
  BreakpointBodySchema,
  BreakpointSchema,
  EntrySchema,
  FiringSchema,
  FaultStatusSchema,
  SpanSchema,
  EffectSchema,
  ArmBodySchema,
  AttackBodySchema,
  AttackRunSchema,
]

/** Routes that a client calls and gets an answer from, files aside. */
export type RouteName = {
  [K in keyof Contract]: Contract[K] extends { readonly file: object } ? never : K
}[keyof Contract]

export type Answer<K extends RouteName> = AnswerOf<Contract[K]>

type Listed<V> = V extends readonly (infer E)[] ? readonly E[] : V

/** Fields that are `undefined` are not sent; nobody changes a list. */
type Given<T> = { readonly [K in keyof T]: Listed<T[K]> | undefined }

type Part<R extends Route, N extends 'params' | 'query' | 'body'> = R[N] extends TSchema
  ? Record<never, never> extends Static<R[N]>
    ? { readonly [K in N]?: Given<Static<R[N]>> }
    : { readonly [K in N]: Given<Static<R[N]>> }
  : Record<never, never>

/** What a client sends for a route. */
export type Input<K extends RouteName> = Part<Contract[K], 'params'> &
  Part<Contract[K], 'query'> &
  Part<Contract[K], 'body'>

/** The body that a client sends. */
export type Body<K extends RouteName> = Input<K> extends { readonly body: infer B } ? B : never

/** The last argument of a call: absent when nothing has to be sent. */
export type InputArgs<K extends RouteName> =
  Record<never, never> extends Input<K> ? [input?: Input<K>] : [input: Input<K>]
