// SPDX-License-Identifier: Apache-2.0
/** What the routes and streams of the API show of a recording at one of its moments; there is no machine to do anything with. */
import { countersView } from '../api/countersView.ts'
import { marks } from '../api/historyItems.ts'
import { Inspection } from '../api/inspection.ts'
import { Problem } from '../api/problem.ts'
import { pageHandlers } from '../api/routes/pages.ts'
import { smmuHandlers } from '../api/routes/smmus.ts'
import { traceHandlers } from '../api/routes/trace.ts'
import type { Answer, Input, RouteName } from '../api/schemas/contract.ts'
import type { CountersView, Info, MachineStatus } from '../api/schemas/lifecycle.ts'
import type { StreamItems, StreamName } from '../api/schemas/subscriptions.ts'
import type { TrapFilter } from '../api/schemas/trace.ts'
import { timeline } from '../api/timeline.ts'
import type { TrapLog } from '../api/trapLog.ts'
import { Traps } from '../api/traps.ts'
import { Verdicts } from '../api/verdicts.ts'
import { OperationError } from '../policy/operationError.ts'
import type { WarningTable } from '../policy/warnings.ts'
import { type AttackReport, AttackTable } from '../run/attackTable.ts'
import { hex } from '../smmu/bits.ts'
import { decodeEvent, describeEvent, eventName } from '../smmu/events.ts'
import { COMMAND_NAMES, EVENT_NAMES } from '../smmu/names.ts'
import { ARM_SMMU_CR0, REGISTERS } from '../smmu/registers.ts'
import type { TraceHeader } from '../trace/format.ts'
import { recordedOptions } from '../trace/recordedOptions.ts'
import type { View } from '../trace/shown.ts'
import type { Operations, RegisterValue } from '../trap/operations.ts'
import { atMost } from '../trap/ownershipRanges.ts'
import type { Moment } from './moment.ts'
import { POLICIES } from './policies.ts'
import type { Told } from './told.ts'

/** Events that the event queue shows. */
const SHOWN_EVENTS = 256
const GUEST_EVENTS: ReadonlySet<string> = new Set(['attack', 'pvm', 'storm'])

/** What is shown, and of which moment. */
export interface Shown {
  readonly header: TraceHeader
  readonly warnings: WarningTable
  readonly log: TrapLog
  readonly told: Told
  /** Kernel functions by PC, as `0x…`. */
  readonly functions: Readonly<Record<string, string>>
  readonly now: () => Moment
  /** Its end, once that is known. */
  readonly last: () => Moment | undefined
}

type Handlers = Readonly<Record<string, (request: never) => unknown>>

export class RecordedViews {
  readonly #of: Shown
  readonly #traps: Traps
  readonly #handlers: Handlers
  #verdicts: { readonly row: number; readonly of: Verdicts } | undefined

  constructor(of: Shown) {
    const { log, functions, warnings, header } = of
    this.#of = of
    const names = { want() {}, name: (_row: number, pc: bigint) => own(functions, hex(pc)) }
    this.#traps = new Traps(
      log,
      names,
      () => warnings,
      () => header.epoch,
    )
    this.#handlers = this.#routes()
  }

  get #now(): Moment {
    return this.#of.now()
  }

  /** The server's clock at the moment, ms since 1970. */
  get #at(): number {
    return this.#of.header.epoch + this.#now.start / 1e6
  }

  /** @throws Problem */
  async call<K extends RouteName>(route: K, input?: Input<K>): Promise<Answer<K>> {
    const handler = this.#handlers[route]
    if (handler === undefined) throw new Problem(409, 'this is a recording: there is no machine to do that with')
    this.#now.shown.memory.missing = undefined
    return (await handler({ params: {}, query: {}, body: undefined, ...input } as never)) as Answer<K>
  }

  /** Row of the trap with this number in its machine; undefined: there is none. */
  rowOf(trap: number): number | undefined {
    return this.#traps.numbered(trap)?.id
  }

  #routes(): Handlers {
    const { header, log, told } = this.#of
    const { machine } = header
    // The moment changes, and what is asked of it with it.
    const memory = {
      ram: machine.ram,
      read: (address: number, target: Uint8Array, offset: number, length: number) =>
        this.#now.shown.memory.read(address, target, offset, length),
      write: () => false,
    }
    const shown = Object.defineProperty(memory, 'missing', { get: () => this.#now.shown.memory.missing })
    const verdicts = {
      host: (smmu: number, index: number) => this.#verdictsNow().host(smmu, index),
      shadow: (smmu: number, index: number) => this.#verdictsNow().shadow(smmu, index),
    }
    const inspection = new Inspection({ call: this.#asked() }, machine, shown, verdicts, () => {})
    const {
      'POST /memory/donate': _d,
      'POST /memory/reclaim': _r,
      ...pages
    } = pageHandlers({
      inspection,
      attacks: { report: () => this.attacks() },
    })
    const { 'POST /smmus/:smmu/power': _p, ...smmus } = smmuHandlers({ inspection, status: () => this.status() })
    return {
      ...smmus,
      ...pages,
      ...traceHandlers({
        history: {
          traps: this.#traps,
          events: told.events,
          warnings: told.warnings,
          timeline: query => timeline(log, 1, marks(log, told.events.all, told.warnings.all, told.firings.all), query),
        },
        recordedSegments: async () => [],
      }),
      'GET /smmus/:smmu/queues': async (request: Parameters<(typeof smmus)['GET /smmus/:smmu/queues']>[0]) => {
        const queues = await smmus['GET /smmus/:smmu/queues'](request)
        return { ...queues, events: { ...queues.events, shown: this.#eventQueue(request.params.smmu) } }
      },
      'GET /info': () => this.info(),
      'GET /machine': () => this.status(),
      'GET /machine/rates': () => ({ points: told.rates.filter(({ at }) => at <= this.#at) }),
      'GET /machine/console': () => ({ text: told.consoleText, next: told.console.next }),
      'GET /counters': () => this.counters(),
    } as Handlers
  }

  /** What a trap thread is asked for by an inspection. */
  #asked(): ConstructorParameters<typeof Inspection>[0]['call'] {
    const answers: Partial<Operations> = {
      registers: (smmu, view, offsets) => offsets.map(offset => this.#register(smmu, view, offset)),
      ownership: (from, to, limit) => {
        const { policy, policyOptions } = this.#of.header
        const keeps = POLICIES.get(policy)?.description.facilities(recordedOptions({ policyOptions }))
        if (policy === 'partition' || keeps?.includes('ownership') === false)
          throw new OperationError('state', `policy ${policy}: the recording does not tell whose pages are`)
        return atMost(this.#now.owners.ranges(from, to), from, to, limit)
      },
      powerState: smmu => {
        if (this.#of.header.policyOptions.power === undefined)
          throw new OperationError('state', 'its SMMUs were not to be switched off')
        return this.#now.power[smmu] ?? null
      },
      hostStage2: () => null,
      el2: () => {
        const { el2 } = this.#now
        return el2 && { ...el2, checks: 0, agreement: null, problem: "a recording does not have EL2's own tables" }
      },
      oracle: () => null,
    }
    return (async (operation: keyof Operations, ...args: readonly unknown[]) => {
      const answer = answers[operation] as ((...args: readonly unknown[]) => unknown) | undefined
      if (answer === undefined) throw new OperationError('state', 'this is a recording')
      return answer(...args)
    }) as ConstructorParameters<typeof Inspection>[0]['call']
  }

  /** What the hardware says of itself never changes: it is known at any moment once it was read. */
  #register(smmu: number, view: View, offset: number): RegisterValue {
    const value = this.#now.register(smmu, view, offset)
    return value.absent && view === 'hardware' && offset < ARM_SMMU_CR0
      ? (this.#of.last() ?? this.#now).register(smmu, view, offset)
      : value
  }

  /** The hardware writes its queue itself: what is known of it is what was reported. */
  #eventQueue(smmu: number) {
    return this.#of.told.reported
      .filter(({ row, what }) => row <= this.#now.row && what.smmu === smmu)
      .map(({ what }, index) => {
        const words = new Uint32Array(8)
        new Uint8Array(words.buffer).set(what.bytes.subarray(0, 32))
        const event = decodeEvent(words)
        return { index, name: eventName(event.id), text: describeEvent(event), words: [...words].map(hex) }
      })
      .slice(-SHOWN_EVENTS)
  }

  #verdictsNow(): Verdicts {
    const { row } = this.#now
    if (this.#verdicts?.row === row) return this.#verdicts.of
    const { log } = this.#of
    const of = new Verdicts(log)
    for (let id = 1; id <= row; id++) {
      const entry = log.entry(id)
      if (entry !== undefined) of.group(entry)
    }
    this.#verdicts = { row, of }
    return of
  }

  counters(): CountersView {
    return countersView(this.#now.counters, { lost: this.#now.lost, refused: 0 }, this.#of.warnings)
  }

  info(): Info {
    const { header, warnings } = this.#of
    return {
      version: String(header.versions['smmu-cosim'] ?? ''),
      policies: [],
      stages: [],
      kernels: [],
      images: [],
      translate: [],
      qmp: [],
      registers: REGISTERS.map(({ name, offset, bits, meaning }) => ({ name, offset, bits, meaning })),
      commands: COMMAND_NAMES,
      events: EVENT_NAMES,
      hardware: [],
      devices: [],
      quirks: [],
      warnings: warnings.map(({ code, section, meaning }) => ({ code, section, meaning })),
    }
  }

  status(): MachineStatus {
    const { header, told } = this.#of
    const { machine, policy, policyOptions, created, kernel } = header
    const options = recordedOptions({ policyOptions })
    const { row: now } = this.#now
    const step = told.guest.findLast(({ row }) => row <= now)?.what
    return {
      state: 'off',
      phase: told.phase(now),
      step: step === undefined ? null : step.name === undefined ? step.event : `${step.event} ${step.name}`,
      // A label: of a policy of one's own it is a file.
      options: { ...options, policy: policy as 'own', quirks: [...(options.quirks ?? [])] },
      startedAt: created,
      kernel: kernel === '' ? null : kernel,
      machine: {
        qemu: machine.qemu,
        vcpus: machine.vcpus,
        carveout: { base: hex(machine.carveout.base), size: machine.carveout.size },
        ram: machine.ram.map(({ base, size }) => ({ base: hex(base), size })),
        smmus: machine.smmus.map(({ base, size }) => ({ base: hex(base), size })),
        devices: machine.devices,
      },
      held: null,
      guest: null,
      stalled: null,
      notRecorded: null,
      breaking: false,
      end: null,
      run: 1,
    }
  }

  attacks(): AttackReport & { readonly attacks: AttackReport['attacks'] } {
    const { told } = this.#of
    const { row: now } = this.#now
    const table = new AttackTable()
    for (const { row, what } of told.reported) if (row <= now) table.record(what)
    const events = told.guest.flatMap(({ row, what }) => (row <= now && GUEST_EVENTS.has(what.event) ? [what] : []))
    return table.report(events, true) ?? { attacks: [], secretChanged: null, storm: null }
  }

  /** Items of a stream as far as the moment goes; of the traps all that match, from `from` on. */
  stream<K extends StreamName>(name: K, from: number, max: number, filter?: TrapFilter) {
    const { told } = this.#of
    const streams: { readonly [N in StreamName]?: () => { items: readonly unknown[]; next: number } } = {
      traps: () => this.#traps.read(from, max, filter),
      events: () => told.events.read(from, max),
      warnings: () => told.warnings.read(from, max),
      pages: () => told.pages.read(from, max),
      firings: () => told.firings.read(from, max),
      console: () => told.console.read(from, max),
      machine: () => ({ items: [{ id: 1, status: this.status() }], next: 2 }),
      counters: () => ({ items: [{ id: 1, at: this.#at, counters: this.counters() }], next: 2 }),
      attacks: () => ({ items: [{ id: 1, run: 1, attacks: this.attacks() }], next: 2 }),
    }
    const found = streams[name]?.() ?? { items: [], next: from }
    return found as { readonly items: readonly StreamItems[K][]; readonly next: number }
  }
}

const own = (names: Readonly<Record<string, string>>, key: string): string | undefined =>
  Object.hasOwn(names, key) ? names[key] : undefined
