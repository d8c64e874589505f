// SPDX-License-Identifier: Apache-2.0
/** Guest memory: who owns a page, who reaches it, what is in it. */
import { Type } from 'typebox'
import { Device, HexText, Nullable, NumberText, type View } from './fields.ts'
import type { Routes } from './route.ts'

export const PAGE = 4096

const OwnershipSchema = Type.Object({
  from: HexText('start'),
  to: HexText('end'),
  ranges: Type.Array(
    Type.Object({
      base: HexText('start'),
      size: Type.Integer(),
      state: Type.Enum(['owned', 'shared', 'hyp', 'vm', 'not RAM', 'mixed']),
      vm: Type.Integer(),
    }),
  ),
})
export type Ownership = View<typeof OwnershipSchema>

const ReachSchema = Type.Object({
  sid: Type.Integer(),
  device: Nullable(Device),
  config: Type.String({ description: 'of the entry that the hardware uses' }),
  mapped: Type.Array(Type.Object({ iova: HexText('input'), base: HexText('output'), size: Type.Integer() })),
})
/** The pages that the stage 1 of a stream maps. */
export type Reach = View<typeof ReachSchema>

const change = <const S extends string>(summary: S) =>
  ({
    tag: 'memory',
    summary,
    description: 'A result other than OK is the error of the hypervisor; nothing has changed then.',
    body: Type.Object(
      {
        base: NumberText('guest physical, a multiple of 4096'),
        size: Type.Integer({ minimum: PAGE, maximum: 2 ** 40, multipleOf: PAGE, description: 'bytes' }),
        vm: Type.Integer({ minimum: 1, maximum: 1_000_000, description: 'id of the protected VM' }),
      },
      { additionalProperties: false },
    ),
    answer: Type.Object({ ok: Type.Boolean(), result: Type.String({ examples: ['OK', 'EPERM'] }) }),
    problems: [409, 422],
  }) as const

export const pages = {
  'GET /memory/ownership': {
    tag: 'memory',
    summary: 'Who owns the pages of a range',
    query: Type.Object(
      {
        from: Type.Optional(NumberText('first address; default: the start of RAM')),
        to: Type.Optional(NumberText('end; default: the end of RAM')),
        limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 20_000, default: 2_000 })),
      },
      { additionalProperties: false },
    ),
    answer: OwnershipSchema,
    problems: [409, 422],
  },
  'GET /memory/reach': {
    tag: 'memory',
    summary: 'What devices reach: the pages that the stage 1 of each stream maps',
    query: Type.Object(
      { smmu: Type.Optional(Type.Integer({ minimum: 0, maximum: 255, default: 0 })) },
      { additionalProperties: false },
    ),
    answer: Type.Array(ReachSchema),
    problems: [404, 409],
  },
  'GET /memory/bytes': {
    tag: 'memory',
    summary: 'Guest memory',
    query: Type.Object(
      {
        address: NumberText('guest physical'),
        length: Type.Optional(Type.Integer({ minimum: 1, maximum: 65_536, default: 256 })),
      },
      { additionalProperties: false },
    ),
    answer: Type.Object({ address: HexText('start'), bytes: Type.String({ description: 'hexadecimal' }) }),
    problems: [409, 422],
  },
  'POST /memory/donate': change('Give pages of the host to a protected VM: no vCPU and no device reaches them'),
  'POST /memory/reclaim': change('Take pages back from a protected VM, zeroed'),
} as const satisfies Routes
