// SPDX-License-Identifier: Apache-2.0
/** Excerpt of a session's trace: the guest's accesses until the first fault, the records around it, and the end. */
import { createHash, type Hash } from 'node:crypto'
import { enums } from '../../protocol/messages.ts'
import { PAGE_DONATE, PAGE_RECLAIM } from '../policy/report.ts'
import type { WarningTable } from '../policy/warnings.ts'
import { hex, hex64 } from '../smmu/bits.ts'
import { describeRecord, describeRoot } from '../trace/describe.ts'
import type { Layout } from '../trace/layout.ts'
import type { Sink } from '../trace/pump.ts'
import { type RecordOf, roots, type TraceRecord } from '../trace/records.ts'
import type { RingReader } from '../trace/ring.ts'
import type { OwnershipRange } from '../trap/operations.ts'
import { Owners } from './audit.ts'

const AROUND = 40
const LAST = 40
const MAX_FINDINGS = 20
const MAPPED = enums.translation.mapped[0]

/** An entry of the time line. */
export interface TimelineEntry {
  /** ms since the session's trace began. */
  readonly ms: number
  readonly text: string
}

type Root = RecordOf<'trap'> | RecordOf<'reset'> | RecordOf<'translate'> | RecordOf<'request'>

/**
 * A sink of the trace. It also compares what the hardware says of its translations with who owns the pages at that moment:
 * records are in the order in which things happened.
 */
export class Timeline implements Sink {
  readonly ready = true
  /** Digest over the guest's accesses and their values until the first fault: equal runs have equal digests. */
  accesses = 0
  readonly #hash: Hash = createHash('sha256')
  /** Trap and words of the first fault. */
  faultAt: number | undefined
  interruptions = 0
  /** Translations that led to what the host does not own. */
  readonly isolation: string[] = []
  readonly #recent: TraceRecord[] = []
  readonly #around: TraceRecord[] = []
  #after = 0
  #owners: Owners | undefined
  #donated: { base: number; end: number; vm: number }[] = []
  readonly #device: (smmu: number, sid: number) => string
  readonly #warnings: () => WarningTable

  /** @param warnings of the policy, as it is when they are put into words */
  constructor(device: (smmu: number, sid: number) => string, warnings: () => WarningTable) {
    this.#device = device
    this.#warnings = warnings
  }

  /** Ownership of pages at the start of the session. */
  own(ranges: readonly OwnershipRange[]): void {
    this.#owners = new Owners(ranges)
  }

  /** Digest of what the guest did until the first fault. */
  digest(): string {
    return this.#hash.copy().digest('hex').slice(0, 16)
  }

  fromRing(reader: RingReader, layout: Layout, at: number): void {
    this.record(reader.decode(layout, at))
  }

  record(record: TraceRecord): void {
    switch (record.kind) {
      case 'trap':
        if (this.faultAt === undefined) this.#access(record)
        break
      case 'fault':
        if (this.faultAt === undefined) {
          this.faultAt = this.accesses
          this.#around.push(...this.#recent)
          this.#after = AROUND
        }
        break
      case 'pages':
        if (record.result === 0) this.#pages(record)
        break
      case 'translate':
        this.#translation(record)
        break
      case 'console':
        return
    }
    this.#recent.push(record)
    if (this.#recent.length > LAST) this.#recent.shift()
    if (this.#after > 0) {
      this.#after--
      this.#around.push(record)
    }
  }

  flush(): void {}

  /** The trace around the first fault, or its end when there was none, in lines. */
  excerpt(): string[] {
    return (this.#around.length > 0 ? this.#around : this.#recent).map(record =>
      roots.has(record.kind) ? describeRoot(record as Root) : `  ${describeRecord(record, this.#warnings())}`,
    )
  }

  #access({ write, offset, size, lo, hi, aborted }: RecordOf<'trap'>): void {
    this.accesses++
    this.#hash.update(`${write} ${offset} ${size} ${lo} ${hi} ${aborted};`)
  }

  #pages({ operation, base, size, owner }: RecordOf<'pages'>): void {
    if (operation === PAGE_DONATE) this.#donated.push({ base, end: base + size, vm: owner })
    if (operation === PAGE_RECLAIM) {
      this.#donated = this.#donated.filter(range => range.base < base || range.end > base + size)
    }
  }

  #translation({ smmu, sid, iovaLo, iovaHi, status, pa }: RecordOf<'translate'>): void {
    if (status !== MAPPED || this.#owners === undefined || this.isolation.length >= MAX_FINDINGS) return
    const page = pa - (pa % 4096)
    const vm = this.#donated.find(({ base, end }) => page >= base && page < end)?.vm
    const owner = vm === undefined ? this.#owners.foreign(page, page + 4096)?.owner : `VM ${vm}`
    if (owner === undefined) return
    this.isolation.push(
      `${this.#device(smmu, sid)}: a translation of ${hex64(iovaLo, iovaHi)} led to ${hex(pa)}, which belongs to ${owner}`,
    )
  }
}
