// SPDX-License-Identifier: Apache-2.0
import { type Static, Type } from 'typebox'
import { ARM_SMMU_CMDQ_PROD } from '../../smmu/registers.ts'
import type { Api } from '../app.ts'
import { HexText, NumberText, parseBig } from '../hex.ts'
import type { MachineManager } from '../machine.ts'
import { Problem, problems } from '../problems.ts'
import { walkAnswer } from '../walkAnswer.ts'

const tags = ['smmu']

const Params = Type.Object({ smmu: Type.Integer({ minimum: 0, maximum: 255 }) })
const StreamParams = Type.Object({
  smmu: Type.Integer({ minimum: 0, maximum: 255 }),
  sid: Type.Integer({ minimum: 0, maximum: 0xffff_ffff }),
})
const Nullable = <T extends import('typebox').TSchema>(schema: T) => Type.Union([schema, Type.Null()])

const Side = Type.Object({ value: Nullable(HexText('absent when the access aborts')), text: Type.String() })
const Field = Type.Object({ name: Type.String(), value: Type.String(), meaning: Type.Optional(Type.String()) })
const Words = Type.Array(Type.String())
const Device = Nullable(Type.Object({ name: Type.String(), model: Type.String() }))

const QueueSchema = Type.Object(
  {
    enabled: Type.Boolean(),
    base: HexText('address'),
    entries: Type.Integer(),
    prod: Type.Integer(),
    cons: Type.Integer(),
    prodWrap: Type.Integer(),
    consWrap: Type.Integer(),
    pending: Type.Integer(),
    error: Type.Integer({ description: 'CMDQ_CONS.ERR' }),
    shown: Type.Array(
      Type.Object({
        index: Type.Integer(),
        name: Type.String(),
        text: Type.String(),
        words: Words,
        verdict: Type.Optional(Type.String({ description: 'kept, rewritten, dropped; own: of the hypervisor' })),
        shadow: Type.Optional(Type.Integer({ description: 'of the host: its index in the shadow queue' })),
      }),
      { description: 'entries up to PROD, oldest first' },
    ),
  },
  { $id: 'Queue', title: 'Queue' },
)

const SteSchema = Nullable(
  Type.Object({
    address: HexText('of the entry'),
    valid: Type.Boolean(),
    config: Type.String(),
    text: Type.String(),
    words: Words,
    fields: Type.Array(Field),
  }),
)

const TableSchema = Type.Object(
  {
    stage: Type.Integer({ minimum: 1, maximum: 2 }),
    address: NumberText('of the table'),
    level: Type.Integer({ minimum: -1, maximum: 3 }),
    granuleShift: Type.Union([Type.Literal(12), Type.Literal(14), Type.Literal(16)]),
    inputBits: Type.Optional(Type.Integer({ minimum: 12, maximum: 52, description: 'of a start level' })),
    input: Type.Optional(NumberText('first input address that the table translates')),
  },
  { additionalProperties: false },
)

const RootSchema = Type.Object({
  stage: Type.Integer(),
  name: Type.String(),
  address: Type.String(),
  level: Type.Integer(),
  granuleShift: Type.Integer(),
  inputBits: Type.Integer(),
  input: Type.String(),
})

const StepSchema = Type.Object({
  what: Type.Enum(['L1STD', 'STE', 'L1CD', 'CD', 'S1', 'S2']),
  address: HexText('of the fetch'),
  ipa: Nullable(Type.String()),
  level: Nullable(Type.Integer()),
  purpose: Nullable(Type.String({ description: 'what stage 2 was walked for' })),
  words: Words,
  text: Type.String(),
})

const WalkQuery = Type.Object(
  {
    sid: Type.Integer({ minimum: 0, maximum: 0xffff_ffff }),
    iova: NumberText('input address'),
    access: Type.Optional(Type.Enum(['read', 'write'], { default: 'read' })),
    ssid: Type.Optional(Type.Integer({ minimum: 0, maximum: 0xf_ffff })),
    table: Type.Optional(Type.Enum(['hardware', 'host'], { default: 'hardware' })),
  },
  { additionalProperties: false },
)

const hex = (value: number | bigint): string => `0x${value.toString(16)}`

export function smmuRoutes(api: Api, manager: MachineManager): void {
  api.addSchema(QueueSchema)
  const Queue = Type.Ref('Queue')

  api.get(
    '/smmus/:smmu/registers',
    {
      schema: {
        tags,
        summary: 'Registers, as the host sees them and as the hardware has them',
        params: Params,
        response: {
          200: Type.Array(
            Type.Object({
              offset: HexText('in the frame'),
              name: Type.String(),
              bits: Type.Integer(),
              meaning: Type.String(),
              host: Side,
              hardware: Side,
            }),
          ),
          ...problems(404, 409),
        },
      },
    },
    async request => manager.inspection.registers(request.params.smmu),
  )

  api.get(
    '/smmus/:smmu/queues',
    {
      schema: {
        tags,
        summary: 'Command queue of the host, its shadow, and the event queue',
        params: Params,
        response: {
          200: Type.Object({ host: Queue, shadow: Nullable(Queue), events: Queue }),
          ...problems(404, 409),
        },
      },
    },
    async request => {
      const { smmu } = request.params
      const { trap, hit } = manager.status().held ?? {}
      const handsOver =
        hit?.phase === 'before' && trap?.write && trap.offset === ARM_SMMU_CMDQ_PROD && trap.smmu === smmu
      return (await manager.inspection.queues(smmu, handsOver ? trap?.lo : undefined)) as never
    },
  )

  api.get(
    '/smmus/:smmu/streams',
    {
      schema: {
        tags,
        summary: 'Streams: devices and entries of the stream tables',
        params: Params,
        response: {
          200: Type.Object({
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
                device: Device,
                host: Type.String({ description: 'Config of the host’s entry' }),
                shadow: Nullable(Type.String()),
              }),
            ),
          }),
          ...problems(404, 409),
        },
      },
    },
    async request => (await manager.inspection.streams(request.params.smmu)) as never,
  )

  api.get(
    '/smmus/:smmu/streams/:sid',
    {
      schema: {
        tags,
        summary: 'One stream: both entries, context descriptor, roots of its tables',
        params: StreamParams,
        querystring: Type.Object(
          { ssid: Type.Optional(Type.Integer({ minimum: 0, maximum: 0xf_ffff })) },
          { additionalProperties: false },
        ),
        response: {
          200: Type.Object({
            sid: Type.Integer(),
            device: Device,
            shadowed: Type.Boolean(),
            host: SteSchema,
            shadow: SteSchema,
            differs: Type.Array(Type.String(), { description: 'fields' }),
            legal: Nullable(Type.Boolean({ description: 'the hardware accepts the entry' })),
            cd: Nullable(
              Type.Object({
                address: Type.String(),
                valid: Type.Boolean(),
                text: Type.String(),
                words: Words,
                fields: Type.Array(Field),
              }),
            ),
            roots: Type.Array(RootSchema),
          }),
          ...problems(404, 409),
        },
      },
    },
    async request => {
      const { smmu, sid } = request.params
      const stream = await manager.inspection.stream(smmu, sid, request.query.ssid ?? 0)
      const roots = stream.roots.map(({ address, input, ...rest }) => ({
        ...rest,
        address: hex(address),
        input: hex(input),
      }))
      return { ...stream, roots } as never
    },
  )

  api.get(
    '/smmus/:smmu/table',
    {
      schema: {
        tags,
        summary: 'One translation table, entries that are not invalid',
        params: Params,
        querystring: TableSchema,
        response: {
          200: Type.Object({
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
          }),
          ...problems(404, 409, 422),
        },
      },
    },
    async request => {
      const { stage, address, level, granuleShift, inputBits, input } = request.query as Static<typeof TableSchema>
      const at = Number(parseBig(address))
      if (!Number.isSafeInteger(at) || at % 8 !== 0) throw new Problem(422, `${address} is no address of a table`)
      return manager.inspection.tableAt(request.params.smmu, {
        stage: stage as 1 | 2,
        address: at,
        level,
        granuleShift,
        ...(inputBits !== undefined && { inputBits }),
        input: parseBig(input ?? '0'),
      })
    },
  )

  api.get(
    '/smmus/:smmu/walk',
    {
      schema: {
        tags,
        summary: 'Translate an address step by step',
        description: 'Reads the tables as they stand in memory now; what the SMMU has cached may differ.',
        params: Params,
        querystring: WalkQuery,
        response: {
          200: Type.Object({
            outcome: Type.Enum(['translated', 'fault', 'abort']),
            text: Type.String(),
            pa: Nullable(Type.String()),
            size: Nullable(Type.Number({ description: 'bytes that are mapped linearly around it' })),
            permissions: Nullable(Type.String()),
            bypass: Type.Boolean(),
            recorded: Nullable(Type.Boolean({ description: 'the fault goes into the event queue' })),
            steps: Type.Array(StepSchema),
          }),
          ...problems(404, 409, 422),
        },
      },
    },
    async request => {
      const { sid, iova, access = 'read', ssid, table = 'hardware' } = request.query
      const { outcome, steps } = await manager.inspection.walk(request.params.smmu, {
        sid,
        ...(ssid !== undefined && { ssid }),
        iova: parseBig(iova),
        write: access === 'write',
        table,
      })
      return walkAnswer(outcome, steps) as never
    },
  )
}
