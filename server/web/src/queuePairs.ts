// SPDX-License-Identifier: Apache-2.0
import type { Queue, QueueEntry } from '../../api/schemas/smmus.ts'

/** A line of the two command queues side by side. */
export interface Pair {
  readonly host?: QueueEntry
  readonly shadow?: QueueEntry
}

/** What the host wrote next to what became of it; the hypervisor's own commands stand where the hardware gets them. */
export function pairs(host: Queue, shadow: Queue | null): Pair[] {
  const entries = shadow?.shown ?? []
  const places = new Map(entries.map(({ index }, i) => [index, i]))
  const placeOf = (entry: QueueEntry) => (entry.shadow === undefined ? undefined : places.get(entry.shadow))
  const rows: Pair[] = []
  // What the hardware got for older entries of the host is left out.
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
  // The guest went on while the second queue was looked at: what has no partner yet comes next time.
  for (const shadow of entries.slice(next)) if (shadow.verdict === 'own') rows.push({ shadow })
  return rows
}
