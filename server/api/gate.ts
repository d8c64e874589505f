// SPDX-License-Identifier: Apache-2.0
/**
 * Who gets in, and how often. Asked before anything is done for a request: how often an address may ask, and guess a token;
 * and how many connections may stand open that have shown none.
 */
import type { Socket } from 'node:net'
import { type Access, sameToken } from './security.ts'

/** Requests of an address, whoever it is. */
const REQUESTS = { max: 3_000, windowMs: 10_000 }
/** Wrong tokens of an address. */
const GUESSES = { max: 100, windowMs: 60_000 }
/** Addresses that are remembered; the oldest go first. */
const MAX_ADDRESSES = 10_000
/** Connections without the token; a new one takes the place of the oldest, never that of one with the token. */
const MAX_UNPROVEN = 128

interface Window {
  until: number
  count: number
}

/** So many in a window of time, for each address. */
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

  /** ms until one more is not too many; 0: now. */
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
  /** In the order in which they came. */
  readonly #unproven = new Set<Socket>()

  /** @param clock ms */
  constructor({ token }: Access, clock = () => performance.now()) {
    this.#token = token
    this.#requests = new RateLimit(REQUESTS, clock)
    this.#guesses = new RateLimit(GUESSES, clock)
  }

  /** A connection was made. */
  connected(socket: Socket): void {
    if (this.#token === undefined) return
    if (this.#unproven.size >= MAX_UNPROVEN) {
      const [oldest] = this.#unproven
      if (oldest !== undefined) this.#unproven.delete(oldest)
      oldest?.destroy()
    }
    this.#unproven.add(socket)
    socket.once('close', () => this.#unproven.delete(socket))
  }

  /** A request came. @returns seconds to wait before it would be answered; 0: it is. */
  admit(socket: Socket): number {
    const address = addressOf(socket)
    const wait = this.#requests.wait(address)
    if (wait === 0) this.#requests.take(address)
    return Math.ceil(wait / 1000)
  }

  /** A token was given, or none. `late`: too many wrong ones came from there, and this one is not looked at. */
  check(socket: Socket, given: string | undefined): 'right' | 'wrong' | 'late' {
    if (this.#token === undefined) return 'right'
    if (given === undefined) return 'wrong'
    const address = addressOf(socket)
    if (this.#guesses.wait(address) > 0) return 'late'
    if (!sameToken(given, this.#token)) {
      this.#guesses.take(address)
      return 'wrong'
    }
    this.#unproven.delete(socket)
    return 'right'
  }
}

/** One network is one address: whoever has an IPv6 address has 2^64 of them. */
function addressOf({ remoteAddress = '' }: Socket): string {
  const four = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(remoteAddress)?.[1]
  if (four !== undefined || !remoteAddress.includes(':')) return four ?? remoteAddress
  const [head = '', tail] = remoteAddress.split('%')[0]?.split('::') ?? []
  const left = head.split(':').filter(Boolean)
  const right = (tail ?? '').split(':').filter(Boolean)
  const groups = tail === undefined ? left : [...left, ...Array(8 - left.length - right.length).fill('0'), ...right]
  return groups.slice(0, 4).join(':')
}
