// SPDX-License-Identifier: Apache-2.0
/** A recorded machine as it stood after one of its decisions. */
import { PAGE_DONATE, PAGE_RECLAIM, PAGE_SHARE, PAGE_UNSHARE } from '../policy/report.ts'
import { hex64 } from '../smmu/bits.ts'
import { POWER_STATES, type PowerState } from '../smmu/hardware.ts'
import { MAX_QUEUE_LOG2SIZE, queueLog2Size } from '../smmu/queue.ts'
import { ARM_SMMU_CMDQ_BASE, ARM_SMMU_CMDQ_CONS, ARM_SMMU_CR0, CMDQ_CONS_ERR, registerAt } from '../smmu/registers.ts'
import { Counters, CountersWriter, ownCounters } from '../trace/counters.ts'
import type { MachineDescription } from '../trace/format.ts'
import type { Group } from '../trace/groups.ts'
import { count, HISTOGRAM_WORDS, type Percentiles, percentiles } from '../trace/histogram.ts'
import { type RecordOf, request, type TraceRecord, verdict } from '../trace/records.ts'
import { type LongWrites, Shown, type View } from '../trace/shown.ts'
import type { RegisterValue } from '../trap/operations.ts'
import { Owners } from './owners.ts'

/** What EL2 told last, and what that took. */
export interface RecordedEl2 {
  readonly registers: { readonly vttbr: string; readonly vtcr: string } | null
  readonly changes: number
  readonly serverUs: Percentiles
}

export class Moment {
  /** Of the log: the last decision that was taken in; 0: none. */
  row = 0
  /** Guest time of the last decision that has one, ns. */
  time = 0
  /** The server's clock there, ns. */
  start = 0
  /** Number of its trap. */
  trap = 0
  /** Records that are missing. */
  lost = 0
  readonly shown: Shown
  readonly owners: Owners
  /** Of each SMMU. */
  readonly power: PowerState[]
  readonly #counters: ArrayBuffer
  readonly #count: CountersWriter
  /** What the host read last, unless it has written since; by SMMU and offset of 32 bits. */
  readonly #read = new Map<string, number>()
  /** Commands of the host that were decided since its CMDQ_CONS was known, by SMMU. */
  readonly #consumed = new Map<number, number>()
  #el2: RecordOf<'stage2'> | undefined
  #changes = 0
  readonly #el2Times: Uint32Array

  constructor(machine: MachineDescription, from?: Moment) {
    this.shown = from?.shown.copy() ?? new Shown(machine)
    this.owners = from?.owners.copy() ?? new Owners(machine)
    this.power = from?.power.slice() ?? machine.smmus.map((): PowerState => 'on')
    this.#counters = from === undefined ? ownCounters() : from.#counters.slice(0)
    this.#count = new CountersWriter(this.#counters)
    this.#count.machine(machine.smmus.length)
    this.#el2Times = from === undefined ? new Uint32Array(HISTOGRAM_WORDS) : from.#el2Times.slice()
    if (from === undefined) return
    this.row = from.row
    this.time = from.time
    this.start = from.start
    this.trap = from.trap
    this.lost = from.lost
    for (const [name, value] of from.#read) this.#read.set(name, value)
    for (const [smmu, value] of from.#consumed) this.#consumed.set(smmu, value)
    this.#el2 = from.#el2
    this.#changes = from.#changes
  }

  get counters(): Counters {
    return new Counters(this.#counters)
  }

  /** Null: no EL2 told anything. */
  get el2(): RecordedEl2 | null {
    if (this.#el2 === undefined) return null
    const { vttbrLo, vttbrHi, vtcrLo, vtcrHi } = this.#el2
    return {
      registers: { vttbr: hex64(vttbrLo, vttbrHi), vtcr: hex64(vtcrLo, vtcrHi) },
      changes: this.#changes,
      serverUs: percentiles(this.#el2Times),
    }
  }

  /** A record that is no part of a decision. */
  note(record: TraceRecord): void {
    this.shown.record(record)
    switch (record.kind) {
      case 'event':
        return this.#count.event(record.bytes[0] ?? 0)
      case 'gerror':
        return this.#count.add('gerrors')
      case 'guardFault':
        return this.#count.add('guardFaults')
      case 'lost':
        this.lost += record.count
    }
  }

  /** The next decision. @param long content of what it wrote and the recording has only a digest of */
  take(group: Group, long: LongWrites): void {
    const { root, children } = group
    this.row++
    this.shown.group(group, long)
    if ('start' in root) this.start = root.start
    if ('time' in root) this.time = root.time
    if (root.kind === 'reset') this.#reset()
    if (root.kind === 'trap') this.#trap(root)
    if (root.kind === 'request' && root.request === request.power) this.#switched(root)
    if (root.kind === 'request' && root.request === request.stage2Changed) {
      this.#changes++
      count(this.#el2Times, 0, root.duration / 1000)
    }
    for (const child of children) this.#child(child)
  }

  #switched({ v0: smmu, v1, result }: RecordOf<'request'>): void {
    const before = this.power[smmu]
    const to = POWER_STATES[v1]
    if (before === undefined || to === undefined) return
    this.#count.power(before, to, result === 0)
    if (result === 0) this.power[smmu] = to
  }

  #reset(): void {
    this.#count.add('resets')
    this.power.fill('on')
    this.#read.clear()
    this.#consumed.clear()
    this.owners.reset()
  }

  #trap(root: RecordOf<'trap'>): void {
    const { seq, smmu, offset, size, lo, hi, lastTrapNs, duration } = root
    this.trap = seq
    const aborted = root.aborted === 1
    this.#count.trap({ ...root, write: root.write === 1, aborted }, lastTrapNs, duration)
    if (duration === 0) this.#count.predicted(smmu)
    if (aborted) return
    for (const [at, value] of [
      [offset, lo],
      [offset + 4, hi],
    ].slice(0, size === 8 ? 2 : 1) as [number, number][]) {
      if (root.write === 1) this.#read.delete(key(smmu, at))
      else this.#read.set(key(smmu, at), value)
    }
    if (offset === ARM_SMMU_CMDQ_CONS || offset === ARM_SMMU_CMDQ_BASE) this.#consumed.delete(smmu)
  }

  #child(child: TraceRecord): void {
    switch (child.kind) {
      case 'command':
        this.#count.command(child.smmu, child.opcode, child.verdict & 3)
        if (child.verdict !== verdict.own) {
          this.#consumed.set(child.smmu, (this.#consumed.get(child.smmu) ?? 0) + 1)
        }
        return
      case 'warning':
        return this.#count.warning(child.id)
      case 'hardware':
        return this.#count.add(child.write === 1 ? 'hardwareWrites' : 'hardwareReads')
      case 'memory':
        return child.done > 0 ? undefined : this.#count.add(child.write === 1 ? 'memoryWrites' : 'memoryReads')
      case 'breakpoint':
        return this.#count.add('breakpoints')
      case 'fault':
        return this.#count.add('faults')
      case 'stage2':
        this.#el2 = child
        return
      case 'pages':
        return this.#pages(child)
      case 'event':
      case 'gerror':
      case 'guardFault':
        return this.note(child)
    }
  }

  #pages({ operation, base, size, owner, result }: RecordOf<'pages'>): void {
    if (result !== 0) return
    if (operation === PAGE_DONATE) this.owners.set(base, size, { state: owner === 0 ? 'hyp' : 'vm', vm: owner })
    if (operation === PAGE_SHARE) this.owners.set(base, size, { state: 'shared', vm: 0 })
    if (operation === PAGE_RECLAIM || operation === PAGE_UNSHARE) this.owners.set(base, size, { state: 'owned', vm: 0 })
  }

  /** A register as the host saw it last, or as the hardware was last seen to have it. */
  register(smmu: number, view: View, offset: number): RegisterValue {
    const lo = this.#half(smmu, view, offset)
    if (lo === undefined) return { offset, lo: 0, hi: 0, ok: false, absent: true }
    const wide = registerAt(offset)?.bits === 64
    return { offset, lo, hi: wide ? (this.#half(smmu, view, offset + 4) ?? 0) : 0, ok: true }
  }

  #half(smmu: number, view: View, offset: number): number | undefined {
    if (view === 'hardware') return this.shown.register('hardware', smmu, offset)
    const read = this.#read.get(key(smmu, offset))
    if (offset === ARM_SMMU_CMDQ_CONS) return this.#hostCons(smmu, read)
    // What the hardware says of itself is not what the host is told.
    return read ?? (offset < ARM_SMMU_CR0 ? undefined : this.shown.register('host', smmu, offset))
  }

  /** The commands that were decided were consumed, although the host may not have looked since. */
  #hostCons(smmu: number, read: number | undefined): number | undefined {
    const base = this.shown.register('host', smmu, ARM_SMMU_CMDQ_BASE)
    if (base === undefined) return read
    const known = read ?? this.shown.register('host', smmu, ARM_SMMU_CMDQ_CONS) ?? 0
    const mask = 2 ** (queueLog2Size(base, MAX_QUEUE_LOG2SIZE) + 1) - 1
    return ((known & CMDQ_CONS_ERR) | ((known + (this.#consumed.get(smmu) ?? 0)) & mask)) >>> 0
  }
}

const key = (smmu: number, offset: number): string => `${smmu}:${offset}`
