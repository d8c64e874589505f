// SPDX-License-Identifier: Apache-2.0
/** `absent`: no such thing. `state`: not now. `invalid`: cannot be. */
export type OperationFailure = 'absent' | 'state' | 'invalid'

/** Why an operation could not be done. */
export class OperationError extends Error {
  override readonly name = 'OperationError'
  readonly failure: OperationFailure

  constructor(failure: OperationFailure, message: string) {
    super(message)
    this.failure = failure
  }
}
