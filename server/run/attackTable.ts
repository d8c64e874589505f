// SPDX-License-Identifier: Apache-2.0
/**
 * What a protected VM's host attacked, and what stopped it (scripts/guest/el2). The guest tells what the attacker saw; that
 * the SMMU stopped a device is told by an event of the SMMU, within the time of the attack.
 */
import type { GuestEvent } from '../machine/guestEvents.ts'
import { decodeEvent, EVT_ID_TRANSLATION_FAULT, EVTQ_ENT_WORDS, eventName } from '../smmu/events.ts'
import type { Layout } from '../trace/layout.ts'
import type { Sink } from '../trace/pump.ts'
import type { RecordOf, TraceRecord } from '../trace/records.ts'
import type { RingReader } from '../trace/ring.ts'
import type { Ending } from './ending.ts'

export interface Attack {
  readonly who: 'cpu' | 'dma'
  readonly what: 'read' | 'write'
  readonly target: string
  /** Physical, hex. */
  readonly address: string
  /** What the attacker saw. */
  readonly result: string
  /** Null: nothing did; UNKNOWN where nobody saw the SMMU's events. */
  readonly stoppedBy: string | null
  /** Whether it has to be stopped. */
  readonly mustStop: boolean
}

export interface AttackReport {
  readonly attacks: readonly Attack[]
  /** Words of the VM's secret that it found changed; null: it was not asked. */
  readonly secretChanged: number | null
  /** VMs created and destroyed under attack, with `storm`. */
  readonly storm: Readonly<Record<string, unknown>> | null
}

/** The server is elsewhere, or there is none: what stopped a device cannot be told. */
export const UNKNOWN = 'not known'

/** Targets that are the attacker's own. */
const OWN: ReadonlySet<string> = new Set(['own', 'lent', 'given back'])
const PAGE = 4096
/** Most events that are kept: the first ones, of a machine that reports them without end. */
const MAX_EVENTS = 10_000

interface StageTwoFault {
  readonly name: string
  /** Guest's clock, ns. */
  readonly time: number
  readonly page: number
  readonly read: boolean
}

export class AttackTable implements Sink {
  readonly ready = true
  readonly #faults: StageTwoFault[] = []

  fromRing(reader: RingReader, layout: Layout, at: number): void {
    if (layout.name === 'event') this.record(reader.decode(layout, at))
  }

  record(record: TraceRecord): void {
    if (record.kind === 'event') this.#event(record)
  }

  flush(): void {}

  #event({ bytes, time }: RecordOf<'event'>): void {
    if (this.#faults.length >= MAX_EVENTS || bytes.length < 4 * EVTQ_ENT_WORDS) return
    const words = new Uint32Array(EVTQ_ENT_WORDS)
    new Uint8Array(words.buffer).set(bytes.subarray(0, 4 * EVTQ_ENT_WORDS))
    const event = decodeEvent(words)
    if (event.id !== EVT_ID_TRANSLATION_FAULT || !event.s2) return
    this.#faults.push({ name: eventName(event.id), time, page: event.ipa, read: event.rnw })
  }

  /**
   * @param watched whether the SMMU's events came here
   * @returns undefined when the guest made no attack
   */
  report(events: readonly GuestEvent[], watched: boolean): AttackReport | undefined {
    const rows = events.filter(({ event, who }) => event === 'attack' && who !== undefined)
    const storm = events.find(({ event }) => event === 'storm')
    if (rows.length === 0 && storm === undefined) return undefined
    const checked = events.find(({ event, state }) => event === 'pvm' && state === 'checked')?.changed
    return {
      attacks: rows.map(row => this.#attack(row, watched)),
      secretChanged: typeof checked === 'number' ? checked : null,
      storm: storm ?? null,
    }
  }

  #attack({ who, what, target, address, result, from, to }: GuestEvent, watched: boolean): Attack {
    const attack = {
      who: who === 'cpu' ? 'cpu' : 'dma',
      what: what === 'write' ? 'write' : 'read',
      target: String(target),
      address: String(address),
      result: String(result),
      mustStop: !OWN.has(String(target)),
    } as const
    return {
      ...attack,
      stoppedBy: attack.who === 'cpu' ? byCpu(attack) : this.#bySmmu(attack, Number(from), Number(to), watched),
    }
  }

  /** An event within the attack's time; when data came all the same, nothing stopped it. */
  #bySmmu(
    attack: Pick<Attack, 'what' | 'address' | 'result'>,
    from: number,
    to: number,
    watched: boolean,
  ): string | null {
    if (attack.result === 'reached') return null
    if (!watched) return UNKNOWN
    const page = Math.floor(Number(attack.address) / PAGE) * PAGE
    const read = attack.what === 'read'
    const fault = this.#faults.find(f => f.page === page && f.read === read && f.time >= from && f.time <= to)
    return fault === undefined ? null : `SMMU: ${fault.name} at stage 2`
  }
}

/** A load of the kernel's that faults leaves zeros; a signal says who was in the way by where the page is. */
function byCpu({ result, target }: Pick<Attack, 'result' | 'target'>): string | null {
  if (/^SIG/.test(result)) return target === 'carveout' ? `CPU guard: ${result}` : `EL2: ${result}`
  return target === 'el2' && result === 'zeros' ? 'EL2: the load faulted' : null
}

/** What the attacker reached and must not, in words. */
export function reached(report: AttackReport | undefined): string[] {
  const { attacks = [], secretChanged = null, storm = null } = report ?? {}
  const open = attacks
    .filter(({ mustStop, stoppedBy }) => mustStop && stoppedBy === null)
    .map(
      ({ who, what, target, address, result }) =>
        `${who} ${what} of ${target} at ${address} was not stopped (${result})`,
    )
  if (secretChanged !== null && secretChanged > 0) {
    open.push(`${secretChanged} words of the protected VM's secret were changed`)
  }
  for (const [count, what] of [
    [storm?.secretsRead, 'read'],
    [storm?.secretsChanged, 'changed'],
  ]) {
    if (typeof count === 'number' && count > 0) open.push(`${count} secrets of VMs were ${what}`)
  }
  return open
}

/** What has to be stopped and was not, in words; undefined: nothing. */
export function attackFailure(report: AttackReport): string | undefined {
  const { attacks, secretChanged } = report
  const [open] = reached(report)
  if (open !== undefined) return open
  const blocked = attacks.find(({ mustStop, stoppedBy }) => !mustStop && stoppedBy !== null)
  if (blocked)
    return `${blocked.who} ${blocked.what} of ${blocked.target} at ${blocked.address} was stopped: ${blocked.stoppedBy}`
  return secretChanged === null ? 'the protected VM did not say whether its secret is unchanged' : undefined
}

/** A policy that says that it isolates, and does not, has failed; of one that does not say so the table shows what is open. */
export function attackOutcome(
  report: AttackReport | undefined,
  isolated: unknown,
): Ending<'isolation-violation'> | undefined {
  const open = report && isolated === true ? attackFailure(report) : undefined
  return open === undefined ? undefined : { outcome: 'isolation-violation', message: open }
}

/** A device reached what it must not. */
export function deviceReached({ attacks }: AttackReport): boolean {
  return attacks.some(({ who, mustStop, stoppedBy }) => who === 'dma' && mustStop && stoppedBy === null)
}
