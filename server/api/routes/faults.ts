// SPDX-License-Identifier: Apache-2.0
import { Type } from 'typebox'
import { catalogue, entryNamed } from '../../faults/catalogue.ts'
import type { CheckContext } from '../../faults/check.ts'
import { describeRule } from '../../faults/describe.ts'
import type { FaultStatus } from '../../faults/injector.ts'
import { FaultFileError, parseFile } from '../../faults/load.ts'
import { expectRules } from '../../faults/plan.ts'
import { type FaultRule, VERDICTS } from '../../faults/rule.ts'
import type { Api } from '../app.ts'
import type { MachineManager } from '../machine.ts'
import { Problem, problems } from '../problems.ts'
import { SpanSchema } from '../tally.ts'

const tags = ['faults']

/** Rules are checked by the project's own checker, which says more than a schema can. */
const Rules = Type.Array(Type.Unknown(), {
  maxItems: 64,
  description: 'as in the "rules" of a file; "smmu-cosim faults schema" prints their JSON Schema',
})

const EntrySchema = Type.Object(
  {
    name: Type.String(),
    summary: Type.String({ description: 'what it simulates' }),
    expect: Type.Array(Type.Enum([...VERDICTS]), { description: "verdicts on Debian's 6.12" }),
    why: Type.String(),
    session: Type.Record(Type.String(), Type.Unknown(), { description: 'what it asks of a session' }),
    rules: Type.Array(Type.Object({ name: Type.String(), text: Type.String(), rule: Type.Unknown() })),
  },
  { $id: 'FaultEntry', title: 'FaultEntry' },
)

const FiringSchema = Type.Object(
  {
    rule: Type.String(),
    n: Type.Integer({ description: 'of this rule, from 1' }),
    trap: Type.Integer({ description: '0: between traps' }),
    time: Type.Number({ description: "guest's virtual clock, ns" }),
    what: Type.String({ description: 'in words' }),
  },
  { $id: 'Firing', title: 'Firing' },
)

const StatusSchema = Type.Object(
  {
    armed: Type.Boolean({ description: 'a machine is connected and rules are armed' }),
    seed: Type.Integer(),
    rules: Type.Array(
      Type.Object({
        rule: Type.String(),
        text: Type.String(),
        at: Type.String({ description: 'its point; one of the point machine can be fired' }),
        state: Type.Enum(['waiting', 'firing', 'spent'], {
          description: 'has not fired; has, and may again; cannot any more',
        }),
        matches: Type.Integer(),
        fired: Type.Integer(),
      }),
    ),
    firings: Type.Array(Type.Ref('Firing'), {
      description: 'the first ones; the stream "firings" has them as they come',
    }),
  },
  { $id: 'FaultStatus', title: 'FaultStatus' },
)

const EffectSchema = Type.Object(
  {
    before: Type.Ref('Span'),
    since: Type.Ref('Span'),
    over: Type.Boolean({ description: 'the rules were disarmed, and "since" ended with that' }),
  },
  {
    $id: 'FaultEffect',
    title: 'FaultEffect',
    description: 'before: since the start of the machine, or since the rules before were armed or disarmed',
  },
)

const ArmBody = Type.Object(
  {
    faults: Type.Optional(
      Type.Array(Type.String({ maxLength: 60 }), { maxItems: 16, description: 'names of the catalogue' }),
    ),
    rules: Type.Optional(Rules),
    text: Type.Optional(
      Type.String({ maxLength: 60_000, description: 'a file, YAML or JSON; what is wrong has line and column' }),
    ),
    seed: Type.Optional(Type.Integer({ minimum: 0, maximum: 0xffff_ffff, description: 'default 1' })),
  },
  { $id: 'FaultArmBody', title: 'FaultArmBody', additionalProperties: false },
)

const entryRules = (name: string): readonly FaultRule[] => {
  try {
    return entryNamed(name).rules
  } catch (error) {
    throw new Problem(422, (error as Error).message)
  }
}

/** @throws Problem with what is wrong, a line each */
function rulesOf(names: readonly string[], own: readonly unknown[], context: CheckContext): FaultRule[] {
  const rules: unknown[] = [...names.flatMap(entryRules), ...own]
  try {
    expectRules(rules, context)
  } catch (error) {
    throw new Problem(422, (error as Error).message)
  }
  return rules
}

/** @throws Problem with the places of what is wrong */
function rulesIn(text: string, context: CheckContext): readonly FaultRule[] {
  try {
    const { rules, entries } = parseFile(text, 'text', context)
    return rules ?? entries?.flatMap(entry => entry.rules) ?? []
  } catch (error) {
    if (!(error instanceof FaultFileError)) throw error
    const errors = error.complaints.map(({ file, ...complaint }) => ({ path: file, ...complaint }))
    throw new Problem(422, error.message, errors)
  }
}

function stateOf({ when }: FaultRule, matches: number, fired: number): 'waiting' | 'firing' | 'spent' {
  const { nth, times = 1 } = when ?? {}
  if ((times !== 'always' && fired >= times) || (nth !== undefined && matches >= nth)) return 'spent'
  return fired > 0 ? 'firing' : 'waiting'
}

const show = (status: FaultStatus, rules: readonly FaultRule[]) => ({
  armed: status.armed,
  seed: status.seed,
  rules: status.rules.flatMap(({ rule, matches, fired }) => {
    const found = rules.find(({ name }) => name === rule)
    if (found === undefined) return []
    const { at } = found.where
    return [{ rule, text: describeRule(found), at, state: stateOf(found, matches, fired), matches, fired }]
  }),
  firings: status.firings.map(({ rule, n, trap, time, what }) => ({ rule, n, trap, time, what })),
})

export function faultRoutes(api: Api, manager: MachineManager): void {
  for (const schema of [EntrySchema, FiringSchema, StatusSchema, SpanSchema, EffectSchema, ArmBody])
    api.addSchema(schema)

  api.get(
    '/faults/catalogue',
    {
      schema: { tags, summary: 'Named faults', response: { 200: Type.Array(Type.Ref('FaultEntry')), ...problems() } },
    },
    async () =>
      catalogue().map(({ name, summary, expect, why, session, rules }) => ({
        name,
        summary,
        expect: typeof expect === 'string' ? [expect] : [...expect],
        why,
        session: { ...session },
        rules: rules.map(rule => ({ name: rule.name, text: describeRule(rule), rule })),
      })) as never,
  )

  api.get(
    '/faults',
    {
      schema: {
        tags,
        summary: 'What is armed, and what fired',
        response: { 200: Type.Ref('FaultStatus'), ...problems() },
      },
    },
    async () => {
      const status = await manager.faults()
      return show(status, status.plan) as never
    },
  )

  api.post(
    '/faults',
    {
      schema: {
        tags,
        summary: 'Arm rules instead of those that are',
        body: Type.Ref('FaultArmBody'),
        response: { 200: Type.Ref('FaultStatus'), ...problems(409, 422) },
      },
    },
    async request => {
      const {
        faults = [],
        rules: own = [],
        text,
        seed = 1,
      } = request.body as {
        faults?: string[]
        rules?: unknown[]
        text?: string
        seed?: number
      }
      const { policy, until, translate } = (manager.status().options ?? {}) as CheckContext
      const context = { ...(policy && { policy }), ...(until && { until }), ...(translate && { translate }) }
      const rules = rulesOf(faults, [...own, ...(text === undefined ? [] : rulesIn(text, context))], context)
      await manager.armFaults(rules, seed)
      return show(await manager.faults(), rules) as never
    },
  )

  api.delete(
    '/faults',
    { schema: { tags, summary: 'No faults any more', response: { 204: Type.Null(), ...problems(409) } } },
    async (_request, reply) => {
      await manager.disarmFaults()
      return reply.code(204).send(null)
    },
  )

  api.get(
    '/faults/effect',
    {
      schema: {
        tags,
        summary: 'What was counted before rules were armed, and since',
        response: { 200: Type.Union([Type.Ref('FaultEffect'), Type.Null()]), ...problems() },
      },
    },
    async () => (await manager.faultEffect()) as never,
  )

  api.post(
    '/faults/:rule/fire',
    {
      schema: {
        tags,
        summary: 'Carry out a rule of the point machine, now',
        description: 'Whatever its conditions are; other points need something that takes place there.',
        params: Type.Object({ rule: Type.String({ minLength: 1, maxLength: 60 }) }),
        response: { 204: Type.Null(), ...problems(404, 409) },
      },
    },
    async (request, reply) => {
      await manager.fireFault(request.params.rule)
      return reply.code(204).send(null)
    },
  )
}
