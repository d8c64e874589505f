// SPDX-License-Identifier: Apache-2.0
/**
 * Who may use the server. On loopback: whoever can connect, but no web page of another origin (Host and Origin are checked,
 * so neither a foreign script nor a rebound DNS name gets through). On any other address: whoever has the token.
 */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto'
import type { IncomingHttpHeaders } from 'node:http'
import { isIP } from 'node:net'

export interface Access {
  readonly host: string
  /** Absent: none is needed. */
  readonly token?: string
  /** Further names that a Host header may have. */
  readonly names?: readonly string[]
}

export const TOKEN_VARIABLE = 'SMMU_COSIM_TOKEN'
const MIN_BITS = 128

export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127\.\d+\.\d+\.\d+$/.test(host)
}

/** Alphabets of tokens, with their size. */
const ALPHABETS = [
  [/^\d+$/, 10],
  [/^[\da-f]+$|^[\dA-F]+$/, 16],
  [/^[a-z]+$|^[A-Z]+$/, 26],
  [/^[\da-z]+$|^[\dA-Z]+$/, 36],
  [/^[\w-]+$/, 64],
] as const

/** With fewer different characters a token is not random over its alphabet. */
const FEW = 8

/** Upper bound of a token's entropy, bits. */
export function tokenBits(token: string): number {
  const [, size] = ALPHABETS.find(([pattern]) => pattern.test(token)) ?? [undefined, 94]
  const different = new Set(token).size
  return Math.floor(token.length * Math.log2(different < FEW ? different : size))
}

/** @param name where it comes from @throws Error when it is too short to be a secret */
export function checkToken(name: string, token: string): void {
  const bits = tokenBits(token)
  if (bits >= MIN_BITS) return
  const better = 'openssl rand -hex 16 makes one that is long enough'
  throw new Error(`${name} has ${bits} bits at most, fewer than ${MIN_BITS}: ${better}`)
}

/**
 * The token for an address: none on loopback unless one is given.
 * @throws Error when the one given is too short to be a secret.
 */
export function tokenFor(host: string, given: string | undefined): string | undefined {
  if (given !== undefined) checkToken(TOKEN_VARIABLE, given)
  return given ?? (isLoopback(host) ? undefined : randomBytes(24).toString('base64url'))
}

const digest = (text: string): Buffer => createHash('sha256').update(text).digest()

/** Compares in a time that says nothing about the token. */
export function sameToken(given: string, token: string): boolean {
  return timingSafeEqual(digest(given), digest(token))
}

/** The token of an Authorization header. */
export function bearer(headers: IncomingHttpHeaders): string | undefined {
  return /^Bearer ([\x21-\x7e]{1,512})$/i.exec(headers.authorization ?? '')?.[1]
}

/** The password of an Authorization header: the token, whatever the user's name is. */
export function basicPassword(headers: IncomingHttpHeaders): string | undefined {
  const given = /^Basic ([A-Za-z0-9+/=]{1,1024})$/i.exec(headers.authorization ?? '')?.[1]
  return given === undefined
    ? undefined
    : /^[^:]*:([\x21-\x7e]{1,512})$/.exec(Buffer.from(given, 'base64').toString('latin1'))?.[1]
}

/** Host name of a Host header or an origin, without port and brackets. */
function hostName(text: string): string | undefined {
  try {
    return new URL(text.includes('://') ? text : `http://${text}`).hostname.replace(/^\[|\]$/g, '')
  } catch {
    return undefined
  }
}

/** Is a request with these headers for us, and not sent by a page from elsewhere? Says why not. */
export function refusal(headers: IncomingHttpHeaders, access: Access): string | undefined {
  const host = hostName(headers.host ?? '')
  if (host === undefined || headers.host === undefined) return 'no valid Host header'
  const known = isLoopback(host) || host === access.host || access.names?.includes(host) === true
  // Somebody who listens on all interfaces is reached under addresses that we don't know; the token is the guard then.
  const anyAddress = access.token !== undefined && isIP(host) !== 0
  if (!known && !anyAddress) return `Host ${headers.host.slice(0, 100)} is not this server`
  const { origin } = headers
  if (origin === undefined) {
    return headers['sec-fetch-site'] === 'cross-site' ? 'request from another site' : undefined
  }
  let theirs: string
  try {
    theirs = new URL(origin).host
  } catch {
    return 'request from another origin'
  }
  return theirs === headers.host.toLowerCase() ? undefined : `request from another origin, ${origin.slice(0, 100)}`
}

const CSP = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self' data:",
  "font-src 'self'",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
]

/** The content security policy; with `nonce`, style elements that carry it are allowed (the terminal makes some). */
export function contentSecurityPolicy(nonce?: string): string {
  return CSP.map(line => (nonce && line.startsWith('style-src') ? `${line} 'nonce-${nonce}'` : line)).join('; ')
}
