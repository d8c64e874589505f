// SPDX-License-Identifier: Apache-2.0
/** How cost grows with RAM, StreamIDs, the length of a queue, vCPUs and machines. */
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { ensureQemu } from '../../scripts/setup/index.ts'
import { INSTANT, runBareGuest } from './bareGuest.ts'
import { bootOnce } from './boots.ts'
import type { Context, Figure, Part } from './figure.ts'

const PROCESS = fileURLToPath(new URL('./scaleProcess.ts', import.meta.url))

type Kind =
  | 'ram'
  | 'blocks'
  | 'pages'
  | 'blockPages'
  | 'streams'
  | 'donate'
  | 'donateBlocks'
  | 'turn'
  | 'turnBlocks'
  | 'turnBroken'
  | 'cycleKeep'
  | 'cycleReshadow'

/** In a process of its own. */
async function grow(kind: Kind, size: number, signal: AbortSignal): Promise<number> {
  const { stdout } = await promisify(execFile)(
    process.execPath,
    ['--max-old-space-size=4096', PROCESS, kind, `${size}`],
    {
      signal,
      timeout: 300_000,
    },
  )
  return JSON.parse(stdout) as number
}

export async function benchScale(context: Context): Promise<Part> {
  const figures: Figure[] = []
  try {
    await measureAll(context, figures)
  } catch (error) {
    // What was measured by then is worth having.
    if (!context.signal.aborted || figures.length === 0) throw error
  }
  return { figures }
}

async function measureAll(context: Context, figures: Figure[]): Promise<void> {
  const { scale, signal, say } = context
  const repeats = Math.min(scale.pairs, 3)
  const measure = async (what: string, unit: string, label: string, run: () => Promise<number>) => {
    const values: number[] = []
    for (let i = 0; i < repeats; i++) values.push(await run())
    say(`scale: ${what}, ${label}`)
    figures.push({ bench: 'scale', what: `${what}: ${label}`, unit, a: { label, values } })
  }
  for (const gib of [1, 4, 16]) {
    await measure('idmap at page size, a GiB', 'ms', `${gib} GiB of RAM`, () => grow('ram', gib, signal))
  }
  for (const gib of [1, 4, 16, 64]) {
    await measure('idmap in blocks', 'ms', `${gib} GiB of RAM`, () => grow('blocks', gib, signal))
    await measure('memory of the idmap in blocks', 'pages', `${gib} GiB of RAM`, () => grow('blockPages', gib, signal))
    if (gib > 16) continue
    await measure('memory of the idmap in pages', 'pages', `${gib} GiB of RAM`, () => grow('pages', gib, signal))
  }
  for (const [kind, label] of [
    ['turn', 'in pages'],
    ['turnBlocks', 'in blocks, split and merged, BBM level 2'],
    ['turnBroken', 'in blocks, split and merged, BBM level 0'],
  ] as const) {
    await measure('a page donated and reclaimed', 'µs', label, () => grow(kind, 2000, signal))
  }
  for (const count of [64, 256, 1024]) {
    await measure('CFGI_STE of a new stream, each', 'µs', `${count} StreamIDs`, () => grow('streams', count, signal))
  }
  for (const count of [1, 64, 1024]) {
    for (const [kind, label] of [
      ['cycleKeep', 'kept'],
      ['cycleReshadow', 'shadowed again'],
    ] as const) {
      await measure('an SMMU off and on, its state lost', 'µs', `${count} streams ${label}`, () =>
        grow(kind, count, signal),
      )
    }
  }
  for (const mib of [16, 64, 256]) {
    await measure('donation page by page, a page', 'µs', `${mib} MiB in all`, () => grow('donate', mib, signal))
    await measure('the same in blocks', 'µs', `${mib} MiB in all`, () => grow('donateBlocks', mib, signal))
  }
  const qemu = await ensureQemu({ signal })
  for (const machines of [1, 2, 4]) {
    await measure('trap p50 while all trap without a pause', 'µs', `${machines} machines, one process`, async () => {
      const runs = await Promise.all(
        Array.from({ length: machines }, () => runBareGuest(qemu, Math.ceil(scale.traps / 4), INSTANT, signal)),
      )
      return Math.max(...runs.map(({ trip }) => trip.p50)) / 1000
    })
  }
  for (const vcpus of [1, 2, 4]) {
    await measure('boot to userspace', 's', `${vcpus} vCPUs`, async () => {
      const { bootMs } = await bootOnce(context, '--smp', `${vcpus}`, '--bench', '0')
      if (bootMs === null) throw new Error('userspace was never reached')
      return bootMs / 1000
    })
  }
}
