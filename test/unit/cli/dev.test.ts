// SPDX-License-Identifier: Apache-2.0
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'

const MAIN = fileURLToPath(new URL('../../../server/cli/main.ts', import.meta.url))

test.each([['--dashboard'], ['--interactive'], ['--faults', 'sync-hangs'], ['--refused', 'reset']])(
  'dev --listen with %s: refused, as there is no machine that it could be about',
  (...args) => {
    const { status, stderr } = spawnSync(process.execPath, [MAIN, 'dev', '--listen', '/nowhere/trap', ...args], {
      encoding: 'utf8',
    })
    expect([status, stderr]).toEqual([
      2,
      `smmu-cosim: ${args.join(' ').replace(' sync-hangs', '')} needs a machine; --listen runs only the server\n`,
    ])
  },
)
