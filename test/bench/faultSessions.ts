// SPDX-License-Identifier: Apache-2.0
/** Fault sessions a minute, two machines at a time, each with the whole workload of a session. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { MAIN } from './boots.ts'
import type { Context, Part } from './figure.ts'
import { repeat } from './stats.ts'

const JOBS = 2
/** They use the snapshot, and the guest does all of its I/O whatever they break. */
const ENTRIES = ['tlbi-duplicated', 'tlbi-reordered', 'donate-fails', 'evtq-irq-spurious']

/** Runs `faults run`. @returns sessions a minute */
async function rate(sessions: number, signal: AbortSignal): Promise<number> {
  signal.throwIfAborted()
  const folder = mkdtempSync(join(tmpdir(), 'cosim-bench-'))
  try {
    const seeds = `1-${Math.ceil(sessions / ENTRIES.length)}`
    const database = join(folder, 'campaigns.db')
    const args = ['faults', 'run', ...ENTRIES, '--seed', seeds, '--jobs', `${JOBS}`, '--database', database]
    const child = spawn(process.execPath, [MAIN, ...args], { stdio: ['ignore', 'ignore', 'pipe'] })
    let said = ''
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      said = (said + text).slice(-4096)
    })
    const stop = () => child.kill('SIGTERM')
    signal.addEventListener('abort', stop)
    const [code] = (await once(child, 'close').finally(() => signal.removeEventListener('abort', stop))) as [number]
    signal.throwIfAborted()
    const found = /([\d.]+) a minute/.exec(said)?.[1]
    if (code !== 0 || found === undefined) throw new Error(`the sessions failed: ${said.trim().split('\n').at(-1)}`)
    return Number(found)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

export async function benchFaultSessions({ scale, signal, say }: Context): Promise<Part> {
  say('faults: warm-up, which makes the snapshot')
  await rate(ENTRIES.length, signal)
  const values = await repeat(Math.min(scale.pairs, 3), signal, n => {
    say(`faults: run ${n + 1}, ${scale.sessions} sessions`)
    return rate(scale.sessions, signal)
  })
  const what = `fault sessions a minute, --jobs ${JOBS}, the whole workload in each`
  return { figures: [{ bench: 'faults', what, unit: '1/min', a: { label: 'sessions', values }, target: '≥ 15' }] }
}
