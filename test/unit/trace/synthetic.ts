// SPDX-License-Identifier: Apache-2.0
/** Recordings made up for tests. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { onTestFinished } from 'vitest'
import { pkvm } from '../../../server/hypervisor/pkvm/policy.ts'
import type { Policy, PolicyFactory, PolicyOptions, Trap } from '../../../server/policy/policy.ts'
import { ENODEV } from '../../../server/policy/result.ts'
import type { SmmuHardware } from '../../../server/smmu/hardware.ts'
import { CountersWriter, createCounters } from '../../../server/trace/counters.ts'
import type { TraceHeader } from '../../../server/trace/format.ts'
import { Pump } from '../../../server/trace/pump.ts'
import { Recorder, type RecorderSummary } from '../../../server/trace/recorder.ts'
import { request } from '../../../server/trace/records.ts'
import { createRing, RingWriter } from '../../../server/trace/ring.ts'
import { TracedMemory } from '../../../server/trace/tracedMemory.ts'
import { TraceReport } from '../../../server/trace/traceReport.ts'
import {
  type Bench,
  CARVEOUT_BASE,
  CARVEOUT_SIZE,
  HOST_L2,
  Host,
  MiB,
  RAM_BASE,
  RAM_SIZE,
  SMMU_BASE,
  STE,
  TestHardware,
  TestMemory,
} from '../hypervisor/pkvm/support.ts'
import { command, SYNC } from '../smmu/fields.ts'

export const header: Omit<TraceHeader, 'segment'> = {
  recording: 'a-b-c',
  created: '2026-01-02T03:04:05.000Z',
  epoch: 1_767_323_045_000,
  versions: { 'smmu-cosim': '0.1.0', node: 'v24.0.0' },
  policy: 'passthrough',
  policyOptions: {},
  kernel: '6.12.0-test-arm64',
  image: '',
  machine: {
    qemu: '10.0.0',
    features: 1,
    vcpus: 2,
    carveout: { base: 0x7c00_0000, size: 0x400_0000 },
    ram: [{ base: 0x4000_0000, size: 0x4000_0000 }],
    smmus: [{ base: 0x905_0000, size: 0x2_0000 }],
    devices: [{ smmu: 0, sid: 8, name: 'disk0', model: 'virtio-blk-pci' }],
  },
}

export const trap: Trap = {
  seq: 1,
  smmu: 0,
  cpu: 0,
  write: true,
  offset: 0x98,
  size: 4,
  lo: 1,
  hi: 0,
  time: 1_000_000,
  pcLo: 0x8090_1234,
  pcHi: 0xffff_8000,
  aborted: false,
}

/** A folder that lives as long as the test. */
export function folder(): string {
  const path = mkdtempSync(join(tmpdir(), 'smmu-cosim-trace-'))
  onTestFinished(() => rmSync(path, { recursive: true, force: true }))
  return path
}

/** Records what `produce` writes; it may call the pump's drain and close nothing. */
export async function recording(
  path: string,
  produce: (writer: RingWriter, pump: Pump) => void | Promise<void>,
  options: { readonly limit?: number; readonly header?: Partial<TraceHeader>; readonly ring?: number } = {},
): Promise<RecorderSummary> {
  const ring = createRing(options.ring ?? 1 << 20)
  const pump = new Pump(ring)
  const { limit } = options
  const { machine, warnings, ...rest } = { ...header, ...options.header }
  const recorder = await Recorder.open({ path, header: rest, ...(limit !== undefined && { limit }) })
  pump.add(recorder)
  recorder.describe(machine, () => warnings)
  await produce(new RingWriter(ring), pump)
  pump.close()
  return recorder.close()
}

/** A policy that runs against test hardware, with everything recorded as the trap thread does. */
export class RecordedBench {
  readonly memory = new TestMemory()
  readonly hardware = [new TestHardware(this.memory)]
  readonly policy: Policy
  readonly host: Host
  readonly #ring: RingWriter
  #seq = 0
  #time = 0

  constructor(ring: RingWriter, options: PolicyOptions = {}, factory: PolicyFactory = pkvm) {
    this.#ring = ring
    const [hardware] = this.hardware
    if (hardware === undefined) throw new Error('no hardware')
    const guarded = (add: boolean) => (base: number, size: number) => {
      ring.guard(add, base, size)
      return true
    }
    this.policy = factory(
      {
        memory: new TracedMemory(this.memory, ring),
        carveout: benchMachine.carveout,
        smmus: [{ ...SMMU, hardware: recordedHardware(hardware, ring) }],
        devices: [],
        guard: {
          add: guarded(true),
          remove: guarded(false),
        },
      },
      { options, report: new TraceReport(ring, new CountersWriter(createCounters())), clock: () => ring.now() / 1e6 },
    )
    this.host = new Host(this as unknown as Bench)
  }

  reset(): void {
    const start = this.#ring.now()
    this.policy.reset()
    this.#ring.reset(0, this.#time, start, this.#ring.now() - start)
  }

  /** As the control thread asks for it. */
  donate(base: number, size: number, vm: number): void {
    const start = this.#ring.now()
    const result = this.policy.inspect?.pages?.donate?.(base, size, vm) ?? ENODEV
    this.#ring.request(request.donate, result, start, this.#ring.now() - start, base, size, vm, 0)
  }

  access(write: boolean, offset: number, size: number, lo = 0, hi = 0): Trap {
    const start = this.#ring.now()
    this.#time += 1000
    const access = { ...trap, seq: ++this.#seq, write, offset, size, lo: lo >>> 0, hi: hi >>> 0, time: this.#time }
    this.policy.access(access)
    this.#ring.trap(access, start, this.#ring.now() - start, 5000, 0)
    return access
  }

  write(offset: number, value: number): void {
    this.access(true, offset, 4, value)
  }

  write64(offset: number, value: number, hi = 0): void {
    this.access(true, offset, 8, value % 2 ** 32, Math.floor(value / 2 ** 32) | hi)
  }

  read(offset: number): number {
    return this.access(false, offset, 4).lo
  }

  forget(): void {}
}

const SMMU = { base: SMMU_BASE, size: 0x2_0000 }

/** The machine of a RecordedBench, for a header. */
export const benchMachine = {
  ...header.machine,
  carveout: { base: CARVEOUT_BASE, size: CARVEOUT_SIZE },
  ram: [{ base: RAM_BASE, size: RAM_SIZE }],
  smmus: [SMMU],
  devices: [],
}

function recordedHardware(hardware: SmmuHardware, ring: RingWriter): SmmuHardware {
  return {
    read(offset, size, into) {
      const ok = hardware.read(offset, size, into)
      ring.hardware(0, false, ring.now(), 0, offset, size, into.lo, into.hi, ok)
      return ok
    },
    write(offset, size, lo, hi) {
      const ok = hardware.write(offset, size, lo, hi)
      ring.hardware(0, true, ring.now(), 0, offset, size, lo, hi, ok)
      return ok
    },
  }
}

/** What Linux does at boot, then `rounds` of TLB invalidations, then an STE, a donation and a command that is refused. */
export function scriptedBoot(bench: RecordedBench, rounds = 20): void {
  const { host } = bench
  bench.reset()
  for (const offset of [0x0, 0x4, 0xc, 0x14, 0x18]) bench.read(offset)
  host.boot()
  host.attach(8, STE.s1)
  for (let round = 0; round < rounds; round++) {
    host.commands([0x12, 0, 0x4000_0000 + round * 4096, 0], SYNC)
    bench.read(0x9c)
  }
  host.attach(9, STE.bypass)
  bench.donate(HOST_L2 + MiB, 8192, 1)
  host.commands(command('TLBI_EL2_ALL'), SYNC)
  bench.read(0x1f0)
  host.write(0x20, 0)
}

/** A recording of a scripted boot. */
export async function bootRecording(
  path: string,
  options: PolicyOptions = {},
  script: (bench: RecordedBench, writer: RingWriter) => void = bench => scriptedBoot(bench),
  more: Partial<TraceHeader> = {},
  factory: PolicyFactory = pkvm,
): Promise<RecorderSummary> {
  const head = { policy: 'pkvm', policyOptions: { ...options }, machine: benchMachine, ...more }
  const produce = (writer: RingWriter) => script(new RecordedBench(writer, options, factory), writer)
  return recording(path, produce, { header: head, ring: 1 << 24 })
}
