// SPDX-License-Identifier: Apache-2.0
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import type { Context, Part } from './figure.ts'
import { median } from './stats.ts'

const PROCESS = fileURLToPath(new URL('./idmapProcess.ts', import.meta.url))

/** The stage-2 idmap of 1 GiB, in 4-KiB pages and in blocks, in a file in shared memory as in a real run. */
export async function benchIdmap({ scale, signal, say }: Context): Promise<Part> {
  const kinds = { pages: { first: [], later: [] }, blocks: { first: [], later: [] } } as Record<
    'pages' | 'blocks',
    Record<'first' | 'later', number[]>
  >
  for (let i = 0; i < scale.pairs; i++) {
    say(`idmap: processes ${i + 1} of ${scale.pairs}`)
    for (const kind of ['pages', 'blocks'] as const) {
      const { stdout } = await promisify(execFile)(process.execPath, [PROCESS, String(scale.builds), kind], {
        signal,
        timeout: 60_000,
      })
      const [cold, ...warm] = JSON.parse(stdout) as number[]
      kinds[kind].first.push(cold)
      kinds[kind].later.push(median(warm))
    }
  }
  const { pages, blocks } = kinds
  const base = { bench: 'idmap', unit: 'ms', target: '≤ 10 ms' } as const
  return {
    figures: [
      { ...base, what: 'idmap of 1 GiB, the first in a process', a: { label: 'build', values: pages.first } },
      { ...base, what: 'idmap of 1 GiB, after a reset', a: { label: 'build', values: pages.later } },
      {
        ...base,
        what: 'idmap of 1 GiB in blocks, the first in a process',
        a: { label: 'build', values: blocks.first },
      },
      { ...base, what: 'idmap of 1 GiB in blocks, after a reset', a: { label: 'build', values: blocks.later } },
    ],
  }
}
