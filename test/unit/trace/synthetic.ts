// SPDX-License-Identifier: Apache-2.0
/** Recordings made up for tests. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { onTestFinished } from 'vitest'
import type { Trap } from '../../../server/machine/ports.ts'
import type { TraceHeader } from '../../../server/trace/format.ts'
import { Pump } from '../../../server/trace/pump.ts'
import { Recorder, type RecorderSummary } from '../../../server/trace/recorder.ts'
import { createRing, RingWriter } from '../../../server/trace/ring.ts'

export const CARVEOUT = 0x7c00_0000
export const QUEUE = 0x4800_0000

export const header: Omit<TraceHeader, 'segment'> = {
  recording: 'a-b-c',
  created: '2026-01-02T03:04:05.000Z',
  epoch: 1_767_323_045_000,
  versions: { 'smmu-cosim': '0.1.0', node: 'v24.0.0' },
  policy: 'passthrough',
  policyOptions: {},
  kernel: '6.12.0-test-arm64',
  machine: {
    qemu: '10.0.0',
    features: 1,
    vcpus: 2,
    carveout: { base: CARVEOUT, size: 0x400_0000 },
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
  const recorder = await Recorder.open({
    path,
    header: { ...header, ...options.header },
    ...(limit !== undefined && { limit }),
  })
  pump.add(recorder)
  await produce(new RingWriter(ring), pump)
  pump.close()
  return recorder.close()
}
