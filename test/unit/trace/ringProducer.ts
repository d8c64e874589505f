// SPDX-License-Identifier: Apache-2.0
/** Worker of ring.test.ts: writes `total` records of varying length, each filled with its number. */
import { workerData } from 'node:worker_threads'
import { RingWriter } from '../../../server/trace/ring.ts'

const { ring, total } = workerData as { ring: SharedArrayBuffer; total: number }
const writer = new RingWriter(ring)
const bytes = new Uint8Array(400)
for (let i = 0; i < total; i++) {
  bytes.fill(i & 0xff)
  writer.memoryAccess(false, i, bytes, 0, (i * 37) % 400, true)
}
