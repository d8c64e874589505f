// SPDX-License-Identifier: Apache-2.0
/** Excerpt of a session's trace: the guest's accesses until the first fault, the records around it, and the end. */
import { createHash, type Hash } from 'node:crypto'
import type { Hello } from '../../protocol/generated/messages.ts'
import { enums } from '../../protocol/messages.ts'
import { HOST, ownerName, PageMap } from '../oracle/pageMap.ts'
import type { WarningTable } from '../policy/warnings.ts'
import { hex, hex64 } from '../smmu/bits.ts'
import { describeRecord, describeRoot } from '../trace/describe.ts'
import type { Layout } from '../trace/layout.ts'
import type { Sink } from '../trace/pump.ts'
import { type RecordOf, request, roots, type TraceRecord } from '../trace/records.ts'
import type { RingReader } from '../trace/ring.ts'

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
 * A sink of the trace. It also compares what the hardware says of its translations with who owns the pages at that moment, by the
 * results of donations and reclaims: records are in the order in which things happened.
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
  #map: PageMap | undefined
  readonly #device: (smmu: number, sid: number) => string
  readonly #warnings: () => WarningTable

  /** @param warnings of the policy, as it is when they are put into words */
  constructor(device: (smmu: number, sid: number) => string, warnings: () => WarningTable) {
    this.#device = device
    this.#warnings = warnings
  }

  /** The machine at the start of the session: no VM has pages yet. */
  machine({ ram, carveoutBase, carveoutSize, smmus }: Hello): void {
    this.#map = new PageMap(ram, { base: carveoutBase, size: carveoutSize }, smmus)
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
      case 'reset':
        this.#map?.reset()
        break
      case 'request':
        if (record.result === 0) this.#transfer(record)
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

  #transfer({ request: what, v0: base, v1: size, v2: vm }: RecordOf<'request'>): void {
    if (what === request.donate) this.#map?.give(base, size, vm)
    if (what === request.reclaim) this.#map?.give(base, size, HOST)
  }

  #translation({ smmu, sid, iovaLo, iovaHi, status, pa }: RecordOf<'translate'>): void {
    const map = this.#map
    if (status !== MAPPED || map === undefined || this.isolation.length >= MAX_FINDINGS || map.hostMay(pa)) return
    const owner = map.isFrame(pa) ? 'an SMMU' : ownerName(map.owner(pa))
    this.isolation.push(
      `${this.#device(smmu, sid)}: a translation of ${hex64(iovaLo, iovaHi)} led to ${hex(pa)}, which belongs to ${owner}`,
    )
  }
}
