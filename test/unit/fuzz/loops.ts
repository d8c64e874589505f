// SPDX-License-Identifier: Apache-2.0
import type { Target } from '../../fuzz/target.ts'

const loops: Target = {
  name: 'loops',
  summary: 'never comes to an end',
  run(choices) {
    while (choices.byte() % 2 === 1);
    for (;;);
  },
}

export default loops
