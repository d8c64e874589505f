// SPDX-License-Identifier: Apache-2.0
/** Numbers as people read them, the same everywhere. */

/** `43,788` */
export const grouped = (n: number): string => n.toLocaleString('en-US')

/** `1 page`, `2 pages`, `2 accesses` */
export const counted = (n: number, one: string, many = `${one}s`): string => `${grouped(n)} ${n === 1 ? one : many}`

/** µs, without the unit */
export const micros = (us: number): string => us.toFixed(1)
