// SPDX-License-Identifier: Apache-2.0
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import type { Context, Part } from './figure.ts'
import { median } from './stats.ts'

const PROCESS = fileURLToPath(new URL('./idmapProcess.ts', import.meta.url))

/** The stage-2 idmap of 1 GiB in 4-KiB pages, in a file in shared memory as in a real run. */
export async function benchIdmap({ scale, signal, say }: Context): Promise<Part> {
  const first: number[] = []
  const later: number[] = []
  for (let i = 0; i < scale.pairs; i++) {
    say(`idmap: process ${i + 1} of ${scale.pairs}`)
    const { stdout } = await promisify(execFile)(process.execPath, [PROCESS, String(scale.builds)], {
      signal,
      timeout: 60_000,
    })
    const [cold, ...warm] = JSON.parse(stdout) as number[]
    first.push(cold)
    later.push(median(warm))
  }
  const base = { bench: 'idmap', unit: 'ms', target: '≤ 10 ms' } as const
  return {
    figures: [
      { ...base, what: 'idmap of 1 GiB, the first in a process', a: { label: 'build', values: first } },
      { ...base, what: 'idmap of 1 GiB, after a reset', a: { label: 'build', values: later } },
    ],
  }
}
