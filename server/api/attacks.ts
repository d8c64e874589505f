// SPDX-License-Identifier: Apache-2.0
/** Attacks on a protected VM while they are made (scripts/guest/el2). */
import type { Session } from '../control/session.ts'
import { type GuestEvent, parseGuestEvent } from '../machine/guestEvents.ts'
import { type AttackReport, AttackTable } from '../run/attackTable.ts'
import { Feed } from './feed.ts'
import type { AttackItem, AttacksView } from './schemas/pages.ts'

/** The SMMU's event of an attack may come a little later than the guest's word of it, ms. */
const SETTLE_MS = 300
/** A guest may claim attacks without end. */
const MAX_EVENTS = 1_000
const NAMES: ReadonlySet<string> = new Set(['attack', 'pvm', 'storm'])
const NONE: AttackReport = { attacks: [], secretChanged: null, storm: null }

export class AttackControl {
  /** The table each time that it changed. */
  readonly feed = new Feed<AttackItem>(200)
  #session: Session | undefined
  #table = new AttackTable()
  #events: GuestEvent[] = []
  #run = 0
  #timer: NodeJS.Timeout | undefined

  /** Follows a session that was just started. */
  follow(session: Session): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    this.#session = session
    this.#table = new AttackTable()
    this.#events = []
    this.#run++
    session.pump?.add(this.#table)
    session.console.on('line', line => {
      const event = parseGuestEvent(line)
      if (event === undefined || !NAMES.has(event.event) || this.#session !== session) return
      if (this.#events.length >= MAX_EVENTS) return
      this.#events.push(event)
      this.#timer ??= setTimeout(() => this.#changed(), SETTLE_MS).unref()
    })
    this.#push()
  }

  /** Of the current or the last machine. */
  report(): AttacksView {
    this.#session?.pump?.drain()
    const { attacks, secretChanged, storm } =
      this.#table.report(this.#events, this.#session?.pump !== undefined) ?? NONE
    return { attacks: [...attacks], secretChanged, storm }
  }

  #changed(): void {
    this.#timer = undefined
    this.#push()
  }

  #push(): void {
    this.feed.push({ run: this.#run, attacks: this.report() })
  }
}
