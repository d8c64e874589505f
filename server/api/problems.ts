// SPDX-License-Identifier: Apache-2.0
/** Errors as answers. */
import { STATUS_CODES } from 'node:http'
import type { FastifyError, FastifyInstance, FastifyReply } from 'fastify'
import { QmpError } from '../machine/qmp.ts'
import { OperationError } from '../policy/operationError.ts'
import { Problem } from './problem.ts'
import type { FieldError, ProblemBody } from './schemas/problem.ts'

function statusOf(error: unknown): number {
  if (error instanceof Problem) return error.status
  if (error instanceof OperationError) return { absent: 404, state: 409, invalid: 422 }[error.failure]
  if (error instanceof QmpError) return 409
  const { statusCode } = error as Partial<FastifyError>
  return statusCode !== undefined && statusCode >= 400 && statusCode < 600 ? statusCode : 500
}

export function sendProblem(
  reply: FastifyReply,
  status: number,
  detail?: string,
  errors?: readonly FieldError[],
): FastifyReply {
  const body: ProblemBody = {
    type: 'about:blank',
    title: STATUS_CODES[status] ?? 'Error',
    status,
    ...(detail && { detail }),
    ...(errors && { errors }),
  }
  return reply.code(status).type('application/problem+json').serializer(JSON.stringify).send(body)
}

function invalidFields({ validation, validationContext }: FastifyError): FieldError[] | undefined {
  return validation?.map(({ instancePath, message }) => ({
    path: `${validationContext ?? ''}${instancePath}`,
    message: message ?? 'is wrong',
  }))
}

export function registerProblems(app: FastifyInstance): void {
  app.setErrorHandler((error: FastifyError | Problem, request, reply) => {
    const status = statusOf(error)
    if (status >= 500) request.log.error(error)
    const errors = error instanceof Problem ? error.errors : invalidFields(error)
    return sendProblem(reply, status, status >= 500 ? undefined : error.message, errors)
  })
  app.setNotFoundHandler((request, reply) => sendProblem(reply, 404, `${request.method} ${request.url.slice(0, 200)}`))
}
