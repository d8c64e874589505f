// SPDX-License-Identifier: Apache-2.0
/**
 * Isolation of a live machine, from outside. Whose a page is, is known from the results of donations and reclaims alone; what
 * devices reach is read from the hardware's registers and the tables that these lead to. It knows neither what the hypervisor
 * believes nor which fault was injected.
 */
import type { StaticPartition } from '../policy/inspect.ts'
import { hex } from '../smmu/bits.ts'
import { describeEvent } from '../smmu/events.ts'
import type { GuestMemory } from '../smmu/memory.ts'
import { type Leaf, stage2Leaves, streamIds, TooManyTables, type Way, type Window, ways } from '../smmu/reach.ts'
import { NO_SSID, type Transaction } from '../smmu/transaction.ts'
import { Walker } from '../smmu/walker.ts'
import { describeStep } from '../smmu/walkSteps.ts'
import { changedCanary, fillCanary } from './canary.ts'
import { PageGuard } from './pageGuard.ts'
import { HOST, HYPERVISOR, PAGE_SIZE, PageMap } from './pageMap.ts'
import { PageOracle } from './pageOracle.ts'
import type { Programmed } from './programmed.ts'

/** What a sample looks at, at most. */
const SAMPLE = {
  /** StreamIDs. */
  streams: 4096,
  /** Descriptors of second stages, and of each page that changed hands last. */
  descriptors: 8192,
  recent: 32,
  /** Pages whose contents are compared. */
  canaries: 8,
} as const
/** Violations that are told one by one. */
const MAX_TOLD = 20

/** Memory that is reached by somebody who must not. */
export interface Violation {
  /** Same for the same sort of weakness. */
  readonly kind: string
  readonly message: string
  /** The page, hex. */
  readonly page?: string
  /** Who reaches it: index of the SMMU, StreamID, name of the device. */
  readonly stream?: { readonly smmu: number; readonly sid: number; readonly device: string }
  /** Registers and table entries on the way, in lines. */
  readonly walk: readonly string[]
}

/** Of a report. */
export interface IsolationSummary {
  /** Why nothing is said about the machine; absent: it is judged. */
  readonly unjudged?: string
  /** Looks at a part of the tables, and at all of them. */
  readonly samples: number
  readonly wholes: number
  /** Pages that are not the host's. */
  readonly hypervisorPages: number
  readonly vmPages: number
  /** The first ones. */
  readonly violations: readonly Violation[]
  /** How many more there were. */
  readonly more: number
}

/** What a successor of this oracle on the same machine needs to know. */
export interface OracleState {
  /** Pages and VMs. */
  readonly donated: readonly (readonly [page: number, vm: number])[]
  readonly unsure: readonly number[]
  readonly guarded: readonly number[]
  readonly summary: IsolationSummary
}

/** The machine, as QEMU described it. */
export interface OracleMachine {
  /** Guest memory, past the hypervisor's. */
  readonly memory: GuestMemory
  readonly carveout: { readonly base: number; readonly size: number }
  /** Frames of the SMMUs. */
  readonly frames: readonly { readonly base: number; readonly size: number }[]
  readonly device: (smmu: number, sid: number) => string
}

const NOBODY_SAID = 'nobody has said which pages were donated before'
const DOES_NOT_CLAIM = 'the policy does not isolate'

const transaction = (sid: number, address: number): Transaction => ({
  ...{ sid, ssid: NO_SSID, lo: address >>> 0, hi: Math.floor(address / 2 ** 32) },
  ...{ write: false, privileged: false, instruction: false },
})

export class IsolationOracle extends PageOracle {
  readonly #memory: GuestMemory
  readonly #device: OracleMachine['device']
  readonly #violations: Violation[] = []
  #more = 0
  #samples = 0
  #wholes = 0
  #unjudged: string | undefined = DOES_NOT_CLAIM
  /** Pages whose transfer nobody told the end of, and those that change hands now. */
  readonly #unsure = new Set<number>()
  /** Pages that were opened to vCPUs with something in them. */
  readonly #unzeroed = new Set<number>()
  /** Where the next sample goes on. */
  #sid = 0
  readonly #address = new Map<string, number>()
  #canary = 0

  constructor({ memory, carveout, frames, device }: OracleMachine) {
    super(new PageMap(memory.ram, carveout, frames), new PageGuard(memory.ram))
    this.#memory = memory
    this.#device = device
  }

  /** The machine was reset: all RAM is the host's but hypervisor memory, and nothing is guarded yet. */
  begin(): void {
    this.clear()
    this.guard.clear()
    this.#unsure.clear()
    this.#unzeroed.clear()
    this.#address.clear()
    this.judge(false)
  }

  /**
   * @param claims the policy says that it isolates
   * @param partitions and that it has shared memory out so
   */
  judge(claims: boolean, partitions?: readonly StaticPartition[]): void {
    this.claims = claims
    this.share(partitions)
    this.#unjudged = claims ? undefined : DOES_NOT_CLAIM
  }

  /** Nothing can be said until the machine is reset. */
  get lost(): boolean {
    return this.#unjudged === NOBODY_SAID
  }

  /** The machine ran before, and nobody left what was known of it. */
  lose(): void {
    this.claims = false
    this.#unjudged = NOBODY_SAID
  }

  get state(): OracleState {
    return {
      donated: this.donations.map(page => [page, this.map.owner(page)]),
      unsure: [...this.#unsure],
      guarded: [...this.guard.list()],
      summary: this.summary(),
    }
  }

  /** Goes on from what another has left. */
  adopt({ donated, unsure, guarded, summary }: OracleState): void {
    this.begin()
    for (const [page, vm] of donated) {
      this.map.give(page, PAGE_SIZE, vm)
      this.donations.push(page)
    }
    for (const page of unsure) this.#unsure.add(page)
    for (const page of guarded) this.guard.add(page, PAGE_SIZE)
    this.#violations.push(...summary.violations)
    this.#more += summary.more
    this.#samples += summary.samples
    this.#wholes += summary.wholes
  }

  /** The first one; undefined: none. */
  get violation(): Violation | undefined {
    return this.#violations[0]
  }

  summary(): IsolationSummary {
    let hypervisorPages = 0
    let vmPages = 0
    for (const owners of this.map.owners) {
      for (const owner of owners) {
        if (owner === HYPERVISOR) hypervisorPages++
        else if (owner !== HOST) vmPages++
      }
    }
    return {
      ...(this.#unjudged !== undefined && { unjudged: this.#unjudged }),
      ...{ samples: this.#samples, wholes: this.#wholes, hypervisorPages, vmPages },
      ...{ violations: [...this.#violations], more: this.#more },
    }
  }

  override report(kind: string, message: string, page?: number): void {
    this.#found({ kind, message, ...(page !== undefined && { page: hex(page) }) })
  }

  /** @param walk of what is told; there may be as many violations as pages */
  #found(violation: Omit<Violation, 'walk'>, walk: () => string[] = () => []): void {
    if (!this.claims || this.#violations.some(({ message }) => message === violation.message)) return
    if (this.#violations.length < MAX_TOLD) this.#violations.push({ ...violation, walk: walk() })
    else this.#more++
  }

  protected override fill(page: number): void {
    if (this.claims) fillCanary(this.#memory, page, PAGE_SIZE)
  }

  protected override leaves(page: number): boolean {
    return this.#unzeroed.delete(page)
  }

  protected override unsure(page: number): boolean {
    return this.#unsure.has(page)
  }

  // Pages that change hands.

  /** Pages are about to change hands; what becomes of that is told by `moved`, or never. */
  moving(what: 'donate' | 'reclaim', base: number, size: number, vm: number): void {
    for (const page of this.#pagesOf(base, size)) {
      if (what === 'reclaim' && this.map.owner(page) === vm) this.#compare(page)
      this.#unsure.add(page)
    }
    if (what === 'reclaim') this.returning(base, size)
  }

  /** @param done the policy said that it succeeded */
  moved(what: 'donate' | 'reclaim', base: number, size: number, vm: number, done: boolean): void {
    for (const page of this.#pagesOf(base, size)) this.#unsure.delete(page)
    if (what === 'reclaim') this.reclaimed(base, size, vm, done)
    else if (done) this.donated(base, size, vm)
  }

  /** A range that makes no sense is the policy's to refuse. */
  *#pagesOf(base: number, size: number): Generator<number> {
    for (const { base: from, size: bytes } of this.#memory.ram) {
      const end = Math.min(base + size, from + bytes)
      for (let page = Math.max(from, base - (base % PAGE_SIZE)); page < end; page += PAGE_SIZE) yield page
    }
  }

  /** Pages are about to be opened to vCPUs: from then on their contents say nothing. */
  opening(base: number, size: number): void {
    if (!this.claims) return
    const words = new Uint32Array(PAGE_SIZE / 4)
    const bytes = new Uint8Array(words.buffer)
    for (const page of this.#pagesOf(base, size)) {
      const owner = this.map.owner(page)
      if (owner === HOST || owner === HYPERVISOR) continue
      if (this.#memory.read(page, bytes, 0, PAGE_SIZE) && words.every(word => word === 0)) continue
      this.#unzeroed.add(page)
    }
  }

  /** A page of a VM holds what it was filled with. */
  #compare(page: number): void {
    if (!this.claims || this.#unsure.has(page)) return
    const changed = changedCanary(this.#memory, page)
    if (changed === undefined) return
    const { words, offset } = changed
    const what = `page ${hex(page)} of ${this.owner(page)} was written by somebody else`
    this.report('vm-page-written', `${what}: ${words} words from offset ${hex(offset)}`, page)
  }

  // What devices reach.

  /** A part of it, another one each time, and the pages that changed hands last. */
  sample(smmus: readonly Programmed[]): void {
    if (!this.claims) return
    this.#samples++
    this.#registers(smmus)
    const tables = smmus.map(({ tables }) => tables)
    const from = this.#sid
    const found = [...ways(this.#memory, tables, this.#groupOf, from, from + SAMPLE.streams)]
    const last = Math.max(0, ...tables.filter(({ enabled }) => enabled).map(streamIds))
    this.#sid = from + SAMPLE.streams < last ? from + SAMPLE.streams : 0
    const limit = Math.ceil(SAMPLE.descriptors / Math.max(1, found.length))
    for (const way of found) {
      const start = this.#address.get(way.key) ?? 0
      const next = this.#way(way, smmus, { from: start, to: Number.POSITIVE_INFINITY, limit })
      // What is gone from the tables is forgotten with the first way that takes its place.
      if (this.#address.size > SAMPLE.recent) this.#address.clear()
      this.#address.set(way.key, next ?? 0)
      for (const page of this.donations.slice(-SAMPLE.recent)) {
        this.#way(way, smmus, { from: page, to: page + PAGE_SIZE, limit: SAMPLE.recent })
      }
    }
    for (let i = 0; i < Math.min(SAMPLE.canaries, this.donations.length); i++) {
      this.#canary = (this.#canary + 1) % this.donations.length
      this.#compare(this.donations[this.#canary])
    }
  }

  /** All of it; of no SMMU, what is not reached through one, which does not count as all. */
  whole(smmus: readonly Programmed[]): void {
    if (!this.claims) return
    if (smmus.length > 0) this.#wholes++
    this.#registers(smmus)
    this.auditGuard()
    const tables = smmus.map(({ tables }) => tables)
    for (const way of ways(this.#memory, tables, this.#groupOf)) this.#way(way, smmus)
    for (const page of this.donations) this.#compare(page)
  }

  /** What the SMMUs write themselves. */
  #registers(smmus: readonly Programmed[]): void {
    for (const [index, { writes }] of smmus.entries()) {
      for (const { name, base, size } of writes) {
        const other = this.outside(index, undefined, base, size)
        const page = other >= 0 ? other : this.#forbidden(base, size)
        if (page < 0) continue
        const what = `SMMU ${index} writes its ${name} at ${hex(base)}, ${size} bytes`
        this.report('smmu-write', `${what}: page ${hex(page)} ${this.notOf(index, undefined, page)}`, page)
      }
    }
  }

  readonly #groupOf = (smmu: number, sid: number): number | undefined => this.partitionOf(smmu, sid)

  /** First page of a range that must not be reached; -1: none. */
  #forbidden(base: number, size: number): number {
    let at = base
    for (;;) {
      const found = this.map.forbidden(at, base + size - at)
      if (found < 0) return -1
      const page = found - (found % PAGE_SIZE)
      if (!this.#unsure.has(page)) return page
      at = page + PAGE_SIZE
      if (at >= base + size) return -1
    }
  }

  /** @returns where to go on, if the window's limit ended it */
  #way(way: Way, smmus: readonly Programmed[], window?: Window): number | undefined {
    const { smmu, sid, ste, second } = way
    if (sid === undefined) {
      this.report(
        'tables: off and open',
        `SMMU ${smmu} is off and lets everything through: its devices reach all of memory`,
      )
      return undefined
    }
    const device = this.#device(smmu, sid)
    const stream = { smmu, sid, device }
    if (!second) {
      const message = `${device}: its stream table entry has no second stage: it reaches all of memory`
      this.#found({ kind: 'tables: no stage 2', message, stream }, () => this.#walk(smmus[smmu], sid, 0))
      return undefined
    }
    const leaf: Leaf = (base, size, target, writable) => {
      const other = this.outside(smmu, sid, target, size)
      const page = other >= 0 ? other : this.#forbidden(target, size)
      if (target === base && page < 0) return
      const pages = size > PAGE_SIZE ? ` (${size} bytes)` : ''
      const what = `${device}: the second stage maps ${hex(base)}${pages}`
      const find = (kind: string, text: string, at: number) => {
        this.#found({ kind, message: `${what}${text}`, page: hex(at), stream }, () =>
          this.#walk(smmus[smmu], sid, base + Math.max(0, at - target)),
        )
      }
      if (page < 0) return find('tables: elsewhere', ` to ${hex(target)}, not to itself`, target)
      const leads = target === base ? '' : ` to ${hex(target)}`
      const owner = this.map.isFrame(page) ? 'registers of an SMMU' : this.notOf(smmu, sid, page)
      find('tables: stage 2', `${leads}${writable ? '' : ' read-only'}: page ${hex(page)} ${owner}`, page)
    }
    try {
      return stage2Leaves(this.#memory, ste, smmus[smmu].tables.oas, leaf, window)
    } catch (error) {
      if (!(error instanceof TooManyTables)) throw error
      const message = `${device}: ${error.message}: what it reaches is not known`
      this.#found({ kind: 'tables: too many', message, stream }, () => this.#walk(smmus[smmu], sid, 0))
      return undefined
    }
  }

  /** Registers, stream table entry and second stage on the way of a stream to an address. */
  #walk({ features, registers }: Programmed, sid: number, address: number): string[] {
    const { strtabBaseLo, strtabBaseHi, strtabBaseCfg } = registers
    const base = hex((BigInt(strtabBaseHi) << 32n) | BigInt(strtabBaseLo))
    const lines = [`STRTAB_BASE ${base}, STRTAB_BASE_CFG ${hex(strtabBaseCfg)}`]
    const walker = new Walker(features, this.#memory)
    walker.setRegisters(registers)
    const t = transaction(sid, address)
    const ste = walker.configuration(t, step => lines.push(describeStep(step)))
    if ('kind' in ste) return [...lines, describeEvent(ste.event)]
    walker.translateStage2(t, ste, step => lines.push(describeStep(step)))
    return lines
  }
}
