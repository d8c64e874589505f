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

/** What is kept of each text that goes into reports, letters. */
const MAX_TEXT = 1000

/** The event in a console line; undefined for any other line, cut or forged ones included. A text that is too long is cut. */
export function parseGuestEvent(line: string): GuestEvent | undefined {
  const json = /@cosim (\{.*\})\s*$/.exec(line)?.[1]
  if (json === undefined) return undefined
  try {
    const event = JSON.parse(json) as GuestEvent
    const { seq, ok, bytes, name, sha256, error, note } = event
    const wellFormed =
      typeof event.event === 'string' &&
      typeof ok === 'boolean' &&
      Number.isFinite(seq) &&
      (bytes === undefined || Number.isFinite(bytes)) &&
      [name, sha256, error, note].every(text => text === undefined || typeof text === 'string')
    if (!wellFormed) return undefined
    return {
      ...event,
      event: event.event.slice(0, MAX_TEXT),
      ...(name !== undefined && { name: name.slice(0, MAX_TEXT) }),
      ...(sha256 !== undefined && { sha256: sha256.slice(0, MAX_TEXT) }),
      ...(error !== undefined && { error: error.slice(0, MAX_TEXT) }),
      ...(note !== undefined && { note: note.slice(0, MAX_TEXT) }),
    }
  } catch {
    return undefined
  }
}
