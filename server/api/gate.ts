// SPDX-License-Identifier: Apache-2.0
/**
 * Admission: rate limits for requests and for wrong tokens, per address, checked before any work is done for a request; and a
 * limit for connections that have not authenticated.
 */
import type { Socket } from 'node:net'
import { type Access, sameToken } from './security.ts'

/** Requests per address. */
const REQUESTS = { max: 3_000, windowMs: 10_000 }
/** Wrong tokens per address. */
const GUESSES = { max: 100, windowMs: 60_000 }
/** Addresses that are tracked; the oldest are dropped first. */
const MAX_ADDRESSES = 10_000
/** Connections that have not authenticated. A new one replaces the oldest of them, never an authenticated one. */
const MAX_ANONYMOUS = 128

interface Window {
  until: number
  count: number
}

/** At most `max` in a window of time, per address. */
class RateLimit {
  readonly #max: number
  readonly #windowMs: number
  readonly #clock: () => number
  readonly #windows = new Map<string, Window>()

  constructor({ max, windowMs }: { readonly max: number; readonly windowMs: number }, clock: () => number) {
    this.#max = max
    this.#windowMs = windowMs
    this.#clock = clock
  }

  /** ms until the next one is allowed; 0: now. */
  wait(address: string): number {
    const window = this.#windows.get(address)
    const left = window === undefined ? 0 : window.until - this.#clock()
    return window !== undefined && left > 0 && window.count >= this.#max ? left : 0
  }

  take(address: string): void {
    const now = this.#clock()
    const window = this.#windows.get(address)
    if (window !== undefined && window.until > now) {
      window.count++
      return
    }
    this.#windows.delete(address)
    if (this.#windows.size >= MAX_ADDRESSES) {
      const [oldest] = this.#windows.keys()
      if (oldest !== undefined) this.#windows.delete(oldest)
    }
    this.#windows.set(address, { until: now + this.#windowMs, count: 1 })
  }
}

export class Gate {
  readonly #token: string | undefined
  readonly #requests: RateLimit
  readonly #guesses: RateLimit
  /** In order of arrival. */
  readonly #anonymous = new Set<Socket>()

  /** @param clock ms */
  constructor({ token }: Access, clock = () => performance.now()) {
    this.#token = token
    this.#requests = new RateLimit(REQUESTS, clock)
    this.#guesses = new RateLimit(GUESSES, clock)
  }

  /** Called for each new connection. */
  connected(socket: Socket): void {
    if (this.#token === undefined) return
    if (this.#anonymous.size >= MAX_ANONYMOUS) {
      const [oldest] = this.#anonymous
      if (oldest !== undefined) this.#anonymous.delete(oldest)
      oldest?.destroy()
    }
    this.#anonymous.add(socket)
    socket.once('close', () => this.#anonymous.delete(socket))
  }

  /** Called for each request. @returns seconds until it would be admitted; 0: it is admitted. */
  admit(socket: Socket): number {
    const address = addressOf(socket)
    const wait = this.#requests.wait(address)
    if (wait === 0) this.#requests.take(address)
    return Math.ceil(wait / 1000)
  }

  /** Checks the token of a request. `late`: too many wrong tokens from this address, so this one was not compared. */
  check(socket: Socket, given: string | undefined): 'right' | 'wrong' | 'late' {
    if (this.#token === undefined) return 'right'
    if (given === undefined) return 'wrong'
    const address = addressOf(socket)
    if (this.#guesses.wait(address) > 0) return 'late'
    if (!sameToken(given, this.#token)) {
      this.#guesses.take(address)
      return 'wrong'
    }
    this.#anonymous.delete(socket)
    return 'right'
  }
}

/** An IPv6 host usually has a whole /64: it counts as one address. */
function addressOf({ remoteAddress = '' }: Socket): string {
  const four = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(remoteAddress)?.[1]
  if (four !== undefined || !remoteAddress.includes(':')) return four ?? remoteAddress
  const [head = '', tail] = remoteAddress.split('%')[0]?.split('::') ?? []
  const left = head.split(':').filter(Boolean)
  const right = (tail ?? '').split(':').filter(Boolean)
  const groups = tail === undefined ? left : [...left, ...Array(8 - left.length - right.length).fill('0'), ...right]
  return groups.slice(0, 4).join(':')
}
