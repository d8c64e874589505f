// SPDX-License-Identifier: Apache-2.0
/** What a reviewer of qemu-patches/ would try first. What has passed once is not tried again until it changes. */
import { test } from 'vitest'
import { checkSeries } from '../../scripts/setup/series.ts'
import { present } from '../versions.ts'

/** ms: QEMU is built once for each patch, with and without msgpack-c. */
const DEADLINE = 3_600_000

test(
  'each patch passes checkpatch and builds, with and without msgpack-c; the last brings a test that passes',
  async () => {
    await checkSeries('10.0', 'each')
  },
  DEADLINE,
)

test(
  'each patch for QEMU 10.2 passes checkpatch; with all of them, the test that they bring passes',
  async context => {
    await present('10.2', context)
    await checkSeries('10.2', 'whole')
  },
  DEADLINE,
)
