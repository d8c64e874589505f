// SPDX-License-Identifier: Apache-2.0
/** How full the host's queues are, as far as its own accesses and the hardware's events tell. */
import { CMDQ_OP_CMD_SYNC } from '../../smmu/commands.ts'
import { MAX_QUEUE_LOG2SIZE, queueAdvance, queueEntries, queueLog2Size, queuePointer } from '../../smmu/queue.ts'
import {
  ARM_SMMU_CMDQ_BASE,
  ARM_SMMU_CMDQ_CONS,
  ARM_SMMU_CMDQ_PROD,
  ARM_SMMU_EVTQ_BASE,
  ARM_SMMU_EVTQ_CONS,
  ARM_SMMU_EVTQ_PROD,
} from '../../smmu/registers.ts'
import type { RecordOf } from '../records.ts'

/** A queue by its registers; undefined: nobody said. */
interface Queue {
  log2size: number | undefined
  prod: number | undefined
  cons: number | undefined
}

const unknown = (): Queue => ({ log2size: undefined, prod: undefined, cons: undefined })

/** Undefined: not known, or no values that a queue has. */
function depthOf({ log2size, prod, cons }: Queue): number | undefined {
  if (log2size === undefined || prod === undefined || cons === undefined) return undefined
  const entries = queueEntries(prod, cons, log2size)
  return entries <= 1 << log2size ? entries : undefined
}

/** What changed, by the name of the counter. */
export type Depth = readonly [name: string, value: number]

/** Of one SMMU. What a recording that begins in the middle does not show is not counted. */
export class Depths {
  #cmdq = unknown()
  #evtq = unknown()
  /** Index of the host's next command that the hypervisor looks at. */
  #next: number | undefined
  /** Indices of the host's CMD_SYNCs from CMDQ_CONS on. */
  #syncs: number[] = []
  #events = 0

  /** BASE, PROD and CONS are unknown after a reset (IHI 0070 section 6.3): the host sets them. */
  reset(): void {
    this.#cmdq = unknown()
    this.#evtq = unknown()
    this.#next = undefined
    this.#syncs = []
  }

  /** An access of the host with its outcome. */
  *access({ write, offset, lo, aborted }: RecordOf<'trap'>): Generator<Depth> {
    if (aborted === 1) return
    switch (offset) {
      case ARM_SMMU_CMDQ_BASE:
        if (write === 1) this.#cmdq.log2size = queueLog2Size(lo, MAX_QUEUE_LOG2SIZE)
        return
      case ARM_SMMU_EVTQ_BASE:
        if (write === 1) this.#evtq.log2size = queueLog2Size(lo, MAX_QUEUE_LOG2SIZE)
        return
      case ARM_SMMU_CMDQ_PROD:
        this.#cmdq.prod = lo
        return yield* this.#commands()
      case ARM_SMMU_CMDQ_CONS: {
        this.#cmdq.cons = lo
        const { log2size } = this.#cmdq
        if (write === 1 && log2size !== undefined) this.#next = queuePointer(lo, log2size)
        return yield* this.#commands()
      }
      case ARM_SMMU_EVTQ_PROD:
        this.#evtq.prod = lo
        return yield* this.#eventQueue()
      case ARM_SMMU_EVTQ_CONS:
        this.#evtq.cons = lo
        return yield* this.#eventQueue()
    }
  }

  /** A command of the host was looked at. */
  *command({ opcode }: RecordOf<'command'>): Generator<Depth> {
    const { log2size } = this.#cmdq
    if (this.#next === undefined || log2size === undefined) return
    if (opcode === CMDQ_OP_CMD_SYNC) {
      this.#syncs.push(this.#next)
      yield ['outstanding SYNCs', this.#syncs.length]
    }
    this.#next = queueAdvance(this.#next, log2size)
  }

  *event(): Generator<Depth> {
    yield ['events', ++this.#events]
    const { prod, log2size } = this.#evtq
    if (prod === undefined || log2size === undefined) return
    this.#evtq.prod = queueAdvance(prod, log2size)
    yield* this.#eventQueue()
  }

  *#commands(): Generator<Depth> {
    const depth = depthOf(this.#cmdq)
    if (depth === undefined) return
    yield ['CMDQ depth', depth]
    if (this.#syncs.length === 0) return
    // Those that lie between CONS and PROD are still to be consumed.
    const { cons = 0, log2size = 0 } = this.#cmdq
    this.#syncs = this.#syncs.filter(index => queueEntries(index, cons, log2size) < depth)
    yield ['outstanding SYNCs', this.#syncs.length]
  }

  *#eventQueue(): Generator<Depth> {
    const depth = depthOf(this.#evtq)
    if (depth !== undefined) yield ['EVTQ depth', depth]
  }
}
