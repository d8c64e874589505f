// SPDX-License-Identifier: Apache-2.0
/**
 * Makes the recordings in this folder again: boots each of Debian's kernels with each prefix of the series, and keeps the
 * first traps. Takes minutes. To be run after changes that make the hypervisor do something else on purpose:
 *
 *     npm run smmu-cosim -- setup && node test/unit/trace/recordings/make.ts [KERNEL...]
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { SERIES_STEPS } from '../../../../server/policy/policy.ts'

const TRAPS = 500
const main = fileURLToPath(new URL('../../../../server/cli/main.ts', import.meta.url))
const folder = fileURLToPath(new URL('.', import.meta.url))
const scratch = mkdtempSync(join(tmpdir(), 'smmu-cosim-recordings-'))

function run(...args: string[]): void {
  const { status } = spawnSync(process.execPath, [main, ...args], { stdio: 'inherit' })
  if (status !== 0) throw new Error(`${args.join(' ')}: exit code ${status}`)
}

try {
  const record = join(scratch, 'whole')
  for (const kernel of process.argv.length > 2 ? process.argv.slice(2) : ['6.1', '6.12']) {
    for (const until of SERIES_STEPS) {
      run('boot', '--quiet', '--kernel', kernel, '--until', until, '--record', record)
      run('trace', 'cut', record, '--to', String(TRAPS), '--output', join(folder, `${kernel}-${until}.gz`))
    }
  }
} finally {
  rmSync(scratch, { recursive: true, force: true })
}
