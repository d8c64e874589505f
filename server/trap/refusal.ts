// SPDX-License-Identifier: Apache-2.0
import { ProtocolError } from '../../protocol/errors.ts'
import { encodeRefuse, type Hello } from '../../protocol/generated/messages.ts'
import { MAX_STRING, VERSION } from '../../protocol/messages.ts'
import { LinkClosed } from './byteStream.ts'
import type { Link } from './link.ts'

/**
 * Answers hello: the machine is not served here, and its QEMU ends with the text.
 * @param reason of the link's end, for the person who looks after the server
 * @throws LinkClosed always
 */
export function refuse(link: Link, hello: Hello, text: string, reason = text): never {
  encodeRefuse(link.out, hello.seq, VERSION.min, VERSION.max, wireText(text))
  link.flush()
  throw new LinkClosed(reason)
}

/** As the wire takes it: the text may quote what anybody sent. */
export function wireText(text: string): string {
  return text
    .replaceAll('\0', '')
    .slice(0, MAX_STRING / 4)
    .toWellFormed()
}

/**
 * A machine cannot be served, and why. Was it new, its QEMU is told; one that ran may still find a server that takes it.
 * @throws LinkClosed, ProtocolError always
 */
export function refuseFor(error: Error, link: Link, hello: Hello): never {
  if (isOfLink(error)) throw error
  if (hello.resumed === 0) refuse(link, hello, error.message, describeError(error))
  throw new LinkClosed(describeError(error))
}

/** What was thrown, for the person who wrote the code if that is at fault. */
export function describeError(error: Error): string {
  const bug = error instanceof TypeError || error instanceof ReferenceError
  return (bug && error.stack) || error.message
}

/** It is about the connection, not about the machine. */
export const isOfLink = (error: unknown): boolean => error instanceof LinkClosed || error instanceof ProtocolError
