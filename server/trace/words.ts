// SPDX-License-Identifier: Apache-2.0
/** Numbers as people read them, the same in the command line and in the dashboard. */

const WHOLE = new Intl.NumberFormat('en-US', { maximumFractionDigits: 3 })
const TENTHS = new Intl.NumberFormat('en-US', { minimumFractionDigits: 1, maximumFractionDigits: 1 })

/** `43,788` */
export const grouped = (n: number): string => WHOLE.format(n)

/** `1 page`, `2 pages`, `2 accesses` */
export const counted = (n: number, one: string, many = `${one}s`): string => `${grouped(n)} ${n === 1 ? one : many}`

/** With one decimal: `4.1`, `14,820.3` */
export const tenths = (n: number): string => TENTHS.format(n)

/** µs, with the unit: `4.1 µs` */
export const micros = (us: number): string => `${tenths(us)} µs`

/** What is said instead of the time that a trap took the server where QEMU answered, as it had been told to. */
export const BY_QEMU = 'answered by QEMU'

/** What a trap took the server, µs, or who answered. */
export const took = (us: number): string => (us > 0 ? micros(us) : BY_QEMU)
