// SPDX-License-Identifier: Apache-2.0
/**
 * A part of the tests of this folder on the newer QEMU: those of what the two series do in different ways, and of what differs in
 * QEMU itself below them. All of them: `SMMU_COSIM_QEMU=10.2 npm test -- --project qtest`.
 */
import { spawn } from 'node:child_process'
import { readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { privateFolder } from '../../server/machine/scratch.ts'
import { present } from '../versions.ts'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const VITEST = join(ROOT, 'node_modules/vitest/vitest.mjs')

/** Traps and predicted reads; masters; guards; stage 2 of EL2; parked traps and call stacks; translation; vCPUs that stop. */
const FILES = ['frame', 'postedWrites', 'masters', 'isolation', 'el2', 'gdb', 'translate', 'pause']
/** There it is not for all modes. */
const SKIPPED = ['lockstep CFGI_ALL: all is asked again']
/** ms: QEMU is built first. */
const DEADLINE = 1_800_000

interface Results {
  readonly numPassedTests: number
  readonly testResults: readonly {
    readonly assertionResults: readonly { readonly fullName: string; readonly status: string }[]
  }[]
}

test(
  'QEMU 10.2 passes them',
  async context => {
    const binary = await present('10.2', context)
    const folder = privateFolder(tmpdir(), 'newer-')
    try {
      const file = join(folder, 'results.json')
      const files = FILES.map(name => `test/qtest/${name}.test.ts`)
      const args = [
        VITEST,
        'run',
        '--project',
        'qtest',
        '--reporter=default',
        '--reporter=json',
        `--outputFile=${file}`,
      ]
      // Of this worker of Vitest's; that one makes its own.
      const env = Object.entries(process.env).filter(([name]) => !/^(VITEST|TEST$|TINYPOOL)/.test(name))
      const child = spawn(process.execPath, [...args, ...files], {
        cwd: ROOT,
        env: { ...Object.fromEntries(env), SMMU_COSIM_QEMU: binary },
        stdio: ['ignore', 'pipe', 'pipe'],
      })
      let said = ''
      for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', text => (said += text))
      context.signal.addEventListener('abort', () => child.kill())
      const code = await new Promise(resolve => child.once('close', resolve))
      expect(code, said).toBe(0)
      const { numPassedTests, testResults } = JSON.parse(readFileSync(file, 'utf8')) as Results
      const others = testResults.flatMap(({ assertionResults }) =>
        assertionResults.flatMap(({ fullName, status }) => (status === 'passed' ? [] : [fullName])),
      )
      expect(others).toEqual(SKIPPED)
      expect(numPassedTests).toBeGreaterThan(60)
      expect(testResults).toHaveLength(FILES.length)
    } finally {
      rmSync(folder, { recursive: true })
    }
  },
  DEADLINE,
)
