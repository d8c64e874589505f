// SPDX-License-Identifier: Apache-2.0
import type { Target } from '../../fuzz/target.ts'

const nobody = new Int32Array(new SharedArrayBuffer(4))

/** Takes time and no processor, as on a machine that is busy with other things; for ever when the first byte is 1. */
const waits: Target = {
  name: 'waits',
  summary: 'waits, and computes nothing',
  run(choices) {
    Atomics.wait(nobody, 0, 0, choices.byte() === 1 ? Number.POSITIVE_INFINITY : 1_500)
    return 'it went on'
  },
}

export default waits
