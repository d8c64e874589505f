// SPDX-License-Identifier: Apache-2.0
/** Puts routes of the contract, and what answers them, into the HTTP server. */
import { STATUS_CODES } from 'node:http'
import type { FastifyInstance } from 'fastify'
import { Type } from 'typebox'
import { Ref } from './schemas/fields.ts'
import { ProblemSchema } from './schemas/problem.ts'
import type { Handlers, RequestOf, Route, Routes } from './schemas/route.ts'

/** What every route may answer. */
const ALWAYS = [400, 401, 403, 429]

const problem = (status: number) => ({
  description: STATUS_CODES[status] ?? 'error',
  content: { 'application/problem+json': { schema: Ref(ProblemSchema) } },
})

function responses({ answer, status, file, problems = [] }: Route): Record<string, unknown> {
  const good = file
    ? {
        200: { description: file.description, content: { [file.type]: { schema: Type.String({ format: 'binary' }) } } },
      }
    : answer === undefined
      ? { 204: Type.Null() }
      : { [status ?? 200]: answer }
  return { ...good, ...Object.fromEntries([...ALWAYS, ...problems].map(code => [code, problem(code)])) }
}

/** The types of the contract hold here because the validator has checked the request against the route's schemas. */
export function register<R extends Routes>(app: FastifyInstance, routes: R, handlers: Handlers<R>): void {
  for (const [key, route] of Object.entries<Route>(routes)) {
    const [method = '', url = ''] = key.split(' ')
    const { tag, summary, description, params, query, body, answer, status, file } = route
    const handle = handlers[key] as (request: RequestOf<Route>) => unknown
    app.route({
      method,
      url,
      schema: {
        tags: [tag],
        summary,
        ...(description && { description }),
        ...(params && { params }),
        ...(query && { querystring: query }),
        ...(body && { body }),
        ...(file && { produces: [file.type] }),
        response: responses(route),
      },
      async handler(request, reply) {
        const result = await handle({
          params: request.params,
          query: request.query,
          body: request.body,
        } as RequestOf<Route>)
        if (file) {
          return reply.type(file.type).header('content-disposition', `attachment; filename="${file.name}"`).send(result)
        }
        if (answer === undefined) return reply.code(204).send()
        return reply.code(status ?? 200).send(result)
      },
    })
  }
}
