// SPDX-License-Identifier: Apache-2.0
/** Registers the routes of the contract with their handlers. */
import { STATUS_CODES } from 'node:http'
import type { FastifyInstance } from 'fastify'
import { type TSchema, Type } from 'typebox'
import { Problem } from './problem.ts'
import { Ref } from './schemas/fields.ts'
import { ProblemSchema } from './schemas/problem.ts'
import type { Handlers, RequestOf, Route, Routes } from './schemas/route.ts'

/** Problem statuses of every route, of routes with a body, and of routes with path parameters. */
const ALWAYS = [400, 401, 403, 429]
const WITH_BODY = [413, 415]
const WITH_PARAMS = [414]

const problem = (status: number) => ({
  description: STATUS_CODES[status] ?? 'error',
  content: { 'application/problem+json': { schema: Ref(ProblemSchema) } },
})

/** An answer as JSON. */
export const answers = (description: string, schema: TSchema) => ({
  description,
  content: { 'application/json': { schema } },
})

/** Problem responses of every route, and further ones. */
export const problems = (codes: readonly number[] = []) =>
  Object.fromEntries([...ALWAYS, ...codes].map(code => [code, problem(code)]))

function responses(method: string, route: Route): Record<string, unknown> {
  const { summary, params, answer, status, file } = route
  const codes = [...(method === 'GET' ? [] : WITH_BODY), ...(params ? WITH_PARAMS : []), ...(route.problems ?? [])]
  const good = file
    ? {
        200: { description: file.description, content: { [file.type]: { schema: Type.String({ format: 'binary' }) } } },
      }
    : answer === undefined
      ? { 204: { type: 'null', description: 'done' } }
      : { [status ?? 200]: answers(summary, answer) }
  return {
    ...good,
    ...problems(codes),
  }
}

/** Levels of a body; what the API means has fewer than ten. */
const MAX_DEPTH = 64

/**
 * What the schemas let pass. `1e400` is a valid number in JSON, and converts to a number in a query: both become Infinity, for
 * which the validator skips minimum and maximum. Where any value is allowed, it may be nested deeper than the stack.
 * @throws Problem
 */
function expectPlain(value: unknown, path: string, depth = 0): void {
  if (typeof value === 'number' && !Number.isFinite(value)) throw new Problem(400, `${path} is not a finite number`)
  if (typeof value !== 'object' || value === null) return
  if (depth > MAX_DEPTH) throw new Problem(400, `the body is nested more than ${MAX_DEPTH} deep`)
  for (const [name, part] of Object.entries(value)) expectPlain(part, path === '' ? name : `${path}/${name}`, depth + 1)
}

/** The types of the contract hold here because the validator has checked the request against the route's schemas. */
export function register<R extends Routes>(app: FastifyInstance, routes: R, handlers: Handlers<R>): void {
  for (const [key, route] of Object.entries<Route>(routes)) {
    const [method = '', url = ''] = key.split(' ')
    const { id, tag, summary, description, params, query, body, answer, status, file } = route
    const handle = handlers[key] as (request: RequestOf<Route>) => unknown
    app.route({
      method,
      url,
      schema: {
        operationId: id,
        tags: [tag],
        summary,
        ...(description && { description }),
        ...(params && { params }),
        ...(query && { querystring: query }),
        ...(body && { body }),
        ...(file && { produces: [file.type] }),
        response: responses(method, route),
      },
      async handler({ params, query, body }, reply) {
        const given = { params, query, body }
        expectPlain(given, '')
        const result = await handle(given as RequestOf<Route>)
        if (file) {
          return reply.type(file.type).header('content-disposition', `attachment; filename="${file.name}"`).send(result)
        }
        if (answer === undefined) return reply.code(204).send()
        return reply.code(status ?? 200).send(result)
      },
    })
  }
}
