// SPDX-License-Identifier: Apache-2.0
import type { Queue, QueueEntry } from '../../api/schemas/smmus.ts'

/** A line of the two command queues side by side. */
export interface Pair {
  readonly host?: QueueEntry
  readonly shadow?: QueueEntry
}

/** Between CONS and PROD. */
export function isPending({ pending, prod, entries }: Queue, index: number): boolean {
  return pending > 0 && (prod - index - 1 + entries) % entries < pending
}

/** Each command of the host beside the shadow entry made from it; the hypervisor's own commands in the order in which the hardware gets them. */
export function pairs(host: Queue, shadow: Queue | null): Pair[] {
  const entries = shadow?.shown ?? []
  const places = new Map(entries.map(({ index }, i) => [index, i]))
  const placeOf = (entry: QueueEntry) => (entry.shadow === undefined ? undefined : places.get(entry.shadow))
  const rows: Pair[] = []
  // Shadow entries for older entries of the host are left out.
  let next = host.shown.map(placeOf).find(place => place !== undefined) ?? entries.length
  while (next > 0 && entries[next - 1]?.verdict === 'own') next--
  for (const entry of host.shown) {
    const place = placeOf(entry)
    if (place === undefined || place < next) {
      rows.push({ host: entry })
      continue
    }
    for (const shadow of entries.slice(next, place)) rows.push({ shadow })
    const mine = entries[place]
    rows.push({ host: entry, ...(mine && { shadow: mine }) })
    next = place + 1
  }
  // The guest ran on between the two reads: unmatched entries are shown at the next refresh.
  for (const shadow of entries.slice(next)) if (shadow.verdict === 'own') rows.push({ shadow })
  return rows
}
