// SPDX-License-Identifier: Apache-2.0

/** One line of the guest's report (scripts/guest/README.md): `event`, `ok`, and fields by event. */
export interface GuestEvent {
  readonly seq: number
  readonly event: string
  readonly ok: boolean
  readonly name?: string
  readonly bytes?: number
  readonly sha256?: string
  readonly error?: string
  /** What went wrong before it went well. */
  readonly note?: string
  readonly [field: string]: unknown
}

/** A guest may tell of events without end. */
export const MAX_GUEST_EVENTS = 10_000

/** The first events of a guest: each step is judged by the first that tells of it, and those beyond the bound are only counted. */
export class GuestEvents {
  readonly all: GuestEvent[] = []
  /** Of those that came later. */
  dropped = 0

  /** @returns whether it is kept */
  add(event: GuestEvent): boolean {
    const kept = this.all.length < MAX_GUEST_EVENTS
    if (kept) this.all.push(event)
    else this.dropped++
    return kept
  }
}

/** The event in a console line; undefined for any other line, cut or forged ones included. */
export function parseGuestEvent(line: string): GuestEvent | undefined {
  const json = /@cosim (\{.*\})\s*$/.exec(line)?.[1]
  if (json === undefined) return undefined
  try {
    const event = JSON.parse(json) as GuestEvent
    const { seq, ok, bytes, name, sha256, error, note } = event
    const wellFormed =
      typeof event.event === 'string' &&
      typeof ok === 'boolean' &&
      typeof seq === 'number' &&
      (bytes === undefined || typeof bytes === 'number') &&
      [name, sha256, error, note].every(text => text === undefined || typeof text === 'string')
    return wellFormed ? event : undefined
  } catch {
    return undefined
  }
}
