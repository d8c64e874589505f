// SPDX-License-Identifier: Apache-2.0
/** Errors as RFC 9457 has them: `application/problem+json`. */
import { Type } from 'typebox'
import { named, type View } from './fields.ts'

const FieldErrorSchema = Type.Object({
  path: Type.String(),
  message: Type.String(),
  line: Type.Optional(Type.Integer({ description: 'of a text, from 1' })),
  column: Type.Optional(Type.Integer({ description: 'from 1' })),
})
/** What is wrong with a field of a request, or with a place in a text that it holds. */
export type FieldError = View<typeof FieldErrorSchema>

export const ProblemSchema = named(
  'Problem',
  Type.Object({
    type: Type.String({ description: 'about:blank, or a URI that names the kind of problem' }),
    title: Type.String(),
    status: Type.Integer(),
    detail: Type.Optional(Type.String({ description: 'what was wrong with this request' })),
    errors: Type.Optional(Type.Array(FieldErrorSchema, { description: 'the fields of the request that were wrong' })),
  }),
)
export type ProblemBody = View<typeof ProblemSchema>
