// SPDX-License-Identifier: Apache-2.0
/** Records traps into the file given until it is killed; for file.test.ts. */
import { setTimeout as sleep } from 'node:timers/promises'
import { Pump } from '../../../server/trace/pump.ts'
import { Recorder } from '../../../server/trace/recorder.ts'
import { createRing, RingWriter } from '../../../server/trace/ring.ts'
import { header, trap } from './synthetic.ts'

const { machine, ...rest } = header
const ring = createRing(1 << 20)
const pump = new Pump(ring)
const writer = new RingWriter(ring)
const recorder = await Recorder.open({ path: process.argv[2] ?? '', header: rest })
recorder.describe(machine)
pump.add(recorder)
for (let seq = 1; ; seq++) {
  writer.trap({ ...trap, seq }, pump.now(), 1, 0, 0)
  if (seq % 100 === 0) await sleep(1)
}
