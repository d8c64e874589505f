// SPDX-License-Identifier: Apache-2.0
/** What a reviewer of qemu-patches/ would try first. What has passed once is not tried again until it changes. */
import { test } from 'vitest'
import { checkSeries } from '../../scripts/setup/series.ts'

/** ms: QEMU is built once for each patch, with and without msgpack-c. */
const DEADLINE = 3_600_000

test(
  'each patch passes checkpatch and builds, with and without msgpack-c; the last brings a test that passes',
  async () => {
    await checkSeries()
  },
  DEADLINE,
)
