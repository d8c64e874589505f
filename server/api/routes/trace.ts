// SPDX-License-Identifier: Apache-2.0
import { Readable } from 'node:stream'
import { type Static, Type } from 'typebox'
import { join } from '../../trace/join.ts'
import type { Api } from '../app.ts'
import type { MachineManager } from '../machine.ts'
import { Problem, problems } from '../problems.ts'
import { ChildSchema, FilterSchema, type TrapFilter } from '../traps.ts'

const tags = ['trace']

const Limit = Type.Integer({ minimum: 1, maximum: 2_000, default: 200 })

/** Lists in a query are text, with commas. */
const Query = Type.Object(
  {
    after: Type.Optional(Type.Integer({ minimum: 0, description: 'rows with larger ids; absent: the newest' })),
    before: Type.Optional(Type.Integer({ minimum: 1, description: 'rows with smaller ids' })),
    limit: Type.Optional(Limit),
    registers: Type.Optional(Type.String({ maxLength: 400, description: 'names or 0x offsets, with commas' })),
    commands: Type.Optional(Type.String({ maxLength: 400, description: 'names, with commas' })),
    kinds: Type.Optional(
      Type.String({ pattern: '^(trap|reset|translate|request)(,(trap|reset|translate|request)){0,3}$' }),
    ),
    access: Type.Optional(FilterSchema.properties.access),
    smmu: Type.Optional(FilterSchema.properties.smmu),
    cpu: Type.Optional(FilterSchema.properties.cpu),
    warnings: Type.Optional(FilterSchema.properties.warnings),
    minUs: Type.Optional(FilterSchema.properties.minUs),
    text: Type.Optional(FilterSchema.properties.text),
  },
  { additionalProperties: false },
)

function filterOf(query: Static<typeof Query>): TrapFilter {
  const { after: _a, before: _b, limit: _l, registers, commands, kinds, ...rest } = query
  const list = (text: string) => text.split(',').filter(Boolean)
  return {
    ...rest,
    ...(registers && { registers: list(registers) }),
    ...(commands && { commands: list(commands) }),
    ...(kinds && { kinds: list(kinds) as NonNullable<TrapFilter['kinds']> }),
  }
}

const Page = Type.Object(
  {
    after: Type.Optional(Type.Integer({ minimum: 0 })),
    limit: Type.Optional(Limit),
  },
  { additionalProperties: false },
)

const EventSchema = Type.Object({
  id: Type.Integer(),
  at: Type.String(),
  kind: Type.String(),
  name: Type.String(),
  text: Type.String(),
  smmu: Type.Optional(Type.Integer()),
  sid: Type.Optional(Type.Integer()),
})

const WarningSchema = Type.Object({
  id: Type.Integer(),
  at: Type.String(),
  code: Type.String(),
  section: Type.String({ description: 'where its rule stands: file of the repository, and anchor of the heading' }),
  meaning: Type.String(),
  expected: Type.Boolean(),
  values: Type.String(),
  row: Type.Integer({ description: 'id of the trap row' }),
})

export function traceRoutes(api: Api, manager: MachineManager): void {
  const Row = Type.Ref('TrapRow')

  api.get(
    '/traps',
    {
      schema: {
        tags,
        summary: 'Traps, oldest first',
        querystring: Query,
        response: {
          200: Type.Object({ oldest: Type.Integer(), next: Type.Integer(), items: Type.Array(Row) }),
          ...problems(),
        },
      },
    },
    async request => {
      const { after, before, limit = 200 } = request.query
      const filter = filterOf(request.query)
      const { oldest } = manager.traps
      if (after !== undefined) return { oldest, ...manager.traps.read(after + 1, limit, filter) } as never
      return { oldest, next: manager.traps.next, items: manager.traps.last(limit, filter, before) } as never
    },
  )

  api.get(
    '/traps/:id',
    {
      schema: {
        tags,
        summary: 'One trap, with all that was done for it',
        params: Type.Object({ id: Type.Integer({ minimum: 1 }) }),
        response: {
          200: Type.Object({
            row: Row,
            children: Type.Array(ChildSchema),
            streams: Type.Array(Type.Integer()),
            previous: Type.Optional(Row),
            following: Type.Optional(Row),
          }),
          ...problems(404),
        },
      },
    },
    async request => {
      const detail = manager.traps.detail(request.params.id)
      if (detail === undefined) throw new Problem(404, `no trap row ${request.params.id}, or no longer`)
      return detail as never
    },
  )

  api.get(
    '/traps/numbered/:seq',
    {
      schema: {
        tags,
        summary: 'The row of the trap that has this number in its machine',
        params: Type.Object({ seq: Type.Integer({ minimum: 1 }) }),
        response: { 200: Row, ...problems(404) },
      },
    },
    async request => {
      const row = manager.traps.numbered(request.params.seq)
      if (row === undefined)
        throw new Problem(404, `no trap ${request.params.seq} in the log: it is to come, or is gone`)
      return row as never
    },
  )

  api.get(
    '/events',
    {
      schema: {
        tags,
        summary: 'Event records of the hardware, guard faults, losses',
        querystring: Page,
        response: { 200: Type.Object({ next: Type.Integer(), items: Type.Array(EventSchema) }), ...problems() },
      },
    },
    async request => manager.events.read((request.query.after ?? 0) + 1, request.query.limit ?? 200, undefined),
  )

  api.get(
    '/warnings',
    {
      schema: {
        tags,
        summary: 'Hyp warnings',
        querystring: Page,
        response: { 200: Type.Object({ next: Type.Integer(), items: Type.Array(WarningSchema) }), ...problems() },
      },
    },
    async request => manager.warnings.read((request.query.after ?? 0) + 1, request.query.limit ?? 200, undefined),
  )

  api.get(
    '/trace',
    {
      schema: {
        tags,
        summary: 'Download the recording of this run',
        description:
          'One trace file of all that was recorded so far, for `smmu-cosim trace`. Where a long recording was rotated, it says how much is missing.',
        produces: ['application/octet-stream'],
        response: {
          200: {
            description: 'the trace file',
            content: { 'application/octet-stream': { schema: Type.String({ format: 'binary' }) } },
          },
          ...problems(404),
        },
      },
    },
    async (_request, reply) => {
      const segments = await manager.recordedSegments()
      if (segments.length === 0) throw new Problem(404, 'nothing is being recorded')
      return reply
        .type('application/octet-stream')
        .header('content-disposition', 'attachment; filename="trace.smtr"')
        .send(Readable.from(join(segments), { objectMode: false }) as never)
    },
  )
}
