// SPDX-License-Identifier: Apache-2.0
/** An SMMU that is switched off and on, its state lost, while a real Linux does I/O: all data arrives, and the oracle finds nothing. */
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'

const CYCLES = fileURLToPath(new URL('../bench/powerCycles.ts', import.meta.url))

test('ten cycles while Linux works', async () => {
  const { stdout } = await promisify(execFile)(process.execPath, [CYCLES, '--cycles', '10'], { timeout: 240_000 })
  expect(stdout).toMatch(/^10 cycles \(off\): median /m)
})
