// SPDX-License-Identifier: Apache-2.0
import type { Target } from '../../fuzz/target.ts'

const kept: unknown[] = []

const eats: Target = {
  name: 'eats',
  summary: 'keeps everything',
  run() {
    for (let i = 0; i < 1e6; i++) kept.push({ i })
    return 'more'
  },
}

export default eats
