// SPDX-License-Identifier: Apache-2.0
/** The hypervisor's test machine with an injector between guest, hypervisor and machine. */

import type { FaultContext } from '../../../server/faults/faultContext.ts'
import { Injector } from '../../../server/faults/injector.ts'
import type { FaultRule, Firing } from '../../../server/faults/rule.ts'
import { PkvmInspect } from '../../../server/hypervisor/pkvm/inspect.ts'
import type { Policy, Stage2Change, Trap } from '../../../server/policy/policy.ts'
import { ENODEV } from '../../../server/policy/result.ts'
import type { HypWarning } from '../../../server/policy/warnings.ts'
import * as r from '../../../server/smmu/registers.ts'
import { createRing, RingWriter } from '../../../server/trace/ring.ts'
import { Bench, Host, type SetUp } from '../hypervisor/pkvm/support.ts'

const DEVICES = [
  { sid: 0x10, name: 'nvme', model: 'nvme' },
  { sid: 0x105, name: 'virtio-blk', model: 'virtio-blk-pci' },
]

export class Cut extends Error {}

/** What faults need of a bench, and what of it they do. */
export interface FaultyMachine extends Pick<FaultContext, 'machine' | 'policy' | 'memory'> {
  readonly irqs: number[]
  readonly forced: string[]
  readonly time: number
  invalidated: number
  garbled: number
  readonly lost: number[]
}

export function faultContext(bench: FaultyMachine): FaultContext {
  const pages = () => bench.policy.inspect?.pages
  return {
    machine: bench.machine,
    policy: bench.policy,
    devices: bench.machine.devices,
    memory: bench.memory,
    translates: false,
    clock: () => bench.time,
    irq: (_smmu, line) => void bench.irqs.push(line),
    invalidate: () => void bench.invalidated++,
    warn: (warning: HypWarning) => void bench.forced.push(warning.code),
    donate: (base, size, vm) => pages()?.donate?.(base, size, vm) ?? ENODEV,
    reclaim: (base, size, vm) => pages()?.reclaim?.(base, size, vm) ?? ENODEV,
    cut: () => {
      throw new Cut('cut')
    },
    garble: () => void bench.garbled++,
    loseState: smmu => void bench.lost.push(smmu),
    die: () => {
      throw new Cut('died')
    },
  }
}

export class FaultyBench extends Bench {
  readonly injector: Injector
  readonly firings: Firing[] = []
  readonly irqs: number[] = []
  readonly forced: string[] = []
  garbled = 0
  readonly lost: number[] = []
  invalidated = 0
  readonly policy: Policy
  /** What there is behind an SMMU, as the dispatcher keeps it: what is in it changes. */
  readonly devices = DEVICES.map(device => ({ ...device }))
  /** Guest's clock, ns. */
  time = 0
  #seq = 0

  constructor(setUp: SetUp = {}) {
    super(setUp)
    const bench = this
    this.injector = new Injector(new RingWriter(createRing(1 << 20)), firing => this.firings.push(firing))
    this.policy = {
      name: 'pkvm',
      get inspect() {
        return new PkvmInspect(bench.hyp)
      },
      reset: () => this.hyp.reset(),
      access: (trap: Trap) => this.hyp.access(trap),
      stage2Changed: (change: Stage2Change) => this.hyp.stage2Changed(change),
    }
  }

  /** Connects the machine, as at the handshake. */
  connect(running = false, translates = true): void {
    const context = { ...faultContext(this), translates, devices: this.devices }
    this.injector.connect(context, running)
  }

  arm(rules: readonly FaultRule[], seed = 1): void {
    this.injector.arm({ rules, seed })
  }

  reset(): void {
    if (this.injector.armed) this.injector.reset(this.policy)
    else this.policy.reset()
  }

  override trap(write: boolean, offset: number, size: number, lo = 0, hi = 0, smmu = 0): Trap {
    this.time += 1e6
    const trap: Trap = {
      seq: ++this.#seq,
      smmu,
      cpu: 0,
      write,
      offset,
      size,
      lo: lo >>> 0,
      hi: hi >>> 0,
      time: this.time,
      pcLo: 0,
      pcHi: 0,
      aborted: false,
    }
    if (this.injector.armed) this.injector.access(this.policy, trap)
    else this.policy.access(trap)
    return trap
  }

  /** Names of the rules that fired, in order. */
  fired(): string[] {
    return this.firings.map(({ rule }) => rule)
  }
}

/** A machine that runs, with a host that has enabled its SMMU. */
export function running(rules: readonly FaultRule[] = [], setUp: SetUp = {}): { bench: FaultyBench; host: Host } {
  const bench = new FaultyBench(setUp)
  bench.connect()
  bench.reset()
  const host = new Host(bench).boot()
  if (rules.length > 0) bench.arm(rules)
  return { bench, host }
}

export const tlbi = (page: number) => [0x12, 0, 1, page] as const
export { Host, r }
