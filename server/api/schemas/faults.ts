// SPDX-License-Identifier: Apache-2.0
/** Fault injection: the catalogue, what is armed, what fired, what changed. */
import { Type } from 'typebox'
import { type FaultRule, VERDICTS } from '../../faults/rule.ts'
import { Nullable, named, Ref, type View } from './fields.ts'
import type { Routes } from './route.ts'

export const EntrySchema = named(
  'FaultEntry',
  Type.Object({
    name: Type.String(),
    summary: Type.String({ description: 'what it simulates' }),
    expect: Type.Array(Type.Enum([...VERDICTS]), { description: "verdicts on Debian's 6.12" }),
    why: Type.String(),
    session: Type.Record(Type.String(), Type.Unknown(), { description: 'what it asks of a session' }),
    rules: Type.Array(
      Type.Object({ name: Type.String(), text: Type.String(), rule: Type.Unsafe<FaultRule>(Type.Unknown()) }),
    ),
  }),
)
export type FaultEntry = View<typeof EntrySchema>

const firing = {
  rule: Type.String(),
  n: Type.Integer({ description: 'of this rule, from 1' }),
  trap: Type.Integer({ description: '0: between traps' }),
  time: Type.Number({ description: "guest's virtual clock, ns" }),
  what: Type.String({ description: 'in words' }),
}

export const FiringSchema = named('Firing', Type.Object(firing))
export type FiringView = View<typeof FiringSchema>

export const FiringItemSchema = Type.Object({ id: Type.Integer(), at: Type.String(), ...firing })
export type FiringItem = View<typeof FiringItemSchema>

export const FaultStatusSchema = named(
  'FaultStatus',
  Type.Object({
    armed: Type.Boolean({ description: 'a machine is connected and rules are armed' }),
    seed: Type.Integer(),
    rules: Type.Array(
      Type.Object({
        rule: Type.String(),
        text: Type.String(),
        at: Type.String({ description: 'its point; rules of the point machine can be fired by hand' }),
        state: Type.Enum(['waiting', 'firing', 'spent'], {
          description: 'waiting: has not fired; firing: has fired and may again; spent: will not fire again',
        }),
        matches: Type.Integer(),
        fired: Type.Integer(),
      }),
    ),
    firings: Type.Array(Ref(FiringSchema), {
      description: 'the first ones; the stream "firings" has them as they come',
    }),
  }),
)
export type FaultStatusView = View<typeof FaultStatusSchema>

const Count = (description: string) => Type.Integer({ description })

const DiskSchema = Type.Object({
  reads: Type.Integer(),
  writes: Type.Integer(),
  bytes: Type.Integer(),
  failed: Count('reads and writes that QEMU could not carry out'),
})
export type DiskCounts = View<typeof DiskSchema>

export const SpanSchema = named(
  'Span',
  Type.Object({
    from: Type.String({ description: 'ISO 8601' }),
    seconds: Type.Number({ description: 'wall clock' }),
    traps: Type.Integer(),
    aborted: Count('traps that ended in an external abort'),
    gerrors: Count('changes of GERROR'),
    guardFaults: Count('CPU accesses to guarded memory'),
    warnings: Type.Array(Type.Object({ code: Type.String(), expected: Type.Boolean(), count: Type.Integer() })),
    events: Type.Array(Type.Object({ name: Type.String(), count: Type.Integer() })),
    disk: Type.Union([DiskSchema, Type.Null()], { description: "of QEMU's disks; null: QEMU could not be asked" }),
  }),
)
/** What was counted between two moments. */
export type Span = View<typeof SpanSchema>

export const EffectSchema = named(
  'FaultEffect',
  Type.Object(
    {
      before: Ref(SpanSchema),
      since: Ref(SpanSchema),
      over: Type.Boolean({ description: 'the rules were disarmed, and "since" ended with that' }),
    },
    { description: 'before: since the start of the machine, or since the rules before were armed or disarmed' },
  ),
)
export type FaultEffect = View<typeof EffectSchema>

export const ArmBodySchema = named(
  'FaultArmBody',
  Type.Object(
    {
      faults: Type.Optional(
        Type.Array(Type.String({ maxLength: 60 }), { maxItems: 16, description: 'names of the catalogue' }),
      ),
      // Rules are checked by the project's own checker, which says more than a schema can.
      rules: Type.Optional(
        Type.Array(Type.Unknown(), {
          maxItems: 64,
          description: 'as in the "rules" of a file; "smmu-cosim faults schema" prints their JSON Schema',
        }),
      ),
      text: Type.Optional(
        Type.String({ maxLength: 60_000, description: 'a file, YAML or JSON; what is wrong has line and column' }),
      ),
      seed: Type.Optional(Type.Integer({ minimum: 0, maximum: 0xffff_ffff, description: 'default 1' })),
    },
    { additionalProperties: false },
  ),
)

export const faults = {
  'GET /faults/catalogue': {
    id: 'listFaultCatalogue',
    tag: 'faults',
    summary: 'Named faults',
    answer: Type.Array(Ref(EntrySchema)),
  },
  'GET /faults': {
    id: 'getFaults',
    tag: 'faults',
    summary: 'What is armed, and what fired',
    answer: Ref(FaultStatusSchema),
  },
  'POST /faults': {
    id: 'armFaults',
    tag: 'faults',
    summary: 'Arm rules; they replace those that are armed',
    body: Ref(ArmBodySchema),
    answer: Ref(FaultStatusSchema),
    problems: [409, 422],
  },
  'DELETE /faults': {
    id: 'disarmFaults',
    tag: 'faults',
    summary: 'Disarm all rules',
    problems: [409],
  },
  'GET /faults/effect': {
    id: 'getFaultEffect',
    tag: 'faults',
    summary: 'What was counted before rules were armed, and since',
    answer: Nullable(Ref(EffectSchema)),
  },
  'POST /faults/:rule/fire': {
    id: 'fireFault',
    tag: 'faults',
    summary: 'Fire a rule of the point machine now',
    description: 'Its conditions are ignored. Rules of other points fire only with what happens there.',
    params: Type.Object({ rule: Type.String({ minLength: 1, maxLength: 60 }) }),
    problems: [404, 409],
  },
} as const satisfies Routes
