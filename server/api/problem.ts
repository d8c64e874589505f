// SPDX-License-Identifier: Apache-2.0
import type { FieldError } from './schemas/problem.ts'

/** An error with its HTTP status. */
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
