// SPDX-License-Identifier: Apache-2.0
import { Type } from 'typebox'
import { resultName } from '../../policy/result.ts'
import type { Api } from '../app.ts'
import { HexText, NumberText, parseBig } from '../hex.ts'
import type { MachineManager } from '../machine.ts'
import { Problem, problems } from '../problems.ts'

const tags = ['memory']

const PAGE = 4096
const MAX_RANGE = 2 ** 52

/** @throws Problem when it is no address that a page can have. */
function address(text: string, what: string): number {
  const value = parseBig(text)
  if (value > BigInt(MAX_RANGE)) throw new Problem(422, `${what} ${text} is above 2^52`)
  return Number(value)
}

const Range = Type.Object(
  {
    base: NumberText('guest physical, a multiple of 4096'),
    size: Type.Integer({ minimum: PAGE, maximum: 2 ** 40, multipleOf: PAGE, description: 'bytes' }),
    vm: Type.Integer({ minimum: 1, maximum: 1_000_000, description: 'id of the protected VM' }),
  },
  { additionalProperties: false },
)

const State = Type.Enum(['owned', 'shared', 'hyp', 'vm', 'not RAM', 'mixed'])

export function memoryRoutes(api: Api, manager: MachineManager): void {
  api.get(
    '/memory/ownership',
    {
      schema: {
        tags,
        summary: 'Who owns the pages of a range',
        querystring: Type.Object(
          {
            from: Type.Optional(NumberText('first address; default: the start of RAM')),
            to: Type.Optional(NumberText('end; default: the end of RAM')),
            limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 20_000, default: 2_000 })),
          },
          { additionalProperties: false },
        ),
        response: {
          200: Type.Object({
            from: HexText('start'),
            to: HexText('end'),
            ranges: Type.Array(
              Type.Object({ base: HexText('start'), size: Type.Integer(), state: State, vm: Type.Integer() }),
            ),
          }),
          ...problems(409, 422),
        },
      },
    },
    async request => {
      const { inspection } = manager
      const { ram } = inspection.hello
      const last = ram.at(-1)
      const { from: first, to: end, limit = 2_000 } = request.query
      const from = first === undefined ? (ram[0]?.base ?? 0) : address(first, 'from')
      const to = end === undefined ? (last ? last.base + last.size : 0) : address(end, 'to')
      if (to <= from) throw new Problem(422, 'the range is empty')
      if (to - from > 2 ** 44) throw new Problem(422, 'the range is larger than 16 TiB')
      const ranges = await inspection.ownership(from, to, limit)
      return {
        from: hex(from),
        to: hex(to),
        ranges: ranges.map(range => ({ ...range, base: hex(range.base) })),
      } as never
    },
  )

  api.get(
    '/memory/reach',
    {
      schema: {
        tags,
        summary: 'What devices reach: the pages that the stage 1 of each stream maps',
        querystring: Type.Object(
          { smmu: Type.Optional(Type.Integer({ minimum: 0, maximum: 255, default: 0 })) },
          { additionalProperties: false },
        ),
        response: {
          200: Type.Array(
            Type.Object({
              sid: Type.Integer(),
              device: Type.Union([Type.Object({ name: Type.String(), model: Type.String() }), Type.Null()]),
              config: Type.String({ description: 'of the entry that the hardware uses' }),
              mapped: Type.Array(
                Type.Object({ iova: HexText('input'), base: HexText('output'), size: Type.Integer() }),
              ),
            }),
          ),
          ...problems(404, 409),
        },
      },
    },
    async request => {
      const streams = await manager.inspection.reach(request.query.smmu ?? 0)
      return streams.map(({ leaves, ...stream }) => ({
        ...stream,
        mapped: leaves.map(({ input, address: base, size }) => ({
          iova: `0x${input.toString(16)}`,
          base: hex(base),
          size,
        })),
      }))
    },
  )

  api.get(
    '/memory/bytes',
    {
      schema: {
        tags,
        summary: 'Guest memory',
        querystring: Type.Object(
          {
            address: NumberText('guest physical'),
            length: Type.Optional(Type.Integer({ minimum: 1, maximum: 65_536, default: 256 })),
          },
          { additionalProperties: false },
        ),
        response: {
          200: Type.Object({ address: HexText('start'), bytes: Type.String({ description: 'hexadecimal' }) }),
          ...problems(409, 422),
        },
      },
    },
    async request => {
      const at = address(request.query.address, 'address')
      const bytes = manager.inspection.bytes(at, request.query.length ?? 256)
      return { address: hex(at), bytes: Buffer.from(bytes).toString('hex') }
    },
  )

  for (const what of ['donate', 'reclaim'] as const) {
    api.post(
      `/memory/${what}`,
      {
        schema: {
          tags,
          summary:
            what === 'donate'
              ? 'Give pages of the host to a protected VM: no vCPU and no device reaches them'
              : 'Take pages back from a protected VM, zeroed',
          description: 'A result other than OK is the error of the hypervisor; nothing has changed then.',
          body: Range,
          response: {
            200: Type.Object({ ok: Type.Boolean(), result: Type.String({ examples: ['OK', 'EPERM'] }) }),
            ...problems(409, 422),
          },
        },
      },
      async request => {
        const { base, size, vm } = request.body
        const result = await manager.inspection.pages(what, address(base, 'base'), size, vm)
        return { ok: result === 0, result: resultName(result) }
      },
    )
  }
}

const hex = (value: number): string => `0x${value.toString(16)}`
