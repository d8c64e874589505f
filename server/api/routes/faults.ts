// SPDX-License-Identifier: Apache-2.0
import { Type } from 'typebox'
import { catalogue, entryNamed } from '../../faults/catalogue.ts'
import type { CheckContext } from '../../faults/check.ts'
import { describeRule } from '../../faults/describe.ts'
import type { FaultStatus } from '../../faults/injector.ts'
import { expectRules } from '../../faults/plan.ts'
import { type FaultRule, VERDICTS } from '../../faults/rule.ts'
import type { Api } from '../app.ts'
import type { MachineManager } from '../machine.ts'
import { Problem, problems } from '../problems.ts'

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

const ArmBody = Type.Object(
  {
    faults: Type.Optional(
      Type.Array(Type.String({ maxLength: 60 }), { maxItems: 16, description: 'names of the catalogue' }),
    ),
    rules: Type.Optional(Rules),
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

const show = (status: FaultStatus, rules: readonly FaultRule[] | undefined) => ({
  armed: status.armed,
  seed: status.seed,
  rules: status.rules.map(({ rule, matches, fired }) => {
    const found = rules?.find(({ name }) => name === rule)
    return { rule, text: found === undefined ? '' : describeRule(found), matches, fired }
  }),
  firings: status.firings.map(({ rule, n, trap, time, what }) => ({ rule, n, trap, time, what })),
})

export function faultRoutes(api: Api, manager: MachineManager): void {
  for (const schema of [EntrySchema, FiringSchema, StatusSchema, ArmBody]) api.addSchema(schema)

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
        seed = 1,
      } = request.body as {
        faults?: string[]
        rules?: unknown[]
        seed?: number
      }
      const { policy, until, translate } = (manager.status().options ?? {}) as CheckContext
      const context = { ...(policy && { policy }), ...(until && { until }), ...(translate && { translate }) }
      const rules = rulesOf(faults, own, context)
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
