// SPDX-License-Identifier: Apache-2.0
/**
 * The policy pkvm with a clock at its ports, or an eye on the heap, or on when it runs: where the trap thread's own time goes, and what it
 * leaves to the garbage collector. The file that COSIM_BENCH_PROBE names is written again and again.
 */
import { readlinkSync, writeFileSync } from 'node:fs'
import { PerformanceObserver } from 'node:perf_hooks'
import { getHeapStatistics } from 'node:v8'
import { PkvmPolicy } from '../../server/hypervisor/pkvm/policy.ts'
import type { Machine } from '../../server/machine/ports.ts'
import type { Policy, PolicyContext, Trap } from '../../server/policy/policy.ts'
import type { SmmuHardware } from '../../server/smmu/hardware.ts'
import type { GuestMemory } from '../../server/smmu/memory.ts'
import { ARM_SMMU_CMDQ_PROD } from '../../server/smmu/registers.ts'
import { count, HISTOGRAM_WORDS, percentiles } from '../../server/trace/histogram.ts'
import { PARTS, type Probed } from './parts.ts'

const FLUSH_MS = 500
/** Traps between two looks at the heap. */
const HEAP_TRAPS = 1_000

/** ns. */
const now = () => performance.now() * 1e6

/** Of the trap at hand, ns; in the order of PARTS. */
const spent = new Float64Array(PARTS.length)
const [READS, WRITES, HARDWARE, REST] = PARTS.keys()

class TimedMemory implements GuestMemory {
  readonly #memory: GuestMemory

  constructor(memory: GuestMemory) {
    this.#memory = memory
  }

  get ram(): GuestMemory['ram'] {
    return this.#memory.ram
  }

  read(address: number, target: Uint8Array, targetOffset: number, length: number): boolean {
    const start = now()
    const done = this.#memory.read(address, target, targetOffset, length)
    spent[READS] += now() - start
    return done
  }

  write(address: number, source: Uint8Array, sourceOffset: number, length: number): boolean {
    const start = now()
    const done = this.#memory.write(address, source, sourceOffset, length)
    spent[WRITES] += now() - start
    return done
  }
}

function timed(hardware: SmmuHardware): SmmuHardware {
  const clock = (call: () => boolean): boolean => {
    const start = now()
    const done = call()
    spent[HARDWARE] += now() - start
    return done
  }
  return {
    read: (offset, size, into) => clock(() => hardware.read(offset, size, into)),
    write: (offset, size, lo, hi) => clock(() => hardware.write(offset, size, lo, hi)),
    ...(hardware.writeThenRead && {
      writeThenRead: (offset, value, readOffset, into) =>
        clock(() => hardware.writeThenRead?.(offset, value, readOffset, into) ?? false),
    }),
    ...(hardware.post && {
      post: (...args) => clock(() => hardware.post?.(...args) ?? false),
    }),
  }
}

class Clocked extends PkvmPolicy {
  readonly #histograms = new Uint32Array(PARTS.length * HISTOGRAM_WORDS)

  constructor(machine: Machine, context: PolicyContext) {
    const smmus = machine.smmus.map(smmu => ({ ...smmu, hardware: timed(smmu.hardware) }))
    super({ ...machine, memory: new TimedMemory(machine.memory), smmus }, context)
    write(() => ({ ns: PARTS.map((_, i) => percentiles(this.#histograms, i * HISTOGRAM_WORDS)) }))
  }

  override access(trap: Trap): void {
    spent.fill(0)
    const start = now()
    super.access(trap)
    const all = now() - start
    if (!trap.write || trap.offset !== ARM_SMMU_CMDQ_PROD) return
    spent[REST] = all - spent[READS] - spent[WRITES] - spent[HARDWARE]
    for (let i = 0; i < spent.length; i++) count(this.#histograms, i * HISTOGRAM_WORDS, spent[i])
  }
}

class Weighed extends PkvmPolicy {
  #traps = 0
  #first = 0
  #last = 0

  constructor(machine: Machine, context: PolicyContext) {
    super(machine, context)
    write(() => {
      const counted = this.#traps - (this.#traps % HEAP_TRAPS) - HEAP_TRAPS
      return counted <= 0 ? {} : { bytesPerTrap: (this.#last - this.#first) / counted }
    })
  }

  override access(trap: Trap): void {
    super.access(trap)
    if (++this.#traps % HEAP_TRAPS !== 0) return
    this.#last = getHeapStatistics().total_allocated_bytes
    if (this.#traps === HEAP_TRAPS) this.#first = this.#last
  }
}

/** Traps whose moment is kept: enough to lay the recording's clock over the kernel's. */
const SEEN_TRAPS = 1_000

/** Says when it was called, and when the thread collected garbage, in the kernel's monotonic clock. */
class Dated extends PkvmPolicy {
  readonly #shift = Number(process.hrtime.bigint()) - now()
  readonly #seen: (readonly [seq: number, ns: number])[] = []
  readonly #collections: (readonly [ns: number, duration: number])[] = []
  readonly #thread = Number(readlinkSync('/proc/thread-self').split('/').at(-1))

  constructor(machine: Machine, context: PolicyContext) {
    super(machine, context)
    new PerformanceObserver(list => {
      for (const { startTime, duration } of list.getEntries())
        this.#collections.push([startTime * 1e6 + this.#shift, duration * 1e6])
    }).observe({ entryTypes: ['gc'] })
    write(() => ({ dated: { thread: this.#thread, seen: this.#seen, collections: this.#collections } }))
  }

  override access(trap: Trap): void {
    if (this.#seen.length < SEEN_TRAPS) this.#seen.push([trap.seq, now() + this.#shift])
    super.access(trap)
  }
}

function write(of: () => Probed): void {
  const file = process.env.COSIM_BENCH_PROBE
  if (file === undefined) throw new Error('COSIM_BENCH_PROBE names no file')
  setInterval(() => writeFileSync(file, JSON.stringify(of())), FLUSH_MS).unref()
}

export default function probe(machine: Machine, context: PolicyContext): Policy {
  const what = process.env.COSIM_BENCH_WHAT
  if (what === 'when') return new Dated(machine, context)
  // The clock allocates.
  return what === 'heap' ? new Weighed(machine, context) : new Clocked(machine, context)
}
