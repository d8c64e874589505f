// SPDX-License-Identifier: Apache-2.0
import { hex } from '../../smmu/bits.ts'
import { BY_QEMU, counted, grouped, micros as microsOnly, tenths } from '../../trace/words.ts'

export { BY_QEMU, counted, grouped as count, hex, tenths }

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB']

export function bytes(value: number): string {
  let unit = 0
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024
    unit++
  }
  return `${Number.isInteger(value) ? grouped(value) : tenths(value)} ${UNITS[unit]}`
}

/** A time in the unit that suits it: `4.1 µs`, `2.3 ms`, `1.2 s` */
export function micros(us: number): string {
  if (us >= 1_000_000) return `${tenths(us / 1_000_000)} s`
  return us >= 1_000 ? `${tenths(us / 1_000)} ms` : microsOnly(us)
}

/** Guest time, ns, in seconds. */
export const seconds = (ns: number): string => (ns / 1e9).toFixed(6)

/** 64 bits in unsigned halves. */
export const wide = (lo: number, hi: number): string => hex((BigInt(hi) << 32n) | BigInt(lo))

export function parseAddress(text: string): bigint | undefined {
  const plain = text.trim().replaceAll('_', '')
  return /^(0x[0-9a-f]{1,16}|\d{1,16})$/i.test(plain) ? BigInt(plain.toLowerCase()) : undefined
}

/** Of the server's clock, ms since 1970, with milliseconds. */
export const wallClock = (ms: number): string =>
  `${new Date(ms).toLocaleTimeString('en-GB')}.${String(Math.floor(ms) % 1000).padStart(3, '0')}`

/** Between two moments of the guest, ns. */
export const delta = (ns: number): string => micros(ns / 1e3)

/** Day and time by the server's clock, where the browser is. */
export function dateTime(iso: string): string {
  const at = new Date(iso)
  return `${at.toLocaleDateString('sv-SE')} ${at.toLocaleTimeString('sv-SE')}`
}

/** Time of day by the server's clock, where the browser is. */
export const clock = (iso: string): string => new Date(iso).toLocaleTimeString('en-GB')
