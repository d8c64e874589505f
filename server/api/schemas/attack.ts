// SPDX-License-Identifier: Apache-2.0
/** Attacks on a policy in process (server/attack), in a process of their own beside the machine. */
import { Type } from 'typebox'
import { HARDWARE, POPULATE } from '../../attack/setup.ts'
import { POLICY_NAMES } from '../../policy/load.ts'
import { BBM_LEVELS, POWER_MODES, SERIES_STEPS, STAGE2_MODES } from '../../policy/policy.ts'
import { DEFAULTS } from '../../run/options.ts'
import { Nullable, named, Ref, type View } from './fields.ts'
import { OWN_POLICY } from './lifecycle.ts'
import type { Routes } from './route.ts'

/** Of a run. */
const DEFAULT_SECONDS = 60

export const AttackBodySchema = named(
  'AttackOptions',
  Type.Object(
    {
      policy: Type.Optional(Type.Enum([...POLICY_NAMES, OWN_POLICY], { default: DEFAULTS.policy })),
      until: Type.Optional(Type.Enum([...SERIES_STEPS], { default: DEFAULTS.until })),
      blocks: Type.Optional(Type.Boolean({ default: false, description: 'the policy maps RAM in blocks' })),
      bbm: Type.Optional(
        Type.Enum([...BBM_LEVELS], { description: 'with blocks: IDR3.BBML of all hardware; default: any' }),
      ),
      power: Type.Optional(
        Type.Enum([...POWER_MODES, 'any'], {
          description: 'the host has SMMUs switched off and on; default: it has not',
        }),
      ),
      stage2: Type.Optional(
        Type.Enum([...STAGE2_MODES], {
          default: 'own',
          description:
            'devices’ second stage: the hypervisor’s own, or shared: the tables that an EL2 keeps for its host; not with blocks or power',
        }),
      ),
      populate: Type.Optional(
        Type.Enum([...POPULATE], {
          description: 'with stage2 shared: what EL2 has not mapped yet is mapped ahead, or never; default: either',
        }),
      ),
      quirks: Type.Optional(
        Type.Array(Type.String({ pattern: '^[a-z0-9-]{1,60}$' }), {
          maxItems: 64,
          uniqueItems: true,
          description: 'known defects that the policy shows, by name: those of GET /info',
        }),
      ),
      hardware: Type.Optional(
        Type.Array(Type.Enum([...HARDWARE]), {
          uniqueItems: true,
          description: 'what hardware may be besides QEMU’s model',
        }),
      ),
      seconds: Type.Optional(Type.Integer({ minimum: 1, maximum: 86_400, default: DEFAULT_SECONDS })),
      seed: Type.Optional(Type.Integer({ minimum: 0, maximum: 0xffff_ffff, description: 'default: by chance' })),
      jobs: Type.Optional(Type.Integer({ minimum: 1, maximum: 8, default: 1, description: 'threads' })),
    },
    { additionalProperties: false },
  ),
)
export type AttackBody = View<typeof AttackBodySchema>

const Count = Type.Integer()

const FOUND = {
  n: Type.Integer({ description: 'number of the finding, from 1' }),
  kind: Type.String(),
  message: Type.String(),
  seconds: Type.Number({ description: 'since the start of the attack' }),
}
const FoundSchema = Type.Object(FOUND)
export type FoundView = View<typeof FoundSchema>

export const AttackRunSchema = named(
  'AttackRun',
  Type.Object({
    state: Type.Enum(['none', 'running', 'stopping', 'done', 'failed']),
    run: Type.Integer({ description: 'attacks started so far' }),
    options: Nullable(Ref(AttackBodySchema)),
    startedAt: Nullable(Type.String()),
    message: Nullable(Type.String({ description: 'why it failed' })),
    seconds: Type.Number(),
    operations: Count,
    steps: Count,
    programs: Count,
    judged: Type.Integer({ description: 'programs on machines that the policy claimed to isolate' }),
    coverage: Type.Array(Type.Object({ what: Type.String(), count: Count }), {
      description: 'different things that were noticed, by what they are about',
    }),
    corpus: Type.Integer({ description: 'programs that are kept to go on from' }),
    lost: Type.Integer({ description: 'findings that did not come again on a machine of their own' }),
    findings: Type.Array(FoundSchema, { description: 'the last ones' }),
    found: Type.Integer({ description: 'all of them' }),
  }),
)
/** The attack that runs, or ran last. */
export type AttackRunView = View<typeof AttackRunSchema>

/** The attack each time that there is something new, at most a few times a second. */
export const AttackRunItemSchema = Type.Object({ id: Type.Integer(), attack: Ref(AttackRunSchema) })
export type AttackRunItem = View<typeof AttackRunItemSchema>

export const attack = {
  'GET /attack': {
    id: 'getAttack',
    tag: 'attack',
    summary: 'The attack that runs, or ran last',
    answer: Ref(AttackRunSchema),
  },
  'POST /attack': {
    id: 'startAttack',
    tag: 'attack',
    summary: 'Start an attack on a policy',
    description: 'In a process of its own, at the lowest priority; the machine, if there is one, is not touched.',
    body: Ref(AttackBodySchema),
    answer: Ref(AttackRunSchema),
    problems: [409, 422],
  },
  'POST /attack/stop': {
    id: 'stopAttack',
    tag: 'attack',
    summary: 'Stop the attack',
    answer: Ref(AttackRunSchema),
    problems: [409],
  },
  'GET /attack/findings/:n': {
    id: 'getFinding',
    tag: 'attack',
    summary: 'A finding: its steps, each with the line that decided it, and the walk that reached the page',
    params: Type.Object({ n: Type.Integer({ minimum: 1 }) }),
    answer: Type.Object({ ...FOUND, lines: Type.Array(Type.String()) }),
    problems: [404],
  },
} as const satisfies Routes
