// SPDX-License-Identifier: Apache-2.0
/** Registers, queues, streams, tables and walks of one SMMU. */
import { Type } from 'typebox'
import { POWER_STATES } from '../../smmu/hardware.ts'
import { Device, HexText, Nullable, NumberText, named, Ref, Smmu, StreamId, SubstreamId, type View } from './fields.ts'
import type { Routes } from './route.ts'

const Words = Type.Array(Type.String())
const Fields = Type.Array(
  Type.Object({ name: Type.String(), value: Type.String(), meaning: Type.Optional(Type.String()) }),
)

const Side = Type.Object({
  value: Nullable(HexText('null when the access aborts')),
  text: Type.String({ description: 'decoded' }),
})

const RegisterSchema = Type.Object({
  offset: HexText('in the frame'),
  name: Type.String(),
  bits: Type.Integer(),
  meaning: Type.String(),
  host: Side,
  hardware: Side,
})
/** A register from both sides. */
export type RegisterRow = View<typeof RegisterSchema>

const QueueEntrySchema = Type.Object({
  index: Type.Integer(),
  name: Type.String(),
  text: Type.String(),
  words: Words,
  verdict: Type.Optional(Type.String({ description: 'kept, rewritten, dropped; own: of the hypervisor' })),
  shadow: Type.Optional(Type.Integer({ description: 'of the host: its index in the shadow queue' })),
})
export type QueueEntry = View<typeof QueueEntrySchema>

export const QueueSchema = named(
  'Queue',
  Type.Object({
    enabled: Type.Boolean(),
    base: HexText('address'),
    entries: Type.Integer(),
    prod: Type.Integer(),
    cons: Type.Integer(),
    prodWrap: Type.Integer(),
    consWrap: Type.Integer(),
    pending: Type.Integer(),
    error: Type.Integer({ description: 'CMDQ_CONS.ERR' }),
    shown: Type.Array(QueueEntrySchema, { description: 'entries up to PROD, oldest first' }),
  }),
)
export type Queue = View<typeof QueueSchema>

const QueuesSchema = Type.Object({
  host: Ref(QueueSchema),
  shadow: Nullable(Ref(QueueSchema)),
  events: Ref(QueueSchema),
})
/** Command queue of the host, its shadow, and the event queue. */
export type Queues = View<typeof QueuesSchema>

export const SteSchema = named(
  'StreamTableEntry',
  Type.Object({
    address: Type.Optional(HexText('of the entry')),
    valid: Type.Boolean(),
    config: Type.String({ description: 'Config in words; invalid when V is 0' }),
    text: Type.String(),
    words: Words,
    fields: Fields,
  }),
)
/** A stream table entry, field by field. */
export type SteView = View<typeof SteSchema>

const CdSchema = Type.Object({
  address: Type.String(),
  valid: Type.Boolean(),
  text: Type.String(),
  words: Words,
  fields: Fields,
})
/** A context descriptor, field by field. */
export type CdView = View<typeof CdSchema>

const StreamListSchema = Type.Object({
  shadowed: Type.Boolean(),
  table: Type.Optional(
    Type.Object({
      base: Type.String(),
      twoLevel: Type.Boolean(),
      log2size: Type.Integer(),
      split: Type.Integer(),
    }),
  ),
  shadowTable: Nullable(Type.Object({ base: Type.String(), twoLevel: Type.Boolean() })),
  streams: Type.Array(
    Type.Object({
      sid: Type.Integer(),
      device: Nullable(Device),
      host: Type.String({ description: 'Config of the host’s entry; unknown: not in the recording' }),
      shadow: Nullable(Type.String()),
    }),
  ),
})
/** Every stream that somebody has: a device, the host's table or the hardware's. */
export type StreamList = View<typeof StreamListSchema>

const Stage = Type.Union([Type.Literal(1), Type.Literal(2)])

const RootSchema = Type.Object({
  stage: Stage,
  name: Type.String(),
  address: Type.String(),
  level: Type.Integer(),
  granuleShift: Type.Integer(),
  inputBits: Type.Integer(),
  input: Type.String(),
})
/** Where the tables of a stream begin. */
export type TableRoot = View<typeof RootSchema>

const StreamSchema = Type.Object({
  sid: Type.Integer(),
  device: Nullable(Device),
  shadowed: Type.Boolean(),
  host: Nullable(Ref(SteSchema)),
  shadow: Nullable(Ref(SteSchema)),
  differs: Type.Array(Type.String(), { description: 'fields' }),
  legal: Nullable(Type.Boolean({ description: 'the hardware accepts the entry' })),
  cd: Nullable(CdSchema),
  roots: Type.Array(RootSchema),
})
/** One stream: both entries, the context descriptor, the roots of its tables. */
export type StreamDetail = View<typeof StreamSchema>

const TableSchema = Type.Object({
  readable: Type.Boolean({ description: 'false: the table is not in RAM' }),
  entries: Type.Array(
    Type.Object({
      index: Type.Integer(),
      input: Type.String(),
      value: Type.String(),
      type: Type.Enum(['table', 'block', 'page']),
      address: Type.String(),
      size: Type.Number(),
      permissions: Type.String(),
      accessed: Type.Boolean(),
    }),
  ),
})
/** One translation table, the entries that are not invalid. */
export type TableView = View<typeof TableSchema>
export type TableEntry = TableView['entries'][number]

const WalkSchema = Type.Object({
  outcome: Type.Enum(['translated', 'fault', 'abort', 'unknown'], {
    description: 'unknown: of a recording that does not show what the walk needs',
  }),
  text: Type.String(),
  pa: Nullable(Type.String()),
  size: Nullable(Type.Number({ description: 'bytes that are mapped linearly around it' })),
  permissions: Nullable(Type.String()),
  bypass: Type.Boolean(),
  recorded: Nullable(Type.Boolean({ description: 'the fault goes into the event queue' })),
  steps: Type.Array(
    Type.Object({
      what: Type.Enum(['L1STD', 'STE', 'L1CD', 'CD', 'S1', 'S2']),
      address: HexText('of the fetch'),
      ipa: Nullable(Type.String()),
      level: Nullable(Type.Integer()),
      purpose: Nullable(Type.String({ description: 'what stage 2 was walked for' })),
      words: Words,
      text: Type.String(),
    }),
  ),
})
/** A translation, step by step. */
export type WalkView = View<typeof WalkSchema>

const Now = Type.Enum([...POWER_STATES], {
  description: 'retained: off, and its registers are kept; off: everything is lost',
})
/** Whether an SMMU is on. */
export type Power = View<typeof Now>

const PowerSchema = Type.Object({
  ok: Type.Boolean(),
  result: Type.String({ description: 'OK, or an error number of Linux' }),
  now: Now,
})

const Params = Type.Object({ smmu: Smmu })

export const smmus = {
  'GET /smmus/:smmu/registers': {
    id: 'getRegisters',
    tag: 'smmu',
    summary: 'Registers, as the host sees them and as the hardware has them',
    params: Params,
    answer: Type.Array(RegisterSchema),
    problems: [404, 409],
  },
  'GET /smmus/:smmu/queues': {
    id: 'getQueues',
    tag: 'smmu',
    summary: 'Command queue of the host, its shadow, and the event queue',
    params: Params,
    answer: QueuesSchema,
    problems: [404, 409],
  },
  'GET /smmus/:smmu/streams': {
    id: 'listStreams',
    tag: 'smmu',
    summary: 'Streams: devices and entries of the stream tables',
    params: Params,
    answer: StreamListSchema,
    problems: [404, 409],
  },
  'GET /smmus/:smmu/streams/:sid': {
    id: 'getStream',
    tag: 'smmu',
    summary: 'One stream: both entries, context descriptor, roots of its tables',
    params: Type.Object({ smmu: Smmu, sid: StreamId }),
    query: Type.Object({ ssid: Type.Optional(SubstreamId) }, { additionalProperties: false }),
    answer: StreamSchema,
    problems: [404, 409],
  },
  'GET /smmus/:smmu/table': {
    id: 'getTable',
    tag: 'smmu',
    summary: 'One translation table, entries that are not invalid',
    params: Params,
    query: Type.Object(
      {
        stage: Stage,
        address: NumberText('of the table'),
        level: Type.Integer({ minimum: -1, maximum: 3 }),
        granuleShift: Type.Unsafe<number>(Type.Union([12, 14, 16].map(shift => Type.Literal(shift)))),
        inputBits: Type.Optional(Type.Integer({ minimum: 12, maximum: 52, description: 'of a start level' })),
        input: Type.Optional(NumberText('first input address that the table translates')),
      },
      { additionalProperties: false },
    ),
    answer: TableSchema,
    problems: [404, 409, 422],
  },
  'GET /smmus/:smmu/walk': {
    id: 'walk',
    tag: 'smmu',
    summary: 'Translate an address step by step',
    description: 'Reads the tables as they stand in memory now; what the SMMU has cached may differ.',
    params: Params,
    query: Type.Object(
      {
        sid: StreamId,
        iova: NumberText('input address'),
        access: Type.Optional(Type.Enum(['read', 'write'], { default: 'read' })),
        ssid: Type.Optional(SubstreamId),
        table: Type.Optional(Type.Enum(['hardware', 'host'], { default: 'hardware' })),
      },
      { additionalProperties: false },
    ),
    answer: WalkSchema,
    problems: [404, 409, 422],
  },
  'GET /smmus/:smmu/power': {
    id: 'getPower',
    tag: 'smmu',
    summary: 'Whether an SMMU is on',
    params: Params,
    answer: Type.Object({ now: Now }),
    problems: [404, 409],
  },
  'POST /smmus/:smmu/power': {
    id: 'switchPower',
    tag: 'smmu',
    summary: 'Switch an SMMU off, with its registers retained or lost, or on, as its host would ask for',
    params: Params,
    body: Type.Object({ state: Type.Enum([...POWER_STATES]) }, { additionalProperties: false }),
    answer: PowerSchema,
    problems: [404, 409, 422],
  },
} as const satisfies Routes
