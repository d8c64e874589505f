// SPDX-License-Identifier: Apache-2.0
/** Guest memory: who owns a page, who reaches it, what is in it. */
import { Type } from 'typebox'
import { Device, HexText, Nullable, NumberText, type View } from './fields.ts'
import type { Routes } from './route.ts'

export const PAGE = 4096

const Owned = Type.Object({
  base: HexText('start'),
  size: Type.Integer(),
  state: Type.Enum(['owned', 'shared', 'hyp', 'vm', 'not RAM', 'mixed']),
  vm: Type.Integer(),
})
const OwnershipSchema = Type.Object({
  from: HexText('start'),
  to: HexText('end'),
  ranges: Type.Array(Owned),
  el2: Nullable(Type.Array(Owned, { description: "the same from EL2's own tables; null: no EL2 keeps any" })),
})
export type Ownership = View<typeof OwnershipSchema>
export type OwnedRange = View<typeof Owned>

const Quantiles = Type.Object({ p50: Type.Number(), p90: Type.Number(), p99: Type.Number(), max: Type.Number() })
const El2Schema = Type.Object({
  registers: Nullable(Type.Object({ vttbr: Type.String(), vtcr: Type.String() })),
  changes: Type.Integer({ description: 'how often EL2 waited for the server' }),
  serverUs: Quantiles,
  checks: Type.Integer({ description: 'comparisons of all RAM while the machine ran, before this one' }),
  agreement: Nullable(
    Type.Object({
      pages: Type.Integer({ description: 'pages of 4096 bytes that were compared' }),
      kept: Type.Integer({ description: 'kept from the host by EL2' }),
      hypervisor: Type.Integer({ description: 'hypervisor memory of the server' }),
      untouched: Type.Integer({
        description: "the host's, not mapped by EL2 yet and not reached: where its tables are the second stage",
      }),
      disagreements: Type.Array(
        Type.Object({
          base: HexText('start'),
          size: Type.Integer(),
          what: Type.Enum(['reached', 'lost', 'elsewhere']),
          who: Type.Optional(Type.String({ description: 'absent: all devices' })),
        }),
      ),
      wrong: Type.Integer({ description: 'pages on which they do not agree' }),
    }),
  ),
  problem: Nullable(Type.String()),
})
/** What EL2 does, and whether devices reach what it lets its host reach. */
export type El2View = View<typeof El2Schema>

const OracleSchema = Type.Object({
  unjudged: Nullable(Type.String({ description: 'why nothing is said about the machine; null: it is judged' })),
  samples: Type.Integer({ description: 'looks at a part of the tables' }),
  wholes: Type.Integer({ description: 'looks at all of them, with this one' }),
  hypervisorPages: Type.Integer(),
  vmPages: Type.Integer(),
  violations: Type.Array(
    Type.Object({
      kind: Type.String({ description: 'same for the same sort of weakness' }),
      message: Type.String(),
      page: Type.Optional(HexText('page that is reached')),
      stream: Type.Optional(Type.Object({ smmu: Type.Integer(), sid: Type.Integer(), device: Type.String() })),
      walk: Type.Array(Type.String(), { description: 'registers and table entries on the way' }),
    }),
    { description: 'the first ones' },
  ),
  more: Type.Integer({ description: 'violations that are not listed' }),
  sampleUs: Quantiles,
})
/** What the oracle of isolation has looked at and found. */
export type OracleView = View<typeof OracleSchema>

const AttackSchema = Type.Object({
  who: Type.Enum(['cpu', 'dma']),
  what: Type.Enum(['read', 'write']),
  target: Type.String(),
  address: Type.String(),
  result: Type.String({ description: 'what the attacker saw' }),
  stoppedBy: Nullable(Type.String()),
  mustStop: Type.Boolean(),
})
export type AttackView = View<typeof AttackSchema>

/** What a protected VM's host attacked so far. */
const AttacksSchema = Type.Object({
  attacks: Type.Array(AttackSchema),
  secretChanged: Nullable(Type.Integer({ description: 'words that the VM found changed; null: not asked yet' })),
  storm: Nullable(
    Type.Record(Type.String(), Type.Unknown(), { description: 'VMs created and destroyed under attack' }),
  ),
})
export type AttacksView = View<typeof AttacksSchema>

export const PageItemSchema = Type.Object({
  time: Type.Optional(Type.Number({ description: "guest's virtual clock at the trap before, ns" })),
  id: Type.Integer(),
  at: Type.String(),
  operation: Type.Enum(['donate', 'reclaim', 'share', 'unshare']),
  base: Type.String(),
  size: Type.Integer(),
  vm: Type.Integer({ description: '0: no VM' }),
  result: Type.String(),
})
/** Pages that changed hands. */
export type PageItem = View<typeof PageItemSchema>

export const AttackItemSchema = Type.Object({
  id: Type.Integer(),
  run: Type.Integer({ description: 'machines started so far' }),
  attacks: AttacksSchema,
})
export type AttackItem = View<typeof AttackItemSchema>

const ReachSchema = Type.Object({
  sid: Type.Integer(),
  device: Nullable(Device),
  config: Type.String({ description: 'of the entry that the hardware uses' }),
  mapped: Type.Array(Type.Object({ iova: HexText('input'), base: HexText('output'), size: Type.Integer() })),
  unread: Type.Integer({ description: 'tables that could not be read: not in RAM, or not in the recording' }),
})
/** The pages that the stage 1 of a stream maps. */
export type Reach = View<typeof ReachSchema>

const change = <const I extends string, const S extends string>(id: I, summary: S) =>
  ({
    id,
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
    id: 'getOwnership',
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
  'GET /memory/el2': {
    id: 'getEl2',
    tag: 'memory',
    summary: 'Whether devices reach what a hypervisor at EL2 lets its host reach, as of now',
    description: 'Null: the machine has no EL2.',
    answer: Nullable(El2Schema),
    problems: [409],
  },
  'GET /memory/oracle': {
    id: 'getOracle',
    tag: 'memory',
    summary: 'What the oracle of isolation has looked at and found, all of it looked at once more',
    description:
      'Null: the machine is not watched (start it with `oracle`), or its memory cannot be read as a whole. A violation stops the machine.',
    answer: Nullable(OracleSchema),
    problems: [409],
  },
  'GET /memory/attacks': {
    id: 'listAttacks',
    tag: 'memory',
    summary: "What a protected VM's host attacked, and what stopped it",
    answer: AttacksSchema,
  },
  'GET /memory/reach': {
    id: 'getReach',
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
    id: 'readMemory',
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
  'POST /memory/donate': change(
    'donatePages',
    'Give pages of the host to a protected VM: no vCPU and no device reaches them',
  ),
  'POST /memory/reclaim': change('reclaimPages', 'Take pages back from a protected VM, zeroed'),
} as const satisfies Routes
