// SPDX-License-Identifier: Apache-2.0
/** Errors as RFC 9457 has them: `application/problem+json`. */
import { STATUS_CODES } from 'node:http'
import type { FastifyError, FastifyInstance, FastifyReply } from 'fastify'
import { Type } from 'typebox'
import { QmpError } from '../machine/qmp.ts'
import { OperationError } from '../trap/operations.ts'

export const ProblemSchema = Type.Object(
  {
    type: Type.String({ description: 'about:blank, or a URI that names the kind of problem' }),
    title: Type.String(),
    status: Type.Integer(),
    detail: Type.Optional(Type.String({ description: 'what was wrong with this request' })),
    errors: Type.Optional(
      Type.Array(
        Type.Object({
          path: Type.String(),
          message: Type.String(),
          line: Type.Optional(Type.Integer({ description: 'of a text, from 1' })),
          column: Type.Optional(Type.Integer({ description: 'from 1' })),
        }),
        { description: 'the fields of the request that were wrong' },
      ),
    ),
  },
  { $id: 'Problem', title: 'Problem' },
)

/** An answer other than the one asked for. */
export class Problem extends Error {
  override readonly name = 'Problem'
  readonly status: number
  readonly errors: readonly FieldError[] | undefined

  constructor(status: number, detail: string, errors?: readonly FieldError[]) {
    super(detail)
    this.status = status
    this.errors = errors
  }
}

/** What is wrong with a field of a request, or with a place in a text that it holds. */
interface FieldError {
  readonly path: string
  readonly message: string
  readonly line?: number
  readonly column?: number
}

/** What every route may answer. */
export const problems = (...statuses: readonly number[]) =>
  Object.fromEntries(
    [400, 401, 403, 429, ...statuses].map(status => [
      status,
      {
        description: STATUS_CODES[status] ?? 'error',
        content: { 'application/problem+json': { schema: Type.Ref('Problem') } },
      },
    ]),
  )

function statusOf(error: unknown): number {
  if (error instanceof Problem) return error.status
  if (error instanceof OperationError) return { absent: 404, state: 409, invalid: 422 }[error.failure]
  if (error instanceof QmpError) return 409
  const { statusCode } = error as Partial<FastifyError>
  return statusCode !== undefined && statusCode >= 400 && statusCode < 600 ? statusCode : 500
}

export function sendProblem(reply: FastifyReply, status: number, detail?: string, more: object = {}): FastifyReply {
  const body = {
    type: 'about:blank',
    title: STATUS_CODES[status] ?? 'Error',
    status,
    ...(detail && { detail }),
    ...more,
  }
  return reply.code(status).type('application/problem+json').serializer(JSON.stringify).send(body)
}

export function registerProblems(app: FastifyInstance): void {
  app.addSchema(ProblemSchema)
  app.setErrorHandler((error: FastifyError, request, reply) => {
    const status = statusOf(error)
    if (status >= 500) request.log.error(error)
    const invalid = error.validation?.map(({ instancePath, message }) => ({
      path: `${error.validationContext ?? ''}${instancePath}`,
      message: message ?? 'is wrong',
    }))
    const errors = (error as unknown) instanceof Problem ? (error as unknown as Problem).errors : invalid
    return sendProblem(reply, status, status >= 500 ? undefined : error.message, errors && { errors })
  })
  app.setNotFoundHandler((request, reply) => sendProblem(reply, 404, `${request.method} ${request.url.slice(0, 200)}`))
}
