// SPDX-License-Identifier: Apache-2.0
/** A hypervisor whose hardware is a SoftSmmu that caches all that it may, and devices behind it. */
import { eventName } from '../../../../server/smmu/events.ts'
import { type IdRegisters, QEMU_NESTED_ID_REGISTERS } from '../../../../server/smmu/features.ts'
import type { SoftSmmuOptions } from '../../../../server/smmu/soft/options.ts'
import { SoftSmmu } from '../../../../server/smmu/soft/softSmmu.ts'
import { NO_SSID, type Transaction } from '../../../../server/smmu/transaction.ts'
import { BenchOf, Host, type SetUp } from './support.ts'

export interface SoftSetUp extends SetUp {
  /** Of all SMMUs. */
  readonly soft?: SoftSmmuOptions
}

/** QEMU's ID registers with bits cleared and set. */
export function idRegisters(set: Partial<IdRegisters>, clear: Partial<IdRegisters> = {}): IdRegisters {
  const id = { ...QEMU_NESTED_ID_REGISTERS }
  for (const name of Object.keys(id) as (keyof IdRegisters)[]) {
    id[name] = ((id[name] & ~(clear[name] ?? 0)) | (set[name] ?? 0)) >>> 0
  }
  return id
}

export class SoftBench extends BenchOf<SoftSmmu> {
  constructor(setUp: SoftSetUp = {}) {
    super(setUp, memory => new SoftSmmu(memory.bus, { caching: 'maximal', ...setUp.soft }))
  }

  /** A register of the hardware, past the hypervisor. */
  peek(offset: number, smmu = 0): number {
    const into = { lo: 0, hi: 0 }
    this.hardware[smmu].read(offset, 4, into)
    return into.lo
  }

  poke(offset: number, value: number, smmu = 0): void {
    this.hardware[smmu].write(offset, 4, value, 0)
  }

  /** A DMA of 8 bytes. @returns `done`, `abort`, or the name of the event */
  dma(sid: number, address: number, more: Partial<Transaction> & { smmu?: number; value?: bigint } = {}): string {
    const { smmu = 0, value = 0x5a5a_5a5a_5a5a_5a5an, ...rest } = more
    const transaction = {
      sid,
      ssid: NO_SSID,
      lo: address % 2 ** 32,
      hi: Math.floor(address / 2 ** 32),
      write: true,
      privileged: false,
      instruction: false,
      ...rest,
    }
    const outcome = this.hardware[smmu].dma(transaction, new Uint8Array(new BigUint64Array([value]).buffer))
    if (outcome === undefined) return 'done'
    return outcome.kind === 'fault' ? eventName(outcome.event.id) : outcome.kind
  }
}

/** One that was reset, with a host that has brought its SMMU up. */
export function softHost(setUp: SoftSetUp = {}): { readonly bench: SoftBench; readonly host: Host } {
  const bench = new SoftBench(setUp)
  bench.hyp.reset()
  return { bench, host: new Host(bench).boot() }
}
