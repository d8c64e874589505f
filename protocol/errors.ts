// SPDX-License-Identifier: Apache-2.0

/** The peer broke the protocol: send `error` with `code` and `message`, then close the connection. */
export class ProtocolError extends Error {
  /** A value of `enums.error`. */
  readonly code: number

  /** @param text names the frame, what was wrong with it, and what was expected */
  constructor(code: number, text: string) {
    super(text)
    this.name = 'ProtocolError'
    this.code = code
  }
}
