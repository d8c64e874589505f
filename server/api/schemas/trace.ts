// SPDX-License-Identifier: Apache-2.0
/** What the trace tells: rows of the trap log, events, warnings. */
import { type Static, Type } from 'typebox'
import { HexText, named, Ref, type View } from './fields.ts'
import type { Routes } from './route.ts'
import { SteSchema } from './smmus.ts'

export const ROW_KINDS = ['trap', 'reset', 'translate', 'request'] as const

export const RowSchema = named(
  'TrapRow',
  Type.Object({
    id: Type.Integer({ description: 'of the row, since the server started' }),
    kind: Type.Enum([...ROW_KINDS]),
    seq: Type.Optional(Type.Integer({ description: 'number of the trap in its machine' })),
    time: Type.Optional(Type.Number({ description: "guest's virtual clock, ns" })),
    us: Type.Number({ description: "the server's time, µs" }),
    smmu: Type.Optional(Type.Integer()),
    cpu: Type.Optional(Type.Integer({ description: '65535: no vCPU' })),
    write: Type.Optional(Type.Boolean()),
    offset: Type.Optional(Type.Integer()),
    register: Type.Optional(Type.String()),
    size: Type.Optional(Type.Integer({ description: 'bytes' })),
    value: Type.Optional(HexText('written, or answered')),
    text: Type.String({ description: 'decoded' }),
    aborted: Type.Optional(Type.Boolean()),
    pc: Type.Optional(HexText('of the guest')),
    where: Type.Optional(Type.String({ description: 'kernel function, once it is known' })),
    nested: Type.Integer({ description: 'records in the group' }),
    warnings: Type.Array(Type.String(), { description: 'codes' }),
    commands: Type.Array(
      Type.Object({
        command: Type.String(),
        verdict: Type.String(),
        count: Type.Integer(),
        arguments: Type.Optional(Type.String({ description: 'of the first of them' })),
      }),
    ),
    at: Type.Optional(Type.Number({ description: "the server's clock, ms since 1970; absent: as `time`" })),
  }),
)
export type TrapRow = View<typeof RowSchema>

const Time = Type.Number({ minimum: 0, description: "guest's virtual clock, ns" })

export const FilterSchema = Type.Object(
  {
    kinds: Type.Optional(Type.Array(Type.Enum([...ROW_KINDS]), { maxItems: 4 })),
    registers: Type.Optional(
      Type.Array(Type.String({ maxLength: 40 }), { maxItems: 64, description: 'names or 0x offsets' }),
    ),
    access: Type.Optional(Type.Enum(['read', 'write'])),
    commands: Type.Optional(Type.Array(Type.String({ maxLength: 40 }), { maxItems: 64, description: 'names' })),
    smmu: Type.Optional(Type.Integer({ minimum: 0, maximum: 255 })),
    cpu: Type.Optional(Type.Integer({ minimum: 0, maximum: 65535 })),
    warnings: Type.Optional(Type.Boolean({ description: 'only with hyp warnings' })),
    minUs: Type.Optional(Type.Number({ minimum: 0 })),
    from: Type.Optional(Time),
    to: Type.Optional(Time),
    text: Type.Optional(
      Type.String({
        maxLength: 100,
        description: 'in register, value, text, function or commands and their arguments',
      }),
    ),
  },
  { additionalProperties: false },
)
export type TrapFilter = View<typeof FilterSchema>

const BitsSchema = Type.Object({
  name: Type.String(),
  hi: Type.Integer({ description: 'bits of the structure' }),
  lo: Type.Integer(),
  value: Type.String(),
})
/** A field at its place in a structure. */
export type BitsView = View<typeof BitsSchema>

const ChildSchema = Type.Object({
  kind: Type.String(),
  text: Type.String({ description: 'one line' }),
  us: Type.Optional(Type.Number()),
  verdict: Type.Optional(Type.String({ description: 'of a command' })),
  host: Type.Optional(Ref(SteSchema)),
  shadow: Type.Optional(Ref(SteSchema)),
  bytes: Type.Optional(Type.String({ description: 'hexadecimal' })),
  bits: Type.Optional(Type.Array(BitsSchema, { description: 'fields in `bytes`' })),
})
/** A record of a trap's group. */
export type ChildView = View<typeof ChildSchema>

const DetailSchema = Type.Object({
  row: Ref(RowSchema),
  bytes: Type.Optional(Type.String({ description: 'of the value, as it lies in memory; hexadecimal' })),
  bits: Type.Optional(Type.Array(BitsSchema, { description: 'fields in `bytes`' })),
  children: Type.Array(ChildSchema),
  streams: Type.Array(Type.Integer()),
  previous: Type.Optional(Ref(RowSchema)),
  following: Type.Optional(Ref(RowSchema)),
})
/** One trap with all that was done for it, and the accesses of the same register next to it. */
export type TrapDetail = View<typeof DetailSchema>

const Told = Type.Number({
  description: "guest's virtual clock, ns; where the event has no time of its own, that of the trap before",
})

export const EventSchema = named(
  'EventItem',
  Type.Object({
    id: Type.Integer(),
    at: Type.String(),
    kind: Type.String(),
    name: Type.String(),
    text: Type.String(),
    time: Type.Optional(Told),
    smmu: Type.Optional(Type.Integer()),
    sid: Type.Optional(Type.Integer()),
  }),
)
export type EventItem = View<typeof EventSchema>

export const WarningSchema = named(
  'WarningItem',
  Type.Object({
    id: Type.Integer(),
    at: Type.String(),
    time: Type.Optional(Told),
    code: Type.String(),
    section: Type.String({ description: 'where its rule stands: file of the repository, and anchor of the heading' }),
    meaning: Type.String(),
    expected: Type.Boolean(),
    values: Type.String(),
    row: Type.Integer({ description: 'id of the trap row' }),
  }),
)
export type WarningItem = View<typeof WarningSchema>

const Limit = Type.Integer({ minimum: 1, maximum: 2_000, default: 200 })

/** Lists in a query are text, with commas. */
const TrapsQuery = Type.Object(
  {
    after: Type.Optional(Type.Integer({ minimum: 0, description: 'rows with larger ids; absent: the newest' })),
    before: Type.Optional(Type.Integer({ minimum: 1, description: 'rows with smaller ids' })),
    limit: Type.Optional(Limit),
    registers: Type.Optional(Type.String({ maxLength: 400, description: 'names or 0x offsets, with commas' })),
    commands: Type.Optional(Type.String({ maxLength: 400, description: 'names, with commas' })),
    kinds: Type.Optional(
      Type.String({ pattern: '^(trap|reset|translate|request)(,(trap|reset|translate|request)){0,3}$' }),
    ),
    access: FilterSchema.properties.access,
    smmu: FilterSchema.properties.smmu,
    cpu: FilterSchema.properties.cpu,
    warnings: FilterSchema.properties.warnings,
    minUs: FilterSchema.properties.minUs,
    from: FilterSchema.properties.from,
    to: FilterSchema.properties.to,
    text: FilterSchema.properties.text,
  },
  { additionalProperties: false },
)
export type TrapsQuery = Static<typeof TrapsQuery>

const TimelineQuery = Type.Object(
  {
    from: FilterSchema.properties.from,
    to: FilterSchema.properties.to,
    bins: Type.Optional(Type.Integer({ minimum: 1, maximum: 2_000, default: 200 })),
  },
  { additionalProperties: false },
)

export type TimelineQuery = Static<typeof TimelineQuery>

/** What may be marked on the time line. */
export const MARKS = ['event', 'warning', 'fault', 'reset'] as const

const TimelineSchema = Type.Object({
  from: Time,
  to: Time,
  first: Type.Number({ description: 'time of the oldest trap of this machine that is still in the log' }),
  last: Type.Number({ description: 'time of the newest' }),
  traps: Type.Array(Type.Integer(), { description: 'in each bin' }),
  rows: Type.Array(Type.Integer(), { description: 'id of the first row in each bin; 0: none' }),
  marks: Type.Array(
    Type.Object({
      time: Type.Number(),
      kind: Type.Enum([...MARKS]),
      text: Type.String(),
      row: Type.Optional(Type.Integer()),
    }),
    { description: 'the newest, at most 500' },
  ),
})
/** Traps over guest time. */
export type Timeline = View<typeof TimelineSchema>

const Page = Type.Object(
  {
    after: Type.Optional(Type.Integer({ minimum: 0 })),
    limit: Type.Optional(Limit),
  },
  { additionalProperties: false },
)

export const trace = {
  'GET /traps': {
    id: 'listTraps',
    tag: 'trace',
    summary: 'Traps, oldest first',
    description:
      'What is no longer in memory is read from the recording, as long as that has it. One request looks at 20,000 rows at most of each: `from`, or `next`, is where to go on.',
    query: TrapsQuery,
    answer: Type.Object({
      oldest: Type.Integer({ description: 'row in memory' }),
      from: Type.Integer({
        description: 'oldest row that was looked at: without `after`, what to go on with as `before`',
      }),
      next: Type.Integer({ description: 'first row that was not looked at, or that is to come' }),
      missing: Type.Integer({ description: 'rows in between that are neither in memory nor in a recording' }),
      items: Type.Array(Ref(RowSchema)),
    }),
    problems: [409],
  },
  'GET /traps/timeline': {
    id: 'getTimeline',
    tag: 'trace',
    summary: 'How many traps there were over time, and what else happened',
    description: 'Of this machine, or of the last one; as far as its traps are still in the log.',
    query: TimelineQuery,
    answer: TimelineSchema,
  },
  'GET /traps/:id': {
    id: 'getTrap',
    tag: 'trace',
    summary: 'One trap, with all that was done for it',
    params: Type.Object({ id: Type.Integer({ minimum: 1 }) }),
    answer: DetailSchema,
    problems: [404, 409],
  },
  'GET /traps/numbered/:seq': {
    id: 'getNumberedTrap',
    tag: 'trace',
    summary: 'The row of the trap that has this number in its machine',
    params: Type.Object({ seq: Type.Integer({ minimum: 1 }) }),
    answer: Ref(RowSchema),
    problems: [404, 409],
  },
  'GET /events': {
    id: 'listEvents',
    tag: 'trace',
    summary: 'Event records of the hardware, guard faults, losses',
    query: Page,
    answer: Type.Object({ next: Type.Integer(), items: Type.Array(Ref(EventSchema)) }),
  },
  'GET /warnings': {
    id: 'listWarnings',
    tag: 'trace',
    summary: 'Hyp warnings',
    query: Page,
    answer: Type.Object({ next: Type.Integer(), items: Type.Array(Ref(WarningSchema)) }),
  },
  'GET /trace': {
    id: 'downloadTrace',
    tag: 'trace',
    summary: 'Download the recording of this run',
    description:
      'One trace file of all that was recorded so far, for `smmu-cosim trace`. Where a long recording was rotated, it says how much is missing.',
    file: { type: 'application/octet-stream', name: 'trace.smtr', description: 'the trace file' },
    problems: [404],
  },
} as const satisfies Routes
